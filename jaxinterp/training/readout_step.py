"""A training step for any readout: a network that classifies images or plays a game trains like a language model."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxinterp.attribution.answers import Answers
from jaxinterp.attribution.readout import Readout
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.objectives.context import Context
from jaxinterp.objectives.loss import Metrics, Weights, check_objective, term_weights, with_terms
from jaxinterp.training.beginning import advanced
from jaxinterp.training.state import TrainState, step_key

# (parameters, batch) -> (the loss that is learned anyway, the batch's readout, the answers that its rows make up)
Read = Callable[[Any, Any], tuple[Float[Array, ""], Readout, Answers]]
Step = Callable[[TrainState, Any, int | Int[Array, ""]], tuple[TrainState, Metrics]]


def objective_step(read: Read, objective: ObjectiveConfig, transform: optax.GradientTransformation) -> Step:
    """The jitted step `(state, batch, number) -> (state, metrics)` on base loss + Σ weight · term.

    A batch is any pytree of arrays, of the same shapes in all steps. To start, make a state with
    `jaxinterp.training.state.first_state`. The state passed in is donated.

    Args:
      read: pure function of parameters and batch. Gradients flow through its loss and its readout, so the readout has
        to hold the parameters as arrays, as in `FunctionReadout.inputs`.
      objective: config; memory "auto" is "fast" here (see `jaxinterp.training.planner`).
      transform: the optimiser.
    Returns:
      The step; its metrics are "base", those of `jaxinterp.objectives.loss.with_terms`, and those of `gradient_step`.
    Raises:
      UserError: when it is first called, if a term is unknown, or k does not fit the readout.
    """

    def loss(params: Any, batch: Any, weights: Weights, key: PRNGKeyArray) -> tuple[Float[Array, ""], Metrics]:
        base, readout, answers = read(params, batch)
        check_objective(objective, readout.shape[0] * readout.shape[2])
        total, metrics = with_terms(base, lambda: Context(objective, answers, readout, key), weights)
        return total, {"base": base, **metrics}

    return scheduled(functools.partial(gradient_step, loss, transform, None, objective.start), objective)


def scheduled(step: Callable[..., tuple[TrainState, Metrics]], objective: ObjectiveConfig) -> Step:
    """A `gradient_step` with the weights of the objective's schedules, jitted; it donates the state."""

    def at_its_weights(state: TrainState, batch: Any, number: Int[Array, ""]) -> tuple[TrainState, Metrics]:
        return step(state, batch, number, term_weights(objective, state.begun))

    return jax.jit(at_its_weights, donate_argnums=0)


def gradient_step(
    loss: Callable[..., tuple[Float[Array, ""], Metrics]],
    transform: optax.GradientTransformation,
    rate: optax.Schedule | None,
    start: float,
    state: TrainState,
    batch: Any,
    number: int | Int[Array, ""],
    weights: Weights,
    *more: Any,
    accumulate: int = 1,
    skip: bool = False,
) -> tuple[TrainState, Metrics]:
    """One step down the gradient of a loss; for `jit` and `vmap`.

    A step whose loss or gradient is not finite leaves the state as it was, and so does every step whose number is not
    the state's next: the steps that were under way when the first bad one is noticed. With `skip` the number of the
    state's next step moves on, so that the steps after a bad one count.

    Args:
      loss: (parameters, batch, weights, key, *more) -> (loss, metrics).
      transform: the optimiser.
      rate: its learning rate by step, for the metrics.
      start: the mean P at which the objective begins; without a metric "probability" of the loss P is not known.
      state: whose parameters are trained.
      batch, weights, more: of the loss; the weights are those of its terms.
      number: of the step, from 0.
      accumulate: parts of the batch, along the first axis of its arrays, if above 1; loss and gradient are their means.
      skip: whether a step that is not finite is passed over.
    Returns:
      The new state, and metrics: "loss", those of the loss, the weight of every term, "known" (if P is) and "begun"
      of the new state, "gradient_norm", "learning_rate", and "finite", whether the state moved on.
    """
    key = step_key(state)
    graded = jax.value_and_grad(loss, has_aux=True)
    if accumulate > 1:
        (total, metrics), grads = _accumulated(graded, accumulate, state.params, batch, weights, key, *more)
    else:
        (total, metrics), grads = graded(state.params, batch, weights, key, *more)
    norm = optax.tree.norm(grads)
    updates, opt_state = transform.update(grads, state.opt_state, state.params)
    probability = metrics.get("probability", jnp.asarray(jnp.nan, total.dtype))
    known, begun = advanced(start, state.known, state.begun, probability)
    params = optax.apply_updates(state.params, updates)
    new = TrainState(params, opt_state, state.step + 1, None, known, begun)
    finite = jnp.isfinite(total) & jnp.isfinite(norm) & (number == state.step)
    new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state._replace(key=None))
    if skip:
        new = new._replace(step=jnp.where(number == state.step, state.step + 1, state.step))
    metrics = {"loss": total, **metrics, **{f"{name}_weight": weight for name, weight in weights.items()}}
    if rate is not None:
        metrics["learning_rate"] = jnp.asarray(rate(state.step), total.dtype)
    metrics |= {"known": new.known} if "probability" in metrics else {}
    return new._replace(key=state.key), {**metrics, "begun": new.begun, "gradient_norm": norm, "finite": finite}


def part_key(key: PRNGKeyArray, part: int | Int[Array, ""]) -> PRNGKeyArray:
    """The key of a part of a step whose gradient is accumulated; does not consume the step's."""
    return jax.random.fold_in(key, part)


def _accumulated(
    graded: Callable, n: int, params: Any, batch: Any, weights: Weights, key: PRNGKeyArray, *more: Any
) -> tuple[tuple[Float[Array, ""], Metrics], Any]:
    """Means of loss, metrics and gradient over the parts of a batch; a metric is that of the parts that have it."""

    def add(sum_so_far: Any, part: tuple) -> tuple[Any, tuple]:
        number, one = part
        values, grads = graded(params, one, weights, part_key(key, number), *more)
        return jax.tree.map(jnp.add, sum_so_far, grads), values

    zeros = jax.tree.map(jnp.zeros_like, params)
    grads, (total_A, metrics) = jax.lax.scan(add, zeros, (jnp.arange(n), batch))
    means = {name: jnp.nanmean(value_A) for name, value_A in metrics.items()}
    return (total_A.mean(), means), jax.tree.map(lambda x: x / n, grads)
