"""Studies whose runs are arithmetic: one at once, one by the driver of training with checkpoints; and a worker."""

import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxinterp.studies.engine.config import Factor, Hypothesis, StudyConfig
from jaxinterp.studies.engine.run import Outcome

S, LOSS = "unseen_facts/suppressability", "ability/cross_entropy"
STEPS, HELD_AT = 8, 5
WEIGHTS, SEEDS = (0.1, 0.2, 0.4), (0, 1)


def study(**changes) -> StudyConfig:
    fields = {
        "name": "stub",
        "factors": (
            Factor("decay", field="optimiser.weight_decay", levels=WEIGHTS),
            Factor("arm", arms={"plain": {}, "relu": {"model.ffn": "relu"}}),
        ),
        "metrics": (S, LOSS),
        "seeds": SEEDS,
        "front": {S: "maximize", LOSS: "minimize"},
        "hypotheses": (Hypothesis("up", S, "decay", 0.1, 0.4, "higher", 0.1),),
        "heartbeat": 0.2,
    }
    return StudyConfig(**{**fields, **changes})


def at_once(run, config, out) -> Outcome:
    """S is the decay, plus a little of the seed; the loss is its square, and lower with ReLU."""
    decay, relu = run.optimiser.weight_decay, run.model.get("ffn") == "relu"
    facts = 1e-3 * np.random.default_rng(run.seed).standard_normal(20) * np.arange(20).clip(0, 1)
    values = {S: decay + 0.001 * run.seed + facts, LOSS: decay**2 - 0.01 * relu + facts}
    return Outcome({name: values[name] for name in config.metrics}, "none", 0, "arithmetic")


def at_once_together(run, config, out) -> dict[int, Outcome]:
    """As `at_once`, of all seeds; their values are others than those of single runs."""
    outcomes = {seed: at_once(dataclasses.replace(run, seed=seed), config, out) for seed in config.seeds}
    return {
        seed: of._replace(samples={name: samples + 0.5 for name, samples in of.samples.items()})
        for seed, of in outcomes.items()
    }


class Count(NamedTuple):
    total: object


def by_steps(run, config, out: Path) -> Outcome:
    """A sum over steps, by the driver: resumed from its checkpoint where it has one. Says when it starts."""
    import jax
    import jax.numpy as jnp

    from jaxinterp.objectives.config import ObjectiveConfig
    from jaxinterp.training.driver import Cadence, Job
    from jaxinterp.training.driver import run as drive
    from jaxinterp.training.runs import Run

    held = os.environ.get("HOLD") == "1"
    with (out.parent / "started.log").open("a") as log:
        log.write(f"{out.name}\n")

    def lines(state, pending, number):
        while held and number == HELD_AT:
            time.sleep(0.05)
        return [{"step": number, "total": float(state.total)}]

    factor = np.float32(run.optimiser.weight_decay + run.seed)
    step = jax.jit(lambda state, inputs, number: (Count(state.total * 1.1 + inputs), {"finite": True}))
    job = Job(
        {"decay": run.optimiser.weight_decay, "seed": run.seed},
        lambda: Count(jnp.zeros(())),
        lambda number: factor * np.float32(number),
        lambda objective: step,
        ObjectiveConfig(),
        Cadence(STEPS, checkpoint=2, log=1),
        lines,
    )
    resume = (out / "config.json").exists()
    steps = Run(out).steps if resume else []
    total = float(drive(job, out, resume=resume).total)
    values = {name: total + np.arange(5.0) for name in config.metrics}
    return Outcome(values, f"{total!r}", steps[-1] if steps else 0, "cpu")


if __name__ == "__main__":
    from jaxinterp.studies.engine.work import work

    print(work(Path(sys.argv[1]), by_steps))
