"""Results of a study that nobody ran: metrics that are functions of the loss, of the arm, and of chance."""

from collections.abc import Callable, Sequence

import numpy as np

from jaxinterp.studies.engine.config import Factor, Hypothesis, StudyConfig
from jaxinterp.studies.engine.run import Result

S, LOSS, RECALL = "unseen_facts/suppressability", "ability/cross_entropy", "ability/recall"
ARMS = {"plain": 1.0, "slow": 1.3, "quick": 0.8}  # the loss at the end, by arm
RATES = (0.0, 0.1, 0.2, 0.4)
RELATIONS = ("capital", "currency", "language")
STEPS = (100, 200, 300, 400)


def study(**changes) -> StudyConfig:
    fields = {
        "name": "made up",
        "factors": (Factor("arm", arms={arm: {} for arm in ARMS}), Factor("rate", field="steps", levels=RATES)),
        "metrics": (S, RECALL, LOSS),
        "seeds": tuple(range(5)),
        "front": {S: "maximize", LOSS: "minimize"},
        "along": len(STEPS),
        "match": LOSS,
        "hypotheses": (
            Hypothesis("differs", S, "arm", "plain", "slow", "same", 0.05),
            Hypothesis("differs at one loss", S, "arm", "plain", "slow", "same", 0.05, at="loss"),
            Hypothesis("dose", S, "rate", direction="higher", margin=0.3, kind="trend"),
            Hypothesis("with recall", S, direction="higher", margin=0.2, kind="association", other=RECALL),
            Hypothesis("again", S, margin=0.5, kind="retest"),
        ),
    }
    return StudyConfig(**{**fields, **changes})


def of_loss(loss, arm, rate, rng) -> float:
    """A metric that depends on the loss alone, but for a little of chance."""
    return 0.9 - 0.3 * loss + 0.004 * rng.standard_normal()


def of_dose(loss, arm, rate, rng) -> float:
    """A metric that a dose raises, and an arm lowers."""
    return 0.3 + rate - 0.1 * (arm == "quick") + 0.01 * rng.standard_normal()


def results(
    metrics: dict[str, Callable] | None = None,
    *,
    arms: Sequence[str] = tuple(ARMS),
    rates: Sequence[float] = RATES,
    seeds: Sequence[int] = range(5),
) -> list[Result]:
    """A run for each arm, rate and seed; its loss falls as 1 / step to that of its arm, and some of the rate."""
    metrics = {S: of_loss, RECALL: of_dose} if metrics is None else metrics
    return [_run(metrics, arm, rate, seed) for seed in seeds for arm in arms for rate in rates]


def _run(metrics, arm, rate, seed) -> Result:
    rng = np.random.default_rng([seed, *arm.encode(), int(100 * rate)])
    facts = 0.002 * rng.standard_normal(20) * np.arange(20).clip(0, 1)
    along = {}
    for step in STEPS:
        loss = ARMS[arm] * (0.5 + 0.5 * STEPS[-1] / step) + 0.2 * rate + 0.002 * seed
        values = {LOSS: loss, **{name: of(loss, arm, rate, rng) for name, of in metrics.items()}}
        along[step] = {name: value + facts for name, value in values.items()}
    last = along[STEPS[-1]]
    curve = [(step, ARMS[arm] * (0.5 + 200 / step) + 0.01 * rng.standard_normal()) for step in range(20, 401, 20)]
    relations = {S: {name: float(last[S][0]) + 0.02 * n for n, name in enumerate(RELATIONS)}} if S in last else {}
    values = {name: float(of[0]) for name, of in last.items()}
    return Result({"arm": arm, "rate": rate}, seed, values, last, "", 1.0, {}, along, curve, relations)
