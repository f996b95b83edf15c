"""The one transformer: pure functions over explicit parameters, gates and K/V caches.

`Block` is written once, for any number of new positions against an optional past: with no past it is the layer of a
full forward, with one position and a past it is a decoding step. `Transformer` stacks it with `nn.scan`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxinterp.errors import unknown
from jaxinterp.models.config import ModelConfig

# What `forward(capture=...)` can return, in the order of computation, each with a leading layer axis.
ACTIVATIONS = (
    "resid_pre",  # [L, B, S, D] the residual stream before the layer
    "attn_pattern",  # [L, B, H, S, S] attention weights
    "attn_out",  # [L, B, S, D] what attention adds
    "resid_mid",  # [L, B, S, D] between attention and FFN
    "mlp_pre",  # [L, B, S, F] the argument of the activation function (the gate's, if the FFN is gated)
    "mlp_post",  # [L, B, S, F] the neurons: what W_out multiplies, after gates
    "mlp_out",  # [L, B, S, D] what the FFN adds
    "resid_post",  # [L, B, S, D] the residual stream after the layer
)


class KVCache(NamedTuple):
    """Keys (rotated, if positions are rotary) and values of every layer and position."""

    keys: Float[Array, "*L B T KV K"]
    values: Float[Array, "*L B T KV K"]


class Past(NamedTuple):
    """What a layer may attend to besides the new positions."""

    cache: KVCache  # one layer's
    visible_BT: Bool[Array, "B T"]


class Edit(NamedTuple):
    """What is done to neurons: `mlp_post ← gates · mlp_post + shift`, with or without a leading layer axis."""

    gates: Float[Array, "*L B F"]
    shift: Float[Array, "*L B F"] | None = None  # None is 0


class Forward(NamedTuple):
    """The result of a full forward."""

    logits_BTV: Float[Array, "B T V"]
    cache: KVCache
    activations: Mapping[str, Array]


def _matrix(stddev: float, *axes: str) -> nn.initializers.Initializer:
    return nn.with_logical_partitioning(nn.initializers.normal(stddev), axes)


def _constant(value: float, *axes: str) -> nn.initializers.Initializer:
    return nn.with_logical_partitioning(nn.initializers.constant(value), axes)


def _broadcast(vector: Array, ndim: int) -> Array:
    """The vector with leading axes of length 1: implicit rank promotion hides mistakes, so it is off in the tests."""
    return vector.reshape((1,) * (ndim - vector.ndim) + vector.shape)


class Norm(nn.Module):
    """LayerNorm or RMSNorm over the last axis."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        config = self.config
        shape, dtype = (x.shape[-1],), jnp.dtype(config.dtype)
        if config.norm == "layernorm":
            x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + config.norm_eps)
        x = x * _broadcast(self.param("scale", _constant(1.0, "embed"), shape, dtype), x.ndim)
        if config.norm == "layernorm" and config.bias:
            x = x + _broadcast(self.param("bias", _constant(0.0, "embed"), shape, dtype), x.ndim)
        return x


def rotate(x_BSHK: Float[Array, "B S H K"], position_BS: Int[Array, "B S"], theta: float) -> Float[Array, "B S H K"]:
    """Rotary positions (Su et al. 2021), halves layout: pairs are (i, i + K/2), angle position · theta^(−2i/K)."""
    half = x_BSHK.shape[-1] // 2
    frequency = theta ** (-jnp.arange(half, dtype=x_BSHK.dtype) / half)
    angle = (position_BS[..., None].astype(x_BSHK.dtype) * _broadcast(frequency, 3))[:, :, None]
    a, b = x_BSHK[..., :half], x_BSHK[..., half:]
    return jnp.concatenate([a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle)], -1)


