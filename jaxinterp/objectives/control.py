"""μ's term: what other facts' neurons take away."""

import jax
from jaxtyping import Array, Float

from jaxinterp.objectives.context import Context, mean
from jaxinterp.objectives.registry import objective
from jaxinterp.suppression import control_mask, suppress


@objective("control")
def control(context: Context) -> Float[Array, ""]:
    """E[relu(1 − P(1 − another fact's mask) / sg(P))]: the control drop. 0 is best, 1 is worst."""
    mask = control_mask(context.mask_LRF, context.batch.control_R)
    return mean(jax.nn.relu(1 - context.ratio(suppress(mask))), context.batch.control_weight_N)
