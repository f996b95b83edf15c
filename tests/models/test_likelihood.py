"""The next token's likelihood: against the plain formula, in chunks or not, with its derivatives and its memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import ARCHITECTURES, tiny_config, tiny_params

from jaxinterp.models import likelihood
from jaxinterp.models.likelihood import chunk_positions, next_token_nll
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 11, (3, 8)), jnp.int32)
WEIGHT = np.random.default_rng(1).random((3, 7))


def plain(config, params):
    log_p = jax.nn.log_softmax(forward(Model(config, params), TOKENS).logits_BTV[:, :-1])
    return -jnp.take_along_axis(log_p, TOKENS[:, 1:, None], axis=-1)[..., 0]


def ours(config, params):
    return next_token_nll(Model(config, params), forward(Model(config, params), TOKENS), TOKENS)


def derivatives(function, params, direction):
    """Values, the gradient of a weighted sum, and its derivative along a direction."""

    def total(params):
        nll = function(params)
        return (nll * WEIGHT.astype(nll.dtype)).sum(), nll

    def gradient(params):
        (_, nll), gradient = jax.value_and_grad(total, has_aux=True)(params)
        return nll, gradient

    return jax.jit(lambda p, d: jax.jvp(gradient, (p,), (d,)))(params, direction)


# Chunks of 3 sequences with 7 positions: one, of 3 positions (with 2 of padding), of one position.
SIZES = {10**6: 7, 9: 3, 1: 1}  # LEAST_TOKENS: positions


@pytest.mark.parametrize(
    ("dtype", "architecture", "sizes", "tolerance"),
    [("float64", "gemma", SIZES, 1e-12), ("float32", "gpt", {9: 3}, 1e-6)],
)
def test_chunks_of_every_size_give_what_the_formula_gives(request, monkeypatch, dtype, architecture, sizes, tolerance):
    if dtype == "float64":
        request.getfixturevalue("float64")
    config = tiny_config(n_layers=1, dtype=dtype, **{**ARCHITECTURES[architecture], "local_layers": ()})
    params, direction = tiny_params(config), tiny_params(config, seed=1)
    expected = derivatives(lambda p: plain(config, p), params, direction)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    monkeypatch.setattr(likelihood, "CHUNK_BYTES", 0)
    for least, positions in sizes.items():
        monkeypatch.setattr(likelihood, "LEAST_TOKENS", least)
        assert chunk_positions(config, 3, 7) == positions
        found = derivatives(lambda p: ours(config, p), params, direction)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


def test_chunks_are_as_even_as_they_can_be():
    config = tiny_config(d_vocab=50_000)
    assert chunk_positions(config, 1, 1000) == 167  # 6 chunks of at most 2**25 bytes / 4 / 50,000 tokens
    assert chunk_positions(config, 500, 5) == 1  # a position of all sequences at least
    assert chunk_positions(tiny_config(), 64, 63) == 63
    assert chunk_positions(config, 4, 0) == 0


def test_a_large_vocabulary_needs_no_array_of_all_logits():
    config = tiny_config(n_layers=1, d_vocab=50_000, n_ctx=128)
    params = jax.eval_shape(lambda: tiny_params(config))
    tokens = jax.ShapeDtypeStruct((8, 128), jnp.int32)

    def total(nll):
        gradient = jax.jit(jax.grad(lambda params, tokens: nll(params, tokens).sum()))
        return gradient.lower(params, tokens).compile().memory_analysis().temp_size_in_bytes

    all_logits = 4 * 8 * 128 * 50_000
    fused = total(lambda p, tokens: next_token_nll(Model(config, p), forward(Model(config, p), tokens), tokens))
    kept = total(lambda p, tokens: forward(Model(config, p), tokens).logits_BTV)
    assert fused < all_logits / 2 < all_logits <= kept
