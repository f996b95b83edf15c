"""Ratios of means, their intervals, and what a missing measurement does."""

import numpy as np
import pytest

from jaxinterp.errors import UserError
from jaxinterp.metrics import ability, suppression  # noqa: F401  (registers the metrics)
from jaxinterp.metrics.estimates import estimate

# Three facts of relation "a", the first with two queries, and two facts of relation "b".
FACT = np.array([0, 0, 1, 2, 3, 4])
RELATION = ["a", "a", "a", "a", "b", "b"]
COLUMNS = {
    "probability": np.array([0.8, 0.4, 0.2, 0.6, 1.0, 0.5]),
    "suppressed": np.array([0.4, 0.0, 0.1, 0.0, 0.9, 0.3]),
}
S_A, S_B = 1 - 0.5 / 2.0, 1 - 1.2 / 1.5


def simulated(n_facts, n_queries, seed):
    """One relation; a fact's own probability, 0.5 ± 0.15, and a little noise for each of its queries."""
    rng = np.random.default_rng(seed)
    fact = np.repeat(np.arange(n_facts), n_queries)
    own = 0.5 + 0.15 * rng.standard_normal(n_facts)
    return {"probability": own[fact] + 0.02 * rng.standard_normal(len(fact))}, fact, ["a"] * len(fact)


def test_ratio_of_means_inside_relations_then_their_plain_mean():
    found = estimate(["suppressability", "probability"], COLUMNS, FACT, RELATION)
    s = found["suppressability"]
    np.testing.assert_allclose([s.by_relation["a"].value, s.by_relation["b"].value], [S_A, S_B], rtol=1e-12)
    np.testing.assert_allclose(s.overall.value, (S_A + S_B) / 2, rtol=1e-12)
    assert abs(s.overall.value - (1 - 1.7 / 3.5)) > 1e-3  # neither the ratio over all queries
    assert abs(s.overall.value - (1 - np.mean(COLUMNS["suppressed"] / COLUMNS["probability"]))) > 1e-3  # nor of ratios
    assert (s.overall.n, s.by_relation["a"].n, s.by_relation["b"].n) == (5, 3, 2)
    np.testing.assert_allclose(found["probability"].overall.value, (0.5 + 0.75) / 2, rtol=1e-12)


def test_the_interval_of_two_facts_by_hand():
    # Replicates of relation "b" are its first fact twice (S = 0.1, a quarter of them), both facts (0.2), or its second
    # twice (0.4, a quarter).
    for level, bounds in [(0.95, [0.1, 0.4]), (0.6, [0.1, 0.4]), (0.4, [0.2, 0.2])]:
        found = estimate(["suppressability"], COLUMNS, FACT, RELATION, replicates=4000, level=level)
        b = found["suppressability"].by_relation["b"]
        np.testing.assert_allclose([b.low, b.high], bounds, rtol=1e-9)


def test_one_fact_has_no_width_and_equal_values_have_none():
    column = {"probability": np.array([0.3, 0.5, 0.4, 0.4])}
    found = estimate(["probability"], column, np.array([0, 0, 1, 2]), ["a", "a", "b", "b"])["probability"]
    for value in (found.by_relation["a"], found.by_relation["b"], found.overall):
        np.testing.assert_allclose([value.value, value.low, value.high], 0.4, rtol=1e-12)


def test_repeating_every_query_changes_nothing():
    columns, fact, relation = simulated(20, 2, 0)
    once = estimate(["probability"], columns, fact, relation)
    repeated = {"probability": np.repeat(columns["probability"], 5)}
    often = estimate(["probability"], repeated, np.repeat(fact, 5), relation * 5)
    for a, b in ((once["probability"].overall, often["probability"].overall),):
        np.testing.assert_allclose([b.value, b.low, b.high], [a.value, a.low, a.high], rtol=1e-12)
        assert a.n == b.n == 20


def test_the_interval_is_that_of_facts_not_of_queries():
    columns, fact, relation = simulated(20, 16, 1)
    clustered = estimate(["probability"], columns, fact, relation)["probability"].overall
    naive = estimate(["probability"], columns, np.arange(320), relation)["probability"].overall
    assert 3 < (clustered.high - clustered.low) / (naive.high - naive.low) < 5  # 4 = √16, were queries all alike


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    inside = above = 0
    for seed in range(300):
        columns, fact, relation = simulated(30, 2, seed + 100)
        found = estimate(["probability"], columns, fact, relation, replicates=200, seed=seed)["probability"].overall
        inside += found.low <= 0.5 <= found.high
        above += found.low > 0.5
    assert 0.87 < inside / 300 < 0.99
    assert 0 < above / 300 < 0.07


