"""The fast path against the obvious full forward: values, gradients, meta-gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import (
    ARCHITECTURES,
    UNPUBLISHED,
    answers_of,
    arrays_of,
    fast_readout,
    slow_readout,
    tiny_batch,
    tiny_config,
    tiny_params,
)

from jaxinterp.attribution.edits import set_to, suppress
from jaxinterp.attribution.integrated_gradients import integrated_gradients
from jaxinterp.attribution.quadrature import quadrature
from jaxinterp.attribution.readout import FunctionReadout, Readout
from jaxinterp.attribution.selection import soft_top_k
from jaxinterp.base.errors import UserError
from jaxinterp.models.model import Model
from jaxinterp.models.readout import Rows, lm_readout

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


# Families differ in what they compute, which float64 shows best. Rounding in float32 is looked at in the family with
# the fewest parts, and in the one with the most.
ALL = {**ARCHITECTURES, **UNPUBLISHED}
SETTINGS = [*((name, "float64") for name in ALL), ("gpt", "float32"), ("gemma", "float32")]


@pytest.fixture(params=SETTINGS, ids="-".join)
def setting(request):
    name, dtype = request.param
    if dtype == "float64":
        request.getfixturevalue("float64")
    config = tiny_config(dtype=dtype, **ALL[name])
    return config, tiny_params(config), tiny_batch()


def assert_trees_close(a, b, tolerance):
    assert jax.tree.map(lambda x: (x.shape, x.dtype), a) == jax.tree.map(lambda x: (x.shape, x.dtype), b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=tolerance), a, b)


def gates_like(config, batch, seed):
    shape = (config.n_layers, len(batch.rows.target_R), config.d_mlp)
    return jax.random.uniform(jax.random.key(seed), shape, config.dtype, 0.0, 2.0)


def test_values_and_gate_gradients(setting):
    config, params, batch = setting
    gates, shift = gates_like(config, batch, 0), gates_like(config, batch, 1)

    def everything(readout, gates, shift):
        layer, alpha = jnp.array([[0], [2], [1], [0]]), jnp.array([[0.3], [0.7], [0.0], [1.0]])
        shape = (4, readout.shape[1])
        layer, alpha = jnp.broadcast_to(layer, shape), jnp.broadcast_to(alpha, shape)
        neuron = jnp.array([4, 0, 5, 2])
        one_layer = readout.branches()
        delta = 0.5 * one_layer.neuron_outputs(neuron)[jnp.arange(4)[:, None], layer, jnp.arange(shape[1])[None]]
        branches, back = jax.vjp(lambda d: one_layer(layer, alpha.astype(gates.dtype), d), delta)
        slope = back(jnp.ones_like(branches))[0]
        along = one_layer.scores(layer, slope)
        # A branch for each layer, in order.
        branches = branches, one_layer.neuron_scores(slope[:3][jnp.array([0, 2, 1])]), along
        gradient = jax.grad(lambda g: readout(g).sum())(gates)
        return readout(gates), readout(gates, shift), readout.untouched(), readout.neurons_LRF, branches, gradient

    fast, slow = jax.jit(
        lambda params: tuple(
            everything(make(config, params, batch), gates, shift) for make in (fast_readout, slow_readout)
        )
    )(params)
    # Gradients with respect to gates are as large as a few units here, and so is their rounding.
    scale = max(1.0, float(jnp.abs(slow[-1]).max()))
    assert_trees_close(fast, slow, TOLERANCE[config.dtype] * scale)


@pytest.mark.parametrize("path", ["joint", "per_layer"])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("gpt", "float32"), *((name, "float64") for name in ("gpt", "gemma", "bert", "olmo", "modernbert"))],
)
def test_attributions_and_meta_gradients(name, dtype, path, request):
    if dtype == "float64":
        request.getfixturevalue("float64")
    config = tiny_config(dtype=dtype, n_layers=2, **ARCHITECTURES[name])
    params, batch, rule = tiny_params(config), tiny_batch(), quadrature("gauss_legendre", 2)

    def suppressed(params, make):
        readout = make(config, params, batch)
        attribution = integrated_gradients(readout, rule, path=path)
        return readout(*suppress(soft_top_k(attribution.scores_LRF, 3, 1.0))).sum(), attribution

    def both(params):
        return tuple(
            jax.value_and_grad(lambda p, make=make: suppressed(p, make), has_aux=True)(params)
            for make in (fast_readout, slow_readout)
        )

    (fast, fast_meta), (slow, slow_meta) = jax.jit(both)(params)
    assert_trees_close(fast, slow, TOLERANCE[dtype])
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slow_meta))
    assert scale > 1e-3
    assert_trees_close(fast_meta, slow_meta, TOLERANCE[dtype] * max(scale, 1.0))


def test_a_row_depends_on_its_own_gates_alone(float64):
    config = tiny_config(dtype="float64")
    readout = fast_readout(config, tiny_params(config), tiny_batch())
    jacobian = jax.jit(jax.jacobian(readout))(jnp.ones(readout.shape))
    other = jnp.abs(jacobian).sum((1, 3)) * (1 - jnp.eye(10))
    assert float(other.max()) == 0
    assert float(jnp.abs(jacobian).max()) > 1e-3


@pytest.mark.parametrize(("name", "n_layers"), [("bert", 2), ("modernbert", 3)])
def test_what_stands_in_the_padding_does_not_matter(name, n_layers, float64):
    """A bidirectional model attends to everything; `length_B` keeps its rows from what follows a text."""
    config = tiny_config(n_layers=n_layers, dtype="float64", **ARCHITECTURES[name])
    params, (tokens, rows, length) = tiny_params(config), arrays_of(tiny_batch())
    padding = jnp.arange(8)[None] >= length[:, None]
    assert padding.any() and not padding.all(1).any()
    gates = gates_like(config, tiny_batch(), 0)

    @jax.jit
    def values(tokens, length):
        readout = lm_readout(Model(config, params), tokens, rows, length)[1]
        scores = integrated_gradients(readout, quadrature("midpoint", 1), path="per_layer").scores_LRF
        return readout.untouched(), readout(gates), readout.neurons_LRF, scores

    before, others = values(tokens, length), values(jnp.where(padding, 7, tokens), length)
    for a, b in zip(before, others, strict=True):
        np.testing.assert_array_equal(a, b)
        assert float(jnp.abs(a).max()) > 1e-3
    # The same tokens as part of the text do matter.
    whole = jnp.full_like(length, 8)
    read = [values(jnp.where(padding, token, tokens), whole)[0] for token in (0, 7)]
    short = (length < 8)[rows.sequence_R]
    assert float(jnp.abs(read[0] - read[1])[short].min()) > 1e-8
    np.testing.assert_array_equal(read[0][~short], read[1][~short])
    # Cut off, a text without padding is the same: to the last digits, as sums run over fewer terms.
    shortest = int(length.min())
    here = np.flatnonzero(np.asarray(length[rows.sequence_R]) == shortest)
    cut = Rows(*(x[here] for x in rows))
    alone = lm_readout(Model(config, params), tokens[:, :shortest], cut)[1].untouched()
    np.testing.assert_allclose(alone, before[0][here], atol=1e-13)


def test_set_value_sets_the_neuron(float64):
    config = tiny_config(dtype="float64")
    readout = fast_readout(config, tiny_params(config), tiny_batch())
    mask = jnp.zeros(readout.shape).at[1, :, 2].set(1.0)
    unchanged = readout(*set_to(mask, readout.neurons_LRF))
    np.testing.assert_allclose(unchanged, readout.untouched(), atol=1e-12)
    np.testing.assert_allclose(readout(*set_to(mask, 0.0)), readout(*suppress(mask)), atol=1e-12)


def test_function_readout_has_no_values_to_set():
    readout = FunctionReadout(lambda gates: gates.sum((0, 2)), (1, 2, 3))
    np.testing.assert_allclose(readout(jnp.ones((1, 2, 3))), [3, 3])
    with pytest.raises(UserError, match="can suppress"):
        readout(jnp.ones((1, 2, 3)), jnp.ones((1, 2, 3)))
    assert isinstance(readout, Readout)


def test_answer_probability_is_the_product_over_tokens():
    p = jnp.array([0.5, 0.25, 0.1, 0.9])
    log_p = answers_of([0, 0, 1, 1], [1.0, 1.0, 1.0, 0.0], 3).log_probability(p)
    np.testing.assert_allclose(jnp.exp(log_p), [0.125, 0.1, 1.0], rtol=1e-6)
