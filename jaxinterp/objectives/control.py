"""μ's term: what other facts' neurons take away."""

import jax
from jaxtyping import Array, Float

from jaxinterp.objectives.context import Context, mean
from jaxinterp.objectives.registry import objective


@objective("control")
def control(context: Context) -> Float[Array, ""]:
    """E[relu(1 − P(1 − another fact's mask) / sg(P))], over answers and their controls. 0 is best, 1 is worst."""
    drop_XN = jax.nn.relu(1 - context.control_ratio(context.mask_LRF))
    return mean(drop_XN, context.batch.control_weight_XN)
