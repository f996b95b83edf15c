"""Selections: counts, limits, and derivatives against finite differences."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxinterp.errors import UserError
from jaxinterp.selection import SELECTS, select, soft_top_k, stop_gradient, straight_through, top_k

SHAPE = (2, 3, 4)  # two layers, three rows, four neurons
SCORES = np.random.default_rng(0).standard_normal(SHAPE)
WEIGHTS = np.random.default_rng(1).standard_normal(SHAPE)


def naive_soft_top_k(scores_LRF, k, temperature):
    """Row by row, t by a plain bisection of 200 halvings."""
    mask = np.zeros_like(scores_LRF)
    for row in range(scores_LRF.shape[1]):
        a = scores_LRF[:, row]
        x = a / (temperature * np.sqrt(np.mean(a**2)))
        low, high = x.min() - 50, x.max() + 50
        for _ in range(200):
            t = (low + high) / 2
            low, high = (t, high) if np.sum(1 / (1 + np.exp(t - x))) > k else (low, t)
        mask[:, row] = 1 / (1 + np.exp(t - x))
    return mask


@pytest.mark.parametrize("k", [1, 3, 7])
def test_top_k_is_numpys(k):
    mask = np.asarray(top_k(jnp.asarray(SCORES), k))
    for row in range(3):
        best = np.argsort(-SCORES[:, row].ravel())[:k]
        np.testing.assert_array_equal(mask[:, row].ravel(), np.isin(np.arange(8), best))


def test_top_k_counts_exactly_k_and_takes_the_first_of_equal_scores():
    scores = jnp.array([[[1.0, 2.0, 2.0]], [[2.0, 2.0, 0.0]]])
    np.testing.assert_array_equal(top_k(scores, 2), [[[0, 1, 1]], [[0, 0, 0]]])
    np.testing.assert_array_equal(top_k(scores, 3), [[[0, 1, 1]], [[1, 0, 0]]])
    np.testing.assert_array_equal(top_k(jnp.zeros((2, 1, 3)), 4), [[[1, 1, 1]], [[1, 0, 0]]])


def test_soft_top_k_is_the_naive_one_and_sums_to_k(float64):
    settings = ((1, 0.05), (3, 0.5), (7, 5.0))
    masks = jax.jit(lambda scores: [soft_top_k(scores, *setting) for setting in settings])(jnp.asarray(SCORES))
    for (k, temperature), mask in zip(settings, jax.device_get(masks), strict=True):
        np.testing.assert_allclose(mask.sum((0, 2)), k, atol=1e-12)
        np.testing.assert_allclose(mask, naive_soft_top_k(SCORES, k, temperature), atol=1e-12)
        assert mask.min() >= 0
        assert mask.max() <= 1
        for row in range(3):
            assert (np.diff(mask[:, row].ravel()[np.argsort(SCORES[:, row].ravel())]) >= 0).all()


def test_soft_top_k_by_hand(float64):
    # Scores ±1 have root mean square 1; with k = 1 of 2 the threshold is 0: sigmoid(±1/τ).
    mask = soft_top_k(jnp.array([[[1.0, -1.0]]]), 1, 0.5)
    np.testing.assert_allclose(mask, [[[1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))]]], rtol=1e-12)


def test_temperature_to_zero_is_top_k_and_to_infinity_is_even(float64):
    scores = jnp.asarray(SCORES)
    cold, hot = jax.jit(lambda scores: (soft_top_k(scores, 3, 1e-3), soft_top_k(scores, 3, 1e6)))(scores)
    np.testing.assert_allclose(cold, top_k(scores, 3), atol=1e-6)
    np.testing.assert_allclose(hot, 3 / 8, atol=1e-5)


def test_the_scale_of_the_scores_does_not_matter(float64):
    soft = jax.jit(soft_top_k, static_argnums=(1, 2))
    expected = soft(jnp.asarray(SCORES), 3, 0.5)
    for scale in (1e-12, 1e6):
        np.testing.assert_allclose(soft(jnp.asarray(SCORES * scale), 3, 0.5), expected, atol=1e-12)


def fixed_scale(scores_LRF):
    """Rows of root mean square 1, so that the scale, held constant in derivatives, is constant in differences too."""
    return scores_LRF / np.sqrt(np.mean(scores_LRF**2, axis=(0, 2), keepdims=True))


def test_derivatives_of_the_soft_mask(float64):
    # Derivatives hold the scale constant; differences do not see it either when two neurons far below, whose masks are
    # 0, pin the root mean square.
    huge = np.concatenate([SCORES[:, :1, :2], np.full((2, 1, 1), -1e6)], axis=2)
    temperature = 0.7 / np.sqrt(np.mean(huge**2))
    weights = jnp.asarray(WEIGHTS[:, :1, :2])

    def objective(scores):
        whole = jnp.concatenate([scores, jnp.full((2, 1, 1), -1e6)], axis=2)
        return (weights * jnp.sin(soft_top_k(whole, 2, temperature)[..., :2])).sum()

    scores = jnp.asarray(huge[..., :2])
    check_grads(jax.jit(objective), (scores,), order=2, modes=("rev",), atol=1e-5, rtol=1e-5, eps=1e-4)
    assert float(jnp.abs(jax.grad(objective)(scores)).max()) > 1e-2


def test_implicit_derivative_is_the_difference_of_the_naive_mask(float64):
    scores, k, temperature = fixed_scale(SCORES), 3, 0.5
    gradient = jax.jit(jax.grad(lambda a: (WEIGHTS * soft_top_k(a, k, temperature)).sum()))(jnp.asarray(scores))
    for seed in (10, 11, 12):
        direction = np.random.default_rng(seed).standard_normal(SHAPE)
        # Tangent to the sphere of constant mean square, on which differences do not see the scale.
        direction -= scores * (direction * scores).mean((0, 2), keepdims=True)
        plus, minus = (
            naive_soft_top_k(fixed_scale(scores + sign * 1e-5 * direction), k, temperature) for sign in (1, -1)
        )
        difference = (WEIGHTS * (plus - minus)).sum() / 2e-5
        assert abs(difference) > 1e-2
        np.testing.assert_allclose((np.asarray(gradient) * direction).sum(), difference, rtol=1e-6)


def test_straight_through_is_hard_forward_and_soft_backward(float64):
    scores = jnp.asarray(SCORES)

    @jax.jit
    def values_and_gradients(scores):
        return [
            jax.value_and_grad(lambda a, f=f: (jnp.asarray(WEIGHTS) * f(a, 3, 0.5)).sum())(scores)
            for f in (straight_through, soft_top_k, stop_gradient)
        ]

    (hard, slope), (soft, soft_slope), (detached, zero) = values_and_gradients(scores)
    expected = (WEIGHTS * np.asarray(top_k(scores, 3))).sum()
    np.testing.assert_allclose([hard, detached], expected, rtol=1e-12)
    assert abs(float(hard - soft)) > 1e-2
    np.testing.assert_allclose(slope, soft_slope, atol=1e-15)
    assert float(jnp.abs(slope).max()) > 1e-2
    np.testing.assert_array_equal(zero, np.zeros(SHAPE))


def test_select_finds_the_mode_by_name():
    scores = jnp.asarray(SCORES)
    np.testing.assert_array_equal(select("stop_gradient", scores, 3, 0.5), top_k(scores, 3))
    np.testing.assert_array_equal(select("soft", scores, 3, 0.5), soft_top_k(scores, 3, 0.5))
    np.testing.assert_allclose(select("straight_through", scores, 3, 0.5), top_k(scores, 3), atol=1e-6)
    with pytest.raises(UserError, match="unknown select 'hard'; known: soft, stop_gradient, straight_through"):
        inspect.unwrap(select)("hard", scores, 3, 0.5)  # past the type check


@pytest.mark.parametrize("name", SELECTS)
def test_k_out_of_range(name):
    for k in (0, -1, 8):
        with pytest.raises(UserError, match=rf"below the model's number of neurons \(8\), got {k}"):
            SELECTS[name](jnp.asarray(SCORES), k, 1.0)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_out_of_range(temperature):
    for function in (soft_top_k, straight_through):
        with pytest.raises(UserError, match="temperature must be above 0"):
            function(jnp.asarray(SCORES), 3, temperature)


def test_extreme_scores_give_finite_masks_and_gradients():
    spread = np.array([1, -1, 1, -1, 1, -1, 1, -1.0]) * 10.0 ** np.arange(-30, 34, 8)
    rows = [np.zeros(8), np.full(8, 1e-30), np.full(8, 3e4), np.eye(8)[0], spread, np.linspace(-1e-20, 1e-20, 8)]
    rows.append(np.arange(8) < 3.0)  # any threshold in the gap below the third score will do, where slopes vanish
    scores = jnp.asarray(np.stack(rows).reshape(7, 2, 4).transpose(1, 0, 2), jnp.float32)
    weights = jnp.asarray(np.random.default_rng(0).standard_normal(scores.shape), jnp.float32)

    @functools.partial(jax.jit, static_argnums=1)
    def mask_and_gradients(scores, temperature):
        def objective(scores):
            return (weights * soft_top_k(scores, 3, temperature)).sum()

        gradient = jax.grad(objective)
        return soft_top_k(scores, 3, temperature), gradient(scores), jax.grad(lambda a: gradient(a).sum())(scores)

    for temperature in (1e-3, 0.05, 1.0):
        mask, first, second = mask_and_gradients(scores, temperature)
        np.testing.assert_allclose(mask.sum((0, 2)), 3, rtol=1e-4)
        np.testing.assert_allclose(mask[:, :3], 3 / 8, rtol=1e-4)
        for values in (mask, first, second):
            assert np.isfinite(values).all()
