"""The fast causal path against the obvious full forward: values, gradients, meta-gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import ARCHITECTURES, fast_readout, slow_readout, tiny_batch, tiny_config, tiny_params

from jaxinterp.attribution import integrated_gradients
from jaxinterp.errors import UserError
from jaxinterp.quadrature import quadrature
from jaxinterp.readout import FunctionReadout, Readout, answer_log_probability
from jaxinterp.selection import soft_top_k
from jaxinterp.suppression import set_value, suppress

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    if request.param == "float64":
        request.getfixturevalue("float64")
    return request.param


@pytest.fixture(params=ARCHITECTURES)
def setting(request, dtype):
    config = tiny_config(dtype=dtype, **ARCHITECTURES[request.param])
    return config, tiny_params(config), tiny_batch()


def assert_close(function, config, params, batch, *arguments):
    """`function(readout, *arguments)` is the same for both readouts, and its gradient in the parameters not zero."""

    def both(params):
        return tuple(function(make(config, params, batch), *arguments) for make in (fast_readout, slow_readout))

    fast, slow = jax.jit(both)(params)
    scale = max(1.0, *(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slow)))
    for a, b in zip(jax.tree.leaves(fast), jax.tree.leaves(slow), strict=True):
        assert float(jnp.abs(a - b).max()) <= TOLERANCE[config.dtype] * scale
    return fast


def gates_like(config, batch, seed):
    shape = (config.n_layers, len(batch.target_R), config.d_mlp)
    return jax.random.uniform(jax.random.key(seed), shape, config.dtype, 0.0, 2.0)


def test_values_and_gate_gradients(setting):
    config, _, batch = setting
    gates, shift = gates_like(config, batch, 0), gates_like(config, batch, 1)

    def everything(readout, gates, shift):
        branches = [readout.scaled_layer(layer, gates[0, 0, 0], shift[layer]) for layer in range(config.n_layers)]
        gradient = jax.grad(lambda g: readout(g).sum())(gates)
        return readout(gates), readout(gates, shift), readout.untouched(), readout.neurons_LRF, branches, gradient

    assert_close(everything, *setting, gates, shift)


@pytest.mark.parametrize("path", ["joint", "per_layer"])
def test_attributions_and_meta_gradients(setting, path):
    config, params, batch = setting
    rule = quadrature("gauss_legendre", 2)

    def attribution_and_objective(readout):
        attribution = integrated_gradients(readout, rule, path=path)
        return attribution, readout(*suppress(soft_top_k(attribution.scores_LRF, 3, 1.0))).sum()

    assert_close(attribution_and_objective, *setting)

    def meta_gradients(params):
        return tuple(
            jax.grad(lambda p, make=make: attribution_and_objective(make(config, p, batch))[1])(params)
            for make in (fast_readout, slow_readout)
        )

    fast, slow = jax.jit(meta_gradients)(params)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slow))
    assert scale > 1e-3
    for a, b in zip(jax.tree.leaves(fast), jax.tree.leaves(slow), strict=True):
        assert float(jnp.abs(a - b).max()) <= TOLERANCE[config.dtype] * max(scale, 1.0)


def test_a_row_depends_on_its_own_gates_alone(float64):
    config = tiny_config(dtype="float64")
    readout = fast_readout(config, tiny_params(config), tiny_batch())
    jacobian = jax.jit(jax.jacobian(readout))(jnp.ones(readout.shape))
    other = jnp.abs(jacobian).sum((1, 3)) * (1 - jnp.eye(10))
    assert float(other.max()) == 0
    assert float(jnp.abs(jacobian).max()) > 1e-3


def test_set_value_sets_the_neuron(float64):
    config = tiny_config(dtype="float64")
    readout = fast_readout(config, tiny_params(config), tiny_batch())
    mask = jnp.zeros(readout.shape).at[1, :, 2].set(1.0)
    unchanged = readout(*set_value(mask, readout.neurons_LRF))
    np.testing.assert_allclose(unchanged, readout.untouched(), atol=1e-12)
    np.testing.assert_allclose(readout(*set_value(mask, 0.0)), readout(*suppress(mask)), atol=1e-12)


def test_function_readout_has_no_values_to_set():
    readout = FunctionReadout(lambda gates: gates.sum((0, 2)), (1, 2, 3))
    np.testing.assert_allclose(readout(jnp.ones((1, 2, 3))), [3, 3])
    with pytest.raises(UserError, match="can suppress"):
        readout(jnp.ones((1, 2, 3)), jnp.ones((1, 2, 3)))
    assert isinstance(readout, Readout)


def test_answer_probability_is_the_product_over_tokens():
    p = jnp.array([0.5, 0.25, 0.1, 0.9])
    log_p = answer_log_probability(p, jnp.array([0, 0, 1, 1]), jnp.array([1.0, 1.0, 1.0, 0.0]), 3)
    np.testing.assert_allclose(jnp.exp(log_p), [0.125, 0.1, 1.0], rtol=1e-6)
