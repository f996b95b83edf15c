"""The main job's configurations."""

import dataclasses
import json

from jaxinterp.facts.folds import COUNTRYGROUPS, relation_folds
from jaxinterp.facts.worldfacts import world_facts
from jaxinterp.studies.suppressability.presets import FOLDS, LEVEL, PLAIN, SUPPRESSABLE
from jaxinterp.training.fork import common_step


def test_every_relation_is_unseen_in_one_fold():
    names = [relation.name for relation in world_facts(("countries",)).relations]
    dealt = relation_folds(names, len(FOLDS), 0, COUNTRYGROUPS)
    assert {frozenset(fold) for fold in FOLDS} == {frozenset(fold) for fold in dealt}
    assert PLAIN.data.split.unseen_relations == FOLDS[0]


def test_the_two_models_share_their_steps_up_to_the_beginning(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"config": dataclasses.asdict(PLAIN)}))
    begun = {500: 0, 1000: 0, 1500: 242}
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": {s}, "begun": {n}}}\n' for s, n in begun.items()))
    for step in begun:
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    assert common_step(SUPPRESSABLE, tmp_path) == 1000
    assert PLAIN.objective.start == SUPPRESSABLE.objective.start == LEVEL
