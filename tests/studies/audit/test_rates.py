"""How often the verdict errs and finds what is there; its simulations by hand, and false alarms."""

import dataclasses

import numpy as np
import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.studies.audit.false_alarms import false_alarms
from jaxinterp.studies.audit.rates import rates_of_audit, spread_of
from jaxinterp.studies.audit.simulation import (
    Situation,
    operating_characteristics,
    outcome_rates,
    print_rates,
    simulated,
)
from jaxinterp.studies.audit.verdict import FAMILIES, Criteria, Scale, audited
from jaxinterp.studies.statistics import share

CRITERIA = Criteria()
NAMES = (CRITERIA.trained, *CRITERIA.independent, *CRITERIA.ability)
SCALES = dict.fromkeys(NAMES, Scale("higher"))


def every(d):
    return dict.fromkeys(FAMILIES, d)


def first(n, d):
    return {name: d if i < n else 0.0 for i, name in enumerate(FAMILIES)}


def test_wilsons_interval_by_hand():
    z2 = 1.959964**2
    assert share(0, 10) == {"value": 0, "low": 0, "high": pytest.approx(z2 / (10 + z2), rel=1e-5), "n": 10}
    assert share(5, 10)["low"] + share(5, 10)["high"] == pytest.approx(1)


# 150 simulations: a rate of 5 % gives 7.5 ± 2.7, one of 1 % gives 1.5.
def rates(situation, rises, simulations=150):
    found = outcome_rates(situation, rises, simulations)
    assert sum(rate["value"] for rate in found.values()) == pytest.approx(1)
    return {outcome: rate["value"] for outcome, rate in found.items()}


@pytest.mark.parametrize("smallest", [0.5, 1.0])
def test_a_true_improvement_is_not_called_goodharted(smallest):
    """What a rule does that takes "not significant" for "not there": it says so of nearly all such audits."""
    found = rates(Situation(seeds=8, smallest=smallest), every(1.0))
    assert found["Goodharted"] <= 0.05
    assert found["undecided"] < 0.9


@pytest.mark.parametrize("correlations", [(0.0, 0.0), (0.9, 0.0), (0.9, 0.9)])
def test_a_clear_improvement_is_found(correlations):
    within, between = correlations
    assert rates(Situation(seeds=8, within=within, between=between), every(1.5))["improved"] >= 0.8


def test_goodharting_is_found_where_the_smallest_effect_is_larger_than_the_noise():
    assert rates(Situation(seeds=8, smallest=2.0), every(0.0))["Goodharted"] >= 0.8
    # Otherwise nothing is said.
    assert rates(Situation(seeds=4, smallest=0.5), every(0.0))["undecided"] >= 0.9


@pytest.mark.parametrize("between", [0.0, 0.9])
def test_errors_are_rare_where_it_is_hardest_to_tell(between):
    situation = Situation(seeds=8, within=0.9, between=between)
    assert rates(situation, first(2, 10.0))["improved"] <= 0.05
    assert rates(situation, first(3, situation.smallest))["Goodharted"] <= 0.05


def test_relations_that_seeds_have_in_turn_are_accounted_for_and_few_of_them_are_not():
    drawn = {"seeds": 8, "relation_sd": 1.0}
    assert rates(Situation(**drawn, relations=3, folds=5), first(2, 10.0))["improved"] <= 0.06
    # What two relations do to all seeds alike the seeds cannot show; the table of rates says so.
    assert rates(Situation(**drawn, relations=2), first(2, 10.0))["improved"] > 0.06


