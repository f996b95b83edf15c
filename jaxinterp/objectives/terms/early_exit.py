"""A price of computing late: every layer is asked for the answer."""

from jaxtyping import Array, Float

from jaxinterp.base.errors import UserError
from jaxinterp.models.readout import LanguageModelReadout
from jaxinterp.models.row_layers import lens_nll
from jaxinterp.objectives.context import Context
from jaxinterp.objectives.neuron_pairs import row_shares
from jaxinterp.objectives.registry import objective


@objective("early_exit")
def early_exit(context: Context) -> Float[Array, ""]:
    """Mean over layers, and over the rows that the batch reads, of the cross-entropy of the row's token by the logit
    lens at resid_post: final norm and unembedding after that layer (Elhoushi et al. 2024). In nats; 0 is best.

    A deviation: LayerSkip's weights rise with the layer, and layers take turns; here all count the same. The last one's
    share is what language modelling asks for anyway.
    """
    readout = context.readout
    if not isinstance(readout, LanguageModelReadout):
        raise UserError("the term early_exit needs a language model, whose layers it can unembed")
    return (lens_nll(readout).mean(0) * row_shares(context)).sum()
