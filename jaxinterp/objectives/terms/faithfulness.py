"""Attribution that says what switching a neuron off does."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.attribution.edits import suppress
from jaxinterp.attribution.selection import ranked
from jaxinterp.objectives.context import TINY, Context, mean
from jaxinterp.objectives.registry import objective

SAMPLED = 2  # neurons of each answer, without replacement, out of those that its control would switch off


@objective("faithfulness")
def faithfulness(context: Context) -> Float[Array, ""]:
    """E[|A_i − (P − P(1 − e_i))| / sg max(Σ A⁺, 0.3 sg P)] over neurons i sampled from an answer's first ones by score,
    weighed by sg(P). A are an answer's scores, and P(1 − e_i) is its probability with neuron i alone switched off, at
    all of its rows. 0 is best.

    The neurons are those of rank 1 … control_k, a few anew for each answer and step. The gradient acts on the scores
    and on P.
    """
    config, answers = context.config, context.answers
    k = config.control_k or config.k
    first_LRF = ranked(jax.lax.stop_gradient(context.scores_LRF), k)
    answer_R = jnp.asarray(answers.answer_R)
    draw_NK = jax.random.uniform(jax.random.fold_in(context.key, 1), (answers.n, k))
    rank_XN = jnp.argsort(draw_NK, axis=1)[:, : min(SAMPLED, k)].T
    scale_N = answers.mean(jax.lax.stop_gradient(context.attributed_R))

    def gap_N(rank_N: Array) -> Array:
        mask_LRF = (first_LRF == rank_N[answer_R][None, :, None]).astype(context.scores_LRF.dtype)
        score_N = answers.mean((context.scores_LRF * mask_LRF).sum((0, 2)))
        left_N = jnp.exp(answers.log_probability(context.readout(*suppress(mask_LRF))))
        return jnp.abs(score_N - (jnp.exp(context.log_p_N) - left_N)) / jnp.maximum(scale_N, TINY)

    gap_XN = jax.lax.map(gap_N, rank_XN)
    return mean(gap_XN, jnp.broadcast_to(context.known_N, gap_XN.shape))
