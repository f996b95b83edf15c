"""One training step: a pure function of state and batch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxinterp.facts.batches import QueryBatch
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.likelihood import drawn_tokens, next_token_nll
from jaxinterp.models.model import Model
from jaxinterp.models.places import Change, Changes
from jaxinterp.models.readout import lm_readout
from jaxinterp.models.transformer import Forward, forward
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.objectives.context import Context
from jaxinterp.objectives.loss import Metrics, Weights, check_objective, with_terms
from jaxinterp.training.config import OptimiserConfig
from jaxinterp.training.noise import dropout_changes, dropout_parts, gate_shape, mean_over_masks, noise_key
from jaxinterp.training.noise_config import NO_NOISE, NoiseConfig
from jaxinterp.training.readout_step import Step, gradient_step, scheduled
from jaxinterp.training.robust import adversarial_shift
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


def next_token_loss(model: Model, result: Forward, batch: QueryBatch) -> Float[Array, ""]:
    """Mean cross-entropy over all of the batch's tokens, in nats per token."""
    return next_token_losses(model, result, batch)["lm"]


def drawn_loss(model: Model, result: Forward, batch: QueryBatch, key: PRNGKeyArray) -> Float[Array, ""]:
    """ℓ̂ = Σ_t √(w_t / Σ w) · −log p_t(ŷ_t), with ŷ_t drawn from p_t; consumes `key`.

    Draws of different tokens have nothing to do with one another, so that the mean of (∂ℓ̂/∂x)² is the weighted mean of
    each token's own Σ_y p(y) (∂ log p(y)/∂x)². With N tokens of weight 1 it is √N times their mean loss.
    """
    nll_BT = next_token_nll(model, result, drawn_tokens(model, result, jnp.asarray(batch.tokens_BT), key))
    weight_BT = batch.token_weight_BT[:, 1:].astype(nll_BT.dtype)
    return (nll_BT * jnp.sqrt(weight_BT / jnp.maximum(weight_BT.sum(), 1))).sum()


def loss(
    model: Model,
    objective: ObjectiveConfig,
    batch: QueryBatch,
    weights: Weights,
    key: PRNGKeyArray,
    active: Bool[Array, ""] | bool | None = None,
    noise: NoiseConfig = NO_NOISE,
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
      noise: of LM alone, see `noisy_loss`: the terms have a forward of their own, without any.
    Returns:
      The loss in nats, and metrics: those of `next_token_losses`, or of `noisy_loss` if there is noise, and of
      `with_terms`.
    """
    model = model.replace(params=jax.tree.map(lambda x: x.astype(model.config.dtype), dict(model.params)))
    has_terms, shared = bool(weights or objective.start), None
    metrics: Metrics
    if noise.on:
        base, metrics = noisy_loss(model, batch, key, noise)
    else:
        if has_terms and batch.route is None:
            result, shared = lm_readout(model, batch.tokens_BT, batch.rows)
        else:
            result = forward(model, batch.tokens_BT, route=batch.route)
        metrics = next_token_losses(model, result, batch)
        base = metrics["lm"]
    if not has_terms:
        return base, metrics

    def context() -> Context:
        readout = lm_readout(model, batch.tokens_BT, batch.rows)[1] if shared is None else shared
        return Context(objective, batch.answers, readout, key)

    total, of_terms = with_terms(base, context, weights, active)
    return total, {**metrics, **of_terms}


def noisy_loss(
    model: Model, batch: QueryBatch, key: PRNGKeyArray, noise: NoiseConfig
) -> tuple[Float[Array, ""], Metrics]:
    """Language modelling with noise: (1 − share) · LM + share · adversarial + λ₁ R, and λ₂ ξ added to its gradient.

    Args:
      model: of the arithmetic's dtype.
      batch: sentences, and a route of theirs.
      key: of the step; numbers that nothing else uses are folded in.
      noise: config.
    Returns:
      The loss in nats, and metrics in nats: "lm", that of the forward that is trained: with dropout if there is any.
      And of what is on: "adversarial", the loss under `adversarial_shift`, without dropout; "dropout_penalty", R; and
      "dropout_noise", the standard deviation of the loss's first-order change by dropout.
    """
    dropout, robust = noise.dropout, noise.robust
    shape: tuple[int, int] = batch.tokens_BT.shape

    def loss_of(changes: Changes, of: Model = model) -> Float[Array, ""]:
        return next_token_loss(of, forward(of, batch.tokens_BT, edit=changes, route=batch.route), batch)

    def losses_of(gates_LBTF: Array) -> tuple[Float[Array, ""], Float[Array, ""]]:
        result = forward(model, batch.tokens_BT, edit={"mlp_post": Change(gates_LBTF)})
        return next_token_loss(model, result, batch), drawn_loss(model, result, batch, noise_key(key, 0))

    capture = (robust.place,) if robust.radius else ()
    untouched = forward(model, batch.tokens_BT, route=batch.route, capture=capture)
    added, metrics = None, {}
    if dropout.drops:
        draw = functools.partial(dropout_changes, dropout, model.config, shape)
        lm = mean_over_masks(loss_of, draw, key, dropout.masks)
    elif dropout.rate:
        gates = gate_shape(model.config, "mlp_post", shape)
        lm, added, metrics = dropout_parts(losses_of, gates, dropout, noise_key(key, 1))
    else:
        lm = next_token_loss(model, untouched, batch)
    base = lm
    if robust.radius:
        still = model.replace(params=jax.lax.stop_gradient(dict(model.params)))
        moved = lambda shift, of: loss_of({robust.place: Change(None, shift)}, of)  # noqa: E731
        x = untouched.activations[robust.place]
        shift = adversarial_shift(lambda shift: moved(shift, still), x, robust.radius, robust.place)
        adversarial = moved(shift, model)
        base = (1 - robust.share) * lm + robust.share * adversarial
        metrics = {**metrics, "adversarial": adversarial}
    return base if added is None else base + added, {"lm": lm, **metrics}


def update(
    model: ModelConfig,
    objective: ObjectiveConfig,
    optimiser_config: OptimiserConfig,
    steps: int,
    *,
    noise: NoiseConfig = NO_NOISE,
    accumulate: int = 1,
    skip: bool = False,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """`gradient_step` of a model, `(state, batch, number, weights, active) -> (state, metrics)`, for `jit` and `vmap`.

    Args:
      model: whose dtype is that of the arithmetic; parameters and optimiser keep theirs.
      objective, optimiser_config: configs.
      steps: of the whole run.
      noise: of `loss`.
      accumulate, skip: of `gradient_step`.
    Raises:
      UserError: if a term is unknown, or k does not fit the model.
    """
    check_objective(objective, model.n_neurons)

    def of_params(params: dict, batch: QueryBatch, *more: Any) -> tuple[Float[Array, ""], Metrics]:
        return loss(Model(model, params), objective, batch, *more, noise=noise)

    rate, transform = learning_rate(optimiser_config, steps), optimiser(optimiser_config, steps, model)
    return functools.partial(
        gradient_step, of_params, transform, rate, objective.start, accumulate=accumulate, skip=skip
    )


def train_step(
    model: ModelConfig, objective: ObjectiveConfig, optimiser_config: OptimiserConfig, steps: int, **more: Any
) -> Step:
    """`update` of one model, jitted: `(state, batch, number) -> (state, metrics)`; the state passed in is donated."""
    return scheduled(update(model, objective, optimiser_config, steps, **more), objective)
