"""The loss of a batch: what is learned anyway, and the terms of the objective on top, for any readout."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinterp.attribution.selection import check_k
from jaxinterp.base.schedule import parse_schedule
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.objectives.context import Context, mean
from jaxinterp.objectives.registry import TERMS

Metrics = Mapping[str, Array]  # scalars
Weights = Mapping[str, Float[Array, ""]]  # of the terms, by name


def check_objective(config: ObjectiveConfig, n_neurons: int) -> None:
    """Raises UserError if a term is unknown, or k does not fit the model."""
    for name in config.weights:
        TERMS[name]
    check_k(max(config.k, config.control_k), n_neurons)


def term_weights(config: ObjectiveConfig, begun: Int[Array, "*E"]) -> dict[str, Float[Array, "*E"]]:
    """The weight of every term in the step that comes next, without those that are 0 at all steps; 0 where
    `config.every` passes over it.

    Args:
      config: whose schedules count the steps since the objective began; before that all weights are 0.
      begun: those steps; with `config.start` above 0, 0 is before the beginning.
    """
    schedules = {
        name: parse_schedule(text) for name, text in config.weights.items() if any(parse_schedule(text).values)
    }
    weights = {
        name: jnp.interp(begun.astype(jnp.float32), jnp.array(schedule.steps), jnp.array(schedule.values))
        for name, schedule in schedules.items()
    }
    counts = jnp.where((begun + 1) % config.every == 0, jnp.float32(config.every), 0.0)
    if config.start:
        counts = jnp.where(begun > 0, counts, 0.0)
    return {name: counts * weight for name, weight in weights.items()}


def with_terms(
    base: Float[Array, ""],
    context: Callable[[], Context],
    weights: Weights,
    active: Bool[Array, ""] | bool | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    """base + Σ weight · term.

    Args:
      base: what is learned anyway, such as language modelling.
      context: makes the batch's context; called where the terms are computed, and for P.
      weights: the terms' weights at this step.
      active: whether the terms are computed; if not, their metrics are NaN. None is whether any weight differs from 0;
        True always computes them, without a condition.
        Under `vmap` it has to be given, the same for all: a condition that differs computes both branches for all.
    Returns:
      The loss, and metrics: every term, `batch_metrics` if one of the terms needs attribution, and "probability", the
      mean P of the batch's answers, untouched, whether the terms are computed or not (NaN without answers). Without
      weights "probability" alone, if the objective has a `start`, or nothing. Behind a condition the loss alone has a
      gradient; single terms have one if `active` is True.
    """
    untouched = context()
    if not (weights or untouched.config.start):
        return base, {}
    probability = {"probability": mean_probability(untouched)}
    if not weights:
        return base, probability

    def terms() -> tuple[Float[Array, ""], Metrics]:
        made = context()
        values = {name: TERMS[name](made) for name in weights}
        # `where` on the weight as well: 0 · NaN is NaN.
        added = jnp.stack([jnp.where(weight != 0, weight * values[name], 0.0) for name, weight in weights.items()])
        # Attribution is most of a step: for the log alone it is not computed.
        return added.sum(), values | (dict(batch_metrics(made)) if made.is_attributed else {})

    if active is None:
        active = any_active(weights)
    added, values = terms() if active is True else _where(jnp.asarray(active), terms)
    return base + added, {**values, **probability}


def _where(active: Bool[Array, ""], terms: Callable[[], tuple[Float[Array, ""], Metrics]]) -> tuple[Array, Metrics]:
    """A value and its metrics if they are active, 0 and NaN if not; the metrics are detached.

    The gradient is taken inside the condition. Differentiating a `cond` makes two of them, and the first has to hand
    all intermediate values to the second, which costs time in every step, also where nothing is computed.
    """
    # The arrays that `terms` closes over and that a gradient may be asked of.
    closed, arrays = jax.closure_convert(terms)

    def valued(arrays: list[Array]) -> tuple[Array, Metrics]:
        return closed(*arrays)

    def nothing(shapes: tuple[Any, Any]) -> tuple[Array, Metrics]:
        value, metrics = shapes
        return jnp.zeros(value.shape, value.dtype), jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), metrics)

    @jax.custom_vjp
    def chosen(active: Array, arrays: list[Array]) -> tuple[Array, Metrics]:
        shapes = jax.eval_shape(valued, arrays)
        return jax.lax.cond(active, valued, lambda _: nothing(shapes), arrays)

    def forward(active: Array, arrays: list[Array]) -> tuple[tuple[Array, Metrics], list[Array]]:
        graded = jax.value_and_grad(valued, has_aux=True)
        shapes, _ = jax.eval_shape(graded, arrays)
        return jax.lax.cond(
            active, graded, lambda arrays: (nothing(shapes), jax.tree.map(jnp.zeros_like, arrays)), arrays
        )

    def backward(slopes: list[Array], cotangents: tuple[Array, Metrics]) -> tuple[None, list[Array]]:
        return None, [(cotangents[0] * slope).astype(slope.dtype) for slope in slopes]

    chosen.defvjp(forward, backward)
    return chosen(active, arrays)


def mean_probability(context: Context) -> Float[Array, ""]:
    """Mean P of the batch's facts, untouched and detached; NaN if it has none. Tokens of text are no facts."""
    answers, weight_N = context.answers, jnp.asarray(context.answers.answer_weight_N)
    if answers.fact_N is not None:
        weight_N = weight_N * (jnp.asarray(answers.fact_N) >= 0)
    probability = mean(jnp.exp(context.log_p_N), weight_N)
    return jax.lax.stop_gradient(jnp.where(weight_N.sum() > 0, probability, jnp.nan))


def any_active(weights: Mapping[str, Float[Array, "*E"]]) -> Bool[Array, ""]:
    """Whether any weight differs from 0."""
    return jnp.stack([(jnp.asarray(weight) != 0).any() for weight in weights.values()]).any()


def batch_metrics(context: Context) -> Metrics:
    """Suppressability and control drops of the batch, by the masks that the objective uses, and companions; detached.

    These are ratios of means over the batch, and the mean absolute completeness residual.
    control_drop is the largest of the kinds that the objective looks at; a kind that the batch has none of is NaN.
    """
    answers = context.answers
    there = context.by_kind(jnp.ones_like(context.control_ratio_XN))
    dropped = {
        kind: jnp.where(there[kind] > 0, drop, jnp.nan)
        for kind, drop in context.by_kind(1 - context.control_ratio_XN).items()
    }
    metrics = {
        "suppressability": 1 - mean(context.suppressed_ratio_N, context.known_N),
        "control_drop": jnp.nanmax(jnp.stack(list(dropped.values()))),
        **{f"control_drop_{kind}": drop for kind, drop in dropped.items()},
        "completeness_residual": mean(jnp.abs(context.attribution.residual_PR).mean(0), answers.weight_R),
    }
    return jax.lax.stop_gradient(metrics)
