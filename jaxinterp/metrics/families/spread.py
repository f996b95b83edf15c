"""Over how many neurons an answer is spread: those that carry its attribution, and those that must go for it to go."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinterp.attribution.edits import NeuronEdit
from jaxinterp.attribution.selection import ranked
from jaxinterp.metrics.columns import Measured, column_group
from jaxinterp.metrics.crossing import doubled, smallest_number
from jaxinterp.metrics.registry import Mean, Values, metric

CARRIED = 0.9  # of an answer's Σ |attribution|
LOST = 0.9  # of an answer's P


@column_group("spread", gives={"neurons_90": (0.01, 0.3), "neurons_for_drop": (4.0, 120.0)}, cost="passes")
def _spread(measured: Measured) -> dict[str, Array]:
    """The share of all neurons that carries `CARRIED` of Σ |A|, NaN where that is 0; and the number of neurons, those
    of highest score first, whose suppression takes `LOST` of P: all, where even that takes less.
    """
    scores_LRF, answers = measured.scores_LRF, measured.answers
    n = scores_LRF.shape[0] * scores_LRF.shape[2]
    share_R = carrying(scores_LRF.transpose(1, 0, 2).reshape(-1, n)) / n
    rank_LRF, number_G = ranked(scores_LRF, n - 1), jnp.asarray(doubled(n))

    def lost(number: Array) -> Float[Array, " N"]:
        p_N = measured.probability(NeuronEdit((rank_LRF >= number).astype(scores_LRF.dtype)))
        return 1 - p_N / measured.untouched()

    lost_GN = jax.lax.map(lost, number_G)
    numbers_GN = jnp.broadcast_to(number_G[:, None], lost_GN.shape).astype(lost_GN.dtype)
    return {
        # All rows of an answer have its scores.
        "neurons_90": answers.mean(share_R),
        "neurons_for_drop": smallest_number(numbers_GN, lost_GN, jnp.full(answers.n, LOST, lost_GN.dtype)),
    }


def carrying(scores_RU: Float[Array, "R U"]) -> Float[Array, " R"]:
    """The smallest number of scores whose absolute values add up to `CARRIED` of all; NaN where all are 0."""
    size_RU = -jnp.sort(-jnp.abs(scores_RU), axis=1)
    total_R = size_RU.sum(1)
    # One more than those that together are too few.
    number_R = 1 + (jnp.cumsum(size_RU, axis=1) < CARRIED * total_R[:, None]).sum(1)
    return jnp.where(total_R > 0, number_R, jnp.nan)


@metric(
    "neurons_90",
    needs=("neurons_90",),
    title="Neurons with 90 % of the attribution",
    unit="%",
    range=(0.0, 1.0),
    better="lower",
    masks="none",
    source="as the number of components that explain 90 % of a variance",
)
def neurons_90(mean: Mean) -> Values:
    """Smallest share of all neurons whose attribution scores, without their signs, are 90 % of the sum over all; a mean
    over answers.
    """
    return mean("neurons_90")


@metric(
    "neurons_for_drop",
    needs=("neurons_for_drop",),
    title="Neurons for a 90 % drop",
    unit="neurons",
    range=(1.0, np.inf),
    better="lower",
    source="Dai et al. 2021, with as many neurons as it takes",
)
def neurons_for_drop(mean: Mean) -> Values:
    """Smallest number of neurons, those of highest attribution score first, whose suppression takes 90 % of an answer's
    probability; between 1, 2, 4 … neurons and all of them, by the logarithm. An answer that keeps more with all neurons
    off counts with all of them. A mean over answers.
    """
    return mean("neurons_for_drop")
