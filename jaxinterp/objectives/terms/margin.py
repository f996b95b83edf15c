"""Attribution away from other facts' neurons: what the control term is for masks, for the scores themselves."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.attribution.edits import control_mask
from jaxinterp.objectives.context import Context
from jaxinterp.objectives.registry import objective


@objective("margin")
def margin(context: Context) -> Float[Array, ""]:
    """E[Σ_(another fact's k) |A| / sg max(Σ A⁺, 0.3 sg P)], over answers, weighed by sg(P), and their controls of a
    kind; a mean over kinds that the batch has. A are an answer's scores. 0 is best.

    The neurons are those of the control term, held constant: the gradient acts on the scores that fall on them.
    """
    answers, size_LRF = context.answers, jnp.abs(context.scores_LRF)
    mask_LRF = jax.lax.stop_gradient(context.control_mask_LRF)
    scale_R = jax.lax.stop_gradient(context.attributed_R)

    def share_N(control_R: Array) -> Array:
        # All rows of an answer have its scores, but a control may have other numbers of rows.
        return answers.mean((size_LRF * control_mask(mask_LRF, control_R)).sum((0, 2)) / scale_R)

    return context.over_kinds(jax.lax.map(share_N, context.control_XR))
