"""The one transformer: pure functions over explicit parameters, gates and K/V caches.

`Block` is written once, for any number of new positions against an optional past: with no past it is the layer of a
full forward, with one position and a past it is a decoding step. `Transformer` stacks it with `nn.scan`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxinterp.attribution.edits import Edit
from jaxinterp.base.errors import UserError, unknown
from jaxinterp.models.config import ModelConfig, RopeScaling
from jaxinterp.models.model import Model

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


class KVCache(NamedTuple):
    """Keys (rotated, if positions are rotary) and values of every layer and position."""

    keys: Float[Array, "*L B T KV K"]
    values: Float[Array, "*L B T KV K"]


class Past(NamedTuple):
    """What a layer may attend to besides the new positions."""

    cache: KVCache  # one layer's; its positions are 0 … T−1
    visible_BT: Bool[Array, "B T"]


class LayerConstants(NamedTuple):
    """What differs from layer to layer besides parameters, with or without a leading layer axis."""

    window: Int[Array, "*L"]  # positions that a query sees, its own included
    frequency: Float[Array, "*L P"]  # rotary angle a position, for each of P pairs of coordinates
    attn_normed: Bool[Array, "*L"] | None = None  # whether attention reads a norm of its input; None is always


class Forward(NamedTuple):
    """The result of a full forward. What nobody looks at costs nothing under jit."""

    logits_BTV: Float[Array, "B T V"]
    resid_final_BTD: Float[Array, "B T D"]  # the residual stream after the last layer
    cache: KVCache
    activations: Mapping[str, Array]


def layer_constants(config: ModelConfig) -> LayerConstants:
    """Windows and rotary frequencies of every layer."""
    local = np.isin(np.arange(config.n_layers), config.local_layers)
    window = np.minimum(np.where(local, config.window or 1, config.n_ctx), np.iinfo(np.int32).max)
    theta = np.where(local, config.rope_theta_local or config.rope_theta, config.rope_theta)
    pairs = config.d_rotary // 2
    frequency = theta[:, None] ** (-np.arange(pairs) / max(pairs, 1))
    scaling = config.rope_scaling
    if scaling is not None:
        divided = frequency / scaling.factor
        if scaling.kind == "llama3":
            # Turns that a pair makes over the context of pretraining: few are divided, many are kept.
            turns = scaling.original_n_ctx * frequency / (2 * np.pi)
            keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
            keep = np.clip(keep, 0, 1)
            divided = keep * frequency + (1 - keep) * divided
        elif scaling.kind == "yarn":
            keep = _kept_by_yarn(config.rope_theta, config.d_rotary, scaling)[None]
            divided = keep * frequency + (1 - keep) * divided
        frequency = np.where(local[:, None], frequency, divided)
    exact = "float64" if config.dtype == "float64" else "float32"
    attn_normed = None if config.first_attn_norm else jnp.arange(config.n_layers) > 0
    return LayerConstants(jnp.asarray(window, jnp.int32), jnp.asarray(frequency, exact), attn_normed)


def _kept_by_yarn(theta: float, d_rotary: int, scaling: RopeScaling) -> Float[np.ndarray, " P"]:
    """The share of each pair's frequency that YaRN keeps: its "NTK-by-parts" interpolation (Peng et al. 2023)."""

    def pair(turns: float) -> float:
        """The pair, as a fraction, that turns this often over the context of pretraining."""
        return d_rotary * np.log(scaling.original_n_ctx / (turns * 2 * np.pi)) / (2 * np.log(theta))

    first, last = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.whole_pairs:
        first, last = np.floor(first), np.ceil(last)
    # The upper bound is the last coordinate, not the last pair, as in the code of the authors.
    first, last = max(first, 0), min(last, d_rotary - 1)
    width = last - first if last != first else 0.001
    return 1 - np.clip((np.arange(d_rotary // 2) - first) / width, 0, 1)


def _matrix(stddev: float, *axes: str) -> nn.initializers.Initializer:
    return nn.with_logical_partitioning(nn.initializers.normal(stddev), axes)


def _constant(value: float, *axes: str) -> nn.initializers.Initializer:
    return nn.with_logical_partitioning(nn.initializers.constant(value), axes)


def _broadcast(vector: Array, ndim: int) -> Array:
    """The vector with leading axes of length 1: implicit rank promotion hides mistakes, so it is off in the tests."""
    return vector.reshape((1,) * (ndim - vector.ndim) + vector.shape)


def _exact(x: Array) -> Array:
    """In float32 at least: norms, angles and softmax lose too much in 16 bits."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Norm(nn.Module):
    """LayerNorm or RMSNorm over the last axis, or the last axes together."""

    config: ModelConfig
    axes: tuple[str, ...] = ("embed",)  # their logical names

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        config = self.config
        shape, dtype = x.shape[-len(self.axes) :], jnp.dtype(config.dtype)
        over = tuple(range(-len(self.axes), 0))
        scale = self.param("scale", _constant(1.0, *self.axes), shape, dtype)
        centred = config.norm == "layernorm"
        has_bias = centred and config.norm_bias
        bias = self.param("bias", _constant(0.0, *self.axes), shape, dtype) if has_bias else None
        y = _exact(x)
        if centred:
            y = y - y.mean(over, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(over, keepdims=True) + config.norm_eps)
        return _add(y * _broadcast(_exact(scale), y.ndim), None if bias is None else _exact(bias)).astype(x.dtype)


def rotate(
    x_BSHK: Float[Array, "B S H K"],
    position_BS: Int[Array, "B S"],
    frequency_P: Float[Array, " P"],
    amplitude: float = 1.0,
) -> Float[Array, "B S H K"]:
    """Rotary positions (Su et al. 2021), halves layout: of the first 2P coordinates, pairs are (i, i + P).

    `amplitude` is YaRN's factor of the coordinates that rotate.
    """
    half = frequency_P.shape[0]
    angle = (position_BS[..., None].astype(frequency_P.dtype) * _broadcast(frequency_P, 3))[:, :, None]
    a, b, rest = (_exact(part) for part in jnp.split(x_BSHK, (half, 2 * half), axis=-1))
    if amplitude != 1.0:
        a, b = a * amplitude, b * amplitude
    turned = [a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle), rest]
    return jnp.concatenate(turned, -1).astype(x_BSHK.dtype)


def activation(config: ModelConfig, x: Float[Array, "*B F"]) -> Float[Array, "*B F"]:
    """The FFN's activation function; of the gate, if the FFN is gated."""
    if config.ffn in ("gelu_exact", "geglu_exact"):
        return jax.nn.gelu(x, approximate=False)
    return {"gelu": jax.nn.gelu, "geglu": jax.nn.gelu, "relu": jax.nn.relu, "swiglu": jax.nn.silu}[config.ffn](x)


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
        if config.norm_placement != "output":
            self.norm_attn, self.norm_mlp = Norm(config), Norm(config)
        if config.norms_outputs:
            self.norm_attn_out, self.norm_mlp_out = Norm(config), Norm(config)
        if config.qk_norm:
            all_heads = config.qk_norm_over == "all_heads"
            self.norm_q = Norm(config, ("heads", "head") if all_heads else ("head",))
            self.norm_k = Norm(config, ("kv_heads", "head") if all_heads else ("head",))

        def param(name: str, shape: tuple[int, ...], *axes: str, stddev: float = std) -> Array:
            return self.param(name, _matrix(stddev, *axes), shape, dtype)

        def bias(name: str, shape: tuple[int, ...], *axes: str, there: bool) -> Array | None:
            return self.param(name, _constant(0.0, *axes), shape, dtype) if there else None

        self.w_q = param("w_q", (d, config.n_heads, k), "embed", "heads", "head")
        self.w_k = param("w_k", (d, config.n_kv_heads, k), "embed", "kv_heads", "head")
        self.w_v = param("w_v", (d, config.n_kv_heads, k), "embed", "kv_heads", "head")
        self.w_o = param("w_o", (config.n_heads, k, d), "heads", "head", "embed", stddev=out_std)
        self.b_q = bias("b_q", (config.n_heads, k), "heads", "head", there=config.qkv_bias)
        self.b_k = bias("b_k", (config.n_kv_heads, k), "kv_heads", "head", there=config.qkv_bias)
        self.b_v = bias("b_v", (config.n_kv_heads, k), "kv_heads", "head", there=config.qkv_bias)
        self.b_o = bias("b_o", (d,), "embed", there=config.out_bias)
        if config.gated:
            self.w_gate = param("w_gate", (d, f), "embed", "mlp")
            self.b_gate = bias("b_gate", (f,), "mlp", there=config.mlp_bias)
        self.w_in = param("w_in", (d, f), "embed", "mlp")
        self.b_in = bias("b_in", (f,), "mlp", there=config.mlp_bias)
        self.w_out = param("w_out", (f, d), "mlp", "embed", stddev=out_std)
        self.b_out = bias("b_out", (d,), "embed", there=config.mlp_bias)

    def __call__(
        self,
        resid_pre_BSD: Float[Array, "B S D"],
        edit: Edit | None,
        constants: LayerConstants,
        position_BS: Int[Array, "B S"],
        edited_BS: Bool[Array, "B S"] | None,
        valid_BS: Bool[Array, "B S"] | None,
        past: Past | None,
        capture: Sequence[str] = (),
    ) -> tuple[Float[Array, "B S D"], tuple[KVCache, dict[str, Array]]]:
        """Runs the layer on new positions.

        Args:
          resid_pre_BSD: residual stream.
          edit: what is done to the neurons where `edited_BS`; None is nothing.
          constants: this layer's.
          position_BS: positions, from 0.
          edited_BS: where the edit acts; None is everywhere.
          valid_BS: new positions that may be attended to; None is all. Causality comes on top.
          past: cached keys and values that the new positions may attend to as well.
          capture: names out of `ACTIVATIONS`.
        Returns:
          The residual stream after the layer, the new positions' keys and values, and what was captured.
        """
        q, new = self._qkv(resid_pre_BSD, constants, position_BS)
        parts = [(new, self._visible(constants, position_BS, position_BS, valid_BS))]
        if past is not None:
            position_1T = jnp.arange(past.visible_BT.shape[1])[None]
            visible = self._visible(constants, position_BS, position_1T, None) & past.visible_BT[:, None, :]
            parts.insert(0, (past.cache, visible))
        if self.config.attention_kernel == "cudnn" and past is None and "attn_pattern" not in capture:
            attn_out, attn_pattern = self._fused(q, new, valid_BS), None
        else:
            attn_out, attn_pattern = self._attend(q, parts)
        resid_post, found = self._after_attention(resid_pre_BSD, attn_out, edit, edited_BS)
        found |= {"attn_q": q, "attn_pattern": attn_pattern}
        return resid_post, (new, {name: found[name] for name in capture})

    def after_change(
        self,
        resid_pre_BSD: Float[Array, "B S D"],
        edit: Edit | None,
        constants: LayerConstants,
        position_BS: Int[Array, "B S"],
        edited_BS: Bool[Array, "B S"],
        valid_BS: Bool[Array, "B S"] | None,
        base: tuple[Float[Array, "B S H K"], KVCache],
    ) -> Float[Array, "B S D"]:
        """The layer of a bidirectional model whose input differs from an untouched run's at one position a sequence.

        Only that position's queries, keys and values are computed; the others are `base`, the untouched run's. The
        result is that of `__call__`, whose arguments these are; `edited_BS` is the one position.
        """
        at = edited_BS.argmax(-1)
        here_q, here_kv = self._qkv(_row(resid_pre_BSD, at), constants, _row(position_BS, at))
        changed = edited_BS[..., None, None]
        q, kv = jax.tree.map(lambda one, rest: jnp.where(changed, one, rest), (here_q, here_kv), base)
        attn_out, _ = self._attend(q, [(kv, self._visible(constants, position_BS, position_BS, valid_BS))])
        return self._after_attention(resid_pre_BSD, attn_out, edit, edited_BS)[0]

    def at_query(
        self,
        resid_pre_BSD: Float[Array, "B S D"],
        edit: Edit | None,
        constants: LayerConstants,
        position_BS: Int[Array, "B S"],
        edited_BS: Bool[Array, "B S"],
        valid_BS: Bool[Array, "B S"] | None,
    ) -> Float[Array, "B 1 D"]:
        """The last layer of a bidirectional model, at the one position that is read: the others need keys and values.

        The result is that of `__call__`, whose arguments these are, at the position of `edited_BS`.
        """
        at = edited_BS.argmax(-1)
        here, position = _row(resid_pre_BSD, at), _row(position_BS, at)
        q, _ = self._qkv(here, constants, position)
        _, kv = self._qkv(resid_pre_BSD, constants, position_BS)
        attn_out, _ = self._attend(q, [(kv, self._visible(constants, position, position_BS, valid_BS))])
        return self._after_attention(here, attn_out, edit, None)[0]

    def ffn_output(self, mlp_post: Float[Array, "*B F"]) -> Float[Array, "*B D"]:
        """The FFN's output: linear in the neurons (with a bias)."""
        return _add(mlp_post @ self.w_out, self.b_out)

    def after_ffn(self, resid_mid: Float[Array, "*B D"], mlp_out: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """The residual stream after the layer."""
        resid_post = resid_mid + (self.norm_mlp_out(mlp_out) if self.config.norms_outputs else mlp_out)
        return self.norm_mlp(resid_post) if self.config.norm_placement == "post" else resid_post

    def _visible(
        self, constants: LayerConstants, position_BS: Array, position_BT: Array, valid_BT: Array | None
    ) -> Bool[Array, "B S T"]:
        """Which positions T the positions S attend to: valid ones in the window, in a causal model no later ones."""
        shape = (*position_BS.shape, position_BT.shape[1])
        visible = jnp.ones(shape, bool) if valid_BT is None else jnp.broadcast_to(valid_BT[:, None, :], shape)
        distance = position_BS[:, :, None] - position_BT[:, None, :]
        if self.config.attention == "causal":
            return visible & (distance >= 0) & (distance < constants.window)
        if not self.config.local_layers:
            return visible
        # All that is in a padded position's window may be padding. It sees itself then: a softmax over nothing is NaN.
        return (visible | (distance == 0)) & (jnp.abs(distance) < constants.window)

    def _qkv(
        self, resid_pre_BSD: Array, constants: LayerConstants, position_BS: Array
    ) -> tuple[Float[Array, "B S H K"], KVCache]:
        """Queries, keys and values, rotated if positions are rotary."""
        config = self.config
        x = self.norm_attn(resid_pre_BSD) if config.norms_inputs else resid_pre_BSD
        if constants.attn_normed is not None:
            x = jnp.where(constants.attn_normed, x, resid_pre_BSD)
        q = _add(jnp.einsum("bsd,dhk->bshk", x, self.w_q), self.b_q)
        k = _add(jnp.einsum("bsd,dhk->bshk", x, self.w_k), self.b_k)
        v = _add(jnp.einsum("bsd,dhk->bshk", x, self.w_v), self.b_v)
        if config.qk_norm:
            q, k = self.norm_q(q), self.norm_k(k)
        if config.position == "rotary":
            amplitude = 1.0 if config.rope_scaling is None else config.rope_scaling.amplitude
            q, k = (rotate(x, position_BS, constants.frequency, amplitude) for x in (q, k))
        return q, KVCache(k, v)

    def _attend(
        self, q_BSHK: Array, parts: Sequence[tuple[KVCache, Array]]
    ) -> tuple[Float[Array, "B S D"], Float[Array, "B H S U"]]:
        """Attention's output and weights over stretches of keys and values, each with what may be seen of it."""
        config = self.config
        batch, n_positions = q_BSHK.shape[:2]
        group = config.n_heads // config.n_kv_heads
        q = q_BSHK.reshape(batch, n_positions, config.n_kv_heads, group, config.d_head)
        q = q * (config.d_head**-0.5 if config.attn_scale is None else config.attn_scale)

        def scores(keys: Array, visible_BST: Array) -> Array:
            scores = _exact(jnp.einsum("bsngk,btnk->bngst", q, keys))
            if config.attn_softcap is not None:
                scores = config.attn_softcap * jnp.tanh(scores / config.attn_softcap)
            return jnp.where(visible_BST[:, None, None], scores, -jnp.inf)

        all_scores = jnp.concatenate([scores(kv.keys, visible) for kv, visible in parts], -1)
        pattern = jax.nn.softmax(all_scores, axis=-1).astype(q.dtype)
        # The parts are mixed apart: concatenating values would copy the past for every branch that shares it.
        bounds = np.cumsum([kv.values.shape[1] for kv, _ in parts])[:-1].tolist()
        mixed = sum(
            jnp.einsum("bngst,btnk->bsngk", weights, kv.values)
            for weights, (kv, _) in zip(jnp.split(pattern, bounds, axis=-1), parts, strict=True)
        )
        mixed = mixed.reshape(batch, n_positions, config.n_heads, config.d_head)
        pattern = pattern.reshape(batch, config.n_heads, *pattern.shape[-2:])
        return _add(jnp.einsum("bshk,hkd->bsd", mixed, self.w_o), self.b_o), pattern

    def _fused(self, q_BSHK: Array, kv: KVCache, valid_BS: Array | None) -> Float[Array, "B S D"]:
        """`_attend` of whole sequences by cuDNN, which never writes the attention weights down."""
        config = self.config
        mixed = jax.nn.dot_product_attention(
            q_BSHK,
            *kv,
            scale=config.attn_scale,
            is_causal=config.attention == "causal",
            key_value_seq_lengths=None if valid_BS is None else valid_BS.sum(-1),
            implementation="cudnn",
        )
        return _add(jnp.einsum("bshk,hkd->bsd", mixed, self.w_o), self.b_o)

    def _after_attention(
        self, resid_pre_BSD: Array, attn_out_BSD: Array, edit: Edit | None, edited_BS: Array | None
    ) -> tuple[Float[Array, "B S D"], dict[str, Array]]:
        """The residual stream after the layer, and what can be captured on the way."""
        config = self.config
        attn_out = self.norm_attn_out(attn_out_BSD) if config.norms_outputs else attn_out_BSD
        resid_mid = resid_pre_BSD + attn_out
        if config.norm_placement == "post":
            resid_mid = self.norm_attn(resid_mid)
        read = resid_pre_BSD if config.parallel else resid_mid
        if config.norms_inputs:
            read = self.norm_mlp(read)
        mlp_pre, mlp_post = self._neurons(read)
        if edit is not None:
            edited = mlp_post * edit.gates[:, None]
            if edit.shift is not None:
                edited = edited + edit.shift[:, None]
            mlp_post = edited if edited_BS is None else jnp.where(edited_BS[..., None], edited, mlp_post)
        mlp_out = self.ffn_output(mlp_post)
        resid_post = self.after_ffn(resid_mid, mlp_out)
        return resid_post, {
            "resid_pre": resid_pre_BSD,
            "attn_out": attn_out,
            "resid_mid": resid_mid,
            "mlp_pre": mlp_pre,
            "mlp_post": mlp_post,
            "mlp_out": mlp_out,
            "resid_post": resid_post,
        }

    def _neurons(self, x_BSD: Array) -> tuple[Array, Array]:
        up = _add(x_BSD @ self.w_in, self.b_in)
        if self.config.gated:
            gate = _add(x_BSD @ self.w_gate, self.b_gate)
            return gate, activation(self.config, gate) * up
        return up, activation(self.config, up)


def _row(x_BS: Array, at_B: Int[Array, " B"]) -> Array:
    """One position of every sequence, [B, 1, ...]."""
    return jnp.take_along_axis(x_BS, at_B.reshape(-1, *(1,) * (x_BS.ndim - 1)), axis=1)


def _add(x: Array, bias: Array | None) -> Array:
    return x if bias is None else x + _broadcast(bias, x.ndim)


class Head(nn.Module):
    """BERT's transform before the unembedding: dense, activation, norm."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        d = config.d_model
        w = self.param("w_head", _matrix(0.02 * (768 / d) ** 0.5, "embed", "embed_out"), (d, d), dtype)
        b = self.param("b_head", _constant(0.0, "embed_out"), (d,), dtype)
        return Norm(config, name="norm")(activation(config, _add(x @ w, b)))


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
        if config.unembed_bias:
            self.b_unembed = self.param("b_unembed", _constant(0.0, "vocab"), (config.d_vocab,), dtype)
        if config.position == "learned":
            shape = (config.n_ctx, config.d_model)
            self.positions = self.param("positions", _matrix(0.02, "position", "embed"), shape, dtype)
        if config.embed_norm:
            self.norm_embed = Norm(config)
        # Of what a backward pass needs, products with weights are kept and the rest is made again: norms, attention
        # weights and activations are larger than they are dear, and writing them into the scan's stack costs more.
        block = nn.remat(
            Block,
            policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
            prevent_cse=False,  # a scan's body is compiled by itself
            static_argnums=(8,),  # capture
        )
        self.layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, 0, nn.broadcast, nn.broadcast, nn.broadcast, nn.broadcast, nn.broadcast),
            length=config.n_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(config)
        if config.norm_placement != "post":
            self.norm_final = Norm(config)
        if config.head == "transform":
            self.head = Head(config)

    def __call__(
        self,
        tokens_BT: Int[Array, "B T"],
        edit: Edit | None = None,
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
        resid, (cache, activations) = self.layers(
            self.embed(tokens_BT, position_BT),
            edit,
            layer_constants(config),
            position_BT,
            edited,
            valid,
            None,
            tuple(capture),
        )
        return Forward(self.unembed(resid), resid, cache, activations)

    def embed(self, tokens: Int[Array, "*B"], position: Int[Array, "*B"]) -> Float[Array, "*B D"]:
        """Token (and learned position) embeddings."""
        config = self.config
        x = self.embedding[tokens]
        if config.embed_scale is not None:
            x = x * jnp.asarray(config.embed_scale, x.dtype)
        if config.position == "learned":
            x = x + self.positions[position]
        return self.norm_embed(x) if config.embed_norm else x

    def unembed(self, resid: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Final norm, head and logits (in float32 at least)."""
        config = self.config
        x = resid if config.norm_placement == "post" else self.norm_final(resid)
        if config.head == "transform":
            x = self.head(x)
        logits = _exact(x @ (self.embedding if config.tied else self.unembedding).T)
        if config.unembed_bias:
            logits = _add(logits, _exact(self.b_unembed))
        return (
            logits if config.logit_softcap is None else config.logit_softcap * jnp.tanh(logits / config.logit_softcap)
        )


def init(config: ModelConfig, key: PRNGKeyArray) -> dict:
    """Fresh parameters; consumes `key`. Leaves under "layers" have a leading axis of length `n_layers`."""
    return nn.meta.unbox(Transformer(config).init(key, jnp.zeros((1, 1), jnp.int32)))["params"]


def logical_axes(config: ModelConfig) -> dict:
    """The logical axis names of every parameter, as a tree of `PartitionSpec`, for sharding rules."""
    shapes = jax.eval_shape(Transformer(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    return nn.get_partition_spec(shapes)["params"]


def forward(
    model: Model,
    tokens_BT: Int[Array, "B T"],
    *,
    edit: Edit | None = None,
    query_B: Int[Array, " B"] | None = None,
    length_B: Int[Array, " B"] | None = None,
    capture: Sequence[str] = (),
) -> Forward:
    """Runs the whole model on whole sequences.

    Args:
      model: the model.
      tokens_BT: token ids in [0, V); padding goes to the right.
      edit: what is done to the neurons at `query_B`, arrays [L, B, F]; None is the untouched model.
      query_B: the position of each sequence at which the edit acts; None is every position.
      length_B: tokens of each sequence before padding, which a bidirectional model must not see; None is all. A causal
        model needs none: causality hides what stands on the right.
      capture: names out of `ACTIVATIONS`.
    Returns:
      Logits, the K/V cache, and the captured activations with a leading layer axis.
    Raises:
      UserError: if a captured name is unknown, or the sequences are longer than the context.
    """
    for name in capture:
        if name not in ACTIVATIONS:
            raise unknown("activation", name, ACTIVATIONS)
    n_ctx = model.config.n_ctx
    if tokens_BT.shape[1] > n_ctx:
        raise UserError(f"sequences have {tokens_BT.shape[1]} tokens, above the model's context of {n_ctx}")
    return Transformer(model.config).apply({"params": model.params}, tokens_BT, edit, query_B, length_B, tuple(capture))


def unembed(model: Model, resid: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
    """Logits from the residual stream after the last layer."""
    return Transformer(model.config).apply({"params": model.params}, resid, method="unembed")
