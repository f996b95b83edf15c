"""λ's term: what is left of the answers when their own neurons are off."""

from jaxtyping import Array, Float

from jaxinterp.objectives.context import Context, mean
from jaxinterp.objectives.registry import objective
from jaxinterp.suppression import suppress


@objective("suppression")
def suppression(context: Context) -> Float[Array, ""]:
    """E[P(1 − mask) / sg(P)]: 1 − suppressability, as a mean of ratios. 0 is best; may exceed 1."""
    return mean(context.ratio(suppress(context.mask_LRF)), context.batch.answer_weight_N)
