"""The terms on scores: by hand, against finite differences of order 1 and 2, and finite where attribution vanishes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from tiny import linear_context, tiny_grid_batch

from jaxinterp.attribution.readout import FunctionReadout
from jaxinterp.attribution.selection import ranked, top_k
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.objectives.context import Context
from jaxinterp.objectives.registry import TERMS

CONFIG = ObjectiveConfig(k=1, control_k=2, points=2)
# Four answers of 1, 2, 1 and 2 tokens, each with one control of every kind, and a row of padding; two layers of three
# neurons. Answer 0 has the subject of 1 and the relation of 2.
BATCH = tiny_grid_batch(2, 2, n_rows=7)
BASE = np.array([0.0, 0.0, 0.0, 0.49, 0.9, 0.9, 0.3])
SCORES = np.array(
    [
        [[0.4, 0.1, -0.1], [0.2, 0.0, 0.0]],  # P = 0.6
        [[0.3, 0.1, 0.0], [0.1, 0.0, 0.0]],  # with the next row P = 0.5 · 0.4 and scores of 0.4, 0.4 and 0.1
        [[0.1, 0.3, 0.0], [0.0, 0.0, 0.0]],
        [[0.0, 0.01, 0.0], [0.0, 0.0, 0.0]],  # P = 0.5, which hardly depends on neurons
        [[-0.1, 0.0, 0.0], [0.0, 0.0, 0.0]],  # P = 0.8 · 0.8, which neurons lower
        [[-0.1, 0.0, 0.0], [0.0, 0.0, 0.0]],
        [[7.0, 7.0, 7.0], [7.0, 7.0, 7.0]],  # padding
    ]
).transpose(1, 0, 2)
P = np.array([0.6, 0.2, 0.5, 0.64])
NAMES = ("concentration", "margin", "faithfulness", "one_layer")


def value(name, base=BASE, scores=SCORES, config=CONFIG):
    term = jax.jit(lambda base, scores: TERMS[name](linear_context(config, BATCH, base, scores)))
    return float(term(jnp.asarray(base), jnp.asarray(scores)))


def test_ranks_by_hand():
    scores = jnp.asarray([[[0.1, 0.4, 0.4]], [[0.2, -1.0, 0.0]]])
    np.testing.assert_array_equal(ranked(scores, 3), [[[3, 0, 1]], [[2, 3, 3]]])
    np.testing.assert_array_equal(top_k(scores, 3, jnp.array([2])), [[[0, 1, 1]], [[0, 0, 0]]])
    np.testing.assert_array_equal(top_k(scores, 3, jnp.array([3])), top_k(scores, 3))


TWO = dataclasses.replace(CONFIG, k=2)


def test_concentration_by_hand(float64):
    terms = np.array([1 - 0.6 / 0.7, 1 - 0.8 / 0.9, 1 - 0.01 / 0.15, 1.0])
    assert value("concentration", config=TWO) == pytest.approx((P * terms).sum() / P.sum(), rel=1e-9)


def test_concentration_at_its_limits(float64):
    one = np.zeros((2, 7, 3))
    one[1, :6, 2] = 0.5  # one neuron of an answer has all
    assert value("concentration", np.zeros(7), one, TWO) == pytest.approx(0, abs=1e-12)
    assert value("concentration", np.full(7, 0.5), np.zeros((2, 7, 3)), TWO) == pytest.approx(1, rel=1e-12)
    assert value("concentration", np.zeros(7), np.full((2, 7, 3), 0.1), TWO) == pytest.approx(1 - 2 / 6, rel=1e-12)
    held_by = [value("concentration", config=dataclasses.replace(CONFIG, k=k)) for k in (1, 2, 3)]
    assert held_by[0] > held_by[1] > held_by[2]


def test_concentration_moves_scores_into_the_neurons_of_an_answer(float64):
    term = TERMS["concentration"]
    slope = jax.jit(jax.grad(lambda scores: term(linear_context(TWO, BATCH, jnp.asarray(BASE), scores))))(
        jnp.asarray(SCORES)
    )
    # Of answer 0 the neurons 0 of both layers count, and neuron 1 of the first does not; a negative score is no matter.
    assert (np.asarray(slope)[:, 0, 0] < 0).all() and slope[0, 0, 1] > 0 and slope[0, 0, 2] == 0
    # Where attribution has nearly vanished the slope is that against 0.3 P, not that against next to nothing.
    np.testing.assert_allclose(slope[0, 3, 1], -P[2] / P.sum() / 0.15, rtol=1e-9)
    np.testing.assert_array_equal(slope[:, 6], 0)


def test_one_layer_by_hand(float64):
    terms = np.array([1 - 0.5 / 0.7, 1 - 0.8 / 0.9, 1 - 0.01 / 0.15, 1.0])
    assert value("one_layer") == pytest.approx((P * terms).sum() / P.sum(), rel=1e-9)


def test_margin_by_hand(float64):
    # Neurons by layer and number, best first: answer 0 has a0 and b0, 1 has a0 and a1, 2 has a1 and a0, and 3, with no
    # score above 0, the first ones that have 0: a1 and a2. The scales are .7, .9, .15 and .192.
    pairs = tuple(tuple(kind) for kind in np.asarray(BATCH.answers.control_XR))
    first = {0: "a0 b0", 1: "a0 a1", 2: "a1 a0", 3: "a1 a2"}
    size = [
        {"a0": 0.4, "a1": 0.1, "a2": 0.1, "b0": 0.2},
        {"a0": 0.4, "a1": 0.4, "b0": 0.1},
        {"a1": 0.01},
        {"a0": 0.2},
    ]
    scale, rows = [0.7, 0.9, 0.15, 0.192], np.asarray(BATCH.answers.answer_R)
    expected = 0.0
    for control_R in pairs:
        shares = []
        for answer in range(4):
            row = int(np.flatnonzero(rows == answer)[0])
            neurons = first[int(rows[control_R[row]])].split()
            shares.append(sum(size[answer].get(neuron, 0.0) for neuron in neurons) / scale[answer])
        expected += (P * np.array(shares)).sum() / P.sum() / len(pairs)
    assert value("margin") == pytest.approx(expected, rel=1e-9)


def test_faithfulness_by_hand(float64):
    # Of answers of one token P is linear here: a neuron's score is what switching it off takes.
    one_token = np.array([0.0, 0.5, 1.0, 0.4, 0.5, 1.0, 0.0])
    scores = SCORES.copy()
    scores[:, [2, 5]] = 0
    assert value("faithfulness", one_token, scores) == pytest.approx(0, abs=1e-12)
    # Of two tokens the scores add up, while P is a product: with a1 (a0) of answer 1 off 0.4 · 0.1 (0.2 · 0.3) is left.
    gap = (0.4 - (0.2 - 0.04), 0.4 - (0.2 - 0.06))
    of_two = (sum(gap) / 2 / 0.9, (0.0 + 0.0) / 0.192)
    assert value("faithfulness") == pytest.approx((0.2 * of_two[0] + 0.64 * of_two[1]) / P.sum(), rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_finite_where_attribution_vanishes(name, float64):
    none = np.zeros_like(SCORES)
    slope = jax.jit(jax.grad(lambda scores: TERMS[name](linear_context(CONFIG, BATCH, jnp.asarray(BASE), scores))))
    for base in (BASE, np.zeros(7), np.full(7, 1e-30)):
        assert np.isfinite(value(name, base, none))
        assert np.isfinite(slope(jnp.asarray(none))).all()
    # The floor of 0.3 P bounds the slope, however small the scores are.
    tiny = 1e-9 * np.random.default_rng(0).random(SCORES.shape)
    assert np.abs(slope(jnp.asarray(tiny))).max() < 1 / 0.3


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_against_finite_differences(name, float64):
    # P = Σ c · gate², so that scores are not all that P is, with c along a line on which neither P nor Σ A⁺ changes:
    # sg(P), the denominators and the neurons that count are held constant, and differences must not see them change.
    draw = 0.1 * np.random.default_rng(0).standard_normal(SCORES.shape)
    positive = (SCORES > 0) & (np.arange(7) < 6)[None, :, None]
    mean = (draw * positive).sum((0, 2)) / positive.sum((0, 2)).clip(1)
    direction = np.where(positive, draw - mean[None, :, None], 0)

    def along(t):
        scores = jnp.asarray(SCORES) + t * direction
        readout = FunctionReadout(lambda gates: jnp.asarray(BASE) + (scores * gates**2).sum((0, 2)), scores.shape)
        return TERMS[name](Context(CONFIG, BATCH.answers, readout, jax.random.key(3)))

    check_grads(jax.jit(along), (jnp.array(0.05),), order=2, atol=1e-5, rtol=1e-5, eps=1e-5)
    assert abs(float(jax.grad(along)(jnp.array(0.05)))) > 1e-4
