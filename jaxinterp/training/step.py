"""One training step: a pure function of state and batch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxinterp.facts.batches import QueryBatch
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.likelihood import next_token_nll
from jaxinterp.models.model import Model
from jaxinterp.models.readout import lm_readout
from jaxinterp.models.transformer import Forward, forward
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.objectives.context import Context
from jaxinterp.objectives.loss import Metrics, Weights, check_objective, with_terms
from jaxinterp.training.config import OptimiserConfig
from jaxinterp.training.readout_step import Step, gradient_step, scheduled
from jaxinterp.training.state import TrainState, learning_rate, optimiser


def next_token_losses(model: Model, result: Forward, batch: QueryBatch) -> dict[str, Float[Array, ""]]:
    """Mean cross-entropy over tokens, in nats per token: "lm" of all of the batch, and if it has windows of text
    "lm_facts" and "lm_text" of its sentences and of these.
    """
    nll_BT = next_token_nll(model, result, batch.tokens_BT)
    weight_BT = batch.token_weight_BT[:, 1:].astype(nll_BT.dtype)

    def mean(weight_BT: Float[Array, "B S"]) -> Float[Array, ""]:
        return (nll_BT * weight_BT).sum() / jnp.maximum(weight_BT.sum(), 1)

    losses = {"lm": mean(weight_BT)}
    if batch.text_B is not None:
        text_B1 = jnp.asarray(batch.text_B, nll_BT.dtype)[:, None]
        losses |= {"lm_facts": mean(weight_BT * (1 - text_B1)), "lm_text": mean(weight_BT * text_B1)}
    return losses


def loss(
    model: Model,
    objective: ObjectiveConfig,
    batch: QueryBatch,
    weights: Weights,
    key: PRNGKeyArray,
    active: Bool[Array, ""] | bool | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    """LM + Σ weight · term.

    Args:
      model: whose config's dtype is that of the arithmetic; parameters of any dtype are cast.
      objective: config.
      batch: sentences and the answers to read. A route of its holds for LM alone: the terms have a forward of their
        own then, for one forward cannot pass on the gradient of one loss and stop another's at the same neurons.
      weights: the terms' weights at this step.
      key: consumed.
      active: see `jaxinterp.objectives.loss.with_terms`.
    Returns:
      The loss in nats, and metrics: those of `next_token_losses` and of `with_terms`.
    """
    model = model.replace(params=jax.tree.map(lambda x: x.astype(model.config.dtype), dict(model.params)))
    if not (weights or objective.start):
        losses = next_token_losses(model, forward(model, batch.tokens_BT, edit=batch.route), batch)
        return losses["lm"], losses
    if batch.route is None:
        result, shared = lm_readout(model, batch.tokens_BT, batch.rows)
    else:
        result, shared = forward(model, batch.tokens_BT, edit=batch.route), None

    def context() -> Context:
        readout = lm_readout(model, batch.tokens_BT, batch.rows)[1] if shared is None else shared
        return Context(objective, batch.answers, readout, key)

    losses = next_token_losses(model, result, batch)
    total, metrics = with_terms(losses["lm"], context, weights, active)
    return total, {**losses, **metrics}


def update(
    model: ModelConfig,
    objective: ObjectiveConfig,
    optimiser_config: OptimiserConfig,
    steps: int,
    *,
    accumulate: int = 1,
    skip: bool = False,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """`gradient_step` of a model, `(state, batch, number, weights, active) -> (state, metrics)`, for `jit` and `vmap`.

    Args:
      model: whose dtype is that of the arithmetic; parameters and optimiser keep theirs.
      objective, optimiser_config: configs.
      steps: of the whole run.
      accumulate, skip: of `gradient_step`.
    Raises:
      UserError: if a term is unknown, or k does not fit the model.
    """
    check_objective(objective, model.n_neurons)

    def of_params(params: dict, batch: QueryBatch, *more: Any) -> tuple[Float[Array, ""], Metrics]:
        return loss(Model(model, params), objective, batch, *more)

    rate, transform = learning_rate(optimiser_config, steps), optimiser(optimiser_config, steps, model)
    return functools.partial(
        gradient_step, of_params, transform, rate, objective.start, accumulate=accumulate, skip=skip
    )


def train_step(
    model: ModelConfig, objective: ObjectiveConfig, optimiser_config: OptimiserConfig, steps: int, **more: Any
) -> Step:
    """`update` of one model, jitted: `(state, batch, number) -> (state, metrics)`; the state passed in is donated."""
    return scheduled(update(model, objective, optimiser_config, steps, **more), objective)