def test_simulated_samples_are_what_they_are_called():
    situation = Situation(seeds=200, facts=48, relations=4, folds=2, within=0.8, between=0.3, fact_sd=0.0, own_sd=0.0)
    before, after, scales = simulated(situation, every(2.0), np.random.default_rng(0))
    change = {name: (after[name] - before[name])[:, 0] / situation.sd for name in after}
    assert set(change) == set(scales) == set(NAMES)
    values = np.stack([change[name] for name in CRITERIA.independent])
    np.testing.assert_allclose(values.mean(1), 2.0, atol=0.35)
    np.testing.assert_allclose(values.std(1), 1.0, atol=0.2)
    found = np.corrcoef(values)
    family = np.array([name for name, metrics in FAMILIES.items() for _ in metrics])
    same = family[:, None] == family
    assert found[same & ~np.eye(len(family), dtype=bool)].mean() == pytest.approx(0.8, abs=0.1)
    assert found[~same].mean() == pytest.approx(0.3, abs=0.15)
    assert change["recall"].mean() == pytest.approx(0.0, abs=0.3)
    assert situation.criteria.smallest == pytest.approx(situation.sd)
    # Without noise of facts replicates are the estimate; with it they vary about it, as facts do.
    np.testing.assert_allclose(after["selectivity"], after["selectivity"][:, :1] * np.ones((1, 101)), rtol=1e-9)
    noisy = dataclasses.replace(situation, seeds=2, facts=400, relations=400, folds=1, fact_sd=1.0)
    _, after, _ = simulated(noisy, every(0.0), np.random.default_rng(0))
    assert after["selectivity"][0, 1:].std() / noisy.sd == pytest.approx(1 / 20, rel=0.3)


def test_what_a_situation_can_be():
    with pytest.raises(UserError, match=r"correlations must be 0 ≤ between ≤ within ≤ 1, got 0.9 and 0.5"):
        Situation(within=0.5, between=0.9)
    with pytest.raises(UserError, match="facts that are a multiple of relations, got 8, 96 and 7"):
        Situation(relations=7)


def made_up(rng, changes, *, seeds=8, seed_sd=0.02, fact_sd=0.005):
    """Samples of two groups whose metrics change by so much, as measured ones would be."""
    before = {name: np.full((seeds, 101), 0.3) for name in NAMES}
    noise = np.concatenate([np.zeros(1), rng.standard_normal(100)])
    after = {
        name: 0.3 + changes.get(name, 0.0) + seed_sd * rng.standard_normal((seeds, 1)) + fact_sd * noise
        for name in NAMES
    }
    return before, after


def test_the_spread_of_an_audit_is_that_of_its_samples():
    before, after = made_up(np.random.default_rng(0), {}, seeds=4)
    after["selectivity"][:, 7] = np.nan
    spread = spread_of(before, after, NAMES)
    change = np.stack([(after[name] - before[name])[:, 0] for name in NAMES], axis=-1)
    np.testing.assert_allclose(spread.seeds.T @ spread.seeds, np.cov(change.T), atol=1e-12)
    replicates = np.stack([(after[name] - before[name])[:, 1:].mean(0) for name in NAMES], axis=-1)
    np.testing.assert_allclose(spread.facts[:, 0], replicates[:, 0] - replicates[:, 0].mean(), atol=1e-12)
    assert spread.facts[6, NAMES.index("selectivity")] == 0
    # Audits that are drawn from it have its errors, and the change that is put in its place.
    rng = np.random.default_rng(1)
    drawn = [spread.draw(np.full(len(NAMES), 0.1), rng) for _ in range(300)]
    values = np.array([(a["recall"] - b["recall"])[:, 0].mean() for b, a in drawn])
    expected = audited(before, after, SCALES, CRITERIA).ability["recall"].error
    assert values.mean() == pytest.approx(0.1, abs=4 * expected / 300**0.5)
    assert values.std() == pytest.approx(expected, rel=0.2)


def test_an_audit_has_the_rates_of_its_own_situation():
    rng = np.random.default_rng(0)
    scales = SCALES | {"hub_share": Scale("lower", 0.0), "concept_auroc": Scale("higher", 0.3)}
    precise = rates_of_audit(*made_up(rng, {}), scales, CRITERIA, simulations=100)
    assert set(precise) == {"improved_wrongly", "Goodharted_wrongly", "improved_found", "Goodharted_found"}
    assert precise["improved_found"]["value"] > 0.9 and precise["Goodharted_found"]["value"] > 0.9
    vague = rates_of_audit(*made_up(rng, {}, seed_sd=0.5), scales, CRITERIA, simulations=100)
    assert vague["improved_found"]["value"] < 0.2 and vague["Goodharted_found"]["value"] < 0.2
    for found in (precise, vague):
        assert found["improved_wrongly"]["value"] <= 0.06 and found["Goodharted_wrongly"]["value"] <= 0.06
        assert found["improved_wrongly"]["n"] == 100
    # What was found does not matter, only how it varies: the same noise and another change have the same rates.
    rng = np.random.default_rng(0)
    other = rates_of_audit(*made_up(rng, dict.fromkeys(NAMES, 0.2)), scales, CRITERIA, simulations=100)
    assert other == precise


