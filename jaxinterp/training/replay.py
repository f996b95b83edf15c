"""A step whose numbers were not finite, computed again: which operation was the first to make them, and what to do."""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxinterp.base.configs import from_json
from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json
from jaxinterp.base.owner import owned
from jaxinterp.base.progress import progress
from jaxinterp.base.run_folder import check_resumable
from jaxinterp.models.model import Model
from jaxinterp.objectives.loss import term_weights
from jaxinterp.training.checkpoint import Checkpoints
from jaxinterp.training.config import TrainConfig
from jaxinterp.training.data import TrainingData, training_data
from jaxinterp.training.diagnosis import AGAIN, first_non_finite
from jaxinterp.training.loop import arithmetic, inputs_of, model_config, step_of
from jaxinterp.training.non_finite import noted, parts_of
from jaxinterp.training.operations import BadOperation, first_bad_operation
from jaxinterp.training.planner import planned_step
from jaxinterp.training.state import TrainState, initial_state, step_key
from jaxinterp.training.step import loss

ZERO = ("div", "log", "log1p", "sqrt", "rsqrt", "pow", "integer_pow")  # what fails at or below 0


@dataclasses.dataclass(frozen=True)
class Replayed:
    """What was found."""

    step: int  # from 1
    array: str  # the first array that is not finite, by the names of the model and its loss
    operation: BadOperation | None  # the first operation that made one; None: all are finite this time
    largest: tuple[str, float]  # the parameter with the largest absolute value before the step, and that value
    remedy: str


def replay(folder: Path, step: int | None = None, data: TrainingData | None = None) -> Replayed:
    """Computes a step of a run again that was not finite.

    The run goes on from the newest checkpoint before it, in the same program, and the step itself is done one operation
    at a time, on one device.

    Args:
      folder: of the run.
      step: from 1; None is the first one that was not finite.
      data: what the run was trained on; None has it made from its config.
    Raises:
      UserError: if the run had no such step, is going on, or the facts are others today.
    """
    check_resumable(folder)
    bad = [number + 1 for number in noted(folder)]
    if not bad or step not in (None, *bad):
        which = f"; those that were not: {', '.join(map(str, bad))}" if bad else ""
        raise UserError(f"{folder}: {'every step' if step is None else f'step {step}'} was finite{which}")
    number = (step or bad[0]) - 1
    kept = read_json(folder / "config.json")
    config = from_json(TrainConfig, kept["config"], str(folder / "config.json"))
    data = training_data(config.data) if data is None else data
    if other := [name for name, digest in data.digests().items() if kept["data"][name] != digest]:
        raise UserError(f"{folder} was trained on other {other[0]} than there are today; see its config.json")
    with owned(folder):
        state = _state_before(folder, config, data, number)
    return _looked_at(config, data, state, number)


def _state_before(folder: Path, config: TrainConfig, data: TrainingData, number: int) -> TrainState:
    """The state before a step, as the run had it."""
    model = model_config(config, data)
    computed = arithmetic(model, config)
    state, done = initial_state(model, config.optimiser, config.steps, config.seed), 0
    with contextlib.closing(Checkpoints(folder / "checkpoints", config.keep_checkpoints)) as checkpoints:
        if any(step <= number for step in checkpoints.steps()):
            done, state = checkpoints.restore(state, last=number)
    make = lambda objective: step_of(config, computed, objective)  # noqa: E731
    with progress(f"replay to step {number + 1}", number, done=done) as report:
        planned = None
        for at in range(done, number):
            batch = jax.device_put(inputs_of(config, data, at))
            planned = planned or planned_step(make, config.objective, (state, batch, at))
            state, _ = planned.step(state, batch, at)
            report(at + 1, "")
    return state


def _looked_at(config: TrainConfig, data: TrainingData, state: TrainState, number: int) -> Replayed:
    model = arithmetic(model_config(config, data), config)
    weights = term_weights(config.objective, state.begun)
    array, operation = AGAIN, None
    for batch, key in parts_of(config, inputs_of(config, data, number), step_key(state)):
        batch = jax.tree.map(jnp.asarray, batch)

        def step(params: Mapping, batch: Any = batch, key: Any = key) -> Any:
            of_params = lambda p: loss(Model(model, p), config.objective, batch, weights, key)  # noqa: E731
            value, grads = jax.value_and_grad(of_params, has_aux=True)(params)
            return value, grads, optax.tree.norm(grads)

        found = first_non_finite(model, config.objective, state.params, batch, weights, key)
        operation = first_bad_operation(step, state.params)
        if found is not None or operation is not None:
            array = found or "the gradient's norm"
            break
    sizes = {
        ".".join(str(key.key) for key in path): float(np.abs(np.asarray(leaf)).max())
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
    }
    largest = max(sizes.items(), key=lambda item: np.inf if np.isnan(item[1]) else item[1])
    return Replayed(number + 1, array, operation, largest, _remedy(config, operation, largest))


def _remedy(config: TrainConfig, bad: BadOperation | None, largest: tuple[str, float]) -> str:
    """What to change, from what is known of the operation."""
    name, size = largest
    if bad is None:
        return "nothing is wrong on this machine; continue the run here, or look for a fault of the other's memory"
    if not np.isfinite(size):
        return f"the parameter {name} was not finite before; start again with a lower optimiser.learning_rate"
    if config.dtype == "bfloat16":
        return "train with dtype float32, or with a lower optimiser.learning_rate"
    if size > 1e4 or bad.kind == "infinite":
        return (
            f"the numbers have grown too large ({name} reaches {size:.2g}): start again with a lower "
            "optimiser.learning_rate or optimiser.clip_norm, or more warmup_steps"
        )
    if bad.name in ZERO:
        return "a number at or below 0 reaches it: a defect of the term or model that calls it; guard it there"
    return "lower optimiser.learning_rate, or pass over the step with skip"
