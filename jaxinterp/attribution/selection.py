"""From scores to knowledge neurons: masks [L, R, F] in [0, 1]."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.base.errors import UserError, unknown

Select = Literal["straight_through", "soft", "stop_gradient"]


def check_k(k: int, n_neurons: int) -> None:
    """Raises UserError unless 1 ≤ k < n_neurons (the number of neurons in the model, L·F)."""
    if not 1 <= k < n_neurons:
        raise UserError(f"k must be at least 1 and below the model's number of neurons ({n_neurons}), got {k}")


def _by_row(scores_LRF: Float[Array, "L R F"]) -> Float[Array, "R N"]:
    return scores_LRF.transpose(1, 0, 2).reshape(scores_LRF.shape[1], -1)


def _by_layer(scores_RN: Float[Array, "R N"], like_LRF: Array) -> Float[Array, "L R F"]:
    n_layers, n_rows, n_neurons = like_LRF.shape
    return scores_RN.reshape(n_rows, n_layers, n_neurons).transpose(1, 0, 2)


def top_k(scores_LRF: Float[Array, "L R F"], k: int) -> Float[Array, "L R F"]:
    """1 for the k highest scores of each row over all layers, 0 elsewhere; equal scores: the first in (layer, neuron).

    Raises:
      UserError: if k is not in [1, L·F).
    """
    scores = _by_row(scores_LRF)
    check_k(k, scores.shape[1])
    _, best = jax.lax.top_k(scores, k)
    mask = jnp.zeros_like(scores).at[jnp.arange(scores.shape[0])[:, None], best].set(1.0)
    return _by_layer(mask, scores_LRF)


@jax.custom_jvp
def soft_threshold(x_RN: Float[Array, "R N"], k: Float[Array, ""]) -> Float[Array, " R"]:
    """t of each row with Σ sigmoid(x − t) = k, by bisection; differentiable to any order, implicitly.

    Args:
      x_RN: scores in units of the temperature.
      k: in (0, N).
    """
    # Σ sigmoid(x − t) lies between N·sigmoid(min x − t) and N·sigmoid(max x − t), which brackets t.
    n = x_RN.shape[-1]
    logit = jnp.log(k) - jnp.log(n - k)
    low, high = x_RN.min(-1) - logit, x_RN.max(-1) - logit

    def halve(_: Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        too_many = jax.nn.sigmoid(x_RN - middle[:, None]).sum(-1) > k
        return jnp.where(too_many, middle, low), jnp.where(too_many, high, middle)

    low, high = jax.lax.fori_loop(0, 50 if x_RN.dtype == jnp.float64 else 30, halve, (low, high))
    # One Newton step takes the bisection's error to rounding.
    middle = 0.5 * (low + high)
    s = jax.nn.sigmoid(x_RN - middle[:, None])
    return middle + (s.sum(-1) - k) / jnp.maximum((s * (1 - s)).sum(-1), jnp.finfo(x_RN.dtype).tiny)


@soft_threshold.defjvp
def _soft_threshold_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    # Implicit differentiation of Σ sigmoid(x − t) = k: dt = Σ s(1−s) dx / Σ s(1−s). The rule calls `soft_threshold`
    # itself, so that it can be differentiated again.
    x, k = primals
    t = soft_threshold(x, k)
    s = jax.nn.sigmoid(x - t[:, None])
    slope = s * (1 - s)
    return t, (slope * tangents[0]).sum(-1) / jnp.maximum(slope.sum(-1), jnp.finfo(x.dtype).tiny)


def soft_top_k(scores_LRF: Float[Array, "L R F"], k: int, temperature: float) -> Float[Array, "L R F"]:
    """sigmoid((A − t) / τ) with t such that the mask of each row sums to k; t is differentiated implicitly.

    τ = `temperature` · (the row's k-th highest score, in absolute value and held constant), so that the mask does not
    change with the scale of the scores. Most neurons of a ReLU network are inactive and have a score of 0: a mean over
    all of them would be far below the scores that are told apart.

    Args:
      scores_LRF: scores.
      k: what a row's mask sums to, in [1, L·F).
      temperature: > 0, in k-th scores; towards 0 the mask becomes `top_k`'s.
    Raises:
      UserError: if k or the temperature is out of range.
    """
    scores = _by_row(scores_LRF)
    check_k(k, scores.shape[1])
    if temperature <= 0:
        raise UserError(f"temperature must be above 0, got {temperature}")
    detached = jax.lax.stop_gradient(scores)
    kth = jnp.abs(jax.lax.top_k(detached, k)[0][:, -1:])
    # Where fewer than k neurons act, the k-th score says nothing of the scale.
    least = jnp.maximum(1e-3 * jnp.abs(detached).max(-1, keepdims=True), jnp.finfo(scores.dtype).tiny ** 0.5)
    scale = jnp.maximum(kth, least)
    x = scores / (temperature * scale)
    mask = jax.nn.sigmoid(x - soft_threshold(x, jnp.asarray(k, x.dtype))[:, None])
    return _by_layer(mask, scores_LRF)


def straight_through(scores_LRF: Float[Array, "L R F"], k: int, temperature: float) -> Float[Array, "L R F"]:
    """`top_k` forward, `soft_top_k` backward (Bengio et al. 2013)."""
    soft = soft_top_k(scores_LRF, k, temperature)
    return soft + jax.lax.stop_gradient(top_k(scores_LRF, k) - soft)


def stop_gradient(scores_LRF: Float[Array, "L R F"], k: int, temperature: float = 1.0) -> Float[Array, "L R F"]:
    """`top_k`, detached: no gradient flows through attribution; the ablation of the meta-gradient."""
    return top_k(jax.lax.stop_gradient(scores_LRF), k)


SELECTS = {"straight_through": straight_through, "soft": soft_top_k, "stop_gradient": stop_gradient}


def select(name: Select, scores_LRF: Float[Array, "L R F"], k: int, temperature: float) -> Float[Array, "L R F"]:
    """The mask of the named mode; see `SELECTS`.

    Raises:
      UserError: if the mode is unknown, or k or the temperature is out of range.
    """
    if name not in SELECTS:
        raise unknown("select", name, SELECTS)
    return SELECTS[name](scores_LRF, k, temperature)
