"""Ranks of scores with ties, and how well two rankings of the active neurons agree."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

FEWEST = 3  # active neurons of a row; the ranks of two can only agree or disagree


def average_ranks(values_N: Float[Array, " N"], among_N: Float[Array, " N"]) -> Float[Array, " N"]:
    """Ranks 1, 2, … from the smallest, equal values with the mean of their ranks; 0 for what is not among them.

    Args:
      values_N: finite.
      among_N: 1 for what is ranked, else 0.
    """
    return (_centred(values_N, among_N) + 1 + among_N.sum()) / 2 * among_N


def rank_agreement(
    a_LRF: Float[Array, "L R F"], b_LRF: Float[Array, "L R F"], active_LRF: Float[Array, "L R F"]
) -> Float[Array, " R"]:
    """Spearman's correlation of two scores over the active neurons of each row, in [−1, 1].

    Equal scores have the mean of their ranks, and what is not active has none: a score of exactly 0 at most neurons,
    which are inactive, would otherwise agree with any other that is 0 there.

    Args:
      a_LRF, b_LRF: finite scores.
      active_LRF: 1 for active neurons, else 0.
    Returns:
      NaN for a row with fewer than `FEWEST` active neurons, or with one score for all of them.
    """
    return jax.vmap(_spearman)(*(x.transpose(1, 0, 2).reshape(x.shape[1], -1) for x in (a_LRF, b_LRF, active_LRF)))


def _spearman(a_N: Array, b_N: Array, among_N: Array) -> Float[Array, ""]:
    a, b = _centred(a_N, among_N), _centred(b_N, among_N)
    size = jnp.sqrt(jnp.square(a).sum()) * jnp.sqrt(jnp.square(b).sum())
    there = (among_N.sum() >= FEWEST) & (size > 0)
    return jnp.where(there, (a * b).sum() / jnp.where(there, size, 1), jnp.nan)


def _centred(values_N: Array, among_N: Array) -> Float[Array, " N"]:
    """Twice the average ranks less their mean: how many are smaller less how many are larger. Exactly 0 for what all
    others equal.
    """
    ordered = jnp.sort(jnp.where(among_N > 0, values_N, jnp.inf))
    smaller, not_larger = (jnp.searchsorted(ordered, values_N, side=side) for side in ("left", "right"))
    n = (among_N > 0).sum()
    return (smaller + jnp.minimum(not_larger, n) - n) * among_N
