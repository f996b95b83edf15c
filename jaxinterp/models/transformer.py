"""The one transformer: layers stacked with `nn.scan`, as pure functions over explicit parameters."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxinterp.attribution.edits import NeuronEdit
from jaxinterp.base.errors import UserError, unknown
from jaxinterp.models import parameters
from jaxinterp.models.attention import KVCache, Packing, Where
from jaxinterp.models.block import Block
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.layers import Head, Norm, along_batch, biased, declared, exact, layer_constants
from jaxinterp.models.model import Model
from jaxinterp.models.places import PLACES, Changes, changed, of_neurons
from jaxinterp.models.route import Route


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
            static_argnums=(4, 5),  # capture, past
        )
        self.layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, Where(0, *[nn.broadcast] * 4), nn.broadcast, nn.broadcast, 0),
            length=config.n_layers,
        )(config)

    def __call__(
        self,
        tokens_BT: Int[Array, "B T"],
        changes: Changes | None = None,
        route: Route | None = None,
        query_B: Int[Array, " B"] | None = None,
        length_B: Int[Array, " B"] | None = None,
        capture: Sequence[str] = (),
        packing: Packing | None = None,
    ) -> Forward:
        """The full forward; see `forward`."""
        config = self.config
        position_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1])[None], tokens_BT.shape)
        if packing is not None:
            position_BT = packing.position_BT
        edited = None if query_B is None else position_BT == query_B[:, None]
        # Padding stands on the right, so that causality alone hides it.
        padded = config.attention == "bidirectional" and length_B is not None
        valid = position_BT < length_B[:, None] if padded else None
        seen = None if packing is None else packing.seen_BTT
        where = Where(layer_constants(config), position_BT, edited, valid, seen)
        embedded = along_batch(changed(changes, "embed", self.embed(tokens_BT, position_BT), edited))
        of_layers = {place: change for place, change in (changes or {}).items() if place != "embed"}
        captured = tuple(name for name in capture if name != "embed")
        resid, (cache, activations) = self.layers(embedded, of_layers, where, captured, None, route)
        if "embed" in capture:
            activations = {**activations, "embed": embedded}
        return Forward(self.unembed(resid), resid, cache, activations)

    def embed(self, tokens: Int[Array, "*B"], position: Int[Array, "*B"]) -> Float[Array, "*B D"]:
        """Token (and learned position) embeddings."""
        config = self.config
        x = self.weights["embedding"][tokens]
        if config.embed_scale is not None:
            x = x * jnp.asarray(config.embed_scale, x.dtype)
        if config.position == "learned":
            x = x + self.weights["positions"][position]
        x = along_batch(x)
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
    edit: NeuronEdit | Changes | None = None,
    route: Route | None = None,
    query_B: Int[Array, " B"] | None = None,
    length_B: Int[Array, " B"] | None = None,
    capture: Sequence[str] = (),
    packing: Packing | None = None,
) -> Forward:
    """Runs the whole model on whole sequences.

    Args:
      model: the model.
      tokens_BT: token ids in [0, V); padding goes to the right.
      edit: what is done to the neurons at `query_B`, arrays [L, B, F], or changes at any places, whose arrays have a
        leading layer axis of length L (but for "embed") and broadcast against what stands there; None is the untouched
        model.
      route: which neurons learn from which positions; it changes no value.
      query_B: the position of each sequence at which the edit acts; None is every position.
      length_B: tokens of each sequence before padding, which a bidirectional model must not see; None is all. A causal
        model needs none: causality hides what stands on the right.
      capture: names out of `PLACES`.
      packing: of sequences that are several texts each; without `query_B` and `length_B`, which mean one. None is one.
    Returns:
      Logits, the K/V cache, and what stood at the captured places, after changes, with a leading layer axis (but for
      "embed").
    Raises:
      UserError: if a place is unknown, the sequences are longer than the context, a route is given with `query_B`, a
        packing with `query_B` or `length_B`, or, where they are no tracers, token ids, positions or lengths are out of
        range.
    """
    if route is not None and query_B is not None:
        raise UserError("a route has positions of its own; leave out query_B")
    if packing is not None and not (query_B is None and length_B is None):
        raise UserError("packed sequences are several texts each; leave out query_B and length_B")
    changes = of_neurons(edit) if isinstance(edit, NeuronEdit) else edit
    for name in (*capture, *(changes or ())):
        if name not in PLACES:
            raise unknown("place", name, PLACES)
    check_range("token id", tokens_BT, 0, model.config.d_vocab)
    check_range("position", query_B, 0, tokens_BT.shape[1])
    check_range("length", length_B, 1, tokens_BT.shape[1] + 1)
    if packing is not None:
        check_range("position", packing.position_BT, 0, model.config.n_ctx)
    elif (length := tokens_BT.shape[1]) > model.config.n_ctx:
        raise UserError(f"sequences have {length} tokens, above the model's context of {model.config.n_ctx}")
    return Transformer(model.config).apply(
        {"params": model.params}, tokens_BT, changes, route, query_B, length_B, tuple(capture), packing
    )


def check_range(name: str, x: Array | np.ndarray | None, low: int, high: int) -> None:
    """Refuses integers outside [low, high), which indexing would clip or drop in silence; tracers are not looked at.

    Raises:
      UserError: if there is one.
    """
    if x is None or isinstance(x, jax.core.Tracer):
        return
    values = np.asarray(x)
    wrong = values[(values < low) | (values >= high)]
    if wrong.size:
        raise UserError(f"{name} {wrong[0]} is out of range: at least {low} and below {high}")


def embed(model: Model, tokens: Int[Array, "*B"], position: Int[Array, "*B"]) -> Float[Array, "*B D"]:
    """What the first layer reads: tokens' embeddings at their positions."""
    return Transformer(model.config).apply({"params": model.params}, tokens, position, method="embed")


def unembed(model: Model, resid: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
    """Logits from the residual stream after the last layer."""
    return Transformer(model.config).apply({"params": model.params}, resid, method="unembed")
