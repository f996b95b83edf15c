"""Several small models trained in one program: `vmap` over seeds and objective weights.

For models that are small against the device. The members share architecture, data and the order of the data, so that
only what is studied differs. A member is the model that training it alone would give up to rounding: a batched matrix
product sums in another order (about 6e-8 of a value a step, which training then amplifies), so that results are not
equal bit for bit, and an ensemble has to be resumed as an ensemble.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Shaped

from jaxinterp.base.errors import UserError
from jaxinterp.base.progress import progress
from jaxinterp.base.run_folder import claim, interruptible, truncate
from jaxinterp.facts.encoding import QueryBatch
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.loading.bundle import load_model, save_model
from jaxinterp.models.model import Model
from jaxinterp.objectives.loss import any_active, term_weights
from jaxinterp.training.checkpoint import Checkpoints
from jaxinterp.training.data import TrainingData
from jaxinterp.training.diagnosis import first_non_finite
from jaxinterp.training.ensemble_config import EnsembleConfig, Member
from jaxinterp.training.loop import (
    arithmetic,
    batch_of,
    batches,
    check_rows,
    evaluated,
    model_config,
    plain_line,
    run_provenance,
)
from jaxinterp.training.state import TrainState, initial_state
from jaxinterp.training.step import step_key, update

EnsembleMetrics = Mapping[str, Shaped[Array, " E"]]


@dataclasses.dataclass(frozen=True)
class Trained:
    """What an ensemble has become."""

    models: Mapping[Member, LanguageModel]  # those that are finite to the end
    failed: Mapping[Member, str]  # the others, and where they stopped


def ensemble_step(
    model: ModelConfig, config: EnsembleConfig
) -> Callable[[TrainState, QueryBatch, int], tuple[TrainState, EnsembleMetrics]]:
    """The jitted step of all members, `(states, batch, number) -> (states, metrics)`; the states are donated.

    The arrays of states and metrics have a leading axis E, in the order of `config.members`; the batch is shared. A
    member whose loss or gradient is not finite stays as it was from then on (see `jaxinterp.training.step.update`).

    Whether the terms are computed is one condition for all members, outside `vmap`: inside, it would compute both
    branches at every step. So a member whose weights are 0 has metrics of the terms too, while others' are not.
    """
    run = config.run
    step = update(model, run.objective, run.optimiser, run.steps)
    in_axes = (0, None, None, 0, None)

    def scheduled(states: TrainState, batch: QueryBatch, number: Int[Array, ""]) -> tuple[TrainState, EnsembleMetrics]:
        weights = member_weights(config, number)
        active = any_active(weights) if weights else None
        return jax.vmap(step, in_axes=in_axes)(states, batch, number, weights, active)

    return jax.jit(scheduled, donate_argnums=0)


def member_weights(config: EnsembleConfig, number: int | Int[Array, ""]) -> dict[str, Array]:
    """The weight [E] of every term at a step, for each member, without those that are 0 at all steps for all."""
    factors = {
        name: np.array([getattr(member, name) for member in config.members]) for name in config.run.objective.weights
    }
    schedules = term_weights(config.run.objective, jnp.asarray(number))
    return {
        name: value * jnp.asarray(factors[name], value.dtype)
        for name, value in schedules.items()
        if factors[name].any()
    }


def stacked(states: Sequence[TrainState]) -> TrainState:
    """States as one, with a leading axis E."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def unstacked(states: TrainState, index: int) -> TrainState:
    """The state of one member."""
    params, opt_state, step, key = jax.tree.map(
        lambda leaf: leaf[index], (*states[:3], jax.random.key_data(states.key))
    )
    return TrainState(params, opt_state, step, jax.random.wrap_key_data(key))


def train_ensemble(
    config: EnsembleConfig, data: TrainingData, out: Path, *, resume: bool = False, title: str = "train"
) -> Trained:
    """Trains E models at once; what they leave behind stands in `out`.

    `config.json`, `metrics.jsonl` (every `log_every` steps a line a member), `evaluations.jsonl`, `checkpoints/`, and
    at the end `models/NAME/` for every member. Ctrl-C and SIGTERM save a checkpoint first.

    Args:
      config: the members.
      data: as from `training_data(config.run.data)`; batches are those of `config.run.seed`.
      out: the ensemble's folder.
      resume: continue from the newest checkpoint in `out`; the result is that of an uninterrupted run, bit for bit.
      title: of the progress bar.
    Returns:
      The models. A member that stops being finite is reported, left out, and does not disturb the others.
    Raises:
      UserError: as `jaxinterp.training.loop.train`; or if no member is finite.
    """
    run, members = config.run, config.members
    model = model_config(run, data)
    check_rows(run, data)
    step_fn = ensemble_step(arithmetic(model, run), config)
    claim(dataclasses.asdict(config), out, resume)
    states = stacked([initial_state(model, run.optimiser, run.steps, member.seed) for member in members])
    checkpoints = Checkpoints(out / "checkpoints", run.keep_checkpoints)
    try:
        done = 0
        if resume and checkpoints.steps():
            done, states = _opened(checkpoints.restore(_packed(0, states)))
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            truncate(out / name, done)
        failed = _failed(config, model, data, states, done)
        with (
            progress(title, run.steps, done=done) as report,
            interruptible() as interrupted,
            (out / "metrics.jsonl").open("a", encoding="utf-8") as log,
            contextlib.closing(batches(run, data, done)) as inputs,
        ):
            for number, batch in enumerate(inputs, done):
                states, metrics = step_fn(states, batch, number)
                last, stop = number + 1 == run.steps, interrupted.is_set()
                save = last or stop or (number + 1) % run.checkpoint_every == 0
                evaluate = run.evaluated(number + 1)
                if save or evaluate or (number + 1) % run.log_every == 0:
                    failed |= _failed(config, model, data, states, number + 1, known=failed)
                    lines = _lines(members, metrics, number + 1)
                    log.writelines(json.dumps(line) + "\n" for line in lines)
                    log.flush()
                    report(number + 1, _words(lines, failed))
                # Before the checkpoint, so that a run resumed from it has all evaluations up to it.
                if evaluate:
                    _evaluate(config, model, data, states, failed, out, number + 1)
                if save:
                    checkpoints.save(_packed(number + 1, states))
                if stop:
                    raise KeyboardInterrupt(f"stopped at step {number + 1}; continue with --resume and the same folder")
        return Trained(_saved(config, model, data, states, failed, out), failed)
    finally:
        checkpoints.close()


