"""Steps whose numbers were not finite: what a run keeps of them."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import optax
from jaxtyping import PRNGKeyArray

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import writable_folder
from jaxinterp.base.lines import whole_lines
from jaxinterp.base.processes import gathered, is_first, together
from jaxinterp.facts.batches import QueryBatch
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.mesh import mesh_of
from jaxinterp.objectives.loss import term_weights
from jaxinterp.training.config import TrainConfig
from jaxinterp.training.diagnosis import AGAIN, first_non_finite
from jaxinterp.training.driver import NON_FINITE, NotFinite, append
from jaxinterp.training.readout_step import part_key
from jaxinterp.training.state import TrainState, step_key

FOLDER = "non_finite"  # in a run's folder, with the batch and the key of each


def passed_over(state: TrainState) -> int:
    """How many steps a state has passed over: those done, without the optimiser's."""
    applied = max(int(count) for _, count in optax.tree_utils.tree_get_all_with_path(state.opt_state, "count"))
    return int(state.step) - applied


def bad_steps(pending: Sequence[Mapping], done: int) -> list[int]:
    """The numbers of those of the last steps, from 0, that were not finite."""
    return [step for step, metrics in enumerate(pending, done - len(pending)) if not metrics["finite"]]


def parts_of(config: TrainConfig, batch: QueryBatch, key: PRNGKeyArray) -> list[tuple[QueryBatch, PRNGKeyArray]]:
    """The batches whose mean gradient makes a step, with their keys."""
    if config.accumulate == 1:
        return [(batch, key)]
    return [(jax.tree.map(lambda x, i=i: x[i], batch), part_key(key, i)) for i in range(config.accumulate)]


def note(
    config: TrainConfig, model: ModelConfig, out: Path, state: TrainState, step: int, batch: QueryBatch
) -> NotFinite | None:
    """Keeps a bad step's batch and key, and says which array was bad. All processes call it.

    Args:
      config, out: of the run.
      model: of the arithmetic.
      state: after it, which it has left as it was; with `config.skip` later steps may have changed it.
      step: its number, from 0.
      batch: its batch.
    Returns:
      The reason why the run has to stop; None if it was passed over.
    """
    of_step = state._replace(step=np.int32(step))
    whole = gathered(of_step._replace(key=jax.random.key_data(state.key)))
    whole = whole._replace(key=jax.random.wrap_key_data(whole.key))
    reason = None
    if is_first():
        name = _first_bad(config, model, whole if mesh_of(state.params) else of_step, batch)
        key = step_key(whole)
        path = writable_folder(out / FOLDER) / f"step-{step + 1}.npz"
        named = {jax.tree_util.keystr(at).strip("."): leaf for at, leaf in jax.tree_util.tree_leaves_with_path(batch)}
        try:
            np.savez(path, **named, key=np.asarray(jax.random.key_data(key)), step=step)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from None
        append(out / NON_FINITE, [{"step": step + 1, "array": name}])
        reason = f"step {step + 1} is not finite; the first bad array is {name}"
    together("noted")
    n = passed_over(state)
    if not config.skip or n > config.skip:
        more = f"; {n} steps were not finite, above skip = {config.skip}" if config.skip else ""
        return NotFinite(f"{reason or f'step {step + 1} is not finite'}{more}; see `jaxinterp replay {out}`")
    if is_first():
        print(f"{reason}; passed over, {n} of at most {config.skip}", file=sys.stderr, flush=True)
    return None


def noted(out: Path) -> list[int]:
    """The numbers of a run's bad steps, from 0, in order."""
    return sorted({line["step"] - 1 for _, _, line in whole_lines(out / NON_FINITE)[0]})


def _first_bad(config: TrainConfig, model: ModelConfig, state: TrainState, batch: QueryBatch) -> str:
    weights = term_weights(config.objective, state.begun)
    for part, key in parts_of(config, batch, step_key(state)):
        name = first_non_finite(model, config.objective, state.params, part, weights, key, noise=config.noise)
        if name is not None:
            return name
    return AGAIN
