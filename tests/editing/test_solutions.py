"""Closed forms against solvers that know nothing of them: KKT systems, stacked least squares, a general minimiser."""

import numpy as np
import pytest
import scipy.optimize

from jaxinterp.base.errors import UserError
from jaxinterp.editing.solutions import (
    cheapest,
    factor,
    kept_spread,
    null_space,
    null_space_spread,
    second_moment,
    solved,
)

F, D, N = 12, 5, 3
EXACT = 1e-9


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def problem(rng, n=N):
    """A covariance, keys and residuals."""
    covariance = second_moment(rng.standard_normal((40, F)) * np.linspace(0.3, 2, F)[None])
    return covariance, rng.standard_normal((n, F)), rng.standard_normal((n, D))


def change(factors):
    return factors.left_FN @ factors.right_ND


def kkt(cost_FF, keys_NF, residual_ND):
    """min tr(XᵀAX) subject to K X = R, by its Lagrange conditions: 2 A X + Kᵀμ = 0, K X = R."""
    f, n = cost_FF.shape[0], len(keys_NF)
    system = np.block([[2 * cost_FF, keys_NF.T], [keys_NF, np.zeros((n, n))]])
    return np.linalg.solve(system, np.concatenate([np.zeros((f, residual_ND.shape[1])), residual_ND]))[:f]


def stacked(*blocks):
    """min Σ ‖M X − Y‖², by QR of all rows together."""
    left, right = (np.concatenate(part) for part in zip(*blocks, strict=True))
    q, r = np.linalg.qr(left)
    return np.linalg.solve(r, q.T @ right)


def constrained(covariance, keys, residual):
    return change(cheapest(np.linalg.solve(covariance, keys.T), keys, residual))


@pytest.mark.parametrize("n", [1, N])
def test_equality_constraints_against_the_lagrange_conditions(rng, n):
    covariance, keys, residual = problem(rng, n)
    own = constrained(covariance, keys, residual)
    assert np.abs(own - kkt(covariance, keys, residual)).max() < EXACT
    assert np.abs(keys @ own - residual).max() < EXACT


def test_one_request_is_the_formula_of_rome(rng):
    covariance, keys, residual = problem(rng, 1)
    direction = np.linalg.inv(covariance) @ keys[0]
    by_paper = np.outer(direction, residual[0] / (direction @ keys[0]))
    assert np.abs(constrained(covariance, keys, residual) - by_paper).max() < EXACT


@pytest.mark.parametrize("weight", [0.1, 1.0, 30.0])
def test_weighted_requests_against_least_squares_and_the_formula_of_memit(rng, weight):
    covariance, keys, residual = problem(rng)
    own = change(cheapest(np.linalg.solve(covariance, keys.T), keys, residual, weight))
    root = np.linalg.cholesky(covariance).T
    least = stacked((np.sqrt(weight) * root, np.zeros((F, D))), (keys, residual))
    assert np.abs(own - least).max() < EXACT
    by_paper = np.linalg.inv(weight * covariance + keys.T @ keys) @ keys.T @ residual
    assert np.abs(own - by_paper).max() < EXACT


def test_limits_of_the_weight(rng):
    covariance, keys, residual = problem(rng)
    spread = np.linalg.solve(covariance, keys.T)
    exact = change(cheapest(spread, keys, residual))
    errors = [np.abs(change(cheapest(spread, keys, residual, weight)) - exact).max() for weight in (1e-4, 1e-8, 1e-13)]
    assert errors[0] > 1e3 * errors[1] > 0 and errors[2] < EXACT
    assert 0 < np.abs(change(cheapest(spread, keys, residual, 1e12))).max() < EXACT


def test_null_space_edit_against_the_formula_and_least_squares(rng):
    _, keys, residual = problem(rng)
    seen = rng.standard_normal((40, 7)) @ rng.standard_normal((7, F))  # keys that have 7 of 12 directions
    earlier = rng.standard_normal((2, F))
    covariance = second_moment(seen)
    basis = null_space(*np.linalg.eigh(covariance), 1e-6)
    assert basis.shape == (F, F - 7)
    own = change(cheapest(null_space_spread(basis, keys, earlier, 1.0), keys, residual, 1.0))
    project = basis @ basis.T
    by_paper = (
        residual.T @ keys @ project @ np.linalg.inv((earlier.T @ earlier + keys.T @ keys) @ project + np.eye(F))
    ).T
    assert np.abs(own - by_paper).max() < EXACT
    free = stacked((keys @ basis, residual), (earlier @ basis, np.zeros((2, D))), (np.eye(F - 7), np.zeros((F - 7, D))))
    assert np.abs(own - basis @ free).max() < EXACT
    # What the seen keys give stays; what others give does not.
    assert np.abs(seen @ own).max() < EXACT < np.abs(keys @ own).max()
    assert (
        np.abs(earlier @ own).max()
        < np.abs(
            earlier @ change(cheapest(null_space_spread(basis, keys, earlier[:0], 1.0), keys, residual, 1.0))
        ).max()
    )


