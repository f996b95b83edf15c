"""One step of fine-tuning a pretrained model: a pure function of state and batch."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxinterp.facts.batches import QueryBatch
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.model import Model
from jaxinterp.models.readout import lm_readout
from jaxinterp.models.transformer import forward
from jaxinterp.objectives.context import Context
from jaxinterp.objectives.loss import Metrics, check_objective, with_terms
from jaxinterp.training.adaptation import adapted
from jaxinterp.training.finetune_config import FinetuneConfig
from jaxinterp.training.readout_step import Step, gradient_step, scheduled
from jaxinterp.training.state import learning_rate, optimiser


def divergence(
    reference_BTV: Float[Array, "B T V"], logits_BTV: Float[Array, "B T V"], weight_BT: Float[Array, "B T"]
) -> Float[Array, ""]:
    """Mean KL(softmax(reference) ‖ softmax(logits)) over positions, in nats a token."""
    log_p, log_q = jax.nn.log_softmax(reference_BTV), jax.nn.log_softmax(logits_BTV)
    kl_BT = (jnp.exp(log_p) * (log_p - log_q)).sum(-1)
    return (kl_BT * weight_BT).sum() / jnp.maximum(weight_BT.sum(), 1)


def finetune_loss(
    model: ModelConfig,
    config: FinetuneConfig,
    original: Mapping,
    change: Mapping,
    batch: QueryBatch,
    text_BT: Int[Array, "B T"],
    weights: Mapping[str, Float[Array, ""]],
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], Metrics]:
    """Text KL + prompt KL + Σ weight · term.

    Args:
      model: of the arithmetic's dtype.
      config: the run.
      original: the pretrained parameters, which stay.
      change: what is trained; see `jaxinterp.training.adaptation`.
      batch: prompts with answers.
      text_BT: windows of neutral text.
      weights: the terms' weights at this step.
      key: consumed.
    Returns:
      The loss in nats, and metrics: its other parts, and those of `with_terms`.
    """
    params = adapted(original, change, config.adapt, model.dtype)
    still = jax.lax.stop_gradient(jax.tree.map(lambda x: x.astype(model.dtype), original))
    metrics: dict[str, Array] = {}
    text_weight = jnp.ones(text_BT.shape, jnp.float32)
    metrics["text_kl"] = divergence(
        forward(Model(model, still), text_BT).logits_BTV, forward(Model(model, params), text_BT).logits_BTV, text_weight
    )
    rows = batch.rows
    result, readout = lm_readout(Model(model, params), batch.tokens_BT, rows, batch.length_B)
    # A position predicts the next token: those that have one count.
    next_weight = jnp.pad(batch.token_weight_BT[:, 1:], ((0, 0), (0, 1)))
    metrics["prompt_kl"] = divergence(
        forward(Model(model, still), batch.tokens_BT).logits_BTV, result.logits_BTV, next_weight
    )
    base = config.text_kl * metrics["text_kl"] + config.prompt_kl * metrics["prompt_kl"]
    # Without steps to pass over the terms need no condition.
    active = True if config.objective.every == 1 else None
    total, terms = with_terms(base, lambda: Context(config.objective, batch.answers, readout, key), weights, active)
    return total, {**metrics, **terms}


def finetune_step(model: ModelConfig, config: FinetuneConfig) -> Step:
    """The jitted step `(state, (original, batch, text), number) -> (state, metrics)`; the state passed in is donated.

    Raises:
      UserError: if a term is unknown, or k does not fit the model.
    """
    check_objective(config.objective, model.n_neurons)
    model = dataclasses.replace(model, dtype=config.dtype)

    def loss(change: Mapping, inputs: tuple, *more: Any) -> tuple[Float[Array, ""], Metrics]:
        original, batch, text_BT = inputs
        return finetune_loss(model, config, original, change, batch, text_BT, *more)

    rate, transform = learning_rate(config.optimiser, config.steps), optimiser(config.optimiser, config.steps, model)
    step = functools.partial(gradient_step, loss, transform, rate, config.objective.start)
    return scheduled(step, config.objective)
