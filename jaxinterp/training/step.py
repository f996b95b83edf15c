"""One training step: a pure function of state and batch."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxinterp.attribution.readout import Rows, lm_readout
from jaxinterp.attribution.selection import check_k
from jaxinterp.base.schedule import parse_schedule
from jaxinterp.facts.encoding import QueryBatch
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.likelihood import next_token_nll
from jaxinterp.models.transformer import Forward, forward
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.objectives.context import Context, mean
from jaxinterp.objectives.registry import TERMS
from jaxinterp.training.config import OptimiserConfig
from jaxinterp.training.state import TrainState, learning_rate, optimiser

Metrics = Mapping[str, Float[Array, ""]]


def next_token_loss(model: ModelConfig, params: Mapping, result: Forward, batch: QueryBatch) -> Float[Array, ""]:
    """Mean cross-entropy over the batch's tokens, in nats a token."""
    nll_BT = next_token_nll(model, params, result, batch.tokens_BT)
    weight_BT = batch.token_weight_BT[:, 1:].astype(nll_BT.dtype)
    return (nll_BT * weight_BT).sum() / jnp.maximum(weight_BT.sum(), 1)


def loss(
    model: ModelConfig,
    objective: ObjectiveConfig,
    params: Mapping,
    batch: QueryBatch,
    weights: Mapping[str, Float[Array, ""]],
    key: PRNGKeyArray,
    active: Bool[Array, ""] | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    """LM + Σ weight · term.

    Args:
      model: whose dtype is that of the arithmetic.
      objective: config.
      params: parameters, in any dtype; they are cast.
      batch: sentences and the answers to read.
      weights: the terms' weights at this step.
      key: consumed.
      active: whether the terms are computed; if not, their metrics are NaN. None is whether any weight differs from 0.
        Under `vmap` it has to be given, the same for all: a condition that differs computes both branches for all.
    Returns:
      The loss in nats, and metrics: every term, and the batch's suppressability and control drops (ratios of means over
      the batch), mean answer probability and mean absolute completeness residual.
    """
    params = jax.tree.map(lambda x: x.astype(model.dtype), dict(params))
    if not weights:
        lm = next_token_loss(model, params, forward(model, params, batch.tokens_BT), batch)
        return lm, {"lm": lm}
    rows = Rows(batch.sequence_R, batch.position_R, batch.target_R)
    result, readout = lm_readout(model, params, batch.tokens_BT, rows)
    lm = next_token_loss(model, params, result, batch)

    def terms() -> Metrics:
        context = Context(objective, batch, result, readout, key)
        return {name: TERMS[name](context) for name in weights} | batch_metrics(context)

    shapes = jax.eval_shape(terms)
    if active is None:
        active = any_active(weights)
    values = jax.lax.cond(active, terms, lambda: jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes))
    # `where` on the weight as well: 0 · NaN is NaN.
    total = lm + sum(jnp.where(weight != 0, weight * values[name], 0.0) for name, weight in weights.items())
    return total, {"lm": lm, **values}


def any_active(weights: Mapping[str, Float[Array, "*E"]]) -> Bool[Array, ""]:
    """Whether any weight differs from 0."""
    return jnp.stack([(jnp.asarray(weight) != 0).any() for weight in weights.values()]).any()


def batch_metrics(context: Context) -> Metrics:
    """Suppressability and control drops of the batch, by the masks that the objective uses, and companions; detached.

    control_drop is the largest of the kinds that the objective looks at; a kind that the batch has none of is NaN.
    """
    batch = context.batch
    there = context.by_kind(jnp.ones_like(context.control_ratio_XN))
    dropped = {
        kind: jnp.where(there[kind] > 0, drop, jnp.nan)
        for kind, drop in context.by_kind(1 - context.control_ratio_XN).items()
    }
    metrics = {
        "suppressability": 1 - mean(context.suppressed_ratio_N, context.known_N),
        "control_drop": jnp.nanmax(jnp.stack(list(dropped.values()))),
        **{f"control_drop_{kind}": drop for kind, drop in dropped.items()},
        "probability": mean(jnp.exp(context.log_p_N), batch.answer_weight_N),
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


def update(
    model: ModelConfig, objective: ObjectiveConfig, optimiser_config: OptimiserConfig, steps: int
) -> Callable[..., tuple[TrainState, Metrics]]:
    """One step as a pure function `(state, batch, number, weights, active) -> (state, metrics)`, for `jit` and `vmap`.

    Its weights and `active` are those of `loss`. A step whose loss or gradient is not finite leaves the state as it
    was, and so does every step whose number is not the state's next: the steps that were under way when the first bad
    one is noticed. Metric "finite" is 0 for both.

    Args:
      model: whose dtype is that of the arithmetic; parameters and optimiser keep theirs.
      objective, optimiser_config: configs.
      steps: of the whole run.
    Raises:
      UserError: if a term is unknown, or k does not fit the model.
    """
    for name in objective.weights:
        TERMS[name]
    check_k(max(objective.k, objective.control_k), model.n_neurons)
    rate, transform = learning_rate(optimiser_config, steps), optimiser(optimiser_config, steps)

    def step(
        state: TrainState,
        batch: QueryBatch,
        number: Int[Array, ""],
        weights: Mapping[str, Float[Array, ""]],
        active: Bool[Array, ""] | None = None,
    ) -> tuple[TrainState, Metrics]:
        key = step_key(state)
        value_and_grad = jax.value_and_grad(
            lambda params: loss(model, objective, params, batch, weights, key, active), has_aux=True
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

    return step


def train_step(
    model: ModelConfig, objective: ObjectiveConfig, optimiser_config: OptimiserConfig, steps: int
) -> Callable[[TrainState, QueryBatch, int], tuple[TrainState, Metrics]]:
    """`update` of one model, jitted: `(state, batch, number) -> (state, metrics)`; the state passed in is donated.

    Raises:
      UserError: if a term is unknown, or k does not fit the model.
    """
    step = update(model, objective, optimiser_config, steps)

    def scheduled(state: TrainState, batch: QueryBatch, number: Int[Array, ""]) -> tuple[TrainState, Metrics]:
        return step(state, batch, number, term_weights(objective, state.step))

    return jax.jit(scheduled, donate_argnums=0)
