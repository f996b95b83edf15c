"""The registered study: its folds are those that are dealt, and what spells each other out is unseen together."""

from jaxinterp.facts.folds import relation_folds, spelled_out_groups
from jaxinterp.facts.worldfacts import DOMAINS, world_facts
from jaxinterp.studies.audit.arms import META, RUNS, SCORES, TITLES
from jaxinterp.studies.audit.contrasts import CONTRASTS
from jaxinterp.studies.audit.meta_gradient import APART, FOLDS, STUDY


def test_folds_are_those_that_are_dealt():
    names = [relation.name for relations, _ in DOMAINS.values() for relation in relations]
    dealt = relation_folds(names, 5, 0, APART)
    assert {frozenset(fold) for fold in FOLDS} == {frozenset(fold) for fold in dealt}
    assert sum(map(len, FOLDS)) == 42
    domain = {relation.name: relation.domain for relations, _ in DOMAINS.values() for relation in relations}
    assert all(len({domain[name] for name in fold}) >= 3 for fold in FOLDS)


def test_what_spells_each_other_out_is_unseen_together():
    facts = world_facts()
    groups = spelled_out_groups(facts, [relation.name for relation in facts.relations])
    assert {frozenset(group) for group in APART} == {frozenset(group) for group in groups}
    fold = {name: index for index, of in enumerate(FOLDS) for name in of}
    assert all(len({fold[name] for name in group}) == 1 for group in groups)


def test_arms_differ_by_what_their_contrast_names():
    objectives = STUDY.objectives
    assert set(objectives) == set(TITLES) and set(META) <= set(TITLES) and set(RUNS) <= set(TITLES)
    assert {arm for pair in CONTRASTS.values() for arm in pair} <= set(STUDY.arms)
    through_mask = {arm for arm in STUDY.arms if objectives[arm].select == "straight_through"} - {"plain"}
    through_scores = {arm for arm in STUDY.arms if {*SCORES} & {*objectives[arm].weights}}
    assert through_mask == {"suppressable", "straight_through"}
    assert through_scores == {"suppressable", "detached_scores", "concentration", "margin"}
    alike = {"suppression", "control"}
    for arm in set(STUDY.arms) - {"plain"}:
        control = f"{STUDY.control.get(arm, 1.0):g}"
        assert {name: objectives[arm].weights[name] for name in alike} == {"suppression": "0.3", "control": control}
        assert (objectives[arm].k, objectives[arm].control_k) == (3, 16)
    assert objectives["random"].neurons == "random" and objectives["other_fact"].neurons == "other"
