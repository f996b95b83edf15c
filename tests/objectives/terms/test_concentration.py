"""The concentration term: by hand, against finite differences, and what it leaves out."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads
from tiny import linear_context, tiny_grid_batch

from jaxinterp.attribution.readout import FunctionReadout
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.objectives.context import Context
from jaxinterp.objectives.terms.concentration import concentration

CONFIG = ObjectiveConfig(k=2, points=2)
# Four answers of 1, 2, 1 and 2 tokens, and a row of padding; two layers of three neurons.
BATCH = tiny_grid_batch(2, 2, n_rows=7)
BASE = np.array([0.0, 0.0, 0.0, 0.49, 0.9, 0.9, 0.3])
SCORES = np.array(
    [
        [[0.4, 0.1, -0.1], [0.2, 0.0, 0.0]],  # P = 0.6; 0.4 + 0.2 of 0.7
        [[0.3, 0.1, 0.0], [0.1, 0.0, 0.0]],  # with the next row P = 0.5 · 0.4 and scores of 0.4, 0.4 and 0.1
        [[0.1, 0.3, 0.0], [0.0, 0.0, 0.0]],
        [[0.0, 0.01, 0.0], [0.0, 0.0, 0.0]],  # P = 0.5, which hardly depends on neurons
        [[-0.1, 0.0, 0.0], [0.0, 0.0, 0.0]],  # P = 0.8 · 0.8, which neurons lower
        [[-0.1, 0.0, 0.0], [0.0, 0.0, 0.0]],
        [[7.0, 7.0, 7.0], [7.0, 7.0, 7.0]],  # padding
    ]
).transpose(1, 0, 2)


def value(base, scores, config=CONFIG):
    return jax.jit(lambda base, scores: concentration(linear_context(config, BATCH, base, scores)))(base, scores)


def test_by_hand(float64):
    terms = np.array([1 - 0.6 / 0.7, 1 - 0.8 / 0.9, 1 - 0.01 / (0.3 * 0.5), 1.0])
    p = np.array([0.6, 0.2, 0.5, 0.64])
    np.testing.assert_allclose(value(BASE, SCORES), (p * terms).sum() / p.sum(), rtol=1e-9)


def test_limits(float64):
    one = np.zeros((2, 7, 3))
    one[1, :6, 2] = 0.5  # one neuron of an answer has all
    np.testing.assert_allclose(value(np.zeros(7), one), 0, atol=1e-12)
    np.testing.assert_allclose(value(np.full(7, 0.5), np.zeros((2, 7, 3))), 1, rtol=1e-12)
    np.testing.assert_allclose(value(np.zeros(7), np.full((2, 7, 3), 0.1)), 1 - 2 / 6, rtol=1e-12)
    held_by = [float(value(BASE, SCORES, ObjectiveConfig(k=k, points=2))) for k in (1, 2, 3)]
    assert held_by[0] > held_by[1] > held_by[2]


def smooth(t, direction):
    """P = Σ c · gate², so that scores are not all that P is, with c along a line on which no answer's P changes."""
    scores = jnp.asarray(SCORES) + t * direction
    readout = FunctionReadout(lambda gates: jnp.asarray(BASE) + (scores * gates**2).sum((0, 2)), scores.shape)
    return concentration(Context(CONFIG, BATCH.answers, readout, jax.random.key(3)))


def test_derivatives_against_finite_differences(float64):
    # sg(P) and the neurons that count are held constant, so that differences must not see them change either.
    direction = 0.1 * np.random.default_rng(0).standard_normal(SCORES.shape)
    direction -= direction.mean((0, 2), keepdims=True)
    # At t = 0.1 no score is at the kink of the positive part.
    at = jnp.array(0.1)
    assert np.abs(SCORES + 0.1 * direction).min() > 1e-5
    along = jax.jit(lambda t: smooth(t, jnp.asarray(direction)))
    check_grads(along, (at,), order=2, atol=1e-6, rtol=1e-6, eps=1e-6)
    assert abs(float(jax.grad(along)(at))) > 1e-3


def test_the_gradient_moves_scores_into_the_neurons_of_an_answer(float64):
    slope = jax.jit(jax.grad(lambda scores: concentration(linear_context(CONFIG, BATCH, jnp.asarray(BASE), scores))))(
        jnp.asarray(SCORES)
    )
    # Of answer 0 the neurons 0 of both layers count, and neuron 1 of the first does not; a negative score is no matter.
    assert (np.asarray(slope)[:, 0, 0] < 0).all() and slope[0, 0, 1] > 0 and slope[0, 0, 2] == 0
    # Where attribution has nearly vanished the slope is that against 0.3 P, not that against next to nothing.
    p = np.array([0.6, 0.2, 0.5, 0.64])
    np.testing.assert_allclose(slope[0, 3, 1], -p[2] / p.sum() / 0.15, rtol=1e-9)
    np.testing.assert_array_equal(slope[:, 6], 0)
