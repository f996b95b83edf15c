"""Few connections into and out of neurons."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.base.errors import UserError
from jaxinterp.models.parameters import FFN_MATRICES
from jaxinterp.models.readout import LanguageModelReadout
from jaxinterp.objectives.context import Context
from jaxinterp.objectives.registry import objective


@objective("sparse_weights")
def sparse_weights(context: Context) -> Float[Array, ""]:
    """Mean |w| of the FFNs' matrices, w_in, w_out and w_gate of all layers: L1 (Tibshirani 1996). 0 is best.

    Weights come near 0 and are not cut to it: a step of Adam goes past it. Biases are free, and so are routers and what
    is inside of neurons of several units.
    """
    if not isinstance(context.readout, LanguageModelReadout):
        raise UserError("the term sparse_weights needs a language model, whose weights it can see")
    layers = context.readout.layers
    matrices = [layers[name] for name in FFN_MATRICES if name in layers]
    matrices = [matrix.astype(jnp.promote_types(matrix.dtype, jnp.float32)) for matrix in matrices]
    return sum(jnp.abs(matrix).sum() for matrix in matrices) / sum(matrix.size for matrix in matrices)
