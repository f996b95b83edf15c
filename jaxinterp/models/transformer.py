"""The one transformer: layers stacked with `nn.scan`, as pure functions over explicit parameters."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxinterp.attribution.edits import Edit
from jaxinterp.base.errors import UserError, unknown
from jaxinterp.models import parameters
from jaxinterp.models.attention import KVCache, Where
from jaxinterp.models.block import Block, LayerEdit
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.layers import Head, Norm, biased, declared, exact, layer_constants
from jaxinterp.models.model import Model
from jaxinterp.models.route import Route

# What `forward(capture=...)` can return, in the order of computation, each with a leading layer axis.
ACTIVATIONS = (
    "resid_pre",  # [L, B, S, D] the residual stream before the layer
    "attn_q",  # [L, B, S, H, K] queries, rotated if positions are rotary
    "attn_pattern",  # [L, B, H, S, S] attention weights
    "attn_out",  # [L, B, S, D] what attention adds
    "resid_mid",  # [L, B, S, D] between attention and FFN
    "mlp_pre",  # [L, B, S, F] the argument of the activation function (the gate's, if the FFN is gated)
    "mlp_post",  # [L, B, S, F] the neurons: what W_out multiplies, after gates
    "mlp_out",  # [L, B, S, D] the FFN's output, before the norm that some families put on it
    "resid_post",  # [L, B, S, D] the residual stream after the layer
)


class Forward(NamedTuple):
    """The result of a full forward. What nobody looks at costs nothing under jit."""

    logits_BTV: Float[Array, "B T V"]
    resid_final_BTD: Float[Array, "B T D"]  # the residual stream after the last layer
    cache: KVCache
    activations: Mapping[str, Array]


class Transformer(nn.Module):
    """Embedding, `n_layers` blocks stacked along a leading axis of every parameter, final norm, unembedding."""

    config: ModelConfig

    def setup(self) -> None:
        config = self.config
        self.weights = declared(self, parameters.embeddings(config))
        # A norm or head that the architecture does not have is never called, and has no parameters.
        self.norm_embed, self.norm_final, self.head = Norm(config), Norm(config), Head(config)
        # Of what a backward pass needs, products with weights are kept and the rest is made again: norms, attention
        # weights and activations are larger than they are dear, and writing them into the scan's stack costs more.
        block = nn.remat(
            Block,
            policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
            prevent_cse=False,  # a scan's body is compiled by itself
            static_argnums=(4,),  # capture
        )
        self.layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, Where(0, nn.broadcast, nn.broadcast, nn.broadcast), nn.broadcast),
            length=config.n_layers,
        )(config)

    def __call__(
        self,
        tokens_BT: Int[Array, "B T"],
        edit: Edit | LayerEdit | Route | None = None,
        query_B: Int[Array, " B"] | None = None,
        length_B: Int[Array, " B"] | None = None,
        capture: Sequence[str] = (),
    ) -> Forward:
        """The full forward; see `forward`."""
        config = self.config
        position_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1])[None], tokens_BT.shape)
        edited = None if query_B is None else position_BT == query_B[:, None]
        # Padding stands on the right, so that causality alone hides it.
        padded = config.attention == "bidirectional" and length_B is not None
        valid = position_BT < length_B[:, None] if padded else None
        where = Where(layer_constants(config), position_BT, edited, valid)
        resid, (cache, activations) = self.layers(self.embed(tokens_BT, position_BT), edit, where, tuple(capture))
        return Forward(self.unembed(resid), resid, cache, activations)

    def embed(self, tokens: Int[Array, "*B"], position: Int[Array, "*B"]) -> Float[Array, "*B D"]:
        """Token (and learned position) embeddings."""
        config = self.config
        x = self.weights["embedding"][tokens]
        if config.embed_scale is not None:
            x = x * jnp.asarray(config.embed_scale, x.dtype)
        if config.position == "learned":
            x = x + self.weights["positions"][position]
        return self.norm_embed(x) if config.embed_norm else x

    def unembed(self, resid: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Final norm, head and logits (in float32 at least)."""
        config = self.config
        x = resid if config.norm_placement == "post" else self.norm_final(resid)
        x = self.head(x) if config.head == "transform" else x
        logits = exact(x @ self.weights["embedding" if config.tied else "unembedding"].T)
        if config.unembed_bias:
            logits = biased(logits, exact(self.weights["b_unembed"]))
        cap = config.logit_softcap
        return logits if cap is None else cap * jnp.tanh(logits / cap)


def init(config: ModelConfig, key: PRNGKeyArray) -> dict:
    """Fresh parameters; consumes `key`. Leaves under "layers" have a leading axis of length `n_layers`."""
    return Transformer(config).init(key, jnp.zeros((1, 1), jnp.int32))["params"]


def forward(
    model: Model,
    tokens_BT: Int[Array, "B T"],
    *,
    edit: Edit | LayerEdit | Route | None = None,
    query_B: Int[Array, " B"] | None = None,
    length_B: Int[Array, " B"] | None = None,
    capture: Sequence[str] = (),
) -> Forward:
    """Runs the whole model on whole sequences.

    Args:
      model: the model.
      tokens_BT: token ids in [0, V); padding goes to the right.
      edit: what is done to the neurons at `query_B`, arrays [L, B, F]; None is the untouched model. A `Route` changes
        no value, but what learns from it, at positions of its own.
      query_B: the position of each sequence at which the edit acts; None is every position.
      length_B: tokens of each sequence before padding, which a bidirectional model must not see; None is all. A causal
        model needs none: causality hides what stands on the right.
      capture: names out of `ACTIVATIONS`.
    Returns:
      Logits, the K/V cache, and the captured activations with a leading layer axis.
    Raises:
      UserError: if a captured name is unknown, the sequences are longer than the context, or a route is given with
        `query_B`.
    """
    if isinstance(edit, Route) and query_B is not None:
        raise UserError("a route has positions of its own; leave out query_B")
    for name in capture:
        if name not in ACTIVATIONS:
            raise unknown("activation", name, ACTIVATIONS)
    if (length := tokens_BT.shape[1]) > model.config.n_ctx:
        raise UserError(f"sequences have {length} tokens, above the model's context of {model.config.n_ctx}")
    return Transformer(model.config).apply({"params": model.params}, tokens_BT, edit, query_B, length_B, tuple(capture))


def embed(model: Model, tokens: Int[Array, "*B"], position: Int[Array, "*B"]) -> Float[Array, "*B D"]:
    """What the first layer reads: tokens' embeddings at their positions."""
    return Transformer(model.config).apply({"params": model.params}, tokens, position, method="embed")


def unembed(model: Model, resid: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
    """Logits from the residual stream after the last layer."""
    return Transformer(model.config).apply({"params": model.params}, resid, method="unembed")
