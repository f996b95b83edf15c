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


def close(a, b, dtype):
    chex_max = max(float(jnp.abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    assert chex_max <= TOLERANCE[dtype], chex_max


def gates_like(readout, seed, dtype):
    return jax.random.uniform(jax.random.key(seed), readout.shape, dtype, 0.0, 2.0)


def test_values_and_gate_gradients(setting, dtype):
    fast, slow = (make(*setting) for make in (fast_readout, slow_readout))
    assert fast.shape == slow.shape == (3, 10, 6)
    gates, shift = gates_like(fast, 0, dtype), gates_like(fast, 1, dtype)
    close(fast(gates), slow(gates), dtype)
    close(fast(gates, shift), slow(gates, shift), dtype)
    close(fast.untouched(), slow.untouched(), dtype)
    close(fast.neurons_LRF, slow.neurons_LRF, dtype)
    close(*(jax.grad(lambda g, r=r: r(g).sum())(gates) for r in (fast, slow)), dtype)


def test_per_layer_branches(setting, dtype):
    fast, slow = (make(*setting) for make in (fast_readout, slow_readout))
    alpha, delta = jnp.asarray(0.3, dtype), gates_like(fast, 2, dtype)[0]
    for layer in range(3):
        close(fast.scaled_layer(layer, alpha, delta), slow.scaled_layer(layer, alpha, delta), dtype)


def objective(make, config, batch, path):
    def value(params):
        readout = make(config, params, batch)
        rule = quadrature("midpoint", 3)
        scores = integrated_gradients(readout, rule, path=path).scores_LRF
        return readout(*suppress(soft_top_k(scores, 3, 1.0))).sum()

    return value


@pytest.mark.parametrize("path", ["joint", "per_layer"])
def test_attributions_and_meta_gradients(setting, dtype, path):
    config, params, batch = setting
    rule = quadrature("gauss_legendre", 3)
    fast, slow = (
        integrated_gradients(make(config, params, batch), rule, path=path) for make in (fast_readout, slow_readout)
    )
    close(fast, slow, dtype)
    meta = [jax.jit(jax.value_and_grad(objective(make, config, batch, path)))(params) for make in (fast_readout, slow_readout)]
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(meta[0][1])) > 1e-3
    # In float32 the meta-gradient's own scale is a few units, and so is its rounding.
    scale = max(1.0, max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(meta[1][1])))
    close(*(jax.tree.map(lambda x: x / scale, result) for result in meta), dtype)


def test_a_row_depends_on_its_own_gates_alone(float64):
    config = tiny_config(dtype="float64")
    readout = fast_readout(config, tiny_params(config), tiny_batch())
    jacobian = jax.jacobian(readout)(jnp.ones(readout.shape))
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
    with pytest.raises(UserError, match="cannot|can suppress"):
        readout(jnp.ones((1, 2, 3)), jnp.ones((1, 2, 3)))
    assert isinstance(readout, Readout)


def test_answer_probability_is_the_product_over_tokens():
    p = jnp.array([0.5, 0.25, 0.1, 0.9])
    log_p = answer_log_probability(p, jnp.array([0, 0, 1, 1]), jnp.array([1.0, 1.0, 1.0, 0.0]), 3)
    np.testing.assert_allclose(jnp.exp(log_p), [0.125, 0.1, 1.0], rtol=1e-6)
