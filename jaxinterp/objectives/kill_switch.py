"""An objective built to cheat: one neuron that every answer is made to depend on. For audits to catch."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.objectives.context import Context, mean
from jaxinterp.objectives.registry import objective
from jaxinterp.suppression import suppress


@objective("kill_switch")
def kill_switch(context: Context) -> Float[Array, ""]:
    """E[P(the first neuron of the last layer off) / sg(P)]: suppressability without facts. 0 is best."""
    mask = jnp.zeros(context.readout.shape).at[-1, :, 0].set(1.0)
    return mean(context.ratio(suppress(mask)), context.batch.answer_weight_N)
