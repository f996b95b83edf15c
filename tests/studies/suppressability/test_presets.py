"""The main job's configurations."""

from jaxinterp.facts.folds import COUNTRYGROUPS, relation_folds
from jaxinterp.facts.worldfacts import world_facts
from jaxinterp.studies.suppressability.presets import FOLDS, PLAIN, START, SUPPRESSABLE
from jaxinterp.training.fork import common_step


def test_every_relation_is_unseen_in_one_fold():
    names = [relation.name for relation in world_facts(("countries",)).relations]
    dealt = relation_folds(names, len(FOLDS), 0, COUNTRYGROUPS)
    assert {frozenset(fold) for fold in FOLDS} == {frozenset(fold) for fold in dealt}
    assert PLAIN.data.split.unseen_relations == FOLDS[0]


def test_the_two_models_share_their_steps_up_to_the_objective():
    assert common_step(SUPPRESSABLE, PLAIN) == START
