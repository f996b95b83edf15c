"""Selections: counts, limits, and derivatives against finite differences."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from tiny import answers_of

from jaxinterp.attribution.selection import (
    SELECTS,
    select,
    soft_top_k,
    stop_gradient,
    straight_through,
    top_k,
)
from jaxinterp.base.errors import UserError

SHAPE = (2, 3, 4)  # two layers, three rows, four neurons
SCORES = np.random.default_rng(0).standard_normal(SHAPE)
WEIGHTS = np.random.default_rng(1).standard_normal(SHAPE)


def naive_soft_top_k(scores_LRF, k, temperature, scale_R=None):
    """Row by row, t by a plain bisection of 200 halvings; the scale is a row's k-th highest score, or what is given."""
    mask = np.zeros_like(scores_LRF)
    for row in range(scores_LRF.shape[1]):
        a = scores_LRF[:, row]
        x = a / (temperature * (kth_scores(scores_LRF, k)[row] if scale_R is None else scale_R[row]))
        low, high = x.min() - 50, x.max() + 50
        for _ in range(200):
            t = (low + high) / 2
            low, high = (t, high) if np.sum(1 / (1 + np.exp(t - x))) > k else (low, t)
        mask[:, row] = 1 / (1 + np.exp(t - x))
    return mask


def kth_scores(scores_LRF, k):
    rows = np.moveaxis(scores_LRF, 1, 0).reshape(scores_LRF.shape[1], -1)
    kth = np.abs(np.sort(rows, axis=1)[:, -k])
    return np.maximum(kth, 1e-3 * np.abs(rows).max(1))


def test_scores_of_an_answer_by_hand():
    # Two layers of two neurons; answer 0 has rows 0 and 1, answer 1 row 2; row 3 is padding.
    rows = np.array([[[1.0, 2.0], [3.0, -4.0]], [[10.0, 0.0], [0.5, 0.5]], [[5.0, 6.0], [7.0, 8.0]], [[99.0] * 2] * 2])
    scores = jnp.asarray(rows.transpose(1, 0, 2))
    found = answers_of([0, 0, 1, 1], [1.0, 1.0, 1.0, 0.0], 4).scores(scores)
    answer, last = [[11.0, 2.0], [3.5, -3.5]], [[5.0, 6.0], [7.0, 8.0]]
    np.testing.assert_allclose(found, np.array([answer, answer, last, last]).transpose(1, 0, 2), rtol=1e-6)
    # So an answer has k neurons in all: rows 0 and 1 alone would choose two each, three in all.
    np.testing.assert_array_equal(top_k(found, 2)[:, 0], [[1, 0], [1, 0]])
    np.testing.assert_array_equal(top_k(found, 2)[:, 1], [[1, 0], [1, 0]])
    np.testing.assert_array_equal(top_k(scores, 2)[:, 0], [[0, 1], [1, 0]])


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


@pytest.mark.parametrize(
    ("scores", "unit", "threshold"),
    [
        # Each is symmetric about the threshold, so that two of the four are above it.
        ([5.0, 3.0, 1.0, -1.0], 1.5, 2.0),  # half of the second score, 3
        ([6.0, -2.0, -4.0, -12.0], 1.0, -3.0),  # half of |−2|
        ([4e3, 1.0, -1.0, -4e3], 2.0, 0.0),  # the second says nothing of the scale: half of 4,000 / 1,000
    ],
)
def test_soft_top_k_by_hand(float64, scores, unit, threshold):
    mask = soft_top_k(jnp.array(scores).reshape(2, 1, 2), 2, 0.5)
    expected = np.exp(-np.logaddexp(0, (threshold - np.array(scores)) / unit))
    np.testing.assert_allclose(mask.reshape(4), expected, rtol=1e-9, atol=1e-15)


def test_the_temperature_does_not_depend_on_how_many_neurons_are_inactive(float64):
    active = jnp.array([1.0, 0.9, 0.8])
    few, many = (soft_top_k(jnp.zeros((2, 1, n)).at[0, 0, :3].set(active), 2, 0.1)[0, 0, :3] for n in (10, 100))
    # All inactive ones together have less than 0.02 of the mask.
    np.testing.assert_allclose(many, few, atol=0.02)
    assert 0.1 < float(few[2]) < 0.5


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


def test_derivatives_of_the_soft_mask(float64):
    # Derivatives hold the scale constant; differences do not see it either, as the second highest score is held fixed.
    weights = jnp.asarray(WEIGHTS[:, :1, :2])

    def objective(scores):
        whole = jnp.concatenate([scores, jnp.array([[[0.9]], [[-3.0]]])], axis=2)
        return (weights * jnp.sin(soft_top_k(whole, 2, 0.7)[..., :2])).sum()

    scores = jnp.array([[[1.5, -0.4]], [[0.3, -1.0]]])
    check_grads(jax.jit(objective), (scores,), order=2, modes=("rev",), atol=1e-5, rtol=1e-5, eps=1e-4)
    assert float(jnp.abs(jax.grad(objective)(scores)).max()) > 1e-2


def test_implicit_derivative_is_the_difference_of_the_naive_mask(float64):
    k, temperature, step = 3, 0.5, 1e-5
    gradient = jax.jit(jax.grad(lambda a: (WEIGHTS * soft_top_k(a, k, temperature)).sum()))(jnp.asarray(SCORES))
    for seed in (10, 11, 12):
        direction = np.random.default_rng(seed).standard_normal(SHAPE)
        plus, minus = (
            naive_soft_top_k(SCORES + sign * step * direction, k, temperature, kth_scores(SCORES, k))
            for sign in (1, -1)
        )
        difference = (WEIGHTS * (plus - minus)).sum() / (2 * step)
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
