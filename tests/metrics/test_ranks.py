"""Average ranks and their correlation against scipy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxinterp.metrics.ranks import average_ranks, rank_agreement

SHAPE = (2, 1, 200)


def tied_scores(seed):
    """Scores of 2 × 3 × 50 neurons with many ties, of which some are active."""
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, 6, (2, 3, 50)) / 4 for _ in range(2))
    return (
        jnp.asarray(a, "float32"),
        jnp.asarray(b, "float32"),
        jnp.asarray(rng.uniform(size=(2, 3, 50)) < 0.4, "float32"),
    )


def row(scores, index):
    return np.asarray(scores)[:, index].reshape(-1)


def test_ranks_are_scipys():
    a, _, active = tied_scores(0)
    values, among = row(a, 0), row(active, 0)
    expected = np.zeros(len(values))
    expected[among > 0] = scipy.stats.rankdata(values[among > 0])
    np.testing.assert_array_equal(average_ranks(jnp.asarray(values), jnp.asarray(among)), expected)
    ranks = average_ranks(jnp.asarray([3.0, -1.0, 3.0, 0.0, 7.0]), jnp.asarray([1.0, 1.0, 1.0, 0.0, 1.0]))
    np.testing.assert_array_equal(ranks, [2.5, 1.0, 2.5, 0.0, 4.0])


def test_agreement_is_scipys_over_active_neurons():
    a, b, active = tied_scores(1)
    b = a + 2 * b  # related
    found = jax.jit(rank_agreement)(a, b, active)
    for index in range(3):
        among = row(active, index) > 0
        expected = scipy.stats.spearmanr(row(a, index)[among], row(b, index)[among]).statistic
        assert found[index] == pytest.approx(expected, abs=1e-5)


def test_unrelated_scores_that_are_zero_together_do_not_agree():
    """Ranked by index, ties would make 90 % of the ranks equal."""
    rng = np.random.default_rng(0)
    on = rng.uniform(size=SHAPE) < 0.1
    a, b = (np.where(on, rng.standard_normal(SHAPE), 0) for _ in range(2))

    def by_index(x):
        return np.argsort(np.argsort(x.reshape(-1), kind="stable"), kind="stable")

    assert np.corrcoef(by_index(a), by_index(b))[0, 1] > 0.5
    arrays = jnp.asarray(a, "float32"), jnp.asarray(b, "float32"), jnp.asarray(on, "float32")
    chance = 4 / on.sum() ** 0.5  # four standard deviations
    assert abs(rank_agreement(*arrays)[0]) < chance < 0.7
    # Ties alone leave nothing of it, even if what is inactive is not known.
    assert abs(rank_agreement(*arrays[:2], jnp.ones(SHAPE))[0]) < 0.3


def test_limits():
    rng = np.random.default_rng(0)
    a = jnp.asarray(rng.standard_normal(SHAPE), "float32")
    ones = jnp.ones(SHAPE)
    assert rank_agreement(a, jnp.exp(a), ones)[0] == pytest.approx(1.0)
    assert rank_agreement(a, -a, ones)[0] == pytest.approx(-1.0)
    # What is not active does not matter, and neither does the order of the neurons.
    active = jnp.asarray(rng.uniform(size=SHAPE) < 0.5, "float32")
    b = jnp.asarray(rng.standard_normal(SHAPE), "float32")
    there = rank_agreement(a, b, active)
    np.testing.assert_allclose(rank_agreement(a, jnp.where(active > 0, b, 9.0), active), there, rtol=1e-6)
    places = rng.permutation(200)
    moved = rank_agreement(*(x[..., places] for x in (a, b, active)))
    np.testing.assert_allclose(moved, there, rtol=1e-6)


def test_too_few_neurons_and_constant_scores_have_no_ranking():
    a = jnp.arange(6.0).reshape(1, 2, 3)
    assert np.isnan(rank_agreement(a, a, jnp.asarray([[[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]]))).tolist() == [True, False]
    many = (1, 1, 100_000)  # where sums of ranks are not exact in float32
    values = jnp.asarray(np.random.default_rng(0).standard_normal(many), "float32")
    assert np.isnan(rank_agreement(jnp.full(many, 0.1), values, jnp.ones(many))[0])
    assert np.isnan(rank_agreement(values, jnp.zeros(many), jnp.ones(many))[0])
