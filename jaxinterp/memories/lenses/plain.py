"""The logit lens, which is fitted to nothing: with and without the norms on the way."""

from jaxinterp.memories.corpus import Corpus
from jaxinterp.memories.lens import Lens, lens_kind
from jaxinterp.models.model import Model


@lens_kind("raw")
def raw(model: Model, corpus: Corpus, seed: int = 0) -> Lens:
    """v · E: the product of a value vector with each token's unembedding (Geva et al. 2021); norms and later layers are
    left out.
    """
    return Lens("raw", normed=False)


@lens_kind("norm_folded")
def norm_folded(model: Model, corpus: Corpus, seed: int = 0) -> Lens:
    """v · diag(s) · E: the scales s of the norms between the FFN and the logits are folded in, and LayerNorm takes the
    mean off; later layers are left out. In the last layer it is what the neuron adds to the logits, up to the norm's
    division, which is the same for all tokens.
    """
    return Lens("norm_folded")
