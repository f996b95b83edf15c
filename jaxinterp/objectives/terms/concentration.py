"""Attribution in few neurons: the gradient acts on the scores themselves."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.attribution.selection import top_k
from jaxinterp.objectives.context import Context, mean
from jaxinterp.objectives.registry import objective

LEAST = 0.3  # of P: the positive scores count as at least so much, or the term explodes where attribution vanishes


@objective("concentration")
def concentration(context: Context) -> Float[Array, ""]:
    """E[1 − Σ_(own k) A⁺ / max(Σ A⁺, 0.3 sg P)], weighed by sg(P), A an answer's scores. 0 is best, 1 is worst."""
    positive_LRF = jax.nn.relu(context.scores_LRF)
    mask_LRF = top_k(jax.lax.stop_gradient(context.scores_LRF), context.config.k)
    own_R, all_R = (positive_LRF * mask_LRF).sum((0, 2)), positive_LRF.sum((0, 2))
    answer_R = jnp.asarray(context.answers.answer_R)
    # The rows of an answer share its scores: each counts for its part.
    weight_R = jnp.asarray(context.answers.weight_R)
    weight_R = weight_R * (context.known_N / jnp.maximum(context.answers.length_N, 1))[answer_R]
    floor_R = LEAST * context.known_N[answer_R]
    return mean(1 - own_R / jnp.maximum(jnp.maximum(all_R, floor_R), 1e-12), weight_R)
