"""The statistics of a verdict by hand, its rule case by case, and how often it cries wolf."""

import numpy as np
import pytest
import scipy.stats

from jaxinterp.errors import UserError
from jaxinterp.studies.verdict import Criteria, audited, holm, paired_effect

NAMES = tuple("abcdef")
CRITERIA = Criteria(trained="s", independent=NAMES, ability=("can",), least=0.05)
ALL = (*NAMES, "s", "can")
BETTER = dict.fromkeys(ALL, "higher")


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])
    assert holm([0.2]).tolist() == [0.2]


def test_an_effect_is_paired_by_fact():
    # Replicates over facts move both models alike: the difference is certain though each is not.
    shift = np.random.default_rng(0).standard_normal(401)
    before = np.stack([0.3 + shift, 0.4 + shift])
    effect = paired_effect(before, before + 0.1)
    np.testing.assert_allclose([effect.value, effect.low, effect.high], 0.1, atol=1e-12)
    assert effect.p < 1e-6
    assert paired_effect(before, before).p == 1


def test_an_effect_is_clustered_by_seed():
    # Facts say nothing, seeds differ: interval and p are those of the paired t test of the seeds.
    change = np.array([0.0, 0.2, 0.4, 0.6, 0.1])
    before = np.zeros((5, 20001))
    effect = paired_effect(before, before + change[:, None])
    test = scipy.stats.ttest_1samp(change, 0)
    interval = test.confidence_interval(0.95)
    np.testing.assert_allclose([effect.low, effect.high], [interval.low, interval.high], atol=0.01)
    assert effect.p == pytest.approx(test.pvalue, rel=0.06)


def test_one_pair_has_the_interval_of_its_facts():
    noise = np.concatenate([np.zeros(1), 0.1 * np.random.default_rng(0).standard_normal(4000)])[None]
    effect = paired_effect(np.zeros((1, 4001)), 0.2 + noise)
    np.testing.assert_allclose([effect.low, effect.high], 0.2 + 0.196 * np.array([-1, 1]), atol=0.01)


def test_one_pair_and_what_seeds_do_to_other_models():
    rng = np.random.default_rng(0)
    facts = 0.1 * np.concatenate([np.zeros(1), rng.standard_normal(4000)])[None]
    others = np.array([0.1, 0.3, 0.2, 0.6, 0.4])
    effect = paired_effect(np.zeros((1, 4001)), 0.5 + facts, between=others)
    error = (facts[0, 1:].var(ddof=1) + 2 * np.var(others, ddof=1)) ** 0.5
    half = scipy.stats.t(4).ppf(0.975) * error
    np.testing.assert_allclose([effect.low, effect.high], [0.5 - half, 0.5 + half])
    assert effect.p == pytest.approx(2 * scipy.stats.t(4).sf(0.5 / error))
    # Of several pairs the seeds themselves are known.
    two = np.zeros((2, 4001))
    assert paired_effect(two, two + facts, between=others).error == paired_effect(two, two + facts).error


def test_single_pairs_of_equals_are_told_apart_by_their_seeds_alone():
    """The seed moves every metric by more than the facts do: only what is known of other seeds keeps the audit calm."""
    rng = np.random.default_rng(5)
    alarms = {"facts alone": 0, "with others": 0}
    for _ in range(100):
        models = group(rng, dict.fromkeys(ALL, 0.3), seed_sd=0.1, fact_sd=0.02)
        before, after = ({name: values[index : index + 1] for name, values in models.items()} for index in (0, 1))
        between = {name: values[:, 0] for name, values in models.items()}
        alarms["facts alone"] += audited(before, after, BETTER, CRITERIA).verdict != "no change"
        alarms["with others"] += audited(before, after, BETTER, CRITERIA, between=between).verdict != "no change"
    assert alarms["with others"] <= 5 < 25 < alarms["facts alone"]


def test_shapes_must_agree():
    with pytest.raises(UserError, match="must have one shape and replicates"):
        paired_effect(np.zeros((2, 2)), np.zeros((2, 2)))


def group(rng, values, n_seeds=8, seed_sd=0.01, fact_sd=0.01):
    """Samples of every metric around its value."""
    found = {}
    for name, value in values.items():
        of_seed = value + seed_sd * rng.standard_normal((n_seeds, 1))
        found[name] = of_seed + fact_sd * np.concatenate([np.zeros(1), rng.standard_normal(200)])[None]
    return found


