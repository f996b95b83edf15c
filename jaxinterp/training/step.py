"""One training step: a pure function of state and batch."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxinterp.facts.encoding import QueryBatch
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.transformer import forward
from jaxinterp.objectives import control, suppression  # noqa: F401  (registers the terms)
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.objectives.context import Context, mean
from jaxinterp.objectives.registry import objective_term
from jaxinterp.readout import Rows, lm_readout
from jaxinterp.schedule import parse_schedule
from jaxinterp.selection import check_k
from jaxinterp.suppression import control_mask, suppress
from jaxinterp.training.config import OptimiserConfig
from jaxinterp.training.state import TrainState, learning_rate, optimiser

Metrics = Mapping[str, Float[Array, ""]]


def next_token_loss(logits_BTV: Float[Array, "B T V"], batch: QueryBatch) -> Float[Array, ""]:
    """Mean cross-entropy over the batch's tokens, in nats a token."""
    log_p = jax.nn.log_softmax(logits_BTV[:, :-1])
    nll_BT = -jnp.take_along_axis(log_p, batch.tokens_BT[:, 1:, None], axis=-1)[..., 0]
    weight_BT = batch.token_weight_BT[:, 1:].astype(nll_BT.dtype)
    return (nll_BT * weight_BT).sum() / jnp.maximum(weight_BT.sum(), 1)


def loss(
    model: ModelConfig,
    objective: ObjectiveConfig,
    params: Mapping,
    batch: QueryBatch,
    weights: Mapping[str, Float[Array, ""]],
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], Metrics]:
    """LM + Σ weight · term.

    Args:
      model, objective: configs.
      params: parameters.
      batch: sentences and the answers to read.
      weights: the terms' weights at this step; if all are 0 the terms are not computed, and their metrics are NaN.
      key: consumed.
    Returns:
      The loss in nats, and metrics: every term, and the batch's suppressability and control drop (ratios of means over
      the batch), mean answer probability and mean absolute completeness residual.
    """
    if not weights:
        lm = next_token_loss(forward(model, params, batch.tokens_BT).logits_BTV, batch)
        return lm, {"lm": lm}
    rows = Rows(batch.sequence_R, batch.position_R, batch.target_R)
    result, readout = lm_readout(model, params, batch.tokens_BT, rows)
    lm = next_token_loss(result.logits_BTV, batch)

    def terms() -> Metrics:
        context = Context(objective, batch, result, readout, key)
        return {name: objective_term(name)(context) for name in weights} | batch_metrics(context)

    shapes = jax.eval_shape(terms)
    active = jnp.stack([jnp.asarray(weight) != 0 for weight in weights.values()]).any()
    values = jax.lax.cond(active, terms, lambda: jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes))
    # `where` on the weight as well: 0 · NaN is NaN.
    total = lm + sum(jnp.where(weight != 0, weight * values[name], 0.0) for name, weight in weights.items())
    return total, {"lm": lm, **values}


def batch_metrics(context: Context) -> Metrics:
    """Suppressability and control drop of the batch, by the masks that the objective uses, and companions; detached."""
    batch = context.batch
    mask_LRF = jax.lax.stop_gradient(context.mask_LRF)
    p = jnp.exp(context.log_p_N)
    suppressed = p * context.ratio(suppress(mask_LRF))
    controlled = p * context.ratio(suppress(control_mask(mask_LRF, batch.control_R)))
    metrics = {
        "suppressability": 1 - mean(suppressed, batch.answer_weight_N) / mean(p, batch.answer_weight_N),
        "control_drop": 1 - mean(controlled, batch.control_weight_N) / mean(p, batch.control_weight_N),
        "probability": mean(p, batch.answer_weight_N),
        "completeness_residual": mean(jnp.abs(context.attribution.residual_PR).mean(0), batch.weight_R),
    }
    return jax.lax.stop_gradient(metrics)


def term_weights(objective: ObjectiveConfig, step: Int[Array, ""]) -> dict[str, Float[Array, ""]]:
    """The weight of every term at a step, without those that are 0 at all steps."""
    schedules = {name: parse_schedule(text) for name, text in objective.weights.items()}
    return {
        name: jnp.interp(step.astype(jnp.float32), jnp.array(schedule.steps), jnp.array(schedule.values))
        for name, schedule in schedules.items()
        if any(schedule.values)
    }


def step_key(state: TrainState) -> PRNGKeyArray:
    """The key of the step that comes next."""
    return jax.random.fold_in(state.key, state.step)


def train_step(
    model: ModelConfig, objective: ObjectiveConfig, optimiser_config: OptimiserConfig, steps: int
) -> Callable[[TrainState, QueryBatch, int], tuple[TrainState, Metrics]]:
    """The jitted step `(state, batch, number) -> (state, metrics)`; the state passed in is donated.

    A step whose loss or gradient is not finite leaves the state as it was, and so does every step whose number is not
    the state's next: the steps that were under way when the first bad one is noticed. Metric "finite" is 0 for both.

    Raises:
      UserError: if a term is unknown, or k does not fit the model.
    """
    for name in objective.weights:
        objective_term(name)
    check_k(objective.k, model.n_neurons)
    rate, transform = learning_rate(optimiser_config, steps), optimiser(optimiser_config, steps)

    def step(state: TrainState, batch: QueryBatch, number: Int[Array, ""]) -> tuple[TrainState, Metrics]:
        weights, key = term_weights(objective, state.step), step_key(state)
        value_and_grad = jax.value_and_grad(
            lambda params: loss(model, objective, params, batch, weights, key), has_aux=True
        )
        (total, metrics), grads = value_and_grad(state.params)
        norm = optax.tree.norm(grads)
        updates, opt_state = transform.update(grads, state.opt_state, state.params)
        new = TrainState(optax.apply_updates(state.params, updates), opt_state, state.step + 1, state.key)
        finite = jnp.isfinite(total) & jnp.isfinite(norm) & (number == state.step)
        kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new[:3], state[:3])
        metrics = {
            "loss": total,
            **metrics,
            **{f"{name}_weight": weight for name, weight in weights.items()},
            "gradient_norm": norm,
            "learning_rate": jnp.asarray(rate(state.step), total.dtype),
            "finite": finite,
        }
        return TrainState(*kept, state.key), metrics

    return jax.jit(step, donate_argnums=0)
