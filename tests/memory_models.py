"""Tiny corpora with brute-force triggers, and models that are linear: what the tests of memories share."""

import jax
import jax.numpy as jnp
import numpy as np
from tiny import tiny_config, tiny_params

from jaxinterp.memories.corpus import Corpus
from jaxinterp.memories.triggers import Triggers
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward


def tiny_corpus(n=12, n_positions=8, n_tokens=11, seed=0):
    """Windows of 4 to 8 tokens, each a text of its own."""
    rng = np.random.default_rng(seed)
    length = rng.integers(4, n_positions + 1, n)
    tokens = rng.integers(1, n_tokens, (n, n_positions)) * (np.arange(n_positions)[None] < length[:, None])
    return Corpus(tokens.astype(np.int32), length.astype(np.int32), np.arange(n), np.zeros(n, int))


def run(model, corpus, **rest):
    """A forward of all windows."""
    return forward(model, jnp.asarray(corpus.tokens_NT), length_B=jnp.asarray(corpus.length_N), **rest)


def brute_triggers(model, corpus, k):
    """By a sort of all activations."""
    post = run(model, corpus, capture=("mlp_post",)).activations["mlp_post"]
    post = np.asarray(post, np.float64)
    outside = np.arange(post.shape[2])[None] >= corpus.length_N[:, None]
    post = np.where(outside[None, :, :, None], -np.inf, post)
    flat = post.reshape(post.shape[0], -1, post.shape[3]).transpose(0, 2, 1)
    order = np.argsort(-flat, axis=2, kind="stable")[:, :, :k]
    window, position = np.divmod(order, post.shape[2])
    return Triggers(np.take_along_axis(flat, order, 2).astype(np.float32), window, position)


def linear_model(dtype="float64", silent=True, seed=0):
    """Two layers without attention, with neurons that are all on and norms that divide by 1e6 alike; the last one's
    scale makes up for it.

    If `silent`, the second layer writes nothing.
    """
    free = {"qkv_bias": False, "out_bias": False, "mlp_bias": True}
    config = tiny_config(n_layers=2, norm="rmsnorm", ffn="relu", norm_eps=1e12, dtype=dtype, **free)
    params = tiny_params(config, seed)
    layers = dict(params["layers"])
    for name in layers:
        if name.startswith("norm"):
            layers[name] = jax.tree.map(lambda x: 1e6 * (1 + 0.1 * x), layers[name])
    layers["b_in"] = jnp.full_like(layers["b_in"], 100.0)
    layers["w_o"] = jnp.zeros_like(layers["w_o"])
    if silent:
        layers["w_out"] = layers["w_out"].at[1].set(0)
    return Model(config, {**params, "layers": layers, "norm_final": {"scale": jnp.full(8, 1e6, dtype)}})