def _packed(number: int, states: TrainState) -> TrainState:
    """As one state, for a checkpoint goes by its step; the members' own steps stand still where they fail."""
    inner = {"params": states.params, "steps": states.step}
    return TrainState(inner, states.opt_state, jnp.asarray(number, jnp.int32), states.key)


def _opened(packed: TrainState) -> tuple[int, TrainState]:
    states = TrainState(packed.params["params"], packed.opt_state, packed.params["steps"], packed.key)
    return int(packed.step), states


def _failed(
    config: EnsembleConfig,
    model: ModelConfig,
    data: TrainingData,
    states: TrainState,
    done: int,
    known: Mapping[Member, str] | None = None,
) -> dict[Member, str]:
    """The members that stand still, printed when they are new, and the first array that was not finite in each.

    Raises:
      UserError: if all do.
    """
    found = dict(known or {})
    run, computed = config.run, arithmetic(model, config.run)
    for index, step in enumerate(np.asarray(states.step).tolist()):
        member = config.members[index]
        if step == done or member in found:
            continue
        state = unstacked(states, index)
        weights = {name: value[index] for name, value in member_weights(config, step).items()}
        batch = batch_of(run, data, step)
        name = first_non_finite(computed, run.objective, state.params, batch, weights, step_key(state))
        found[member] = f"step {step + 1} is not finite; the first bad array is {name}"
        print(f"{member.name} (seed {member.seed}) stands still: {found[member]}", flush=True)
    if len(found) == len(config.members):
        raise UserError(f"no member is finite: {next(iter(found.values()))}")
    return found


def _lines(members: Sequence[Member], metrics: EnsembleMetrics, step: int) -> list[dict]:
    """Lines of the log; a member that stands still has finite = false."""
    values = jax.device_get(metrics)
    return [
        {"step": step, "member": member.name, "finite": bool(values["finite"][index])}
        | plain_line({name: value[index] for name, value in values.items()})
        for index, member in enumerate(members)
    ]


def _words(lines: Sequence[Mapping], failed: Mapping[Member, str]) -> str:
    names = {member.name for member in failed}
    losses = [line["loss"] for line in lines if line["member"] not in names and line["loss"] is not None]
    still = f"  {len(failed)} of {len(lines)} stand still" if failed else ""
    return (f"loss {min(losses):.3f} … {max(losses):.3f}" if losses else "") + still


def _bundle(
    config: EnsembleConfig, model: ModelConfig, data: TrainingData, states: TrainState, index: int
) -> LanguageModel:
    params = jax.tree.map(lambda leaf: np.asarray(leaf[index]), states.params)
    about = {"member": dataclasses.asdict(config.members[index]), "data_seed": config.run.seed}
    return LanguageModel(Model(model, params), data.tokenizer, {**run_provenance(config.run, data), **about})


def _evaluate(
    config: EnsembleConfig,
    model: ModelConfig,
    data: TrainingData,
    states: TrainState,
    failed: Mapping[Member, str],
    out: Path,
    step: int,
) -> None:
    with (out / "evaluations.jsonl").open("a", encoding="utf-8") as log:
        for index, member in enumerate(config.members):
            if member not in failed:
                found = evaluated(_bundle(config, model, data, states, index), data)
                log.write(json.dumps({"step": step, "member": member.name, "sets": found}) + "\n")


def _saved(
    config: EnsembleConfig,
    model: ModelConfig,
    data: TrainingData,
    states: TrainState,
    failed: Mapping[Member, str],
    out: Path,
) -> dict[Member, LanguageModel]:
    """The members that are finite, each in a folder of `out`/models; a folder that is there already is read."""
    models = {}
    for index, member in enumerate(config.members):
        if member in failed:
            continue
        folder = out / "models" / member.name
        if not (folder / "config.json").exists():
            save_model(folder, _bundle(config, model, data, states, index))
        models[member] = load_model(folder)
    return models
