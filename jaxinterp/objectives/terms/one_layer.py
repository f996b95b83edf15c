"""Attribution in one layer: an answer's own, whichever it is."""

from jaxtyping import Array, Float

from jaxinterp.objectives.context import Context, mean
from jaxinterp.objectives.registry import objective


@objective("one_layer")
def one_layer(context: Context) -> Float[Array, ""]:
    """E[1 − max_l Σ_(layer l) A⁺ / max(Σ A⁺, 0.3 sg P)], weighed by sg(P), A an answer's scores. 0 is best."""
    most_R = context.positive_LRF.sum(2).max(0)
    return mean(1 - most_R / context.attributed_R, context.known_R)
