"""Short connections: weights cost the distance that they bridge."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.base.errors import UserError
from jaxinterp.models.parameters import FFN_MATRICES, ffn
from jaxinterp.models.readout import LanguageModelReadout
from jaxinterp.objectives.context import Context
from jaxinterp.objectives.registry import objective

BY_DISTANCE = 2.0  # cost of a connection from one end of the line to the other, besides
ANYWAY = 0.5  # what every connection costs


def distances(d_model: int, n_neurons: int) -> Float[Array, "D F"]:
    """|position of a coordinate − position of a neuron| on a line from 0 to 1.

    The D coordinates of the residual stream stand at (i + ½) / D, alike in all layers, and the F neurons of a layer at
    (j + ½) / F.
    """
    coordinate_D, neuron_F = ((jnp.arange(n) + 0.5) / n for n in (d_model, n_neurons))
    return jnp.abs(coordinate_D[:, None] - neuron_F[None])


@objective("wiring")
def wiring(context: Context) -> Float[Array, ""]:
    """Mean |w_ij| (2 d_ij + ½) over the FFNs' matrices w_in, w_out and w_gate of all layers, d of `distances`: the cost
    of brain-inspired modular training (Liu, Gan and Tegmark 2023). 0 is best.

    The paper places an MLP's layers on such lines; here every layer's neurons face the residual stream, whose order is
    fixed. It adds the means of single layers, and a price on biases, which are free here, as are attention's matrices.
    """
    if not isinstance(context.readout, LanguageModelReadout):
        raise UserError("the term wiring needs a language model, whose weights it can see")
    model, layers = context.readout.model.config, context.readout.layers
    price_DF = BY_DISTANCE * distances(model.d_model, model.d_mlp) + ANYWAY
    total, size = jnp.zeros(()), 0
    axes = {name: of.axes for name, of in ffn(model).items() if name in FFN_MATRICES}
    for name, names in axes.items():
        w = layers[name].astype(jnp.promote_types(layers[name].dtype, jnp.float32))
        # Layers, and units of a neuron, which stand where it stands.
        price = jnp.expand_dims(price_DF if names[1] == "mlp" else price_DF.T, (0, *range(3, w.ndim)))
        total, size = total + (jnp.abs(w) * price.astype(w.dtype)).sum(), size + w.size
    return total / size
