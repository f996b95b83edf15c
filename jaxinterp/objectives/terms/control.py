"""μ's term: what other facts' neurons take away."""

import jax
from jaxtyping import Array, Float

from jaxinterp.objectives.context import Context
from jaxinterp.objectives.registry import objective


@objective("control")
def control(context: Context) -> Float[Array, ""]:
    """E[relu(1 − P(1 − another fact's mask) / sg(P))], over answers, weighed by sg(P), and their controls of a kind; a
    mean over kinds that the batch has. 0 is best, 1 is worst.
    """
    return context.over_kinds(jax.nn.relu(1 - context.control_ratio_XN))
