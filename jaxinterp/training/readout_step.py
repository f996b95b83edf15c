"""A training step for any readout: a network that classifies images or plays a game trains like a language model."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxinterp.attribution.answers import Answers
from jaxinterp.attribution.readout import Readout
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.objectives.context import Context
from jaxinterp.objectives.loss import Metrics, check_objective, term_weights, with_terms
from jaxinterp.training.state import TrainState, step_key

# (parameters, batch) -> (the loss that is learned anyway, the batch's readout, the answers that its rows make up)
Read = Callable[[Any, Any], tuple[Float[Array, ""], Readout, Answers]]
Step = Callable[[TrainState, Any, int | Int[Array, ""]], tuple[TrainState, Metrics]]


def objective_step(read: Read, objective: ObjectiveConfig, transform: optax.GradientTransformation) -> Step:
    """The jitted step `(state, batch, number) -> (state, metrics)` on base loss + Σ weight · term.

    A batch is any pytree of arrays, all of whose steps have the same shapes. To start, make a state with
    `jaxinterp.training.state.first_state`. The state passed in is donated.

    Args:
      read: pure function of parameters and batch. Gradients flow through its loss and its readout, so the readout has
        to hold the parameters as arrays, e.g. in `FunctionReadout.inputs` or in the closure of its function.
      objective: config; memory "auto" is "fast" here (see `jaxinterp.training.planner`).
      transform: the optimiser.
    Returns:
      The step; metrics are "loss", "base", every term with its weight, those of
      `jaxinterp.objectives.loss.batch_metrics`, and those of `gradient_step`.
    Raises:
      UserError: when it is first called, if a term is unknown, or k does not fit the readout.
    """

    def step(state: TrainState, batch: Any, number: Int[Array, ""]) -> tuple[TrainState, Metrics]:
        weights, key = term_weights(objective, state.step), step_key(state)

        def loss(params: Any) -> tuple[Float[Array, ""], Metrics]:
            base, readout, answers = read(params, batch)
            check_objective(objective, readout.shape[0] * readout.shape[2])
            total, metrics = with_terms(base, lambda: Context(objective, answers, readout, key), weights)
            return total, {"base": base, **metrics}

        state, metrics = gradient_step(loss, transform, state, number)
        return state, metrics | {f"{name}_weight": weight for name, weight in weights.items()}

    return jax.jit(step, donate_argnums=0)


def gradient_step(
    loss: Callable[[Any], tuple[Float[Array, ""], Mapping]],
    transform: optax.GradientTransformation,
    state: TrainState,
    number: int | Int[Array, ""],
) -> tuple[TrainState, Metrics]:
    """One step down the gradient of a loss; for `jit` and `vmap`.

    A step whose loss or gradient is not finite leaves the state as it was, and so does every step whose number is not
    the state's next: the steps that were under way when the first bad one is noticed.

    Args:
      loss: parameters -> (loss, metrics).
      transform: the optimiser.
      state: whose parameters are trained.
      number: of the step, from 0.
    Returns:
      The new state, and metrics: "loss", those of the loss, "gradient_norm", and "finite", whether the state moved on.
    """
    (total, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    norm = optax.tree.norm(grads)
    updates, opt_state = transform.update(grads, state.opt_state, state.params)
    new = (optax.apply_updates(state.params, updates), opt_state, state.step + 1)
    finite = jnp.isfinite(total) & jnp.isfinite(norm) & (number == state.step)
    kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state[:3])
    return TrainState(*kept, state.key), {"loss": total, **metrics, "gradient_norm": norm, "finite": finite}