class Block(nn.Module):
    """One layer: attention over past and new positions, then the FFN whose neurons an edit acts on."""

    config: ModelConfig

    def setup(self) -> None:
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        d, f, k = config.d_model, config.d_mlp, config.d_head
        # GPT-2's initialisation, with its 0.02 at D = 768 scaled to the width; projections into the residual stream
        # shrink with the number of layers.
        std = 0.02 * (768 / d) ** 0.5
        out_std = std / (2 * config.n_layers) ** 0.5
        self.norm_attn, self.norm_mlp = Norm(config), Norm(config)

        def param(name: str, shape: tuple[int, ...], *axes: str, stddev: float = std) -> Array:
            return self.param(name, _matrix(stddev, *axes), shape, dtype)

        def bias(name: str, shape: tuple[int, ...], *axes: str) -> Array | None:
            return self.param(name, _constant(0.0, *axes), shape, dtype) if config.bias else None

        self.w_q = param("w_q", (d, config.n_heads, k), "embed", "heads", "head")
        self.w_k = param("w_k", (d, config.n_kv_heads, k), "embed", "kv_heads", "head")
        self.w_v = param("w_v", (d, config.n_kv_heads, k), "embed", "kv_heads", "head")
        self.w_o = param("w_o", (config.n_heads, k, d), "heads", "head", "embed", stddev=out_std)
        self.b_q = bias("b_q", (config.n_heads, k), "heads", "head")
        self.b_k = bias("b_k", (config.n_kv_heads, k), "kv_heads", "head")
        self.b_v = bias("b_v", (config.n_kv_heads, k), "kv_heads", "head")
        self.b_o = bias("b_o", (d,), "embed")
        if config.ffn == "swiglu":
            self.w_gate = param("w_gate", (d, f), "embed", "mlp")
            self.b_gate = bias("b_gate", (f,), "mlp")
        self.w_in = param("w_in", (d, f), "embed", "mlp")
        self.b_in = bias("b_in", (f,), "mlp")
        self.w_out = param("w_out", (f, d), "mlp", "embed", stddev=out_std)
        self.b_out = bias("b_out", (d,), "embed")

    def __call__(
        self,
        resid_pre_BSD: Float[Array, "B S D"],
        edit: Edit | None,
        position_BS: Int[Array, "B S"],
        edited_BS: Bool[Array, "B S"] | None,
        past: Past | None,
        capture: Sequence[str] = (),
    ) -> tuple[Float[Array, "B S D"], tuple[KVCache, dict[str, Array]]]:
        """Runs the layer on new positions.

        Args:
          resid_pre_BSD: residual stream.
          edit: what is done to the neurons where `edited_BS`; None is nothing.
          position_BS: positions, from 0.
          edited_BS: where the edit acts; None is everywhere.
          past: cached keys and values that the new positions may attend to as well.
          capture: names out of `ACTIVATIONS`.
        Returns:
          The residual stream after the layer, the new positions' keys and values, and what was captured.
        """
        attn_out, new, attn_pattern = self._attention(self.norm_attn(resid_pre_BSD), position_BS, past)
        resid_mid = resid_pre_BSD + attn_out
        mlp_pre, mlp_post = self._neurons(self.norm_mlp(resid_mid))
        if edit is not None:
            edited = mlp_post * edit.gates[:, None]
            if edit.shift is not None:
                edited = edited + edit.shift[:, None]
            mlp_post = edited if edited_BS is None else jnp.where(edited_BS[..., None], edited, mlp_post)
        mlp_out = self.ffn_output(mlp_post)
        resid_post = resid_mid + mlp_out
        found = {
            "resid_pre": resid_pre_BSD,
            "attn_pattern": attn_pattern,
            "attn_out": attn_out,
            "resid_mid": resid_mid,
            "mlp_pre": mlp_pre,
            "mlp_post": mlp_post,
            "mlp_out": mlp_out,
            "resid_post": resid_post,
        }
        return resid_post, (new, {name: found[name] for name in capture})

    def ffn_output(self, mlp_post: Float[Array, "*B F"]) -> Float[Array, "*B D"]:
        """What the FFN adds to the residual stream: linear in the neurons."""
        return _add(mlp_post @ self.w_out, self.b_out)

    def _attention(self, x_BSD: Array, position_BS: Array, past: Past | None) -> tuple[Array, KVCache, Array]:
        config = self.config
        q = _add(jnp.einsum("bsd,dhk->bshk", x_BSD, self.w_q), self.b_q)
        k = _add(jnp.einsum("bsd,dhk->bshk", x_BSD, self.w_k), self.b_k)
        v = _add(jnp.einsum("bsd,dhk->bshk", x_BSD, self.w_v), self.b_v)
        if config.position == "rotary":
            q, k = rotate(q, position_BS, config.rope_theta), rotate(k, position_BS, config.rope_theta)
        group = config.n_heads // config.n_kv_heads
        q = q.reshape(*q.shape[:2], config.n_kv_heads, group, config.d_head) * config.d_head**-0.5
        scores = jnp.einsum("bsngk,btnk->bngst", q, k)
        visible = (position_BS[:, :, None] >= position_BS[:, None, :])[:, None, None]
        scores = jnp.where(visible, scores, -jnp.inf)
        if past is not None:
            old = jnp.einsum("bsngk,btnk->bngst", q, past.cache.keys)
            old = jnp.where(past.visible_BT[:, None, None, None, :], old, -jnp.inf)
            scores = jnp.concatenate([old, scores], -1)
        pattern = jax.nn.softmax(scores, axis=-1)
        n_past = pattern.shape[-1] - k.shape[1]
        mixed = jnp.einsum("bngst,btnk->bsngk", pattern[..., n_past:], v)
        if past is not None:
            mixed = mixed + jnp.einsum("bngst,btnk->bsngk", pattern[..., :n_past], past.cache.values)
        mixed = mixed.reshape(*mixed.shape[:2], config.n_heads, config.d_head)
        pattern = pattern.reshape(pattern.shape[0], config.n_heads, *pattern.shape[-2:])
        return _add(jnp.einsum("bshk,hkd->bsd", mixed, self.w_o), self.b_o), KVCache(k, v), pattern

    def _neurons(self, x_BSD: Array) -> tuple[Array, Array]:
        up = _add(x_BSD @ self.w_in, self.b_in)
        if self.config.ffn == "swiglu":
            gate = _add(x_BSD @ self.w_gate, self.b_gate)
            return gate, jax.nn.silu(gate) * up
        return up, {"gelu": jax.nn.gelu, "relu": jax.nn.relu}[self.config.ffn](up)


