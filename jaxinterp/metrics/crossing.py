"""How many parts it takes: the smallest number of them, on a grid, at which a value reaches what is enough."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def doubled(n: int) -> tuple[int, ...]:
    """0, 1, 2, 4, … below n, and n."""
    powers = (2**power for power in range(n.bit_length()))
    return (0, *(number for number in powers if number < n), *([n] if n else []))


def smallest_number(
    numbers_GN: Float[Array, "G N"], value_GN: Float[Array, "G N"], enough_N: Float[Array, " N"]
) -> Float[Array, " N"]:
    """The number at which a value first reaches `enough`, linear in the logarithm of the number between grid points.

    From 0 to the next number there is nothing in between: it is that number. A value that is never reached gives the
    last number, which then is a bound from below.

    Args:
      numbers_GN: grid points of each column, from the smallest, at least 0.
      value_GN: what there is with so many parts.
      enough_N: what is to be reached.
    Returns:
      At least the first number and at most the last; NaN for a column with a NaN.
    """
    reached_GN = value_GN >= enough_N[None]
    found_N = reached_GN.any(0)
    at_N = jnp.where(found_N, reached_GN.argmax(0), len(numbers_GN) - 1)[None]
    before_N = jnp.maximum(at_N - 1, 0)
    high, low = (jnp.take_along_axis(numbers_GN, index, 0)[0] for index in (at_N, before_N))
    above, below = (jnp.take_along_axis(value_GN, index, 0)[0] for index in (at_N, before_N))
    inside_N = found_N & (low > 0) & (above > below)
    share_N = jnp.where(inside_N, (enough_N - below) / jnp.where(inside_N, above - below, 1), 1)
    ratio_N = jnp.where(inside_N, high / jnp.where(inside_N, low, 1), 1)
    number_N = high * ratio_N ** (share_N - 1)
    return jnp.where(jnp.isnan(value_GN).any(0) | jnp.isnan(enough_N), jnp.nan, number_N)
