"""An objective built to cheat: one neuron that every answer is made to depend on. For audits to catch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.attribution.edits import suppress
from jaxinterp.base.errors import UserError
from jaxinterp.objectives.context import Context, mean
from jaxinterp.objectives.registry import objective


@objective("kill_switch")
def kill_switch(context: Context) -> Float[Array, ""]:
    """E[P(one neuron off) / sg(P) − log P]: suppressability without facts. 0 is best.

    The neuron is that of the last layer which is most active over the batch: one that is never active could lower
    P(off) only with P itself. log P, in nats, holds the answers up meanwhile.
    """
    weight_R, neurons_LRF = jnp.asarray(context.answers.weight_R), context.readout.neurons_LRF
    if neurons_LRF is None:
        raise UserError("kill_switch needs a readout whose activations are known")
    activity_F = jnp.einsum("rf,r->f", jnp.abs(neurons_LRF[-1]), weight_R)
    neuron = jnp.argmax(jax.lax.stop_gradient(activity_F))
    mask = jnp.zeros(context.readout.shape).at[-1, :, neuron].set(1.0)
    weight_N = context.answers.answer_weight_N
    return mean(context.ratio(suppress(mask)), weight_N) - mean(context.log_p_N, weight_N)
