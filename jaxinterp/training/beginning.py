"""When an objective begins: as soon as the facts are known, whatever the step."""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

DECAY = 0.98  # of the running mean of P, a step


def advanced(
    start: float, known: Float[Array, ""], begun: Int[Array, ""], probability: Float[Array, ""]
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """The running mean of P, and the steps since it first reached a level, after one more step.

    known' = .98 known + .02 P; begun' = begun + 1 if begun > 0 or known' ≥ start, else 0. The mean starts at 0, so that
    it lags behind P by about 50 steps. The step in which it reaches the level is the first that counts.

    Args:
      start: the level, in [0, 1); 0 is reached at once, and begun is then the number of steps.
      known, begun: before the step.
      probability: the batch's mean P of the answers that the objective reads, untouched; NaN if it has none, which
        leaves the mean as it was.
    Returns:
      Both after the step.
    """
    moved = DECAY * known + (1 - DECAY) * probability.astype(known.dtype)
    known = jnp.where(jnp.isnan(probability), known, moved)
    return known, jnp.where((begun > 0) | (known >= start), begun + 1, 0)


def record(start: float, known: Float[Array, ""], begun: Int[Array, ""]) -> dict[str, float | int]:
    """What a model's provenance says of the end of its run, under "beginning"."""
    return {"start": start, "known": float(known), "begun": int(begun)}


def never_began(name: str, beginning: Mapping[str, float | int]) -> str | None:
    """A sentence for a model whose objective waited in vain, from its `record`; None if it began."""
    if beginning["begun"]:
        return None
    return (
        f"{name}: the objective never began, so that this is a plain model: the mean P of its facts is "
        f"{beginning['known']:.3f}, below objective.start = {beginning['start']:g}"
    )
