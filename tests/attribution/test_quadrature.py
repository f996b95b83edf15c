"""Quadrature rules against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.attribution import quadrature as rules
from jaxinterp.attribution.quadrature import RULES, Adaptive, quadrature, random_offset
from jaxinterp.base.errors import UserError


def integral(rule, function):
    return float(np.sum(np.asarray(rule.weights_M) * function(np.asarray(rule.points_M))))


@pytest.mark.parametrize(
    ("name", "points"),
    [("left", [0, 0.25, 0.5, 0.75]), ("right", [0.25, 0.5, 0.75, 1]), ("midpoint", [0.125, 0.375, 0.625, 0.875])],
)
def test_points_by_hand(name, points):
    rule = quadrature(name, 4)
    np.testing.assert_allclose(rule.points_M, points, atol=1e-15)
    np.testing.assert_allclose(rule.weights_M, [0.25] * 4, atol=1e-15)


def test_gauss_legendre_by_hand():
    one, two, three = (quadrature("gauss_legendre", n) for n in (1, 2, 3))
    np.testing.assert_allclose(one.points_M, [0.5])
    np.testing.assert_allclose(two.points_M, [0.5 - 0.5 / 3**0.5, 0.5 + 0.5 / 3**0.5], atol=1e-15)
    np.testing.assert_allclose(two.weights_M, [0.5, 0.5], atol=1e-15)
    np.testing.assert_allclose(three.points_M, [0.5 - 0.5 * 0.6**0.5, 0.5, 0.5 + 0.5 * 0.6**0.5], atol=1e-15)
    np.testing.assert_allclose(three.weights_M, [5 / 18, 8 / 18, 5 / 18], atol=1e-15)


@pytest.mark.parametrize("n_points", [1, 2, 3, 6])
def test_gauss_legendre_is_exact_up_to_degree_2m_minus_1(n_points):
    rule = quadrature("gauss_legendre", n_points)
    for degree in range(2 * n_points):
        assert abs(integral(rule, lambda a, degree=degree: a**degree) - 1 / (degree + 1)) < 1e-14
    too_high = 2 * n_points
    assert abs(integral(rule, lambda a: a**too_high) - 1 / (too_high + 1)) > 1e-9


@pytest.mark.parametrize("name", RULES)
def test_weights_sum_to_one_and_points_lie_in_the_interval(name):
    for n_points in (1, 5, 20):
        rule = quadrature(name, n_points)
        assert rule.points_M.shape == rule.weights_M.shape == (n_points,)
        assert abs(rule.weights_M.sum() - 1) < 1e-14
        assert rule.points_M.min() >= 0
        assert rule.points_M.max() <= 1


def test_left_is_too_low_and_right_too_high_for_a_rising_function():
    # Σ (m/M)²/M = (M−1)(2M−1)/6M² and Σ ((m+1)/M)²/M = (M+1)(2M+1)/6M².
    assert abs(integral(quadrature("left", 20), np.square) - 19 * 39 / 2400) < 1e-15
    assert abs(integral(quadrature("right", 20), np.square) - 21 * 41 / 2400) < 1e-15
    assert abs(integral(quadrature("midpoint", 20), np.square) - (1 / 3 - 1 / 4800)) < 1e-15


def test_random_offset_is_an_unbiased_estimate_for_each_row():
    keys = jax.random.split(jax.random.key(0), 4000)
    rules = jax.jit(jax.vmap(lambda key: random_offset(key, 3, 2)))(keys)
    assert rules.points_M.shape == (4000, 3, 2) and rules.weights_M.shape == (4000, 3)
    np.testing.assert_allclose(jnp.diff(rules.points_M, axis=1), 1 / 3, atol=1e-6)
    np.testing.assert_allclose(rules.weights_M, 1 / 3, atol=1e-7)
    assert float(rules.points_M.min()) >= 0
    assert float(rules.points_M.max()) < 1
    estimates = np.asarray((rules.weights_M[..., None] * jnp.exp(3 * rules.points_M)).sum(1), np.float64)
    error = estimates.std(0) / len(estimates) ** 0.5
    assert (error > 0).all() and (error < 0.1).all()
    assert (np.abs(estimates.mean(0) - (np.exp(3) - 1) / 3) < 4 * error).all()
    # Rows err independently of each other.
    assert abs(np.corrcoef(estimates.T)[0, 1]) < 4 / len(estimates) ** 0.5


def test_random_offset_depends_on_its_key_and_on_the_row():
    first, second = (np.asarray(random_offset(jax.random.key(seed), 2, 5).points_M) for seed in (0, 1))
    assert np.abs(first - second).min() > 1e-4
    assert len(np.unique(first[0])) == 5


def test_errors():
    with pytest.raises(UserError, match="at least 1 point, got 0"):
        quadrature("left", 0)
    with pytest.raises(UserError, match="at least 1 point, got 0"):
        random_offset(jax.random.key(0), 0, 3)
    with pytest.raises(UserError, match="'simpson'; known: adaptive, gauss_legendre, left, midpoint, right"):
        quadrature("simpson", 3)


def test_integral_by_name():
    assert rules.integral("adaptive", 3, 0.05) == Adaptive(0.05)
    np.testing.assert_array_equal(rules.integral("left", 4, 0.05).points_M, quadrature("left", 4).points_M)
    with pytest.raises(UserError, match="must be above 0, got 0"):
        rules.integral("adaptive", 3, 0.0)
