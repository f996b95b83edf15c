"""Ratios of means, their intervals, and what a missing measurement does."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from jaxinterp.base.errors import UserError
from jaxinterp.metrics.estimates import estimate
from jaxinterp.metrics.registry import base_metrics, derived, is_measured, largest

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
    # Without its first fact the S of relation "b" is 0.4, without its second 0.1, with both 0.2.
    error = (1 / 2 * (0.2**2 + 0.1**2)) ** 0.5
    for level in (0.95, 0.4, 0.2):
        b = estimate(["suppressability"], COLUMNS, FACT, RELATION, level=level)["suppressability"].by_relation["b"]
        half = 2 * error * np.tan(np.pi * level / 2)  # Student's t of one degree of freedom, and n / (n − 1)
        np.testing.assert_allclose([b.low, b.high], [0.2 - half, min(0.2 + half, 1)], rtol=1e-9)


def test_the_interval_of_a_mean_between_two_ends_by_hand():
    column = {"probability": np.array([0.7, 0.8, 0.9, 1.0])}
    found = estimate(["probability"], column, np.arange(4), ["a"] * 4)["probability"]
    half = scipy.stats.t(3).ppf(0.975) * column["probability"].std(ddof=1) / 2
    odds = np.log(0.85 / 0.15) - half / (0.85 * 0.15)
    assert 1 / (1 + np.exp(-odds)) < 0.85 - half and 0.85 + half > 1
    np.testing.assert_allclose([found.overall.low, found.overall.high], [1 / (1 + np.exp(-odds)), 1], rtol=1e-9)


def test_one_fact_has_no_interval():
    columns = {"probability": np.array([0.3, 0.5, 0.4, 0.2]), "suppressed": np.array([0.1, 0.2, 0.1, 0.1])}
    found = estimate(["probability", "suppressability"], columns, np.array([0, 0, 1, 2]), ["a", "a", "b", "b"])
    alone = estimate(
        ["probability", "suppressability"], {name: x[:2] for name, x in columns.items()}, np.array([0, 0]), ["a", "a"]
    )
    for of in (*found.values(), *alone.values()):
        one = of.by_relation["a"]
        assert np.isfinite(one.value) and np.isnan([one.low, one.high]).all() and one.n == 1
    for name, of in alone.items():
        assert of.overall.value == found[name].by_relation["a"].value
        assert np.isnan([of.overall.low, of.overall.high]).all()
    # Two relations that are fixed, of which one has a fact alone: nothing is known of its spread.
    fixed = estimate(["probability"], columns, np.array([0, 0, 1, 2]), ["a", "a", "b", "b"], relations="fixed")
    assert np.isnan([fixed["probability"].overall.low, fixed["probability"].overall.high]).all()


def test_equal_facts_say_what_so_many_facts_may_miss():
    def correct(n, metric="recall", **columns):
        return estimate([metric], columns, np.arange(n), ["a"] * n)[metric].overall

    for n, low in ((2, 0.025**0.5), (5, 0.025**0.2), (20, 0.025**0.05)):  # those of Clopper and Pearson 1934
        for value in (0.0, 1.0):
            found = correct(n, correct=np.full(n, value))
            np.testing.assert_allclose([found.low, found.high], [low, 1] if value else [0, 1 - low], rtol=1e-9)
    found = correct(2, correct=np.full(2, 0.4))
    np.testing.assert_allclose([found.low, found.high], [0.4 * 0.025**0.5, 1 - 0.6 * 0.025**0.5], rtol=1e-9)
    # A ratio has no lower end that a fact could be at.
    ratio = correct(3, "suppressability", probability=np.full(3, 0.5), suppressed=np.full(3, 0.1))
    assert ratio.value == pytest.approx(0.8) and np.isnan([ratio.low, ratio.high]).all()


def covered(metric, columns, n_facts, truth):
    """The share of relations of so many facts whose interval holds the truth."""
    n_relations = len(next(iter(columns.values()))) // n_facts
    relation = np.repeat([f"r{index:04}" for index in range(n_relations)], n_facts).tolist()
    found = estimate([metric], columns, np.arange(len(relation)), relation, replicates=2)[metric]
    ends = np.array([(value.low, value.high) for value in found.by_relation.values()])
    return np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1]))


@pytest.mark.parametrize("n_facts", [2, 3, 5])
def test_intervals_inside_relations_hold_the_truth(n_facts):
    """The figures of the docstring, of 300 relations each: a standard error of 1.3 points."""
    rng = np.random.default_rng(n_facts)
    n = 300 * n_facts
    for draw, truth in (
        (lambda: rng.uniform(size=n), 0.5),
        (lambda: rng.beta(5, 0.5, n), 10 / 11),
        (lambda: rng.beta(1, 4, n), 1 / 5),
        (lambda: 1.0 * (rng.random(n) < 0.8), 0.8),
    ):
        assert covered("probability", {"probability": draw()}, n_facts, truth) > 0.9
    p, left, other = rng.beta(5, 1, n), rng.beta(1, 4, n), rng.beta(5, 1, n)
    columns = {"probability": p, "suppressed": p * left, "control_other": p * other}
    assert covered("suppressability", columns, n_facts, 0.8) > 0.9
    assert covered("selective", columns, n_facts, 0.8 - 1 / 6) > 0.9


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
    columns, fact, _ = simulated(20, 2, 0)
    relation = np.where(fact < 10, "a", "b").tolist()
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
    with pytest.raises(UserError, match="'control_drop' needs the column 'control_relation', which was not measured"):
        estimate(["control_drop"], COLUMNS, FACT, RELATION)
    with pytest.raises(UserError, match="'selective' needs the column 'control_relation', which was not measured"):
        estimate(["selective"], COLUMNS, FACT, RELATION)
    with pytest.raises(UserError, match="'probability' was measured on no fact"):
        estimate(["probability"], {"probability": np.full(6, np.nan)}, FACT, RELATION)


def test_metrics_by_hand():
    """Every metric on one relation, from means of its columns."""
    columns = {
        "probability": [0.5, 0.3],
        "suppressed": [0.1, 0.1],
        "control_relation": [0.4, 0.2],
        "control_subject": [0.5, 0.14],
        "control_other": [0.6, 0.4],
        "control_answer": [0.1, 0.1],
        "control_relation_lost": [0.1, 0.14],
        "control_relation_moved": [0.1, 0.3],
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
        "ablation_control_relation": [0.4, 0.36],
        "ablation_control_other": [0.5, 0.3],
        "ablation_overlap": [0.5, 1.0],
    }
    expected = {
        "suppressability": 0.75,
        "control_drop": 0.25,
        "control_drop_relation": 0.25,
        "control_drop_subject": 0.2,
        "control_drop_other": -0.25,
        "control_drop_answer": 0.75,
        "control_drop_relation_one_sided": 0.3,
        "control_drop_relation_absolute": 0.5,
        "random_drop": 0.025,
        "selective": 0.5,
        "amplification": 0.25,
        "mean_of_ratios": 0.7,
        "log_probability_drop": 2.5,
        "logit_drop": 2.5,
        "ablation_suppressability": 0.75,
        "ablation_control_drop": 0.05,
        "ablation_selective": 0.7,
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


def relations_that_differ(n_relations, n_facts, spread, seed):
    """A fact's probability is 0.5 + its relation's ± spread + its own ± 0.1."""
    rng = np.random.default_rng(seed)
    relation = np.repeat(np.arange(n_relations), n_facts)
    of_relation = spread * rng.standard_normal(n_relations)
    values = 0.5 + of_relation[relation] + 0.1 * rng.standard_normal(len(relation))
    return {"probability": values}, np.arange(len(relation)), [f"r{index}" for index in relation]


@pytest.mark.parametrize("n_relations", [2, 5])
def test_the_overall_interval_is_that_of_a_mean_over_relations(n_relations):
    columns, fact, relation = relations_that_differ(n_relations, 4, 0.02, 0)
    found = estimate(["log_probability_drop"], _logs(columns), fact, relation, replicates=4000)["log_probability_drop"]
    values = np.array([value.value for value in found.by_relation.values()])
    half = scipy.stats.t(n_relations - 1).ppf(0.975) * values.std(ddof=1) / n_relations**0.5
    np.testing.assert_allclose(found.overall.value, values.mean(), rtol=1e-12)
    np.testing.assert_allclose(found.overall.high - found.overall.value, half, rtol=0.05)
    np.testing.assert_allclose(found.overall.value - found.overall.low, half, rtol=0.05)


def _logs(columns):
    """Columns of a metric that has no bounds."""
    return {"log_probability": columns["probability"], "suppressed_log_probability": 0 * columns["probability"]}


def test_a_replicate_draws_whole_relations():
    columns, fact, relation = relations_that_differ(3, 5, 0.2, 0)
    found = estimate(["probability"], columns, fact, relation)["probability"]
    a, b, c = (value.value for value in found.by_relation.values())
    # Three draws of three relations: ten means.
    means = {np.mean(drawn).round(9) for drawn in [(x, y, z) for x in (a, b, c) for y in (a, b, c) for z in (a, b, c)]}
    assert len(means) == 10
    assert set(found.samples[1:].round(9)) == means
    # The seed and the names of the relations decide which.
    other = estimate(["probability"], {"probability": 1 - columns["probability"]}, fact, relation)["probability"]
    np.testing.assert_allclose(other.samples, 1 - found.samples, rtol=1e-12)
    moved = estimate(["probability"], columns, fact, relation, seed=1)["probability"]
    renamed = estimate(["probability"], columns, fact, [f"x{name}" for name in relation])["probability"]
    for changed in (moved, renamed):
        assert changed.overall.value == found.overall.value
        assert (changed.samples != found.samples).any()


def test_the_interval_stays_in_the_range():
    columns = {"probability": np.array([0.2, 0.2, 1.0, 1.0])}
    found = estimate(["probability"], columns, np.arange(4), ["a", "a", "b", "b"])["probability"].overall
    assert (found.low, found.value, found.high) == (0.0, pytest.approx(0.6), 1.0)


def test_fixed_relations_leave_the_facts():
    columns, fact, relation = relations_that_differ(4, 10, 0.3, 0)
    drawn, fixed = (
        estimate(["probability"], columns, fact, relation, relations=relations)["probability"]
        for relations in ("drawn", "fixed")
    )
    assert drawn.by_relation == fixed.by_relation
    assert drawn.overall.value == fixed.overall.value
    assert drawn.overall.high - drawn.overall.low > 4 * (fixed.overall.high - fixed.overall.low)


def test_the_interval_covers_other_relations():
    inside = dict.fromkeys(("drawn", "fixed"), 0)
    for seed in range(200):
        columns, fact, relation = relations_that_differ(4, 10, 0.1, seed)
        for relations in inside:
            found = estimate(
                ["log_probability_drop"], _logs(columns), fact, relation, relations=relations, replicates=200, seed=seed
            )["log_probability_drop"].overall
            inside[relations] += found.low <= 0.5 <= found.high
    assert 0.9 < inside["drawn"] / 200 < 0.99
    assert inside["fixed"] / 200 < 0.7


def test_metrics_with_different_gaps_are_drawn_alike():
    columns, fact, relation = simulated(20, 1, 0)
    gaps = columns["probability"].copy()
    gaps[:3] = np.nan
    found = estimate(["probability", "recall"], {**columns, "correct": gaps}, fact, relation)
    assert found["recall"].overall.n == 17
    assert np.corrcoef(found["probability"].samples[1:], found["recall"].samples[1:])[0, 1] > 0.8


def test_a_replicate_without_any_known_fact_is_left_out():
    columns = {"probability": np.array([0.3, np.nan, np.nan])}
    found = estimate(["probability"], columns, np.arange(3), ["a"] * 3)["probability"]
    assert np.isnan(found.samples[1:]).any() and np.isfinite(found.samples[1:]).any()
    assert (found.overall.value, found.overall.n) == (0.3, 1) and np.isnan(
        [found.overall.low, found.overall.high]
    ).all()
    # Of two relations it is the mean of what there is.
    columns = {"probability": np.array([0.3, np.nan, np.nan, 0.5, 0.5])}
    both = estimate(["probability"], columns, np.arange(5), [*"aaabb"], relations="fixed")["probability"]
    assert set(both.samples.round(9)) == {0.4, 0.5}


def test_facts_that_were_not_measured_do_not_count_for_the_interval():
    columns, fact, relation = simulated(40, 1, 0)
    gaps = np.where(fact < 3, columns["probability"], np.nan)
    some = estimate(["probability"], {"probability": gaps}, fact, relation)["probability"].overall
    alone = estimate(["probability"], {"probability": gaps[:3]}, fact[:3], relation[:3])["probability"].overall
    np.testing.assert_allclose(dataclasses.astuple(some), dataclasses.astuple(alone), rtol=1e-9)


def test_many_facts_are_left_out_in_parts():
    columns, fact, relation = simulated(1000, 1, 0)
    found = estimate(["log_probability_drop"], _logs(columns), fact, relation)["log_probability_drop"].overall
    half = 1.962 * columns["probability"].std(ddof=1) / 1000**0.5
    np.testing.assert_allclose(found.high - found.value, half, rtol=0.2)


NOTHING_LEFT = {
    "probability": np.array([0.8, 0.4, 0.2, 0.6, 0.0, 0.0]),
    "suppressed": np.array([0.4, 0.0, 0.1, 0.0, 0.0, 0.0]),
    "random": np.array([0.8, 0.4, 0.2, 0.5, 0.0, 1e-40]),
    "control_other": np.array([0.8, 0.4, 0.2, 0.5, 0.0, 0.0]),
}


def test_a_relation_whose_answers_have_no_probability_is_left_out_and_told():
    names = ["probability", "suppressability", "random_drop", "control_drop_other", "control_drop", "selective"]
    with_a = {name: x[:4] for name, x in NOTHING_LEFT.items()}
    for tiny in (0.0, 1e-39):  # which a device may hold or not
        columns = {
            **NOTHING_LEFT,
            "probability": np.where(np.array(RELATION) == "b", tiny, NOTHING_LEFT["probability"]),
        }
        found = estimate(names, columns, FACT, RELATION)
        alone = estimate(names, with_a, FACT[:4], RELATION[:4])
        for name in names[1:]:
            assert found[name].left_out == {"b": "P = 0"}
            assert found[name].overall == found[name].by_relation["a"] == alone[name].overall
            nothing = found[name].by_relation["b"]
            assert np.isnan([nothing.value, nothing.low, nothing.high]).all() and nothing.n == 2
        assert not found["probability"].left_out  # 0 is its value
        assert found["probability"].by_relation["b"].value == 0
        np.testing.assert_allclose(found["probability"].overall.value, 0.25, rtol=1e-12)


def test_relations_that_are_drawn_do_not_have_what_is_left_out():
    columns, fact, relation = relations_that_differ(3, 4, 0.1, 0)
    columns = {"probability": columns["probability"], "suppressed": columns["probability"] ** 2}
    zeros = {name: np.append(x, [0.0, 0.0]) for name, x in columns.items()}
    found = estimate(["suppressability"], zeros, np.append(fact, [20, 21]), [*relation, "z", "z"], replicates=4000)
    alone = estimate(["suppressability"], columns, fact, relation, replicates=4000)
    left, without = found["suppressability"].overall, alone["suppressability"].overall
    assert (left.value, left.n) == (without.value, without.n) == (pytest.approx(without.value), 12)
    np.testing.assert_allclose([left.low, left.high], [without.low, without.high], atol=0.1 * (left.high - left.low))


def test_a_set_of_which_nothing_is_left_has_no_figure():
    columns = {name: x[4:] for name, x in NOTHING_LEFT.items()}
    found = estimate(
        ["suppressability", "selective", "recall"], {**columns, "correct": np.ones(2)}, FACT[4:], ["b"] * 2
    )
    for name in ("suppressability", "selective"):
        overall = found[name].overall
        assert np.isnan([overall.value, overall.low, overall.high]).all() and overall.n == 0
        assert found[name].left_out == {"b": "P = 0"}
    assert found["recall"].overall.value == 1


def test_a_fact_without_probability_has_no_say_in_a_ratio():
    # One of three facts is all there is: nothing is known of its spread.
    columns = {"probability": np.array([0.5, 0.0, 0.0]), "suppressed": np.array([0.1, 0.0, 0.0])}
    found = estimate(["suppressability"], columns, np.arange(3), ["a"] * 3)["suppressability"].overall
    assert found.value == pytest.approx(0.8) and np.isnan([found.low, found.high]).all()


# Controls of two relations: the first is the worst in "a", the second in "b", and the third is unknown in "b".
CONTROLS = {
    "probability": np.ones(6),
    "suppressed": np.full(6, 0.1),
    "control_relation": np.array([0.2, 0.2, 0.2, 0.2, 1.0, 1.0]),
    "control_subject": np.array([1.0, 1.0, 1.0, 1.0, 0.4, 0.5]),
    "control_other": np.array([0.9, 0.9, 0.9, np.nan, np.nan, np.nan]),
}


def test_a_derived_metric_is_a_function_of_overall_values_and_of_those_inside_relations():
    found = estimate(["control_drop", "selective"], CONTROLS, FACT, RELATION)
    assert set(found) == {"control_drop", "selective"}
    drop, selective = found["control_drop"], found["selective"]
    np.testing.assert_allclose([drop.by_relation["a"].value, drop.by_relation["b"].value], [0.8, 0.55], rtol=1e-12)
    # The kinds' means over relations are 0.4, 0.275 and (of relation "a" alone) 0.1; not the mean of the largest.
    np.testing.assert_allclose(drop.overall.value, 0.4, rtol=1e-12)
    np.testing.assert_allclose(selective.overall.value, 0.9 - 0.4, rtol=1e-12)
    np.testing.assert_allclose(selective.by_relation["b"].value, 0.9 - 0.55, rtol=1e-12)
    assert (drop.by_relation["a"].n, drop.by_relation["b"].n, drop.overall.n) == (2, 2, 2)


def test_replicates_of_derived_metrics_are_functions_of_replicates():
    rng = np.random.default_rng(0)
    names = ["probability", "suppressed", *(f"control_{kind}" for kind in ("relation", "subject", "other"))]
    columns = {name: rng.uniform(0.5, 1, 60) for name in names}
    columns["control_subject"][:5] = np.nan
    kinds = [f"control_drop_{kind}" for kind in ("relation", "subject", "other")]
    asked = ["suppressability", *kinds, "control_drop", "selective"]
    for relation in (["a"] * 60, ["a", "b", "c", "d"] * 15):
        found = {name: x.samples for name, x in estimate(asked, columns, np.arange(60), relation).items()}
        np.testing.assert_array_equal(found["control_drop"], np.max([found[kind] for kind in kinds], axis=0))
        np.testing.assert_array_equal(found["selective"], found["suppressability"] - found["control_drop"])
        assert (found["control_drop"] != found["control_drop_relation"]).any()


def test_a_derived_metric_of_what_was_measured():
    some = {name: column for name, column in CONTROLS.items() if name != "control_relation"}
    found = estimate(["control_drop"], some, FACT, RELATION)["control_drop"]
    np.testing.assert_allclose(found.overall.value, 0.275, rtol=1e-12)
    # A kind that no answer has takes no part.
    nowhere = {**CONTROLS, "control_relation": np.full(6, np.nan)}
    assert estimate(["control_drop"], nowhere, FACT, RELATION)["control_drop"].overall == found.overall
    with pytest.raises(UserError, match="'selective' needs the column 'suppressed', which was not measured"):
        estimate(["selective"], {name: x for name, x in some.items() if name != "suppressed"}, FACT, RELATION)
    nothing = {name: np.full(6, np.nan) for name in CONTROLS if name.startswith("control")}
    with pytest.raises(UserError, match="'selective' was measured on no fact"):
        estimate(["selective"], {**CONTROLS, **nothing}, FACT, RELATION)


def test_what_a_derived_metric_needs():
    kinds = tuple(f"control_drop_{kind}" for kind in ("relation", "subject", "other"))
    assert base_metrics("recall") == ("recall",)
    assert base_metrics("selective") == ("suppressability", *kinds)
    assert is_measured("control_drop", {"probability", "control_other"})
    assert not is_measured("selective", {"probability", "control_other"})
    assert is_measured("selective", {"probability", "control_other", "suppressed"})
    with pytest.raises(ValueError, match="cannot be a function of itself"):
        derived("mine", of=("mine",), title="Mine")


def test_the_largest_of_what_there_is():
    values = {
        "a": np.array([1.0, np.nan, np.nan]),
        "b": np.array([3.0, 2.0, np.nan]),
        "c": np.array([2.0, -1.0, np.nan]),
    }
    np.testing.assert_array_equal(largest(values), [3.0, 2.0, np.nan])
    np.testing.assert_array_equal(largest({"a": values["a"]}), values["a"])


def test_no_metric_of_no_fact():
    assert estimate([], {}, np.zeros(0, int), []) == {}
