"""Metrics of neurons by hand, and at their limits."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxinterp.metrics.estimates import estimate
from jaxinterp.metrics.families import specificity, units
from jaxinterp.metrics.registry import Neurons


def neurons(activation, concept, selected=None, weight=None, n_concepts=2, fact=None):
    activation = jnp.asarray(activation, jnp.float32)
    selected = jnp.zeros_like(activation) if selected is None else jnp.asarray(selected, jnp.float32)
    weight = jnp.ones(len(activation)) if weight is None else jnp.asarray(weight, jnp.float32)
    fact = jnp.arange(len(activation)) if fact is None else jnp.asarray(fact)
    return Neurons(activation, selected, jnp.asarray(concept), fact, weight, n_concepts)


def close(found, expected):
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-5, atol=1e-6)


# Two answers of each of two relations; neuron 0 is the first's, neuron 1 is everyone's, neuron 2 is dead.
A = [[2, 1, 0], [4, 1, 0], [1, 1, 0], [1, 3, 0]]
C = [0, 0, 1, 1]


def test_selectivity():
    selected = [[1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0]]
    # Of neuron 0 means are 3 and 1, of neuron 1 they are 1 and 2.
    close(units.selectivity(neurons(A, C, selected)), [(0.5 - 1 / 3) / 2, -0.5])
    # One relation alone has no outside.
    assert np.isnan(units.selectivity(neurons(A[:2], C[:2], selected[:2]))).all()


def test_purity():
    # Shares 3/4 and 2/3; the dead neuron has none, and what is negative is no response.
    close(units.purity(neurons(A, C)), (3 / 4 + 2 / 3) / 2)
    close(units.purity(neurons([[1, -5], [0, 2]], [0, 1])), 1.0)
    close(units.purity(neurons([[1, 1], [1, 1]], [0, 1])), 0.5)


def test_auroc_of_the_best_neuron():
    # The neuron that differs most is 0 for relation 0 (it wins every pair) and 1 for relation 1 (it wins one half and
    # ties the other).
    close(units.concept_auroc(neurons(A, C)), [1.0, (2 * 0.5 + 2 * 1) / 4])
    close(units.concept_auroc(neurons(A, C, weight=[1, 1, 1, 0])), [1.0, 0.5])
    close(units.concept_auroc(neurons(np.ones((4, 2)), C)), [0.5, 0.5])
    rng = np.random.default_rng(0)
    x, concept = rng.standard_normal((30, 1)), np.arange(30) % 3
    found = units.concept_auroc(neurons(x, concept, n_concepts=3))
    for index in range(3):
        inside, outside = x[concept == index, 0], x[concept != index, 0]
        expected = scipy.stats.mannwhitneyu(inside, outside).statistic / (len(inside) * len(outside))
        close(found[index], expected)


def test_a_neuron_that_does_not_vary_is_never_the_best():
    # Next to nothing over next to no deviation is more than what the second neuron has.
    x = [[0.10001, 20], [0.1, 20], [0.1, 10], [0.1, 10], [0.1, 19], [0.1, 10]]
    close(units.concept_auroc(neurons(x, [0, 0, 0, 1, 1, 1]))[0], 7 / 9)  # 6 pairs won and 2 ties


def test_information_of_the_best_neuron():
    # Neuron 0 is above its mean 2 for one answer of relation 0: I = H(1/2) − (3/4) H(1/3) bits, H(relation) = 1.
    h = scipy.stats.entropy
    x = [[2, 0], [4, 0], [1, 0], [1, 0]]
    close(units.mutual_information(neurons(x, C))[0], 1 - 0.75 * h([1 / 3, 2 / 3], base=2))
    close(units.mutual_information(neurons([[1.0], [1], [0], [0]], C))[0], 1.0)
    close(units.mutual_information(neurons([[1.0], [0], [1], [0]], C)), [0.0, 0.0])


def test_sparsity_of_an_answer():
    flat, alone, two = [1, 1, 1, 1], [0, 0, -3, 0], [2, 0, 0, 2]
    close(units.gini(neurons([flat], [0])), 0.0)
    close(units.gini(neurons([alone], [0])), 3 / 4)
    close(units.gini(neurons([two], [0])), 1 / 2)
    close(units.hoyer(neurons([flat], [0])), 0.0)
    close(units.hoyer(neurons([alone], [0])), 1.0)
    close(units.hoyer(neurons([two], [0])), (2 - 2**0.5) / (2 - 1))
    close(units.gini(neurons([flat, alone], [0, 0], weight=[1, 3])), 9 / 16)


def test_kurtosis_is_scipys():
    x = np.random.default_rng(0).standard_normal((50, 4)) ** 3
    x[:, 3] = 2.0  # does not vary
    close(units.kurtosis(neurons(x, np.zeros(50, int))), scipy.stats.kurtosis(x[:, :3]).mean())
    close(units.kurtosis(neurons([[1], [1], [-1], [-1]], C)), -2.0)


def test_participation_ratio_counts_directions():
    square = [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]
    close(units.participation_ratio(neurons(square, C)), 2.0)
    close(units.participation_ratio(neurons([[1, 2, 3], [2, 4, 6]], [0, 1])), 1.0)
    x = np.random.default_rng(0).standard_normal((20, 5))
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T))
    close(units.participation_ratio(neurons(x, np.zeros(20, int))), eigenvalues.sum() ** 2 / (eigenvalues**2).sum())


def test_dead_neurons_are_zero_everywhere():
    close(units.dead_fraction(neurons(A, C)), 1 / 3)
    # Alive for an answer that does not count.
    close(units.dead_fraction(neurons([[1, 0], [1, 5]], C[1:3], weight=[1, 0])), 1 / 2)


def test_overlap_counts_pairs():
    # Relation 0 shares one of two neurons inside; of its four pairs with relation 1 two share one and one shares both.
    selected = [[1, 1, 0], [0, 1, 1], [1, 1, 0], [0, 1, 1]]
    shared = {(0, 2): 2, (0, 3): 1, (1, 2): 1, (1, 3): 2}
    close(specificity.overlap_within(neurons(A, C, selected)), [0.5, 0.5])
    close(specificity.overlap_across(neurons(A, C, selected)), [sum(shared.values()) / 4 / 2] * 2)
    # A replicate that draws one answer twice has no pair.
    found = specificity.overlap_within(neurons(A, C, selected, weight=[2, 0, 1, 1]))
    assert np.isnan(found[0]) and found[1] == pytest.approx(0.5)
    assert np.isnan(specificity.overlap_across(neurons(A[:2], C[:2], selected[:2]))[1])


def test_prompts_of_one_fact_are_no_pair():
    # Three facts with two, two and one prompts; a fact's prompts have the same neuron, the first two facts one each.
    selected = np.eye(3)[[0, 0, 1, 1, 1]]
    one = {"activation": np.ones((5, 3)), "concept": [0] * 5, "selected": selected, "n_concepts": 1}
    close(specificity.overlap_within(neurons(**one, fact=[0, 0, 1, 1, 2])), [4 / 16])  # of 20 − 2 − 2 ordered pairs
    close(specificity.overlap_within(neurons(**one)), [8 / 20])
    # Drawn twice, a fact with its prompts is still one.
    found = specificity.overlap_within(neurons(**one, fact=[0, 0, 1, 1, 2], weight=[2, 2, 1, 1, 0]))
    close(found, [0.0])
    assert np.isnan(specificity.overlap_within(neurons(**one, fact=[0] * 5))).all()
    # A relation that is drawn twice has the same pairs.
    for weight in (1, 2):
        found = specificity.overlap_within(neurons(**one, fact=[0, 0, 1, 1, 2], weight=[weight] * 5))
        close(found, [4 / 16])


def test_hubs():
    same, apart = [[1, 1, 0, 0]] * 4, np.eye(4)[[0, 1, 2, 3]]
    close(specificity.hub_share(neurons(np.ones((4, 4)), C, same)), 1.0)
    close(specificity.hub_share(neurons(np.ones((4, 4)), C, apart)), 1 / 4)
    close(specificity.hub_share(neurons(np.ones((4, 4)), C, apart, weight=[3, 1, 0, 0])), 3 / 4)


def made_up(n):
    """n facts with one of 7 neurons each, out of 200; with 30 of them a fifth of the neurons is dead."""
    rng = np.random.default_rng(0)
    activation = (rng.uniform(size=(n, 200)) < 0.05) * 1.0
    selected = np.zeros((n, 200))
    selected[np.arange(n), np.arange(n) % 7] = 1
    return {"activation_NU": activation.astype(np.float32), "selected_NU": selected.astype(np.float32)}


def estimated(names, n, in_turn, **options):
    return estimate(names, {}, np.arange(n), (in_turn * n)[:n], **made_up(n), replicates=100, **options)


def test_an_interval_of_neurons_is_around_the_value():
    """Replicates see fewer facts, so that more neurons seem dead: their spread counts, not their place."""
    found = estimated(["dead_fraction", "overlap_within"], 30, ["a", "b", "c"], relations="fixed")
    dead = found["dead_fraction"]
    assert (dead.samples[1:] > dead.overall.value).all()
    assert dead.overall.low < dead.overall.value < dead.overall.high
    sd = dead.samples[1:].std(ddof=1)
    # Of three relations of ten facts: Student's t of 27 degrees of freedom.
    half = scipy.stats.t(27).ppf(0.975) * sd * (10 / 9) ** 0.5
    np.testing.assert_allclose(dead.overall.high - dead.overall.low, 2 * half, rtol=1e-4)
    assert set(found["overlap_within"].by_relation) == {"a", "b", "c"}
    # Two facts a relation: half of the replicates draw one of them twice and have no pair there. One pair alone says
    # nothing of others.
    few = estimated(["overlap_within"], 6, ["a", "b", "c"], relations="fixed")["overlap_within"]
    assert np.isnan([few.overall.low, few.overall.high]).all() and few.overall.value == 0
    assert np.isfinite(few.samples).mean() > 0.5
    assert all(np.isnan([value.low, value.high]).all() for value in few.by_relation.values())


def test_relations_of_neurons_are_drawn_whole():
    found = estimated(["dead_fraction", "overlap_within", "overlap_across"], 30, ["a", "b", "c", "d", "e"])
    within, across, dead = found["overlap_within"], found["overlap_across"], found["dead_fraction"]
    values = np.array([value.value for value in within.by_relation.values()])
    np.testing.assert_allclose(within.overall.value, values.mean(), rtol=1e-6)
    # Inside relations nothing changes with the other relations: its replicates are means of some of these values.
    fixed = estimated(["overlap_within"], 30, ["a", "b", "c", "d", "e"], relations="fixed")["overlap_within"]
    assert within.by_relation == fixed.by_relation
    for metric in (within, across):  # no relation differs from another
        assert np.isnan([metric.overall.low, metric.overall.high]).all()
    half = scipy.stats.t(4).ppf(0.975) * dead.samples[1:].std(ddof=1) * (5 / 4) ** 0.5
    expected = max(dead.overall.value - half, 0), min(dead.overall.value + half, 1)
    np.testing.assert_allclose([dead.overall.low, dead.overall.high], expected, rtol=1e-5)
    # Neurons that one of the drawn relations uses are not dead; those of the others seem so.
    assert (dead.samples[1:] >= dead.overall.value).all() and dead.samples.max() > dead.overall.value


def test_two_relations_have_one_comparison():
    drawn, fixed = (
        estimated(["overlap_across"], 20, ["a", "b"], relations=relations)["overlap_across"]
        for relations in ("drawn", "fixed")
    )
    assert drawn.overall == fixed.overall
    assert drawn.overall.low < drawn.overall.high
    assert "overlap_across" not in estimated(["overlap_across"], 20, ["a"])
