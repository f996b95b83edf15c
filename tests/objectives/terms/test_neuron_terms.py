"""The terms on neurons, their pairs and their weights: by hand, against finite differences, and at their limits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from tiny import answers_of, arrays_of, linear_context, tiny_batch, tiny_config, tiny_grid_batch, tiny_params

from jaxinterp.attribution.readout import FunctionReadout
from jaxinterp.base.errors import UserError
from jaxinterp.models.model import Model
from jaxinterp.models.readout import lm_readout
from jaxinterp.objectives import neuron_pairs
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.objectives.context import Context
from jaxinterp.objectives.registry import TERMS

CONFIG = ObjectiveConfig(k=1)
PAIRS = ("sparse_correlation", "decov", "second_order")
# Four rows and one of padding; two layers of two neurons. Columns: a, b = 2 a + 1, c uncorrelated with a, d dead.
A, C = np.array([1.0, 1, -1, -1]), np.array([1.0, -1, 1, -1])
NEURONS = np.zeros((2, 5, 2))
NEURONS[0, :4] = np.stack([A, 2 * A + 1], axis=1)
NEURONS[1, :4, 0] = C
NEURONS[:, 4] = 100.0  # padding
WEIGHTS = [1, 1, 1, 1, 0]


def context_of(neurons, weight=WEIGHTS, config=CONFIG):
    neurons = None if neurons is None else jnp.asarray(neurons)
    n = len(weight)
    readout = FunctionReadout(lambda gates: jnp.full(n, 0.5) * gates[0, :, 0], (2, n, 2), neurons)
    answers = jax.tree.map(jnp.asarray, answers_of(list(range(n)), [float(w) for w in weight], n))
    return Context(config, answers, readout, jax.random.key(0))


def value(name, neurons=NEURONS, **more):
    return float(jax.jit(lambda x: TERMS[name](context_of(x, **more)))(jnp.asarray(neurons)))


def test_pairs_by_hand(float64):
    # Pairs ab, ac, bc live; d is dead. Correlations 1, 0, 0; covariances 2, 0, 0; all squares are constant.
    assert value("sparse_correlation") == pytest.approx(1 / 3, rel=1e-12)
    assert value("decov") == pytest.approx(4 / 3, rel=1e-12)
    assert value("second_order") == 0
    # Over four rows 0, 1, 2, 3 of e and the same of |e − 1.5|, which is uncorrelated with e, and whose square is a
    # function of e's: energies (9, 1, 1, 9)/5 of e, and 1 of the other, which are constant.
    e = np.arange(4.0)
    third = np.array([2.0, 0, 0, 2])  # (9, 1, 1, 9) in other words: its energy is constant
    fourth = np.array([0.0, 1, 2, 6])  # centred −9/4, −5/4, −1/4, 15/4
    neurons = np.zeros((2, 5, 2))
    neurons[0, :4], neurons[1, :4] = np.stack([e, third], 1), np.stack([fourth, 0 * e], 1)
    expected = abs(np.corrcoef((e - 1.5) ** 2, (fourth - 2.25) ** 2)[0, 1])
    assert value("second_order", neurons) == pytest.approx(expected, rel=1e-9)
    linear = [abs(np.corrcoef(x, y)[0, 1]) for x, y in ((e, third), (e, fourth), (third, fourth))]
    assert value("sparse_correlation", neurons) == pytest.approx(np.mean(linear), rel=1e-9)


def test_l1_prefers_few_links_and_l2_many_small_ones():
    """Of two codes with the same sum of |correlations|, L1 sees no difference, and L2 prefers the one of small ones."""
    drawn = [np.full((3, 3), 1 / 3), np.array([[0, 1.0, 0], [1, 0, 0], [0, 0, 0]])]
    live = jnp.ones(3, bool)
    first, second = ([float(neuron_pairs.pair_mean(jnp.abs(m) ** p, live)) for m in drawn] for p in (1, 2))
    assert first[0] == pytest.approx(first[1]) and second[0] < second[1]


def test_scale_and_padding_do_not_matter(float64):
    x = np.random.default_rng(0).standard_normal((2, 5, 2))
    scaled = np.array([[1.0, 5.0], [0.2, 3.0]])[:, None] * x + 7
    for name in ("sparse_correlation", "second_order"):
        assert value(name, x) == pytest.approx(value(name, scaled), rel=1e-9)
    assert value("decov", 2 * x) == pytest.approx(16 * value("decov", x), rel=1e-9)
    other = x.copy()
    other[:, 4] = -50.0
    for name in (*PAIRS, "activity"):
        assert value(name, x) == pytest.approx(value(name, other), rel=1e-12)


def test_columns_are_drawn_by_the_key(monkeypatch, float64):
    x = np.random.default_rng(0).standard_normal((2, 5, 2))
    monkeypatch.setattr(neuron_pairs, "COLUMNS", 2)
    correlations = np.abs(np.corrcoef(x[:, :4].transpose(1, 0, 2).reshape(4, 4).T))
    known = correlations[np.triu_indices(4, 1)]
    draws = [float(TERMS["sparse_correlation"](_keyed(x, seed))) for seed in range(6)]
    # One pair each, of those that there are, and not always the same.
    assert all(np.isclose(draw, known, rtol=1e-9).any() for draw in draws) and len(set(np.round(draws, 9))) > 1


def _keyed(neurons, seed):
    return dataclasses.replace(context_of(neurons), key=jax.random.key(seed))


def test_activity_by_hand(float64):
    # Row by row: first layer |a| + |b| = 4, 4, 2, 2; second layer 1. The mean of the two layers' sums.
    assert value("activity") == pytest.approx(np.mean([5, 5, 3, 3]) / 2, rel=1e-12)


@pytest.mark.parametrize("name", (*PAIRS, "activity"))
def test_derivatives_against_finite_differences(name, float64):
    x, way = np.random.default_rng(1).standard_normal((2, 2, 5, 2))

    def along(t):
        return TERMS[name](context_of(jnp.asarray(x) + t * way))

    check_grads(jax.jit(along), (jnp.array(0.0),), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)
    assert abs(float(jax.grad(along)(jnp.array(0.0)))) > 1e-3


@pytest.mark.parametrize("name", (*PAIRS, "activity"))
def test_finite_where_nothing_varies(name):
    for neurons in (np.zeros((2, 5, 2)), np.ones((2, 5, 2)), NEURONS):
        slope = jax.jit(jax.grad(lambda x: TERMS[name](context_of(x))))(jnp.asarray(neurons, jnp.float32))
        assert np.isfinite(value(name, neurons)) and np.isfinite(slope).all()
        assert not np.asarray(slope)[:, 4].any()  # padding teaches nothing
    assert np.isfinite(value(name, weight=[0] * 5))
    with pytest.raises(UserError, match=f"the term {name} needs a readout whose activations are known"):
        TERMS[name](context_of(None))


BATCH = tiny_grid_batch(2, 2, n_rows=7)  # four answers of 1, 2, 1 and 2 tokens, and a row of padding


def gini_of(base, scores):
    return TERMS["gini"](linear_context(CONFIG, BATCH, jnp.asarray(base), jnp.asarray(scores)))


def test_gini_by_hand(float64):
    # φ over the four answers: 0.4/4 in one neuron and 0.2/4 in another, each neuron in an answer of one token.
    scores = np.zeros((2, 7, 3))
    scores[0, 0, 1], scores[1, 3, 2] = 0.4, -0.2
    base = np.full(7, 0.3)
    values = np.sort([0.1, 0.05, 0, 0, 0, 0])
    p = np.array([0.7, 0.09, 0.1, 0.09])
    assert 0.3 * p.mean() < 0.15  # no floor
    by_pairs = np.abs(values[:, None] - values[None]).sum() / (2 * 6 * values.sum())
    assert float(gini_of(base, scores)) == pytest.approx(1 - by_pairs, rel=1e-9)
    # One neuron alone: G = 1 − 1/U. All alike: G = 0.
    one = np.zeros((2, 7, 3))
    one[1, :6, 0] = 0.5
    assert float(gini_of(np.zeros(7), one)) == pytest.approx(1 / 6, rel=1e-9)
    assert float(gini_of(np.zeros(7), np.full((2, 7, 3), 0.1))) == pytest.approx(1, rel=1e-9)
    # The floor: hardly any attribution is no concentrated attribution.
    assert float(gini_of(np.full(7, 0.5), 1e-9 * one)) == pytest.approx(1, abs=1e-6)


def test_gini_against_finite_differences(float64):
    scores, way = np.random.default_rng(0).uniform(0.01, 0.1, (2, 2, 7, 3))
    way = way - way.mean((0, 2))[None, :, None]  # P does not change: sg(P) is held constant

    def along(t):
        return gini_of(np.zeros(7), jnp.asarray(scores) + t * way)

    check_grads(jax.jit(along), (jnp.array(0.0),), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)
    assert abs(float(jax.grad(along)(jnp.array(0.0)))) > 1e-3


@pytest.mark.parametrize("fields", [{}, {"ffn": "swiglu"}, {"ffn_units": 2, "experts": 2}], ids=str)
def test_sparse_weights_by_hand_and_against_finite_differences(fields, float64):
    config = tiny_config(n_layers=2, dtype="float64", **fields)
    params, batch = tiny_params(config), tiny_batch()

    @jax.jit
    def term(params):
        readout = lm_readout(Model(config, params), *arrays_of(batch))[1]
        return TERMS["sparse_weights"](Context(CONFIG, batch.answers, readout, jax.random.key(0)))

    names = ("w_in", "w_out", *(("w_gate",) if config.gated else ()))
    matrices = np.concatenate([np.ravel(params["layers"][name]) for name in names])
    assert float(term(params)) == pytest.approx(np.abs(matrices).mean(), rel=1e-12)
    slope = jax.grad(term)(params)
    for name, leaf in slope["layers"].items():
        if name in names:
            np.testing.assert_allclose(leaf, np.sign(params["layers"][name]) / matrices.size, atol=1e-15)
        else:
            assert not jax.tree.reduce(lambda a, b: a or b, jax.tree.map(lambda x: bool(np.any(x)), leaf))
    check_grads(term, (params,), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)
    with pytest.raises(UserError, match="sparse_weights needs a language model"):
        TERMS["sparse_weights"](context_of(NEURONS))
