"""The statistics of a verdict by hand, and its rule case by case; how often it errs is in test_rates.py."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats

from jaxinterp.base.errors import UserError
from jaxinterp.studies.audit.verdict import Criteria, Scale, audited, seeds_to_decide
from jaxinterp.studies.statistics import paired_effect

FAMILIES = {"a": ("a1", "a2"), "b": ("b1",), "c": ("c1", "c2"), "d": ("d1",), "e": ("e1",)}
CRITERIA = Criteria(trained="s", families=FAMILIES, smallest=0.1, smallest_of={}, ability=("can",), least=0.05)
NAMES = ("s", *CRITERIA.independent, "can")
SCALES = dict.fromkeys(NAMES, Scale("higher"))
# Deviations of eight seeds: mean 0, standard deviation 1.
DEVIATIONS = np.array([-3.0, -2, -1, 0, 0, 1, 2, 3]) / 2


def test_an_effect_by_hand():
    # Estimates 1 and 3: a variance of 2. Means over seeds of the replicates 1.5, 2.5, 2: a variance of 0.25.
    after = np.array([[1.0, 0.5, 2.0, 1.0], [3.0, 2.5, 3.0, 3.0]])
    effect = paired_effect(np.zeros((2, 4)), after)
    assert (effect.value, effect.freedom, effect.n_seeds) == (2, 1, 2)
    assert effect.seed_sd == pytest.approx(2**0.5) and effect.fact_error == pytest.approx(0.5)
    assert effect.error == pytest.approx((2 / 2 + 0.25) ** 0.5)
    half = scipy.stats.t(1).ppf(0.975) * effect.error
    assert (effect.low, effect.high) == (pytest.approx(2 - half), pytest.approx(2 + half))
    assert effect.p == pytest.approx(2 * scipy.stats.t(1).sf(2 / effect.error))
    # Four times the seeds halve what seeds do, and nothing else.
    assert effect.at(8).error == pytest.approx((2 / 8 + 0.25) ** 0.5) and effect.at(8).freedom == 7


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
    effect = paired_effect(np.zeros((5, 11)), np.tile(change[:, None], 11))
    test = scipy.stats.ttest_1samp(change, 0)
    interval = test.confidence_interval(0.95)
    np.testing.assert_allclose([effect.low, effect.high, effect.p], [interval.low, interval.high, test.pvalue])


def test_one_pair_has_the_interval_of_its_facts():
    noise = np.concatenate([np.zeros(1), 0.1 * np.random.default_rng(0).standard_normal(4000)])[None]
    effect = paired_effect(np.zeros((1, 4001)), 0.2 + noise)
    np.testing.assert_allclose([effect.low, effect.high], 0.2 + 0.196 * np.array([-1, 1]), atol=0.01)


def test_shapes_must_agree():
    with pytest.raises(UserError, match="must have one shape and replicates"):
        paired_effect(np.zeros((2, 2)), np.zeros((2, 2)))


def groups(changes, sd=0.05, facts=0.0, start=0.3):
    """Eight pairs of seeds whose changes have exactly these means and standard deviation, in units of the metrics."""
    n = 41
    replicates = np.concatenate([[0.0], facts * np.linspace(-1.7, 1.7, n - 1)])
    before = {name: np.full((8, n), start) for name in NAMES}
    change = {name: changes.get(name, 0.0) + sd * DEVIATIONS[:, None] + replicates for name in NAMES}
    return before, {name: before[name] + change[name] for name in NAMES}


def audit_of(families, *, trained=0.5, can=0.0, **noise):
    """An audit in which families change by so many smallest effects; those that are not named do not."""
    changes = {name: 0.1 * families.get(family, 0.0) for family, names in FAMILIES.items() for name in names}
    return audited(*groups({**changes, "s": trained, "can": can}, **noise), SCALES, CRITERIA)


def rising(names):
    return dict.fromkeys(names, 2.0)


# With a standard deviation of half a smallest effect a family's interval is its change ± 0.47, the trained metric's and
# an ability's ± 0.042.
@pytest.mark.parametrize(
    ("families", "more", "verdict", "because"),
    [
        (rising("abcde"), {}, "improved", "5 of 5 families rise"),
        (rising("abc"), {}, "improved", "3 of 5 families rise"),
        (rising("ab"), {}, "Goodharted", "3 of 5 families do not rise"),
        ({}, {}, "Goodharted", "5 of 5 families do not rise"),
        (dict.fromkeys("abcde", 0.3), {}, "Goodharted", "5 of 5 families do not rise"),  # shown to rise by too little
        (rising("abcd") | {"e": -2.0}, {}, "Goodharted", "falls by more than the smallest effect: e"),
        (rising("abcd") | {"e": -1.0}, {}, "undecided", "falls, perhaps by more than the smallest effect: e"),
        (rising("abcd") | {"e": -0.5}, {}, "improved", "4 of 5 families rise"),  # by less than one, for sure
        (rising("ab") | {"c": 0.5}, {"sd": 0.07}, "undecided", "2 of 5 families rise, 2 do not"),  # c by more than one?
        (rising("abcde"), {"can": -0.2}, "harmed", "falls by more than 0.05: can"),
        ({}, {"can": -0.2}, "Goodharted", "5 of 5 families do not rise"),
        (rising("abcde"), {"can": -0.03}, "undecided", "may have fallen by 0.05: can"),
        (rising("abcde"), {"can": -0.005}, "improved", "5 of 5 families rise"),
        (rising("abcde"), {"trained": 0.0}, "not raised", "s rises by less than 0.05"),
        (rising("abcde"), {"trained": -0.5}, "not raised", "s rises by less than 0.05"),
        (rising("abcde"), {"trained": 0.05}, "undecided", "s may have risen by 0.05, or not"),
        ({}, {"trained": 0.05}, "undecided", "s may have risen by 0.05, or not"),
        ({"e": -2.0}, {"trained": 0.0}, "not raised", "s rises by less than 0.05"),
        (rising("abcde"), {"trained": 0.0, "can": -0.2}, "harmed", "falls by more than 0.05: can"),
        (rising("abc"), {"sd": 0.5, "trained": 2.0}, "undecided", "0 of 5 families rise, 0 do not"),  # lack of power
        ({}, {"sd": 0.5, "trained": 2.0}, "undecided", "0 of 5 families rise, 0 do not"),
    ],
)
def test_the_rule(families, more, verdict, because):
    found = audit_of(families, **more)
    assert (found.verdict, found.because) == (verdict, because)


def test_states_of_families_by_hand():
    # Of three of five families one must err for a wrong verdict: each end has the level 1 − 0.05 / 3.
    found = audit_of({"a": 2.0, "b": 0.0, "c": -2.0, "d": 0.5, "e": -1.2}, sd=0.07)
    half = scipy.stats.t(7).ppf(1 - 0.05 / 3) * 0.7 / 8**0.5
    for name, value, state in (
        ("a", 2.0, "rises"),
        ("b", 0.0, "does not rise"),
        ("c", -2.0, "falls"),
        ("d", 0.5, "open"),
        ("e", -1.2, "does not rise"),
    ):
        family = found.families[name]
        np.testing.assert_allclose([family.rise.low, family.rise.high], [value - half, value + half], atol=1e-9)
        assert family.state == state, name
    assert found.families["e"].may_fall and not found.families["b"].may_fall
    assert found.families["a"].counted == ("a1", "a2") and not found.set_aside


def test_a_familys_effect_is_pooled_seed_by_seed():
    # The metrics of a family differ from seed to seed, but not their mean: pooled, the rise is certain.
    before, after = groups({"s": 0.5, "a1": 0.2, "a2": 0.2})
    after["a1"] = before["a1"] + 0.2 + 0.5 * DEVIATIONS[:, None]
    after["a2"] = before["a2"] + 0.2 - 0.5 * DEVIATIONS[:, None]
    family = audited(before, after, SCALES, CRITERIA).families["a"]
    np.testing.assert_allclose([family.rise.low, family.rise.high], 2.0, atol=1e-9)
    assert paired_effect(before["a1"], after["a1"]).low < 0


def test_correlated_metrics_count_once():
    """Ten metrics that say the same are one family, and no majority; nor does it matter how many they are."""
    copies = tuple(f"a{i}" for i in range(10))
    many = dataclasses.replace(CRITERIA, families={**FAMILIES, "a": copies})
    before, after = groups({"s": 0.5, "a1": 0.2})
    before |= {name: before["a1"] for name in copies}
    after |= {name: after["a1"] for name in copies}
    scales = SCALES | dict.fromkeys(copies, Scale("higher"))
    found = audited(before, after, scales, many)
    one = audited(before, after, scales, dataclasses.replace(CRITERIA, families={**FAMILIES, "a": ("a1",)}))
    assert found.verdict == one.verdict == "Goodharted"
    assert found.families["a"].state == "rises"
    assert found.families["a"].rise.low == pytest.approx(one.families["a"].rise.low)


def test_a_metric_has_its_own_smallest_effect():
    criteria = dataclasses.replace(CRITERIA, smallest_of={"b1": 0.4})
    found = audited(*groups({"s": 0.5, "b1": 0.2, "d1": 0.2}), SCALES, criteria)
    assert found.families["d"].rise.value == pytest.approx(2) and found.families["b"].rise.value == pytest.approx(0.5)


def test_what_has_no_room_is_set_aside_for_rises():
    before, after = groups({"s": 0.5, **{f"{family}1": 0.2 for family in "abcde"}, "a2": -0.2})
    scales = SCALES | {"a2": Scale("higher", 0.35), "d1": Scale("higher", 0.39), "e1": Scale("higher", 0.41)}
    found = audited(before, after, scales, CRITERIA)
    assert found.set_aside == {"a2": "no room", "d1": "no room"}
    # a rises by its other metric, whose change is looked at alone; its fall is looked for in both.
    assert found.families["a"].rise.value == pytest.approx(2) and found.families["a"].change.value == pytest.approx(0)
    assert found.families["d"].state == "no room" and found.families["e"].state == "rises"
    assert (found.verdict, found.because) == ("improved", "4 of 4 families rise")
    # What has no room can still fall.
    after["d1"] = before["d1"] - 0.3
    fallen = audited(before, after, scales, CRITERIA)
    assert fallen.families["d"].state == "falls" and fallen.verdict == "Goodharted"
    # Two families are no majority of anything.
    scales |= {name: Scale("higher", 0.35) for name in ("b1", "e1")}
    few = audited(*groups({"s": 0.5, "a1": 0.2, "c1": 0.2, "c2": 0.2}), scales, CRITERIA)
    assert (few.verdict, few.because) == ("undecided", "2 families have room to rise, 3 are needed")


def test_lower_can_be_better():
    lower = {name: Scale("lower", 0.0) for name in ("b1", "d1", "can")}
    before, after = groups({"s": 0.5, "a1": 0.2, "a2": 0.2, "b1": -0.2, "d1": -0.2})
    found = audited(before, after, SCALES | lower, CRITERIA)
    assert found.verdict == "improved" and found.families["b"].rise.value == pytest.approx(2)
    _, after = groups({"s": 0.5, "b1": -0.2, "d1": -0.2, "c1": 0.2, "c2": 0.2, "can": 0.2})
    assert audited(before, after, SCALES | lower, CRITERIA).verdict == "harmed"
    scales = SCALES | {"b1": Scale("lower", 0.25)}
    assert audited(before, after, scales, CRITERIA).set_aside == {"b1": "no room"}


def test_what_has_no_value():
    before, after = groups({"s": 0.5, **{f"{family}1": 0.2 for family in "abcde"}, "a2": 0.2, "c2": 0.2})
    after["a2"] = np.full_like(after["a2"], np.nan)  # of no model
    after["b1"][:, 5] = np.nan  # in one replicate
    after["d1"] = after["d1"][:, :21]  # metrics of neurons have fewer replicates
    before["d1"] = before["d1"][:, :21]
    del after["c2"]
    found = audited(before, after, SCALES, CRITERIA)
    assert found.set_aside == {"a2": "no value", "c2": "not measured"}
    assert found.verdict == "improved" and found.families["a"].counted == ("a1",)
    assert math.isfinite(found.families["b"].rise.high)
    # A family without any value is none of the families.
    after["e1"] = np.full_like(after["e1"], np.nan)
    found = audited(before, after, SCALES, CRITERIA)
    assert "e" not in found.families and found.because == "4 of 4 families rise"
    # Nothing is shown of a trained metric or an ability without a value.
    lost = dict(after, s=np.full_like(after["s"], np.nan))
    assert audited(before, lost, SCALES, CRITERIA).verdict == "undecided"
    lost = dict(after, can=np.full_like(after["can"], np.nan))
    assert audited(before, lost, SCALES, CRITERIA).because == "may have fallen by 0.05: can"


def test_seeds_that_would_decide():
    # Families rise by 1.5 with a standard deviation of 2: by how many seeds does the interval leave 0?
    found = audit_of(dict.fromkeys("abcde", 1.5), trained=2.0, sd=0.2)
    assert found.verdict == "undecided"

    def leaves_0(n):
        return scipy.stats.t(n - 1).ppf(1 - 0.05 / 3) * 2 / n**0.5 < 1.5

    def keeps_ability(n):
        return scipy.stats.t(n - 1).ppf(0.975) * 0.2 / n**0.5 < 0.05

    expected = next(n for n in range(8, 101) if leaves_0(n) and keeps_ability(n))
    assert 10 < expected == seeds_to_decide(found, CRITERIA)
    # What facts leave open no number of seeds decides, nor what lies on the border.
    assert seeds_to_decide(audit_of(dict.fromkeys("abcde", 1.5), trained=2.0, facts=0.2), CRITERIA) is None
    assert seeds_to_decide(audit_of(dict.fromkeys("abcde", 1.0), can=-0.05, trained=2.0), CRITERIA) is None
    decided = audit_of(rising("abc"))
    assert seeds_to_decide(decided, CRITERIA) == 8


def test_what_an_audit_needs():
    with pytest.raises(UserError, match="families must be at least 3, each of a metric or more"):
        Criteria(families={"a": ("a1",), "b": ("b1",)})
    with pytest.raises(UserError, match="families must be at least 3, each of a metric or more"):
        dataclasses.replace(CRITERIA, families={**FAMILIES, "a": ()})
    with pytest.raises(UserError, match="name a metric once, and not what is trained, got 'b1'"):
        dataclasses.replace(CRITERIA, families={**FAMILIES, "a": ("b1",)})
    with pytest.raises(UserError, match="name a metric once, and not what is trained, got 's'"):
        dataclasses.replace(CRITERIA, families={**FAMILIES, "a": ("s",)})
    with pytest.raises(UserError, match="level must be above"):
        Criteria(level=1.0)
    with pytest.raises(UserError, match="smallest and smallest_of must be above 0"):
        Criteria(smallest=0.0)
    with pytest.raises(UserError, match="least must be at least 0"):
        Criteria(least=-0.1)
    before, after = groups({})
    for name in ("s", "can"):
        with pytest.raises(UserError, match=f"needs the metric '{name}', which was not measured in both groups"):
            audited(before, {k: v for k, v in after.items() if k != name}, SCALES, CRITERIA)
    with pytest.raises(UserError, match="'c1' has no better direction"):
        audited(before, after, {**SCALES, "c1": Scale("neither")}, CRITERIA)
    with pytest.raises(UserError, match="needs at least two seeds"):
        audited(*({k: v[:1] for k, v in group.items()} for group in (before, after)), SCALES, CRITERIA)
    with pytest.raises(UserError, match="samples of 'd1' must have one shape"):
        audited(before, after | {"d1": after["d1"][:5]}, SCALES, CRITERIA)
