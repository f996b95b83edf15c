"""Rank correlations and reliability, by hand, against slow versions, and how often they are wrong."""

import numpy as np
import pytest
import scipy.stats

from jaxinterp.studies.correlations import Correlation, association, partial_spearman, retest, smallest_step, spearman


def test_spearman_by_hand_with_ties_and_along_axes():
    assert spearman(np.array([1.0, 2, 3, 4]), np.array([10.0, 30, 20, 40])) == pytest.approx(0.8)  # 1 − 6 · 2 / 60
    assert smallest_step(4) == pytest.approx(0.2)  # which is what one exchange of neighbours costs
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (3, 9)).astype(float), rng.standard_normal((3, 9))
    expected = [scipy.stats.spearmanr(*of).statistic for of in zip(x, y, strict=True)]
    np.testing.assert_allclose(spearman(x, y), expected)
    assert np.isnan(spearman(np.ones(4), np.arange(4.0)))


def test_a_partial_correlation_is_that_of_residuals_of_ranks():
    x, y, given = np.random.default_rng(1).standard_normal((3, 12))
    x, y = x + given, y + given
    ranks = [scipy.stats.rankdata(of) for of in (x, y, given)]
    line = np.stack([np.ones(12), ranks[2]], axis=1)
    left = [of - line @ np.linalg.lstsq(line, of, rcond=None)[0] for of in ranks[:2]]
    np.testing.assert_allclose(partial_spearman(x, y, given), np.corrcoef(*left)[0, 1])
    assert np.isnan(partial_spearman(x, y, x))


def test_what_two_metrics_share_with_the_loss_is_taken_out():
    rng = np.random.default_rng(2)
    loss = np.linspace(0, 1, 16) + 0.01 * rng.standard_normal((4, 16))
    x, y = loss + 0.1 * rng.standard_normal((2, 1, 16))
    plain, partial = association(x, y), association(x, y, loss)
    assert plain.low > 0.5 and partial.low < 0 < partial.high
    assert (plain.n, plain.freedom, partial.freedom) == (16, 14, 13)


def test_associations_leave_out_points_without_values():
    x = np.arange(12.0).reshape(2, 6)
    y = x.copy()
    y[:, 2] = np.nan
    assert association(x, y).n == 5
    y[:, 3] = np.nan
    assert association(x, y) is None
    assert association(x, np.ones((2, 6))) is None


def test_detectable_and_power_are_each_other_s_inverse():
    for found in (
        Correlation(0.4, 0.3, 12),
        retest([[1.0, 2.0, 1.5], [3.0, 3.5, 2.5], [5.0, 6.0, 5.5], [0.0, 1.0, 0.5]]),
    ):
        assert found.power(found.detectable(0.7)) == pytest.approx(0.7)
        assert found.low < found.value < found.high
        assert found.above(found.low) == pytest.approx(0.025) == found.below(found.high)


def test_reliability_is_the_anova_formula():
    # Shrout and Fleiss 1979, table 2: six targets, four judges; ICC(1, 1) is printed as .17.
    ratings = [[9.0, 2, 5, 8], [6.0, 1, 3, 2], [8.0, 4, 6, 8], [7.0, 1, 2, 6], [10.0, 5, 6, 9], [6.0, 2, 4, 7]]
    ratings = np.array(ratings).tolist()
    found = retest(ratings)
    between = 4 * np.var(np.mean(ratings, axis=1), ddof=1)
    within = np.mean(np.var(ratings, axis=1, ddof=1))
    assert found.value == pytest.approx((between - within) / (between + 3 * within))
    assert round(found.value, 2) == 0.17
    assert scipy.stats.f_oneway(*ratings).pvalue == pytest.approx(found.above(0.0))
    assert retest([*ratings, [4.0]]) == found  # one value says nothing of others like it
    assert retest([[1.0, 1.0], [2.0, 2.0]]).value == 1.0
    assert retest([[1.0, 2.0], [3.0]]) is None


def test_unequal_classes_have_the_size_of_searle():
    assert retest([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0, 7.0, 9.0]]).size == pytest.approx((8 - 24 / 8) / 2)


@pytest.mark.parametrize("n_points", [6, 15])
def test_unrelated_metrics_are_seldom_called_related(n_points):
    rng, wrong, n = np.random.default_rng(3), 0, 100
    for _ in range(n):
        x, y = rng.standard_normal((2, 1, n_points)) + 0.3 * rng.standard_normal((2, 3, n_points))
        found = association(x, y)
        wrong += found.low > 0 or found.high < 0
    assert wrong <= 11  # of a binomial with 0.05, 99 %


def test_reliability_has_its_rate_of_errors():
    rng, n = np.random.default_rng(4), 1000
    for icc in (0.0, 0.5):
        p = [
            retest((icc**0.5 * rng.standard_normal((8, 1)) + (1 - icc) ** 0.5 * of).tolist()).above(icc)
            for of in rng.standard_normal((n, 8, 4))
        ]
        assert 0.02 < np.mean(np.array(p) < 0.05) < 0.08
