"""From scores to knowledge neurons: masks [L, R, F] in [0, 1]."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from jaxinterp.base.errors import UserError, unknown

Select = Literal["straight_through", "soft", "stop_gradient"]


def check_k(k: int, n_neurons: int) -> None:
    """Raises UserError unless 1 ≤ k < n_neurons (the number of neurons in the model, L·F)."""
    if not 1 <= k < n_neurons:
        raise UserError(f"k must be at least 1 and below the model's number of neurons ({n_neurons}), got {k}")


def _by_row(scores_LRF: Float[Array, "L R F"]) -> Float[Array, "R N"]:
    return scores_LRF.transpose(1, 0, 2).reshape(scores_LRF.shape[1], -1)


def _by_layer(value_RN: Shaped[Array, "R N"], like_LRF: Array) -> Shaped[Array, "L R F"]:
    n_layers, n_rows, n_neurons = like_LRF.shape
    return value_RN.reshape(n_rows, n_layers, n_neurons).transpose(1, 0, 2)


def ranked(scores_LRF: Float[Array, "L R F"], k: int) -> Int[Array, "L R F"]:
    """0, 1, … k − 1 for the k highest scores of each row over all layers, from the highest; k elsewhere.

    Equal scores: the first in (layer, neuron) comes first.

    Raises:
      UserError: if k is not in [1, L·F).
    """
    scores = _by_row(scores_LRF)
    check_k(k, scores.shape[1])
    _, best = jax.lax.top_k(scores, k)
    rank = (
        jnp.full(scores.shape, k, jnp.int32)
        .at[jnp.arange(scores.shape[0])[:, None], best]
        .set(jnp.arange(k, dtype=jnp.int32)[None])
    )
    return _by_layer(rank, scores_LRF)


def top_k(scores_LRF: Float[Array, "L R F"], k: int, fewer_R: Int[Array, " R"] | None = None) -> Float[Array, "L R F"]:
    """1 for the first ones by `ranked`, 0 elsewhere: k of each row, or `fewer_R`, which are at most k.

    Raises:
      UserError: if k is not in [1, L·F).
    """
    number = k if fewer_R is None else fewer_R[None, :, None]
    return (ranked(scores_LRF, k) < number).astype(scores_LRF.dtype)


@jax.custom_jvp
def soft_threshold(x_RN: Float[Array, "R N"], k: Float[Array, "*R"]) -> Float[Array, " R"]:
    """t of each row with Σ sigmoid(x − t) = k, by bisection; differentiable to any order, implicitly.

    Args:
      x_RN: scores in units of the temperature.
      k: in (0, N), the same for all rows or each row's.
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


def soft_top_k(
    scores_LRF: Float[Array, "L R F"], k: int, temperature: float, fewer_R: Int[Array, " R"] | None = None
) -> Float[Array, "L R F"]:
    """sigmoid((A − t) / τ) with t such that the mask of each row sums to k; t is differentiated implicitly.

    τ = `temperature` · (the row's k-th highest score, in absolute value and held constant), so that the mask does not
    change with the scale of the scores. Most neurons of a ReLU network are inactive and have a score of 0: a mean over
    all of them would be far below the scores that are told apart.

    Args:
      scores_LRF: scores.
      k: what a row's mask sums to, in [1, L·F), if not `fewer_R`, and the scale of the scores.
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
    number = jnp.asarray(k if fewer_R is None else fewer_R, x.dtype)
    mask = jax.nn.sigmoid(x - soft_threshold(x, number)[:, None])
    return _by_layer(mask, scores_LRF)


def straight_through(
    scores_LRF: Float[Array, "L R F"], k: int, temperature: float, fewer_R: Int[Array, " R"] | None = None
) -> Float[Array, "L R F"]:
    """`top_k` forward, `soft_top_k` backward (Bengio et al. 2013)."""
    soft = soft_top_k(scores_LRF, k, temperature, fewer_R)
    return soft + jax.lax.stop_gradient(top_k(scores_LRF, k, fewer_R) - soft)


def stop_gradient(
    scores_LRF: Float[Array, "L R F"], k: int, temperature: float = 1.0, fewer_R: Int[Array, " R"] | None = None
) -> Float[Array, "L R F"]:
    """`top_k`, detached: no gradient flows through attribution; the ablation of the meta-gradient."""
    return top_k(jax.lax.stop_gradient(scores_LRF), k, fewer_R)


SELECTS = {"straight_through": straight_through, "soft": soft_top_k, "stop_gradient": stop_gradient}


def select(
    name: Select,
    scores_LRF: Float[Array, "L R F"],
    k: int,
    temperature: float,
    fewer_R: Int[Array, " R"] | None = None,
) -> Float[Array, "L R F"]:
    """The mask of the named mode, of k neurons in each row or of `fewer_R`; see `SELECTS`.

    Raises:
      UserError: if the mode is unknown, or k or the temperature is out of range.
    """
    if name not in SELECTS:
        raise unknown("select", name, SELECTS)
    return SELECTS[name](scores_LRF, k, temperature, fewer_R)