def plain_models(n, *, spread=0.1, seed=0):
    """Plain models that differ in one thing, which shows in all their metrics."""
    rng = np.random.default_rng(seed)
    level = 0.5 + spread * rng.standard_normal((n, 1))
    return {name: level + 0.001 * rng.standard_normal((n, 51)) for name in NAMES}


def test_false_alarms_can_happen_and_are_rare():
    plain = plain_models(16)
    found = false_alarms(plain, SCALES, CRITERIA)
    assert (found["models"], found["size"], found["divisions"]) == (16, 8, 200)
    assert sum(found["outcomes"].values()) == 200
    assert found["rate"]["value"] <= 0.05 and found["rate"]["high"] > found["rate"]["value"]
    # A rule that takes any difference for one of seeds without end tells many plain models apart, and is caught.
    lenient = dataclasses.replace(CRITERIA, level=0.55, least=0.0, smallest=0.001, smallest_of={})
    caught = false_alarms(plain, SCALES, lenient)
    assert caught["rate"]["low"] > 0.1
    assert caught["rate"]["value"] == pytest.approx(
        sum(caught["outcomes"].get(name, 0) for name in ("improved", "Goodharted", "harmed")) / 200
    )


def test_what_is_left_if_a_rise_of_the_trained_metric_is_granted():
    found = false_alarms(plain_models(16), SCALES, CRITERIA)
    assert sum(found["granted"].values()) == 200 and "not raised" not in found["granted"]
    assert found["granted"].get("improved", 0) <= 10 and found["rising"]["value"] <= 0.05
    lenient = dataclasses.replace(CRITERIA, level=0.55, smallest=0.001, smallest_of={})
    caught = false_alarms(plain_models(16), SCALES, lenient)
    assert caught["granted"]["improved"] > 20 and caught["rising"]["low"] > 0.1


def test_few_plain_models_are_divided_into_halves_and_fewer_not_at_all():
    assert false_alarms(plain_models(11), SCALES, CRITERIA, divisions=10)["size"] == 5
    assert false_alarms(plain_models(40), SCALES, CRITERIA, divisions=10)["size"] == 8
    few = false_alarms(plain_models(7), SCALES, CRITERIA)
    none = {"outcomes": {}, "rate": None, "granted": {}, "rising": None}
    assert few == {"models": 7, "size": 3, "divisions": 0, **none}
    assert false_alarms({}, SCALES, CRITERIA)["models"] == 0


def test_divisions_share_no_model(monkeypatch):
    """A group against one that has the same models in it could never be told apart."""
    from jaxinterp.studies.audit import false_alarms as module

    seen = []

    def spy(before, after, scales, criteria):
        seen.append((before["recall"][:, 0].tolist(), after["recall"][:, 0].tolist()))
        return audited(before, after, scales, criteria)

    monkeypatch.setattr(module, "audited", spy)
    false_alarms(plain_models(16), SCALES, CRITERIA, divisions=20)
    assert len(seen) == 40 and seen[::2] == seen[1::2]  # once more with a rise granted
    assert len({tuple(before + after) for before, after in seen}) == 20
    for before, after in seen:
        assert len(before) == len(after) == 8 and not set(before) & set(after)


def test_tables_of_rates(capsys):
    rows = operating_characteristics(simulations=1)
    assert {row["table"] for row in rows} == {
        "all families rise by d",
        "no family rises",
        "hardest to tell",
        "relations differ",
    }
    assert all(sum(rate["value"] for rate in row["rates"].values()) == 1 for row in rows)
    wrong = {row["truth"]: row["wrong"] for row in rows if row["table"] == "all families rise by d"}
    assert wrong["d = 0"] == ["harmed", "improved"] and wrong["d = 1.5"] == ["harmed", "Goodharted"]
    assert wrong["d = 0.5"] == ["harmed"]
    print_rates(rows)
    text = capsys.readouterr().out
    assert "hardest to tell: % of audits" in text and "*" in text
