"""The attribution methods by name, and the logit lens by hand."""

import jax
import numpy as np
import pytest
from tiny import ARCHITECTURES, fast_readout, tiny_batch, tiny_config, tiny_params

from jaxinterp.attribution.integrated_gradients import projection
from jaxinterp.attribution.readout import FunctionReadout
from jaxinterp.attribution.registry import METHODS
from jaxinterp.base.errors import UserError


@pytest.mark.parametrize("name", ["gpt", "llama", "gemma", "bert", "olmo", "modernbert"])
def test_projection_by_hand(name):
    config = tiny_config(**ARCHITECTURES[name])
    params = tiny_params(config)
    readout = fast_readout(config, params, tiny_batch())
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    found = np.asarray(jax.jit(projection)(readout))
    table = params["embedding" if config.tied else "unembedding"]
    expected = np.zeros(readout.shape)
    for layer in range(config.n_layers):
        for neuron in range(config.d_mlp):
            value = params["layers"]["w_out"][layer, neuron]
            if name in ("gemma", "olmo"):
                value = value * params["layers"]["norm_mlp_out"]["scale"][layer]
            if config.norm == "layernorm":
                value = value - value.mean()
            last = params["layers"]["norm_mlp"]["scale"][layer] if name == "bert" else params["norm_final"]["scale"]
            for row, target in enumerate(np.asarray(readout.rows.target_R)):
                activation = float(readout.neurons_LRF[layer, row, neuron])
                expected[layer, row, neuron] = activation * (table[target] * last) @ value
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_every_method_scores_every_neuron():
    config = tiny_config()
    readout = fast_readout(config, tiny_params(config), tiny_batch())
    found = {name: np.asarray(METHODS[name].scores(readout, jax.random.key(0))) for name in METHODS.names()}
    for name, scores in found.items():
        assert scores.shape == readout.shape, name
        assert np.isfinite(scores).all(), name
    # No two of them are the same thing under two names.
    names = list(found)
    for i, first in enumerate(names):
        for second in names[:i]:
            assert np.abs(found[first] - found[second]).max() > 1e-4, (first, second)
    causal = {name for name in names if METHODS[name].causal}
    assert causal == {"integrated_gradients", "joint_integrated_gradients", "gradient_x_activation", "ablation"}


def test_what_a_readout_does_not_know_is_told():
    readout = FunctionReadout(lambda gates: gates.sum((0, 2)), shape=(1, 1, 2))
    with pytest.raises(UserError, match="value vectors"):
        projection(readout)
    with pytest.raises(UserError, match="unknown attribution method"):
        METHODS["saliency"]
