"""Covariances that are all small: the L2 contrast to sparse correlations."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.objectives.context import Context
from jaxinterp.objectives.neuron_pairs import covariances, drawn_columns, pair_mean
from jaxinterp.objectives.registry import objective


@objective("decov")
def decov(context: Context) -> Float[Array, ""]:
    """Mean over pairs i < j of cov(a_i, a_j)² (Cogswell et al. 2016: ½(‖C‖² − ‖diag C‖²), the sum). 0 is best.

    Two deviations: a mean in place of the sum, so that a weight means the same for any width; and the pairs are those
    of `sparse_correlation`, within and across layers, not those of one layer. Covariances have the unit of activations:
    smaller activations lower the term as well.
    """
    drawn = drawn_columns(context, "decov")
    return pair_mean(jnp.square(covariances(drawn)), drawn.live_U)