@pytest.mark.parametrize("n", [1, 2])
def test_kept_prompts_against_the_lagrange_conditions_and_a_general_minimiser(rng, n):
    kept, keys, residual = rng.standard_normal((30, 6)), rng.standard_normal((n, 6)), rng.standard_normal((n, 3))
    own = change(cheapest(kept_spread(keys, kept, 50.0), keys, residual))
    assert np.abs(own - kkt(np.eye(6) + 50 * second_moment(kept), keys, residual)).max() < EXACT

    def cost(flat):
        x = flat.reshape(6, 3)
        slope = 2 * x + 2 * 50 / len(kept) * kept.T @ (kept @ x)
        return (x**2).sum() + 50 * ((kept @ x) ** 2).sum(1).mean(), slope.ravel()

    meets = {
        "type": "eq",
        "fun": lambda flat: (keys @ flat.reshape(6, 3) - residual).ravel(),
        "jac": lambda flat: np.kron(keys, np.eye(3)),
    }
    found = scipy.optimize.minimize(
        cost, np.zeros(18), jac=True, constraints=meets, method="SLSQP", options={"ftol": 1e-15, "maxiter": 500}
    )
    np.testing.assert_allclose(own.ravel(), found.x, atol=1e-5)


def test_hard_constraints_are_equations(rng):
    kept, keys, residual = rng.standard_normal((3, 8)), rng.standard_normal((2, 8)), rng.standard_normal((2, D))
    own = change(cheapest(kept_spread(keys, kept, np.inf), keys, residual))
    both = kkt(np.eye(8), np.concatenate([keys, kept]), np.concatenate([residual, np.zeros((3, D))]))
    assert np.abs(own - both).max() < EXACT
    assert np.abs(kept @ own).max() < EXACT and np.abs(keys @ own - residual).max() < EXACT
    soft = change(cheapest(kept_spread(keys, kept, 1e9), keys, residual))
    assert np.abs(own - soft).max() < 1e-6
    none = change(cheapest(kept_spread(keys, kept[:0], np.inf), keys, residual))
    assert np.abs(none - np.linalg.pinv(keys) @ residual).max() < EXACT


def test_nothing_is_solved_that_has_no_solution(rng):
    covariance, keys, residual = problem(rng)
    twice = np.concatenate([keys, keys[:1]])
    with pytest.raises(UserError, match=r"keys depend on each other.*leave out requests"):
        constrained(covariance, twice, np.concatenate([residual, residual[:1]]))
    kept = np.concatenate([rng.standard_normal((3, F)), keys])
    with pytest.raises(UserError, match="nothing that may be changed"):
        cheapest(kept_spread(keys, kept, np.inf), keys, residual)
    with pytest.raises(UserError, match=r"no eigenvalue.*take a higher threshold"):
        null_space(*np.linalg.eigh(covariance), 1e-9)
    dead = covariance.copy()
    dead[3] = dead[:, 3] = 0
    nearly = np.diag([1.0] * (F - 1) + [1e-18])  # Cholesky's factors exist
    for singular in (dead, nearly, second_moment(keys), covariance * np.nan):
        with pytest.raises(UserError, match="read more text"):
            solved(singular, keys.T, "read more text")
    assert factor(covariance, "")[0].shape == (F, F)


def test_numbers_stay_in_the_precision_they_come_in(rng):
    covariance, keys, residual = (part.astype(np.float32) for part in problem(rng))
    assert {part.dtype for part in cheapest(solved(covariance, keys.T, ""), keys, residual, 0.5)} == {keys.dtype}
    for part in (
        kept_spread(keys, keys, 1.0),
        null_space_spread(null_space(*np.linalg.eigh(covariance), 1.0), keys, keys, 1.0),
    ):
        assert part.dtype == np.float32
