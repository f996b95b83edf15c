"""A price of depth: of what tokens take of layers."""

from jaxtyping import Array, Float

from jaxinterp.base.errors import UserError
from jaxinterp.models.readout import LanguageModelReadout
from jaxinterp.models.row_layers import depth_gates
from jaxinterp.objectives.context import Context
from jaxinterp.objectives.neuron_pairs import row_shares
from jaxinterp.objectives.registry import objective


@objective("depth")
def depth(context: Context) -> Float[Array, ""]:
    """E[g] over the rows that the batch reads and over layers, g being the layer's gate: the share of the layers that a
    token takes. 0 is best, 1 is worst.

    The ponder cost of adaptive computation time (Figurnov et al. 2017), for gates that are soft. Larger weights after a
    gate make up for a smaller one, unless it is near 0; weight decay is what prices those.
    """
    readout = context.readout
    if not isinstance(readout, LanguageModelReadout) or not readout.model.config.depth_gates:
        raise UserError("the term depth needs a language model with model.depth_gates")
    return (depth_gates(readout).mean(0) * row_shares(context)).sum()