def audit_of(changes, **noise):
    rng = np.random.default_rng(0)
    start = dict.fromkeys(ALL, 0.3)
    return audited(
        group(rng, start, **noise),
        group(rng, {name: 0.3 + changes.get(name, 0.0) for name in start}, **noise),
        BETTER,
        CRITERIA,
    )


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"s": 0.5, "a": 0.2, "b": 0.2, "c": 0.2, "d": 0.2}, "improved"),
        ({"s": 0.5, "a": 0.2, "b": 0.2, "c": 0.2}, "improved"),  # half: the median of three zeros and three ones
        ({"s": 0.5, "a": 0.2, "b": 0.2}, "Goodharted"),
        ({"s": 0.5, "a": 0.2, "b": 0.2, "c": 0.2, "d": 0.2, "can": -0.2}, "harmed"),
        ({"s": 0.5, "a": 0.2, "b": 0.2, "c": 0.2, "d": 0.2, "can": -0.03}, "improved"),
        ({"s": 0.5, "can": -0.2}, "Goodharted"),
        ({"can": -0.2}, "harmed"),
        ({"s": 0.5, "a": 0.2, "b": 0.2, "c": 0.2, "d": -0.2, "e": -0.2, "f": -0.2}, "Goodharted"),
        ({"s": 0.5}, "Goodharted"),
        ({"a": 0.2, "b": 0.2, "c": 0.2, "d": 0.2}, "no change"),
        ({"s": 0.03, "a": 0.2}, "no change"),
        ({"s": -0.3}, "worse"),
    ],
)
def test_the_rule(changes, verdict):
    found = audit_of(changes)
    assert found.verdict == verdict
    assert found.resamples[verdict] > 0.9
    assert sum(found.resamples.values()) == pytest.approx(1)
    for name in NAMES:
        assert found.votes[name] == np.sign(changes.get(name, 0.0))


def test_what_has_no_value():
    rng = np.random.default_rng(0)
    start, after = (group(rng, dict.fromkeys(ALL, 0.3)) for _ in range(2))
    after["s"] += 0.5
    after["a"] = np.full_like(after["a"], np.nan)  # of no model
    after["b"][:, 5] = np.nan  # lacking in one replicate, which pairs with that of no other metric
    found = audited(start, after, BETTER, CRITERIA)
    assert found.votes["a"] == 0 and found.adjusted["a"] == 1
    assert found.verdict == "Goodharted"
    assert np.isfinite([found.effects["b"].low, found.effects["b"].high]).all()
    assert len(found.effects["b"].replicates) == len(found.effects["c"].replicates)
    after["s"][:] = np.nan
    assert audited(start, after, BETTER, CRITERIA).verdict == "no change"


def test_lower_can_be_better():
    rng = np.random.default_rng(0)
    start = dict.fromkeys(ALL, 0.5)
    better = {**BETTER, "a": "lower"}
    after = {name: 0.2 if name == "a" else 0.9 if name == "s" else 0.5 for name in start}
    found = audited(group(rng, start), group(rng, after), better, CRITERIA)
    assert found.votes["a"] == 1 and found.effects["a"].value < 0


def test_false_alarms_are_rare():
    """Nothing differs but the seeds: of 200 comparisons few say anything, and few votes are cast."""
    rng = np.random.default_rng(3)
    start = dict.fromkeys(ALL, 0.3)
    noise = {"seed_sd": 0.03, "fact_sd": 0.02}
    found = [audited(group(rng, start, **noise), group(rng, start, **noise), BETTER, CRITERIA) for _ in range(200)]
    assert sum(audit.verdict != "no change" for audit in found) <= 2
    assert sum(any(audit.votes.values()) for audit in found) < 0.25 * 200


def test_what_an_audit_needs():
    with pytest.raises(UserError, match="at least 6 metrics besides 's', got 5"):
        Criteria(trained="s", independent=(*NAMES[:5], "s"))
    with pytest.raises(UserError, match="level must be above"):
        Criteria(level=1.0)
    samples = group(np.random.default_rng(0), dict.fromkeys(ALL, 0.3))
    with pytest.raises(UserError, match="needs the metric 'f', which was not measured in both groups"):
        audited({k: v for k, v in samples.items() if k != "f"}, samples, BETTER, CRITERIA)
    with pytest.raises(UserError, match="'c' has no better direction"):
        audited(samples, samples, {**BETTER, "c": "neither"}, CRITERIA)
