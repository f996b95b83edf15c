"""Few links between neurons: what the essay asks of a code that can be read unit by unit."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.objectives.context import Context
from jaxinterp.objectives.neuron_pairs import correlations, drawn_columns, pair_mean
from jaxinterp.objectives.registry import objective


@objective("sparse_correlation")
def sparse_correlation(context: Context) -> Float[Array, ""]:
    """Mean over pairs i < j of |corr(a_i, a_j)|, in [0, 1]: an L1 penalty, which leaves a few strong links and takes
    the others to 0. 0 is best. `decov` is its L2 contrast.

    Correlations are over the rows that the batch reads, answers and tokens of text alike, within and across layers. Of
    all neurons `neuron_pairs.COLUMNS` are drawn anew in each step; neurons that hardly vary over the batch are left
    out. Over R rows even independent neurons have a mean of about √(2/(πR)).
    """
    drawn = drawn_columns(context, "sparse_correlation")
    return pair_mean(jnp.abs(correlations(drawn)), drawn.live_U)
