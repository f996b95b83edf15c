"""What a layer's FFN writes, as the unembedding would read it: the logit lens of value vectors (Geva et al. 2021)."""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxinterp.models.model import Model


def as_unembedded(model: Model, layer: Mapping, value_ND: Float[Array, "N D"]) -> Float[Array, "N D"]:
    """Vectors that a layer's FFN could write, such that their products with a token's unembedding are its logits.

    The scales of the norms in between are folded in; their division by a standard deviation, which is the same for all
    tokens, is left out, and so are later layers and BERT's head, which are not linear.

    Args:
      model: the model.
      layer: the parameters of that layer, a slice of `params["layers"]`.
      value_ND: vectors, such as rows of W_out.
    Returns:
      In float32.
    """
    config = model.config
    value = jnp.asarray(value_ND, jnp.float32)
    if config.norms_outputs:
        value = value * jnp.asarray(layer["norm_mlp_out"]["scale"], jnp.float32)[None]
    if config.norm == "layernorm":
        value = value - value.mean(-1, keepdims=True)
    norm = layer["norm_mlp"] if config.norm_placement == "post" else model.params["norm_final"]
    return value * jnp.asarray(norm["scale"], jnp.float32)[None]


def unembedding(model: Model, token_N: Int[Array, " N"] | None = None) -> Float[Array, "N D"]:
    """The unembedding of tokens, in float32; of None, of the whole vocabulary."""
    table = model.params["embedding" if model.config.tied else "unembedding"]
    return jnp.asarray(table if token_N is None else table[token_N], jnp.float32)
