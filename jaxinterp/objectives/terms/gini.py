"""An attribution prior: few neurons have all attribution, over all answers together."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.objectives.context import LEAST, TINY, Context, mean
from jaxinterp.objectives.registry import objective


@objective("gini")
def gini(context: Context) -> Float[Array, ""]:
    """1 − G, with G = Σ_ij |φ_i − φ_j| / (2 U Σ φ) the Gini coefficient over all U neurons of φ = E|A|, the mean over
    the batch's answers of the size of a neuron's scores (Erion et al. 2021, whose Ω is −2 G). 0 is best, 1 is worst.

    The mean over answers comes first, as in the paper: neurons that serve many facts lower the term as well as neurons
    of one fact do. `concentration` is about each answer by itself. Σ φ is at least 0.3 sg(mean P), as in the other
    terms on scores: where attribution vanishes, the term does not explode.
    """
    answers = context.answers
    length_R = jnp.maximum(answers.length_N, 1)[jnp.asarray(answers.answer_R)]
    weight_R = jnp.asarray(answers.weight_R) / length_R
    share_R = weight_R / jnp.maximum(weight_R.sum(), TINY)
    size_U = jnp.sort(jnp.einsum("lrf,r->lf", jnp.abs(context.scores_LRF), share_R).ravel())
    n = size_U.shape[0]
    # Of sorted values, Σ_ij |φ_i − φ_j| is 2 Σ_i (2 i − U − 1) φ_i.
    rank_U = 2 * jnp.arange(1, n + 1, dtype=size_U.dtype) - n - 1
    known = mean(context.known_N, jnp.asarray(answers.answer_weight_N))
    total = jnp.maximum(jnp.maximum(size_U.sum(), LEAST * known), TINY)
    return 1 - (rank_U * size_U).sum() / (n * total)
