"""A price of activity, as nerve cells pay it."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.objectives.context import Context
from jaxinterp.objectives.neuron_pairs import neurons_of, row_shares
from jaxinterp.objectives.registry import objective


@objective("activity")
def activity(context: Context) -> Float[Array, ""]:
    """E[Σ_f |a_f|] over the rows that the batch reads and over layers: L1 of a token's neurons in a layer. 0 is best.

    Energy limits how active nerve cells can be, and favours codes in which few of them are (Levy and Baxter 1996; Niven
    and Laughlin 2008). The unit is that of activations: larger weights after the neuron make up for smaller ones, and
    weight decay is what prices those. SoLU's neurons are normed, so that only their distribution has a price.
    """
    activity_R = jnp.abs(neurons_of(context, "activity")).sum(2).mean(0)
    return (activity_R * row_shares(context)).sum()
