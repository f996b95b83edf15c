"""Attributions of readouts whose integrals can be done by hand, and of a tiny transformer."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import fast_readout, tiny_batch, tiny_config, tiny_params

from jaxinterp.attribution.integrated_gradients import (
    activation,
    gradient_x_activation,
    integrated_gradients,
    neuron_ablation,
    random_scores,
)
from jaxinterp.attribution.quadrature import Quadrature, quadrature
from jaxinterp.attribution.readout import FunctionReadout
from jaxinterp.base.errors import UserError

# Two layers of two neurons; gates a, b and c, d. P = 1 + a·b + a²·c + b·c·d + d for row 0, and twice that for row 1.
POLYNOMIAL = FunctionReadout(
    lambda g: (
        jnp.array([1.0, 2.0])
        * (1 + g[0, :, 0] * g[0, :, 1] + g[0, :, 0] ** 2 * g[1, :, 0] + g[0, :, 1] * g[1, :, 0] * g[1, :, 1])
        + jnp.array([1.0, 2.0]) * g[1, :, 1]
    ),
    (2, 2, 2),
)
EXACT = quadrature("gauss_legendre", 2)  # exact for the derivatives along either path, of degree ≤ 2


def both_rows(scores):
    """The scores of row 0 as [L, R, F], with row 1 twice as large."""
    return np.stack([np.array(scores), 2 * np.array(scores)], axis=1)


def test_joint_path_by_hand(float64):
    # All gates α: ∂a = α + 2α², ∂b = α + α², ∂c = 2α², ∂d = α² + 1, integrated over [0, 1].
    found = integrated_gradients(POLYNOMIAL, EXACT, path="joint")
    np.testing.assert_allclose(found.scores_LRF, both_rows([[7 / 6, 5 / 6], [2 / 3, 4 / 3]]), atol=1e-14)
    assert found.residual_PR.shape == (1, 2)
    np.testing.assert_allclose(found.residual_PR, 0, atol=1e-14)
    np.testing.assert_allclose(found.scores_LRF.sum((0, 2)), [4, 8], atol=1e-14)  # P(1) − P(0) = 5 − 1


def test_per_layer_path_by_hand(float64):
    # Layer 0 at α, c = d = 1: ∂a = α + 2α, ∂b = α + 1. Layer 1 at α, a = b = 1: ∂c = 1 + α, ∂d = α + 1.
    found = integrated_gradients(POLYNOMIAL, EXACT, path="per_layer")
    np.testing.assert_allclose(found.scores_LRF, both_rows([[1.5, 1.5], [1.5, 1.5]]), atol=1e-14)
    assert found.residual_PR.shape == (2, 2)
    np.testing.assert_allclose(found.residual_PR, 0, atol=1e-14)
    # P(1) = 5; with layer 0 off P = 2, with layer 1 off P = 2.
    np.testing.assert_allclose(found.scores_LRF.sum(2), [[3, 6], [3, 6]], atol=1e-14)


def test_left_sum_of_20_points_is_the_explicit_sum(float64):
    alpha = np.arange(20) / 20
    joint = integrated_gradients(POLYNOMIAL, quadrature("left", 20), path="joint")
    expected = [
        [np.mean(alpha + 2 * alpha**2), np.mean(alpha + alpha**2)],
        [np.mean(2 * alpha**2), np.mean(alpha**2 + 1)],
    ]
    np.testing.assert_allclose(joint.scores_LRF, both_rows(expected), atol=1e-14)
    # The residual is what the rule misses of P(1) − P(0), with its sign: a left sum of rising derivatives is too low.
    missed = np.sum(expected) - 4
    assert missed < -0.1
    np.testing.assert_allclose(joint.residual_PR, [[missed, 2 * missed]], atol=1e-14)
    per_layer = integrated_gradients(POLYNOMIAL, quadrature("left", 20), path="per_layer")
    mean = np.mean(alpha)
    np.testing.assert_allclose(
        per_layer.scores_LRF, both_rows([[3 * mean, mean + 1], [1 + mean, mean + 1]]), atol=1e-14
    )
    missed = np.array([4 * mean + 1 - 3, 2 * mean + 2 - 3])
    np.testing.assert_allclose(per_layer.residual_PR, np.stack([missed, 2 * missed], 1), atol=1e-14)


@pytest.mark.parametrize("path", ["joint", "per_layer"])
@pytest.mark.parametrize("at_once", [None, 2, 4])
def test_each_row_has_its_own_points(float64, path, at_once):
    # Three points for each of two rows, in one, three or two goes; the last of two is filled up.
    points_MR = np.array([[0.1, 0.3], [0.5, 0.4], [0.6, 0.95]])
    weights_M = np.array([0.2, 0.5, 0.3])
    found = integrated_gradients(
        POLYNOMIAL, Quadrature(jnp.asarray(points_MR), jnp.asarray(weights_M)), path=path, at_once=at_once
    )
    scores = np.zeros((2, 2, 2))
    for row, factor in ((0, 1), (1, 2)):
        for alpha, weight in zip(points_MR[:, row], weights_M, strict=True):
            a = b = c = d = alpha
            for layer in (0, 1):
                if path == "per_layer":
                    a, b, c, d = (alpha, alpha, 1, 1) if layer == 0 else (1, 1, alpha, alpha)
                slopes = [[b + 2 * a * c, a + c * d], [a**2 + b * d, b * c + 1]]
                scores[layer, row] += weight * factor * np.array(slopes[layer])
    np.testing.assert_allclose(found.scores_LRF, scores, atol=1e-14)
    # P(1) − P(0) of the path: 4 and 3 for each layer, twice that in row 1.
    change = np.array([[4, 8]]) if path == "joint" else np.array([[3, 6], [3, 6]])
    total = scores.sum((0, 2))[None] if path == "joint" else scores.sum(2)
    np.testing.assert_allclose(found.residual_PR, total - change, atol=1e-14)
    assert np.abs(total - change).min() > 0.01


def test_equal_points_for_all_rows_are_one_rule(float64):
    rule = quadrature("left", 3)
    for path in ("joint", "per_layer"):
        for_each = Quadrature(jnp.tile(jnp.asarray(rule.points_M)[:, None], (1, 2)), rule.weights_M)
        one, own = (integrated_gradients(POLYNOMIAL, chosen, path=path) for chosen in (rule, for_each))
        np.testing.assert_allclose(one.scores_LRF, own.scores_LRF, atol=1e-15)


def test_gradient_x_activation_by_hand():
    # At gates 1: ∂a = 1 + 2, ∂b = 1 + 1, ∂c = 1 + 1, ∂d = 1 + 1.
    np.testing.assert_allclose(gradient_x_activation(POLYNOMIAL), both_rows([[3, 2], [2, 2]]), rtol=1e-6)


def test_neuron_ablation_by_hand():
    # P = 5 untouched; without a 3, without b 3, without c 3, without d 3.
    np.testing.assert_allclose(neuron_ablation(POLYNOMIAL), both_rows([[2, 2], [2, 2]]), rtol=1e-6)


def test_activation_is_the_activation():
    neurons = jnp.arange(8.0).reshape(2, 2, 2)
    readout = FunctionReadout(POLYNOMIAL.function, POLYNOMIAL.shape, neurons)
    np.testing.assert_array_equal(activation(readout), neurons)
    with pytest.raises(UserError, match="this one does not"):
        activation(POLYNOMIAL)


def test_unknown_path():
    with pytest.raises(UserError, match="unknown path 'layerwise'; known: joint, per_layer"):
        inspect.unwrap(integrated_gradients)(POLYNOMIAL, EXACT, path="layerwise")  # past the type check


def test_random_scores_are_uniform():
    scores = np.asarray(random_scores(jax.random.key(0), (10, 10, 50)))
    assert scores.shape == (10, 10, 50)
    assert scores.min() >= 0
    assert scores.max() < 1
    assert abs(scores.mean() - 0.5) < 0.02
    assert abs(scores.var() - 1 / 12) < 0.01


POINTS = np.array([[0.2, 0.9, 0.4], [0.7, 0.1, 0.6]])  # of three rows


def gates_of(points_MR):
    """The gates [3 · M, 2, R, 6] at which P is differentiated: all at α, and those of layer 0 or of layer 1."""
    gates = []
    for layers in ((0, 1), (0,), (1,)):
        for points_R in points_MR:
            gates.append(np.ones((2, 3, 6)))
            for layer in layers:
                gates[-1][layer] = points_R[:, None]
    return jnp.asarray(np.stack(gates))


@pytest.fixture(scope="module")
def transformer():
    """What is said of a tiny transformer, of the same one with its neurons in another order, and that order."""
    with jax.enable_x64(True):
        config, batch, order = tiny_config(n_layers=2, dtype="float64"), tiny_batch(2, 3), np.array([3, 1, 5, 0, 2, 4])
        params = jax.tree.map(lambda leaf: 1.5 * leaf, tiny_params(config))
        inner = {"w_in": -1, "b_in": -1, "w_out": 1}
        layers = {
            name: jnp.take(leaf, order, inner[name]) if name in inner else leaf
            for name, leaf in params["layers"].items()
        }

        def described(params):
            readout = fast_readout(config, params, batch)
            one_off = 1 - jnp.eye(12).reshape(12, 2, 1, 6) * jnp.ones((1, 1, 3, 1))
            layer_off = 1 - jnp.repeat(jnp.eye(2)[:, :, None, None], 3, 2) * jnp.ones((1, 1, 1, 6))
            values = jax.vmap(readout)(jnp.concatenate([one_off, layer_off, jnp.zeros((1, 2, 3, 6))]))
            return {
                "joint": integrated_gradients(readout, quadrature("gauss_legendre", 20), path="joint"),
                "per_layer": integrated_gradients(readout, quadrature("gauss_legendre", 20), path="per_layer"),
                "own_points": {
                    path: integrated_gradients(readout, Quadrature(POINTS, jnp.array([0.4, 0.6])), path=path).scores_LRF
                    for path in ("joint", "per_layer")
                },
                "slopes": jax.lax.map(jax.grad(lambda gates: readout(gates).sum()), gates_of(POINTS)),
                "gradient_x_activation": gradient_x_activation(readout),
                "ablation": {chunk: neuron_ablation(readout, chunk=chunk) for chunk in (4, 64)},
                "untouched": readout.untouched(),
                "one_off": values[:12].reshape(2, 6, 3).transpose(0, 2, 1),
                "layer_off": values[12:14],
                "all_off": values[14],
            }

        described = jax.jit(described)
        return jax.device_get((described(params), described({**params, "layers": layers}))), order


def test_attributions_of_a_transformer_are_complete(transformer):
    (found, _), _ = transformer
    change = found["untouched"] - found["all_off"]
    changes = found["untouched"][None] - found["layer_off"]
    assert np.abs(change).max() > 1e-2
    np.testing.assert_allclose(found["joint"].scores_LRF.sum((0, 2)), change, atol=1e-6)
    np.testing.assert_allclose(found["per_layer"].scores_LRF.sum(2), changes, atol=1e-6)
    np.testing.assert_allclose(
        found["joint"].residual_PR[0], found["joint"].scores_LRF.sum((0, 2)) - change, atol=1e-14
    )
    np.testing.assert_allclose(
        found["per_layer"].residual_PR, found["per_layer"].scores_LRF.sum(2) - changes, atol=1e-14
    )
    assert np.abs(found["joint"].scores_LRF - found["per_layer"].scores_LRF).max() > 1e-3


def test_rows_of_a_transformer_have_their_own_points(transformer):
    (found, _), _ = transformer
    joint, first, second = found["slopes"].reshape(3, 2, 2, 3, 6)
    weights = np.array([0.4, 0.6])[:, None, None, None]
    np.testing.assert_allclose(found["own_points"]["joint"], (weights * joint).sum(0), atol=1e-14)
    per_layer = np.stack([(weights * first).sum(0)[0], (weights * second).sum(0)[1]])
    np.testing.assert_allclose(found["own_points"]["per_layer"], per_layer, atol=1e-14)
    assert np.abs(per_layer).max() > 1e-2


def test_neuron_ablation_is_the_brute_force_whatever_the_chunk(transformer):
    (found, _), _ = transformer
    brute_force = found["untouched"][None, :, None] - found["one_off"]
    assert np.abs(brute_force).max() > 1e-2
    for scores in found["ablation"].values():
        np.testing.assert_allclose(scores, brute_force, atol=1e-14)


def test_permuting_neurons_permutes_attributions(transformer):
    (found, permuted), order = transformer
    for before, after in [
        *((found[path].scores_LRF, permuted[path].scores_LRF) for path in ("joint", "per_layer")),
        (found["gradient_x_activation"], permuted["gradient_x_activation"]),
        (found["ablation"][4], permuted["ablation"][4]),
    ]:
        np.testing.assert_allclose(before[..., order], after, atol=1e-13)
        assert np.abs(before - after).max() > 1e-3
