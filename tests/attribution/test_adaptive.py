"""Adaptive attributions: integrals by hand, the tolerance that is promised, and a transformer against many points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import ARCHITECTURES, fast_readout, tiny_batch, tiny_config, tiny_params

from jaxinterp.attribution.adaptive import MOST, adaptive_integrated_gradients
from jaxinterp.attribution.integrated_gradients import integrated_gradients
from jaxinterp.attribution.quadrature import quadrature
from jaxinterp.attribution.readout import FunctionReadout
from jaxinterp.base.errors import UserError

# Layer 0 is a cubic in each gate; layer 1 a narrow peak in the mean of its gates. P(1) = 2 + peak(1).
CENTRE, WIDTH = 0.3, 0.02
PEAK = FunctionReadout(
    lambda g: g[0, :, 0] ** 3 + g[0, :, 1] + jnp.exp(-(((g[1].mean(-1) - CENTRE) / WIDTH) ** 2)), (2, 3, 2)
)


def test_by_hand_and_only_where_points_are_missing(float64):
    found = adaptive_integrated_gradients(PEAK, 1e-4)
    scores, residual = found.attribution
    # Simpson's rule is exact for the cubic's derivative: its first points are all that it takes.
    np.testing.assert_allclose(scores[0], [[1, 1]] * 3, atol=1e-14)
    np.testing.assert_array_equal(found.evaluations_LR[0], [2, 2, 2])
    # The peak rises and falls between 0 and 1: its integral is P(1) − P(0), nearly nothing, half for each gate.
    change = np.exp(-(((1 - CENTRE) / WIDTH) ** 2)) - np.exp(-((CENTRE / WIDTH) ** 2))
    assert residual.shape == (2, 3)
    np.testing.assert_allclose(scores[1].sum(-1), [change] * 3, atol=2e-4)
    np.testing.assert_allclose(scores[1, :, 0], scores[1, :, 1], atol=1e-14)
    np.testing.assert_allclose(residual[1], scores[1].sum(-1) - change, atol=1e-14)


def test_a_narrow_step_is_found_and_takes_points_near_it(float64):
    step = FunctionReadout(lambda g: jax.nn.sigmoid((g[0].mean(-1) - 0.7) / 0.01), (1, 1, 2))
    change = float(step(jnp.ones((1, 1, 2)))[0] - step(jnp.zeros((1, 1, 2)))[0])
    for tolerance in (1e-2, 1e-4):
        found = adaptive_integrated_gradients(step, tolerance)
        assert abs(float(found.attribution.residual_PR[0, 0])) <= tolerance
        np.testing.assert_allclose(found.attribution.scores_LRF.sum(), change, atol=tolerance)
        assert 8 < found.evaluations_LR[0, 0] < 129
    # As many equally spaced points as are needed there would be far more.
    assert found.evaluations_LR[0, 0] < 80


def largest_on_path(readout):
    """P of each layer and row, the largest of 65 points: [L, R]."""
    n_layers, n_rows, _ = readout.shape

    def at(alpha):
        layer = jnp.broadcast_to(jnp.arange(n_layers)[:, None], (n_layers, n_rows))
        return readout.branches()(layer, jnp.full(layer.shape, alpha), readout.branches().zeros(n_layers))

    return np.asarray(jax.jit(lambda alphas: jax.lax.map(at, alphas))(jnp.linspace(0, 1, 65))).max(0)


def test_what_an_improbable_answers_neurons_hold_down_is_integrated_to_its_own_scale(float64):
    """P goes from near 1 to 1e-9: the residual is small against what the neurons take away, not what is left."""
    held = FunctionReadout(lambda g: jax.nn.sigmoid(20 * (0.5 - g[0].mean(-1)) - 10 * g[0].mean(-1)), (1, 1, 2))
    assert float(held.untouched()[0]) < 1e-8
    found = adaptive_integrated_gradients(held, 1e-2)
    assert abs(float(found.attribution.residual_PR[0, 0])) <= 1e-2
    assert found.evaluations_LR[0, 0] < 40


def test_a_path_that_jumps_does_not_take_points_for_ever(float64):
    jump = FunctionReadout(lambda g: jnp.where(g[0].mean(-1) > 0.337, 0.9, 0.1) + 0 * g[0].sum(-1), (1, 1, 2))
    found = adaptive_integrated_gradients(jump, 1e-6)
    assert found.evaluations_LR[0, 0] < MOST
    np.testing.assert_allclose(abs(float(found.attribution.residual_PR[0, 0])), 0.8, atol=1e-6)


@pytest.mark.parametrize("name", ["gemma", "bert"])
def test_a_transformer_within_the_tolerance(name, float64):
    config = tiny_config(dtype="float64", **ARCHITECTURES[name])
    readout = fast_readout(config, tiny_params(config), tiny_batch())
    exact = jax.jit(lambda r: integrated_gradients(r, quadrature("gauss_legendre", 40), path="per_layer"))(readout)
    evaluations, errors = [], []
    for tolerance in (1e-2, 1e-5):
        found = adaptive_integrated_gradients(readout, tolerance)
        assert (np.abs(found.attribution.residual_PR) <= tolerance * 1.001 * largest_on_path(readout)).all()
        error = jnp.abs(found.attribution.scores_LRF - exact.scores_LRF).max((0, 2))
        errors.append(float((error / readout.untouched()).max()))
        evaluations.append(found.evaluations_LR.sum())
    assert evaluations[0] < evaluations[1]
    # Neurons' errors may cancel in the residual; they become small with it all the same.
    assert errors[0] < 0.3
    assert errors[1] < 1e-3
    assert np.unique(found.evaluations_LR).size > 1


def test_tolerance_must_be_positive():
    with pytest.raises(UserError, match="must be above 0, got 0"):
        adaptive_integrated_gradients(PEAK, 0.0)