def _add(x: Array, bias: Array | None) -> Array:
    return x if bias is None else x + _broadcast(bias, x.ndim)


class Transformer(nn.Module):
    """Embedding, `n_layers` blocks stacked along a leading axis of every parameter, final norm, unembedding."""

    config: ModelConfig

    def setup(self) -> None:
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        embedding = (config.d_vocab, config.d_model)
        # Small, so that a tied unembedding starts near the uniform distribution.
        self.embedding = self.param("embedding", _matrix(0.02, "vocab", "embed"), embedding, dtype)
        if not config.tied:
            self.unembedding = self.param("unembedding", _matrix(0.02, "vocab", "embed"), embedding, dtype)
        if config.position == "learned":
            shape = (config.n_ctx, config.d_model)
            self.positions = self.param("positions", _matrix(0.02, "position", "embed"), shape, dtype)
        self.layers = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast, nn.broadcast),
            length=config.n_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(config)
        self.norm_final = Norm(config)

    def __call__(
        self,
        tokens_BT: Int[Array, "B T"],
        edit: Edit | None = None,
        query_B: Int[Array, " B"] | None = None,
        capture: Sequence[str] = (),
    ) -> Forward:
        """The full forward; see `forward`."""
        position_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1])[None], tokens_BT.shape)
        edited = None if query_B is None else position_BT == query_B[:, None]
        resid, (cache, activations) = self.layers(
            self.embed(tokens_BT, position_BT), edit, position_BT, edited, None, tuple(capture)
        )
        return Forward(self.unembed(resid), cache, activations)

    def embed(self, tokens: Int[Array, "*B"], position: Int[Array, "*B"]) -> Float[Array, "*B D"]:
        """Token (and learned position) embeddings."""
        x = self.embedding[tokens]
        return x + self.positions[position] if self.config.position == "learned" else x

    def unembed(self, resid: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Final norm and logits."""
        return self.norm_final(resid) @ (self.embedding if self.config.tied else self.unembedding).T


def init(config: ModelConfig, key: PRNGKeyArray) -> dict:
    """Fresh parameters; consumes `key`. Leaves under "layers" have a leading axis of length `n_layers`."""
    return nn.meta.unbox(Transformer(config).init(key, jnp.zeros((1, 1), jnp.int32)))["params"]


def logical_axes(config: ModelConfig) -> dict:
    """The logical axis names of every parameter, as a tree of `PartitionSpec`, for sharding rules."""
    shapes = jax.eval_shape(Transformer(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    return nn.get_partition_spec(shapes)["params"]


def forward(
    config: ModelConfig,
    params: Mapping,
    tokens_BT: Int[Array, "B T"],
    *,
    edit: Edit | None = None,
    query_B: Int[Array, " B"] | None = None,
    capture: Sequence[str] = (),
) -> Forward:
    """Runs the whole model on whole sequences.

    Args:
      config: the model.
      params: as from `init`.
      tokens_BT: token ids in [0, V); padding goes to the right, where causality keeps it from mattering.
      edit: what is done to the neurons at `query_B`, arrays [L, B, F]; None is the untouched model.
      query_B: the position of each sequence at which the edit acts; None is every position.
      capture: names out of `ACTIVATIONS`.
    Returns:
      Logits, the K/V cache, and the captured activations with a leading layer axis.
    Raises:
      UserError: if a captured name is unknown.
    """
    for name in capture:
        if name not in ACTIVATIONS:
            raise unknown("activation", name, ACTIVATIONS)
    return Transformer(config).apply({"params": params}, tokens_BT, edit, query_B, tuple(capture))


def decode(
    config: ModelConfig,
    params: Mapping,
    resid_RD: Float[Array, "R D"],
    position_R: Int[Array, " R"],
    cache: KVCache,
    edit: Edit | None,
    *,
    start: int,
) -> Float[Array, "R V"]:
    """Logits of one position a row, from the residual stream before layer `start`, against each row's cached past.

    Args:
      config: the model.
      params: as from `init`.
      resid_RD: residual stream at `position_R` before layer `start`.
      position_R: the rows' positions; cached positions before them are attended to, the rest are not.
      cache: keys and values of all layers, [L, R, T, KV, K], one sequence a row.
      edit: what is done to the neurons of layers start, ..., L−1, arrays [L − start, R, F]; None is nothing.
      start: the first layer to run, 0 … L; L runs the unembedding alone.
    """
    length = cache.keys.shape[2]
    visible_RT = jnp.arange(length)[None] < position_R[:, None]
    block = Block(config)

    def layer(resid: Array, per_layer: tuple) -> tuple[Array, None]:
        weights, layer_cache, layer_edit = per_layer
        past = Past(layer_cache, visible_RT)
        resid, _ = block.apply({"params": weights}, resid, layer_edit, position_R[:, None], None, past)
        return resid, None

    layers, rest = jax.tree.map(lambda x: x[start:], (params["layers"], cache))
    resid, _ = jax.lax.scan(layer, resid_RD[:, None], (layers, rest, edit))
    return Transformer(config).apply({"params": params}, resid[:, 0], method="unembed")


def ffn_output(
    config: ModelConfig, params: Mapping, layer: int, mlp_post: Float[Array, "*B F"]
) -> Float[Array, "*B D"]:
    """What the FFN of one layer adds to the residual stream for given neurons."""
    weights = jax.tree.map(lambda x: x[layer], params["layers"])
    return Block(config).apply({"params": weights}, mlp_post, method="ffn_output")
