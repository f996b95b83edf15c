"""Attention over new positions and, if there is one, a past."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxinterp.models import parameters
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.layers import LayerConstants, Norm, biased, declared, exact, rotate, row


class KVCache(NamedTuple):
    """Keys (rotated, if positions are rotary) and values of every layer and position."""

    keys: Float[Array, "*L B T KV K"]
    values: Float[Array, "*L B T KV K"]


class Past(NamedTuple):
    """What a layer may attend to besides the new positions."""

    cache: KVCache  # one layer's; its positions are 0 … T−1
    visible_BT: Bool[Array, "B T"]


class Packing(NamedTuple):
    """Several texts in one sequence: where each token stands in its own text, and what it may attend to."""

    position_BT: Int[Array, "B T"]  # from 0
    seen_BTT: Bool[Array, "B T T"]  # of the second axis' tokens by the first's, itself included; the window counts too


class Where(NamedTuple):
    """Where a layer is run: its constants, and the new positions of every sequence."""

    constants: LayerConstants
    position_BS: Int[Array, "B S"]  # from 0
    edited_BS: Bool[Array, "B S"] | None = None  # where an edit acts; None is everywhere
    valid_BS: Bool[Array, "B S"] | None = None  # what may be attended to, before causality; None is everything
    seen_BSS: Bool[Array, "B S S"] | None = None  # which new positions each one may attend to; None is all

    def at(self, at_B: Int[Array, " B"]) -> "Where":
        """One position of every sequence alone; an edit acts on it."""
        return Where(self.constants, row(self.position_BS, at_B))


class Attention(nn.Module):
    """Queries, keys and values of one layer, and what is made of them."""

    config: ModelConfig

    def setup(self) -> None:
        self.weights = declared(self, parameters.attention(self.config))
        norms = parameters.layer_norms(self.config)
        if self.config.qk_norm:
            self.norm_q, self.norm_k = (Norm(self.config, norms[name]) for name in ("norm_q", "norm_k"))

    def qkv(self, x_BSD: Float[Array, "B S D"], where: Where) -> tuple[Float[Array, "B S H K"], KVCache]:
        """Queries, keys and values, rotated if positions are rotary."""
        config, w = self.config, self.weights
        q, k, v = (
            biased(jnp.einsum("bsd,dhk->bshk", x_BSD, w[f"w_{name}"]), w.get(f"b_{name}")) for name in ("q", "k", "v")
        )
        if config.qk_norm:
            q, k = self.norm_q(q), self.norm_k(k)
        if config.position == "rotary":
            amplitude = 1.0 if config.rope_scaling is None else config.rope_scaling.amplitude
            q, k = (rotate(x, where.position_BS, where.constants.frequency, amplitude) for x in (q, k))
        return q, KVCache(k, v)

    def visible(
        self, where: Where, position_BT: Int[Array, "#B T"], valid_BT: Bool[Array, "B T"] | None
    ) -> Bool[Array, "B S T"]:
        """Which positions T the new ones attend to: valid ones in the window, in a causal model no later ones."""
        shape = (*where.position_BS.shape, position_BT.shape[1])
        visible = jnp.ones(shape, bool) if valid_BT is None else jnp.broadcast_to(valid_BT[:, None, :], shape)
        distance = where.position_BS[:, :, None] - position_BT[:, None, :]
        if self.config.attention == "causal":
            return visible & (distance >= 0) & (distance < where.constants.window)
        if not self.config.local_layers:
            return visible
        # All that is in a padded position's window may be padding. It sees itself then: a softmax over nothing is NaN.
        return (visible | (distance == 0)) & (jnp.abs(distance) < where.constants.window)

    def __call__(
        self,
        q_BSHK: Float[Array, "B S H K"],
        parts: Sequence[tuple[KVCache, Bool[Array, "B S _"]]],
        change: Callable[[Array], Array] = lambda pattern: pattern,
    ) -> tuple[Float[Array, "B S H K"], Float[Array, "B H S U"]]:
        """Each head's mixture of values and its weights, over stretches of keys and values with what is seen of them.

        Args:
          q_BSHK: queries.
          parts: keys and values, and which of them each query may attend to.
          change: of the weights, before values are mixed.
        """
        config = self.config
        batch, n_positions = q_BSHK.shape[:2]
        group = config.n_heads // config.n_kv_heads
        q = q_BSHK.reshape(batch, n_positions, config.n_kv_heads, group, config.d_head)
        q = q * (config.d_head**-0.5 if config.attn_scale is None else config.attn_scale)

        def scores(keys: Array, visible_BST: Array) -> Array:
            scores = exact(jnp.einsum("bsngk,btnk->bngst", q, keys))
            if config.attn_softcap is not None:
                scores = config.attn_softcap * jnp.tanh(scores / config.attn_softcap)
            return jnp.where(visible_BST[:, None, None], scores, -jnp.inf)

        all_scores = jnp.concatenate([scores(kv.keys, visible) for kv, visible in parts], -1)
        pattern = jax.nn.softmax(all_scores, axis=-1).astype(q.dtype)
        by_head = change(pattern.reshape(batch, config.n_heads, *pattern.shape[-2:]))
        pattern = by_head.reshape(pattern.shape)
        # The parts are mixed apart: concatenating values would copy the past for every branch that shares it.
        bounds = np.cumsum([kv.values.shape[1] for kv, _ in parts])[:-1].tolist()
        mixed = sum(
            jnp.einsum("bngst,btnk->bsngk", weights, kv.values)
            for weights, (kv, _) in zip(jnp.split(pattern, bounds, axis=-1), parts, strict=True)
        )
        return mixed.reshape(batch, n_positions, config.n_heads, config.d_head), by_head

    def fused(
        self, q_BSHK: Float[Array, "B S H K"], kv: KVCache, valid_BS: Bool[Array, "B S"] | None
    ) -> Float[Array, "B S H K"]:
        """The mixtures of whole sequences by cuDNN, which never writes the attention weights down."""
        return jax.nn.dot_product_attention(
            q_BSHK,
            *kv,
            scale=self.config.attn_scale,
            is_causal=self.config.attention == "causal",
            key_value_seq_lengths=None if valid_BS is None else valid_BS.sum(-1),
            implementation="cudnn",
        )

    def output(self, mixed_BSHK: Float[Array, "B S H K"]) -> Float[Array, "B S D"]:
        """What attention writes: linear in its heads' mixtures (with a bias)."""
        return biased(jnp.einsum("bshk,hkd->bsd", mixed_BSHK, self.weights["w_o"]), self.weights.get("b_o"))
