"""Seeds and relations crossed: against restricted maximum likelihood, and how often the interval holds the truth."""

import numpy as np
import pytest
import scipy.optimize

from jaxinterp.base.errors import UserError
from jaxinterp.studies.crossed import crossed_effect


def drawn(rng, n_seeds, n_relations, sds):
    seeds, relations, rest = sds
    return (
        0.3
        + seeds * rng.standard_normal((n_seeds, 1))
        + relations * rng.standard_normal((1, n_relations))
        + rest * rng.standard_normal((n_seeds, n_relations))
    )


def restricted_likelihood(log_variances, change_SR):
    """Of the intercept's residuals, with the covariance written out in full; to be made small."""
    n_seeds, n_relations = change_SR.shape
    seeds, relations, rest = np.exp(log_variances)
    covariance = seeds * np.kron(np.eye(n_seeds), np.ones((n_relations, n_relations)))
    covariance += relations * np.kron(np.ones((n_seeds, n_seeds)), np.eye(n_relations))
    covariance += rest * np.eye(change_SR.size)
    inverse, ones = np.linalg.inv(covariance), np.ones(change_SR.size)
    information = ones @ inverse @ ones
    left = change_SR.ravel() - ones @ inverse @ change_SR.ravel() / information
    return np.linalg.slogdet(covariance)[1] + np.log(information) + left @ inverse @ left, information


def test_it_is_what_restricted_maximum_likelihood_gives():
    change_SR = drawn(np.random.default_rng(0), 5, 7, (0.4, 0.6, 0.3))
    found = crossed_effect(change_SR)
    best = scipy.optimize.minimize(
        lambda x: restricted_likelihood(x, change_SR)[0], np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-7}
    )
    variances = np.square([found.seed_sd, found.relation_sd, found.rest_sd])
    np.testing.assert_allclose(np.exp(best.x), variances, rtol=1e-3)
    assert found.error == pytest.approx(restricted_likelihood(best.x, change_SR)[1] ** -0.5, rel=1e-3)
    assert found.value == pytest.approx(change_SR.mean())


def test_by_hand():
    found = crossed_effect(np.array([[0.0, 2.0], [2.0, 4.0]]))  # seeds and relations add up: nothing is left
    assert (found.value, found.rest_sd) == (2.0, 0.0)
    assert (found.seed_sd**2, found.relation_sd**2) == pytest.approx((2.0, 2.0))
    assert found.error == pytest.approx(2**0.5)
    assert found.freedom == pytest.approx(2.0)  # (4 + 4)² / (4² + 4²)


def test_nothing_that_varies_has_no_error():
    found = crossed_effect(np.full((3, 4), 0.5))
    assert (found.error, found.low, found.p) == (0.0, 0.5, 0.0)


@pytest.mark.parametrize("sds", [(0.0, 0.0, 1.0), (0.5, 0.0, 1.0), (0.0, 1.0, 0.5), (1.0, 1.0, 0.5)])
def test_intervals_hold_the_truth(sds):
    rng, n = np.random.default_rng(1), 600
    found = [crossed_effect(drawn(rng, 5, 6, sds)) for _ in range(n)]
    assert np.mean([of.low < 0.3 < of.high for of in found]) > 0.92


@pytest.mark.parametrize("change_SR", [np.zeros((1, 4)), np.array([[0.0, np.nan], [1.0, 2.0]])])
def test_what_is_not_crossed_is_refused(change_SR):
    with pytest.raises(UserError, match="two or more each"):
        crossed_effect(change_SR)
