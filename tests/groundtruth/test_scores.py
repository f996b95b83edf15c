"""Scores against known neurons: by hand, at their limits, and against the slow definition."""

import itertools

import numpy as np
import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.groundtruth.scores import MEASURES, auroc, judged, mean_over_facts, precision

TRUE = np.array([True, False, True, False, False])


def test_auroc_by_hand():
    # Of 6 pairs: 0.9 beats all three; 0.4 beats 0.1, ties with 0.4, loses to 0.5.
    assert auroc(np.array([0.9, 0.5, 0.4, 0.4, 0.1]), TRUE) == (3 + 1 + 0.5) / 6
    assert auroc(np.array([5.0, 1.0, 4.0, 2.0, 3.0]), TRUE) == 1
    assert auroc(np.array([-5.0, 1.0, -4.0, 2.0, 3.0]), TRUE) == 0
    assert auroc(np.zeros(5), TRUE) == 0.5


def test_precision_by_hand():
    scores = np.array([0.9, 0.5, 0.4, 0.4, 0.1])
    assert [precision(scores, TRUE, k) for k in (1, 2, 5)] == [1, 0.5, 0.4]
    # Third place is 0.4's, which a true neuron and another one share.
    assert precision(scores, TRUE, 3) == pytest.approx((1 + 0.5) / 3)
    assert precision(np.zeros(5), TRUE, 2) == pytest.approx(2 / 5)
    assert precision(-scores, TRUE, 1) == 0


def test_against_the_definitions():
    rng = np.random.default_rng(0)
    for _ in range(30):
        n = int(rng.integers(2, 12))
        true = rng.permutation(np.arange(n) < rng.integers(1, n))
        scores = rng.integers(0, 5, n).astype(float)
        pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(scores[true], scores[~true])]
        # To the last bit, in any precision: the number of pairs, by two divisions.
        expected = np.sum(pairs) / true.sum() / (n - true.sum())
        assert (
            auroc(scores, true) == auroc(scores.astype(np.float32), true) == expected == pytest.approx(np.mean(pairs))
        )
        k = int(rng.integers(1, n + 1))
        # Ties broken at random, on average.
        orders = [np.lexsort((rng.random(n), -scores))[:k] for _ in range(3000)]
        assert precision(scores, true, k) == pytest.approx(np.mean([true[order].mean() for order in orders]), abs=0.05)


def test_rank_alone_counts():
    rng = np.random.default_rng(1)
    scores, mask = rng.standard_normal((3, 4, 5)), np.zeros((3, 4, 5))
    mask[rng.integers(0, 3, 4), np.arange(4), rng.integers(0, 5, 4)] = 1
    columns = judged(scores, mask)
    assert set(columns) == set(MEASURES)
    order = rng.permutation(5)
    for changed in (judged(np.exp(3 * scores), mask), judged(scores[..., order], mask[..., order])):
        for name in MEASURES:
            np.testing.assert_array_equal(changed[name], columns[name])
    for name, value in {"precision": 1, "precision_at_1": 1, "auroc": 1}.items():
        np.testing.assert_array_equal(judged(mask, mask)[name], value)
        np.testing.assert_array_equal(judged(-mask, mask)[name], 0)


def test_rows_have_their_own_number_of_true_neurons():
    mask = np.array([[[1.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]]]).transpose(1, 0, 2)
    columns = judged(np.array([[[3.0, 1.0, 2.0], [1.0, 2.0, 3.0]]]), mask)
    np.testing.assert_array_equal(columns["precision"], [0.5, 0])
    np.testing.assert_array_equal(columns["precision_at_1"], [1, 0])
    np.testing.assert_array_equal(columns["auroc"], [0.5, 0])


def test_interval_is_that_of_facts_with_all_their_rows():
    values, facts = np.array([1.0, 1, 1, 0]), np.array([7, 7, 7, 3])
    found = mean_over_facts(values, facts)
    assert (found.value, found.n) == (0.75, 2)
    assert (found.low, found.high) == (0, 1)
    same = mean_over_facts(np.ones(5), np.arange(5))
    assert (same.low, same.high) == (pytest.approx(0.025**0.2), 1)
    one = mean_over_facts(np.ones(5), np.zeros(5, int))
    assert one.value == 1 and np.isnan([one.low, one.high]).all()
    # The standard error of a mean of n coin flips.
    flips = np.random.default_rng(0).integers(0, 2, 400).astype(float)
    wide = mean_over_facts(flips, np.arange(400))
    assert wide.high - wide.low == pytest.approx(2 * 1.96 * flips.std() / 20, rel=0.1)


def test_mistakes_are_told():
    with pytest.raises(UserError, match="1 of 5 scores are NaN"):
        auroc(np.array([np.nan, 0, 0, 0, 0]), TRUE)
    with pytest.raises(UserError, match="0 of 2 neurons are true"):
        judged(np.zeros((1, 1, 2)), np.zeros((1, 1, 2)))
    with pytest.raises(UserError, match="2 of 2 neurons are true"):
        judged(np.zeros((1, 1, 2)), np.ones((1, 1, 2)))
    with pytest.raises(UserError, match="k must lie between 1 and"):
        precision(np.zeros(5), TRUE, 6)
    with pytest.raises(UserError, match="no rows"):
        mean_over_facts(np.zeros(0), np.zeros(0, int))
