"""λ's term: what is left of the answers when their own neurons are off."""

from jaxtyping import Array, Float

from jaxinterp.objectives.context import Context, mean
from jaxinterp.objectives.registry import objective


@objective("suppression")
def suppression(context: Context) -> Float[Array, ""]:
    """E[P(1 − mask) / sg(P)], weighed by sg(P): 1 − suppressability. 0 is best; may exceed 1."""
    return mean(context.suppressed_ratio_N, context.known_N)
