"""Attribution in few neurons: the gradient acts on the scores themselves."""

import jax
from jaxtyping import Array, Float

from jaxinterp.attribution.selection import top_k
from jaxinterp.objectives.context import Context, mean
from jaxinterp.objectives.registry import objective


@objective("concentration")
def concentration(context: Context) -> Float[Array, ""]:
    """E[1 − Σ_(own k) A⁺ / max(Σ A⁺, 0.3 sg P)], weighed by sg(P), A an answer's scores. 0 is best, 1 is worst."""
    mask_LRF = top_k(jax.lax.stop_gradient(context.scores_LRF), context.config.k)
    own_R = (context.positive_LRF * mask_LRF).sum((0, 2))
    return mean(1 - own_R / context.attributed_R, context.known_R)