def test_the_seed_moves_the_interval_and_not_the_value():
    columns, fact, relation = simulated(20, 2, 0)
    first, same, other = (
        estimate(["probability"], columns, fact, relation, replicates=100, seed=seed)["probability"].overall
        for seed in (0, 0, 1)
    )
    assert first == same
    assert first.value == other.value
    assert first.low != other.low
    assert first.low < first.value < first.high


def test_another_relation_does_not_move_a_relations_interval():
    columns, fact, _ = simulated(40, 1, 0)
    name = np.where(np.arange(40) < 20, "a", "b")
    both = estimate(["probability"], columns, fact, name.tolist())["probability"]
    for relation in ("a", "b"):
        chosen = {"probability": columns["probability"][name == relation]}
        alone = estimate(["probability"], chosen, fact[name == relation], [relation] * 20)["probability"]
        assert alone.by_relation[relation] == alone.overall == both.by_relation[relation]


def test_queries_that_were_not_measured_are_left_out():
    suppressed = COLUMNS["suppressed"].copy()
    suppressed[[1, 2]] = np.nan
    found = estimate(["suppressability", "probability"], {**COLUMNS, "suppressed": suppressed}, FACT, RELATION)
    # Both means are over the queries that have both columns: 0 and 3 of relation "a".
    a = found["suppressability"].by_relation["a"]
    np.testing.assert_allclose(a.value, 1 - 0.4 / 1.4, rtol=1e-12)
    assert (a.n, found["suppressability"].overall.n) == (2, 4)
    assert found["probability"].by_relation["a"].n == 3
    for entry in (a, found["suppressability"].overall):
        assert np.isfinite([entry.value, entry.low, entry.high]).all()


def test_a_relation_that_was_not_measured_is_left_out():
    suppressed = np.where(np.array(RELATION) == "a", np.nan, COLUMNS["suppressed"])
    found = estimate(["suppressability"], {**COLUMNS, "suppressed": suppressed}, FACT, RELATION)["suppressability"]
    assert set(found.by_relation) == {"b"}
    assert found.overall == found.by_relation["b"]
    np.testing.assert_allclose(found.overall.value, S_B, rtol=1e-12)


def test_errors():
    with pytest.raises(UserError, match="unknown metric 'suppressibility'; did you mean suppressability"):
        estimate(["suppressibility"], COLUMNS, FACT, RELATION)
    with pytest.raises(UserError, match="'control_drop' needs the column 'control', which was not measured"):
        estimate(["control_drop"], COLUMNS, FACT, RELATION)
    with pytest.raises(UserError, match="'probability' was measured on no fact"):
        estimate(["probability"], {"probability": np.full(6, np.nan)}, FACT, RELATION)


def test_metrics_by_hand():
    """Every metric on one relation, from means of its columns."""
    columns = {
        "probability": [0.5, 0.3],
        "suppressed": [0.1, 0.1],
        "control": [0.4, 0.2],
        "random": [0.5, 0.28],
        "amplified": [0.6, 0.4],
        "log_probability": [-1.0, -2.0],
        "suppressed_log_probability": [-3.0, -5.0],
        "log_odds": [0.0, -1.0],
        "suppressed_log_odds": [-2.0, -4.0],
        "suppressed_ratio": [0.2, 0.4],
        "correct": [1.0, 0.0],
        "sentence_nll": [6.0, 2.0],
        "sentence_tokens": [3.0, 5.0],
        "residual": [0.01, 0.03],
        "ablation_suppressed": [0.2, 0.0],
        "ablation_control": [0.4, 0.36],
        "ablation_overlap": [0.5, 1.0],
    }
    expected = {
        "suppressability": 0.75,
        "control_drop": 0.25,
        "random_drop": 0.025,
        "selective": 0.5,
        "amplification": 0.25,
        "mean_of_ratios": 0.7,
        "log_probability_drop": 2.5,
        "logit_drop": 2.5,
        "ablation_suppressability": 0.75,
        "ablation_control_drop": 0.05,
        "ablation_overlap": 0.75,
        "probability": 0.4,
        "recall": 0.5,
        "cross_entropy": 1.0,
        "completeness_residual": 0.02,
    }
    columns = {name: np.array(values) for name, values in columns.items()}
    found = estimate(list(expected), columns, np.array([0, 1]), ["a", "a"], replicates=10)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].overall.value, value, rtol=1e-12, err_msg=name)
