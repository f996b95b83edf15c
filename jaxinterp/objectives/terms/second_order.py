"""Dependence that correlations do not see: the answer to relations that escape from them to second order."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.objectives.context import Context
from jaxinterp.objectives.neuron_pairs import correlations, drawn_columns, pair_mean, squared
from jaxinterp.objectives.registry import objective


@objective("second_order")
def second_order(context: Context) -> Float[Array, ""]:
    """Mean over pairs i < j of |corr(z_i², z_j²)| with z = (a − mean) / σ, in [0, 1]: whether two neurons are far from
    their means together, whatever the signs (correlation of energies; Hyvärinen, Hoyer and Inki 2001). 0 is best.

    Pairs and rows are those of `sparse_correlation`. It does not see all dependence: HSIC and distance correlation,
    which no term has, are metrics.
    """
    energies = squared(drawn_columns(context, "second_order"))
    return pair_mean(jnp.abs(correlations(energies)), energies.live_U)
