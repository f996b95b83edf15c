"""One layer, written once for any number of new positions against an optional past.

With no past it is the layer of a full forward, with one position and a past it is a decoding step.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.models.attention import Attention, KVCache, Past, Where
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.ffn import FFN
from jaxinterp.models.gates import DepthGate
from jaxinterp.models.layers import Norm, along_batch, row
from jaxinterp.models.places import Changes, changed
from jaxinterp.models.route import Route


class Block(nn.Module):
    """Attention over past and new positions, then the FFN, and the norms around both."""

    config: ModelConfig

    def setup(self) -> None:
        # A norm or gate that the architecture does not have is never called, and has no parameters.
        self.norm_attn, self.norm_mlp = Norm(self.config), Norm(self.config)
        self.norm_attn_out, self.norm_mlp_out = Norm(self.config), Norm(self.config)
        self.depth_gate = DepthGate(self.config)
        self.attention, self.ffn = Attention(self.config), FFN(self.config)
        # Parameters of both stand in the layer itself.
        nn.share_scope(self, self.attention)
        nn.share_scope(self, self.ffn)

    def __call__(
        self,
        resid_pre_BSD: Float[Array, "B S D"],
        changes: Changes | None,
        where: Where,
        capture: Sequence[str] = (),
        past: Past | None = None,
        route: Route | None = None,
    ) -> tuple[Float[Array, "B S D"], tuple[KVCache, dict[str, Array]]]:
        """Runs the layer on new positions.

        Args:
          resid_pre_BSD: residual stream.
          changes: of what stands at the layer's places, at the positions of `where.edited_BS`; None is none.
          where: the layer's constants and the new positions.
          capture: names out of `jaxinterp.models.places.PLACES`.
          past: cached keys and values that the new positions may attend to as well.
          route: whom the neurons' gradient reaches; None is everything.
        Returns:
          The residual stream after the layer, the new positions' keys and values, and what was captured.
        """
        resid_pre_BSD = along_batch(changed(changes, "resid_pre", resid_pre_BSD, where.edited_BS))
        q, new = self._qkv(resid_pre_BSD, changes, where)
        parts = [self._part(new, where, where)]
        if past is not None:
            position_1T = jnp.arange(past.visible_BT.shape[1])[None]
            visible = self.attention.visible(where, position_1T, None) & past.visible_BT[:, None, :]
            parts.insert(0, (past.cache, visible))
        seen = "attn_pattern" in capture or "attn_pattern" in (changes or ())
        whole = past is None and where.seen_BSS is None
        if self.config.attention_kernel == "cudnn" and whole and not seen:
            mixed, attn_pattern = self.attention.fused(q, new, where.valid_BS), None
        else:
            mixed, attn_pattern = self.attention(
                q, parts, lambda pattern: changed(changes, "attn_pattern", pattern, where.edited_BS)
            )
        resid_post, found = self._after_attention(resid_pre_BSD, mixed, changes, where, route)
        found |= {"attn_q": q, "attn_k": new.keys, "attn_v": new.values, "attn_pattern": attn_pattern}
        return resid_post, (new, {name: found[name] for name in capture})

    def after_change(
        self,
        resid_pre_BSD: Float[Array, "B S D"],
        changes: Changes | None,
        where: Where,
        base: tuple[Float[Array, "B S H K"], KVCache],
    ) -> Float[Array, "B S D"]:
        """The layer of a bidirectional model whose input differs from an untouched run's at one position per sequence.

        Only that position's queries, keys and values are computed; the others are `base`, the untouched run's. The
        result is that of `__call__`, whose arguments these are; `where.edited_BS` is the one position.
        """
        at = where.edited_BS.argmax(-1)
        resid_pre_BSD = changed(changes, "resid_pre", resid_pre_BSD, where.edited_BS)
        here = self._qkv(row(resid_pre_BSD, at), changes, where.at(at))
        q, kv = jax.tree.map(lambda one, rest: jnp.where(where.edited_BS[..., None, None], one, rest), here, base)
        mixed, _ = self.attention(q, [self._part(kv, where, where)])
        return self._after_attention(resid_pre_BSD, mixed, changes, where)[0]

    def at_query(
        self, resid_pre_BSD: Float[Array, "B S D"], changes: Changes | None, where: Where
    ) -> Float[Array, "B 1 D"]:
        """The last layer of a bidirectional model, at the one position that is read: the others need keys and values.

        The result is that of `__call__`, whose arguments these are, at the position of `where.edited_BS`.
        """
        at = where.edited_BS.argmax(-1)
        resid_pre_BSD = changed(changes, "resid_pre", resid_pre_BSD, where.edited_BS)
        here, query = row(resid_pre_BSD, at), where.at(at)
        q, _ = self._qkv(here, changes, query)
        _, kv = self._qkv(resid_pre_BSD, changes, where)
        mixed, _ = self.attention(q, [self._part(kv, query, where)])
        return self._after_attention(here, mixed, changes, query)[0]

    def ffn_output(self, mlp_post: Float[Array, "*B F"]) -> Float[Array, "*B D"]:
        """The FFN's output: linear in the neurons (with a bias)."""
        return self.ffn.output(mlp_post)

    def gate(self, resid_pre: Float[Array, "*B D"], attn_normed: Array | None) -> Float[Array, "*B"]:
        """The layer's gate of each token; see `ModelConfig.depth_gates`.

        Args:
          resid_pre: residual stream.
          attn_normed: of the layer's constants.
        """
        return self.depth_gate(self._attention_reads(resid_pre, attn_normed))

    def router_logits(self, resid_pre: Float[Array, "*B D"], resid_mid: Float[Array, "*B D"]) -> Float[Array, "*B E"]:
        """The router's logits of each token; see `ModelConfig.experts`."""
        return self.ffn.router_logits(self._ffn_reads(resid_pre, resid_mid))

    def _attention_reads(self, resid_pre: Array, attn_normed: Array | None) -> Float[Array, "*B D"]:
        """What attention reads of the residual stream."""
        x = self.norm_attn(resid_pre) if self.config.norms_inputs else resid_pre
        return x if attn_normed is None else jnp.where(attn_normed, x, resid_pre)

    def _ffn_reads(self, resid_pre: Array, resid_mid: Array) -> Float[Array, "*B D"]:
        """What the FFN reads of the residual stream."""
        read = resid_pre if self.config.parallel else resid_mid
        return self.norm_mlp(read) if self.config.norms_inputs else read

    def _qkv(
        self, resid_pre_BSD: Array, changes: Changes | None, where: Where
    ) -> tuple[Float[Array, "B S H K"], KVCache]:
        """Queries, keys and values from the residual stream."""
        x = self._attention_reads(resid_pre_BSD, where.constants.attn_normed)
        q, kv = self.attention.qkv(x, where)
        change = functools.partial(changed, changes, where_BS=where.edited_BS)
        return change("attn_q", x=q), KVCache(change("attn_k", x=kv.keys), change("attn_v", x=kv.values))

    def _part(self, kv: KVCache, queries: Where, keys: Where) -> tuple[KVCache, Array]:
        """Keys and values of new positions, with what the queries may see of them."""
        visible = self.attention.visible(queries, keys.position_BS, keys.valid_BS)
        return kv, visible if queries.seen_BSS is None else visible & queries.seen_BSS

    def _after_attention(
        self,
        resid_pre_BSD: Array,
        mixed_BSHK: Array,
        changes: Changes | None,
        where: Where,
        route: Route | None = None,
    ) -> tuple[Float[Array, "B S D"], dict[str, Array]]:
        """The residual stream after the layer, and what can be captured on the way."""
        config = self.config

        def change(place: str, x: Array) -> Array:
            return changed(changes, place, x, where.edited_BS)

        gate_BS = self.gate(resid_pre_BSD, where.constants.attn_normed) if config.depth_gates else None
        if gate_BS is not None:
            mixed_BSHK = mixed_BSHK * gate_BS[..., None, None].astype(mixed_BSHK.dtype)
        attn_z = change("attn_z", mixed_BSHK)
        attn_out = self.attention.output(attn_z)
        attn_out = change("attn_out", self.norm_attn_out(attn_out) if config.norms_outputs else attn_out)
        resid_mid = resid_pre_BSD + attn_out
        if config.norm_placement == "post":
            resid_mid = self.norm_attn(resid_mid)
        resid_mid = along_batch(change("resid_mid", resid_mid))
        read = self._ffn_reads(resid_pre_BSD, resid_mid)
        mlp_pre, mlp_post, mlp_out = self.ffn(read, change, route, gate_BS)
        mlp_out = change("mlp_out", self.norm_mlp_out(mlp_out) if config.norms_outputs else mlp_out)
        resid_post = resid_mid + mlp_out
        if config.norm_placement == "post":
            resid_post = self.norm_mlp(resid_post)
        resid_post = along_batch(change("resid_post", resid_post))
        return resid_post, {
            "resid_pre": resid_pre_BSD,
            "attn_z": attn_z,
            "attn_out": attn_out,
            "resid_mid": resid_mid,
            "mlp_pre": mlp_pre,
            "mlp_post": mlp_post,
            "mlp_out": mlp_out,
            "resid_post": resid_post,
        }
