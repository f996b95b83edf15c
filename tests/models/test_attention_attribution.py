"""Attribution to attention: complete, equal to a slow run of whole sequences, and none where attention says nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import ARCHITECTURES, fast_readout, slow_readout, tiny_batch, tiny_config, tiny_params

from jaxinterp.attribution.quadrature import quadrature
from jaxinterp.models.attention_attribution import whole_attribution

RULE = quadrature("gauss_legendre", 60)


def setting(name, **changes):
    config = tiny_config(**{"dtype": "float64", "n_layers": 3, **ARCHITECTURES[name], **changes})
    batch = jax.tree.map(jnp.asarray, tiny_batch())
    return config, tiny_params(config), batch


@pytest.mark.parametrize("name", ["gpt", "neox", "gemma", "bert"])
def test_scaled_is_a_run_of_whole_sequences(name, float64):
    config, params, batch = setting(name)
    readout = fast_readout(config, params, batch)
    rng = np.random.default_rng(0)
    gates_LRF, attention_LR = jnp.asarray(rng.random(readout.shape)), jnp.asarray(rng.random(readout.shape[:2]))
    there = np.asarray(batch.answers.weight_R) > 0
    fast = jax.jit(readout.scaled)(gates_LRF, attention_LR)
    expected = jax.jit(slow_readout(config, params, batch).scaled)(gates_LRF, attention_LR)
    np.testing.assert_allclose(fast[there], expected[there], rtol=1e-9)
    untouched = jax.jit(readout.scaled)(jnp.ones(readout.shape), jnp.ones(readout.shape[:2]))
    np.testing.assert_allclose(untouched[there], readout.untouched()[there], rtol=1e-9)
    assert np.abs(fast - untouched)[there].max() > 1e-3 * np.abs(untouched[there]).max()


@pytest.mark.parametrize("name", ["gpt", "bert"])
def test_complete(name, float64):
    found = jax.jit(lambda r: whole_attribution(r, RULE))(fast_readout(*setting(name)))
    assert np.abs(found.residual_R).max() < 1e-6 * np.abs(found.attention_LR).max()
    assert np.abs(found.ffn_LR).max() > 0


def test_attention_that_writes_nothing_has_none(float64):
    config, params, batch = setting("relu")
    params = {**params, "layers": {**params["layers"], "w_o": 0 * params["layers"]["w_o"]}}
    found = jax.jit(lambda r: whole_attribution(r, RULE))(fast_readout(config, params, batch))
    np.testing.assert_array_equal(found.attention_LR, 0)
    silent = {**params, "layers": {**params["layers"], "w_out": 0 * params["layers"]["w_out"]}}
    found = jax.jit(lambda r: whole_attribution(r, RULE))(fast_readout(config, silent, batch))
    np.testing.assert_array_equal(found.ffn_LR, 0)
