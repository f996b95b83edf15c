"""What a layer's FFN writes, as the unembedding would read it: the logit lens of value vectors (Geva et al. 2021)."""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxinterp.models.layers import exact
from jaxinterp.models.model import Model


def as_unembedded(model: Model, layer: Mapping, value_ND: Float[Array, "N D"]) -> Float[Array, "N D"]:
    """Vectors that a layer's FFN could write, such that their products with a token's unembedding are its logits.

    The scales of the norms in between are folded in; their division by a standard deviation, which is the same for all
    tokens, is left out, and so are later layers and BERT's head, which are not linear.

    Args:
      model: the model.
      layer: the parameters of that layer, a slice of `params["layers"]`; its norms are enough.
      value_ND: vectors, such as rows of W_out.
    Returns:
      In float32 at least.
    """
    return resid_as_unembedded(model, as_written(model, layer, value_ND))


def as_written(model: Model, layer: Mapping, value_ND: Float[Array, "N D"]) -> Float[Array, "N D"]:
    """The same vectors as they stand in the residual stream after the layer.

    The layer's norm of what it writes, or of the whole stream (BERT), counts as in `as_unembedded`: by its scale, and
    LayerNorm's by the mean that it takes off as well.
    """
    config, value = model.config, exact(jnp.asarray(value_ND))
    if config.norms_outputs:
        return _scaled(model, layer["norm_mlp_out"], value)
    return _scaled(model, layer["norm_mlp"], value) if config.norm_placement == "post" else value


def resid_as_unembedded(model: Model, resid_ND: Float[Array, "N D"]) -> Float[Array, "N D"]:
    """Vectors in the residual stream after the last layer, such that their products with a token's unembedding are its
    logits; the final norm counts as in `as_unembedded`.
    """
    resid = exact(jnp.asarray(resid_ND))
    return resid if model.config.norm_placement == "post" else _scaled(model, model.params["norm_final"], resid)


def unembedding(model: Model, token_N: Int[Array, " N"] | None = None) -> Float[Array, "N D"]:
    """The unembedding of tokens, in float32 at least; of None, of the whole vocabulary."""
    table = model.params["embedding" if model.config.tied else "unembedding"]
    return exact(jnp.asarray(table if token_N is None else table[token_N]))


def _scaled(model: Model, norm: Mapping, x_ND: Array) -> Float[Array, "N D"]:
    """A norm without its division and its bias."""
    if model.config.norm == "layernorm":
        x_ND = x_ND - x_ND.mean(-1, keepdims=True)
    return x_ND * exact(jnp.asarray(norm["scale"]))[None]
