"""What stands in every layer of a language model where its readout reads, from what the readout has kept."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxinterp.models.block import Block
from jaxinterp.models.layers import layer_constants, row
from jaxinterp.models.readout import LanguageModelReadout
from jaxinterp.models.rerun import after_ffn
from jaxinterp.models.transformer import unembed


def resid_post(readout: LanguageModelReadout) -> Float[Array, "L R D"]:
    """The residual stream after every layer, untouched."""
    n_layers, n_rows, _ = readout.shape
    layer_LR = jnp.broadcast_to(jnp.arange(n_layers)[:, None], (n_layers, n_rows))
    config = readout.model.config
    return after_ffn(config, readout.layers, layer_LR, readout.resid_mid_LRD, readout.mlp_out_LRD)


def depth_gates(readout: LanguageModelReadout) -> Float[Array, "L R"]:
    """Every layer's gate, of a model with `ModelConfig.depth_gates`."""
    config, pre_LRD = readout.model.config, _resid_pre(readout)
    gate = lambda w, resid, normed: Block(config).apply({"params": w}, resid, normed, method="gate")  # noqa: E731
    return jax.vmap(gate)(readout.layers, pre_LRD, layer_constants(config).attn_normed)


def router_logits(readout: LanguageModelReadout) -> Float[Array, "L R E"]:
    """The router's logits in every layer, of a model with `ModelConfig.experts`."""
    config, pre_LRD = readout.model.config, _resid_pre(readout)
    logits = lambda w, pre, mid: Block(config).apply({"params": w}, pre, mid, method="router_logits")  # noqa: E731
    return jax.vmap(logits)(readout.layers, pre_LRD, readout.resid_mid_LRD)


def lens_nll(readout: LanguageModelReadout) -> Float[Array, "L R"]:
    """−log P of the rows' tokens by the logit lens (nostalgebraist 2020): final norm and unembedding after each layer.

    Layers are looked at one after another, and once more in a backward pass, so that the logits of one are held.
    """

    def of_layer(resid_RD: Array) -> Array:
        logits_RV = unembed(readout.model, resid_RD)
        target_R1 = jnp.asarray(readout.rows.target_R)[:, None]
        return jax.nn.logsumexp(logits_RV, -1) - jnp.take_along_axis(logits_RV, target_R1, -1)[:, 0]

    return jax.lax.map(jax.checkpoint(of_layer), resid_post(readout))


def lens_top(readout: LanguageModelReadout) -> Int[Array, "L R"]:
    """The token with the highest logit after each layer, by the logit lens."""
    return jax.lax.map(lambda resid_RD: unembed(readout.model, resid_RD).argmax(-1), resid_post(readout))


def _resid_pre(readout: LanguageModelReadout) -> Float[Array, "L R D"]:
    """The residual stream before every layer, untouched."""
    first, query_RS = readout.embedded_RSD, readout.later.query_RS
    if query_RS is not None:
        first = row(first, query_RS.argmax(-1))
    return jnp.concatenate([first.swapaxes(0, 1), resid_post(readout)[:-1]])
