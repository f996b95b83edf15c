"""The main job's configurations."""

import dataclasses
import json

from jaxinterp.facts.folds import APART, relation_folds
from jaxinterp.facts.worldfacts import DOMAINS
from jaxinterp.studies.suppressability.presets import FOLDS, LEVEL, PLAIN, SUPPRESSABLE
from jaxinterp.training.fork import common_step


def test_every_relation_is_unseen_in_one_fold():
    domain = {relation.name: relation.domain for relations, _ in DOMAINS.values() for relation in relations}
    dealt = relation_folds(list(domain), len(FOLDS), 0, APART)
    assert {frozenset(fold) for fold in FOLDS} == {frozenset(fold) for fold in dealt}
    assert sum(map(len, FOLDS)) == len(domain) == 42
    assert all(len({domain[name] for name in fold}) >= 3 for fold in FOLDS)
    assert PLAIN.data.split.unseen_relations == FOLDS[0]
    fold = {name: index for index, of in enumerate(FOLDS) for name in of}
    assert all(len({fold[name] for name in group}) == 1 for group in APART)


def test_the_two_models_share_their_steps_up_to_the_beginning(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"config": dataclasses.asdict(PLAIN)}))
    begun = {500: 0, 1000: 0, 1500: 242}
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": {s}, "begun": {n}}}\n' for s, n in begun.items()))
    for step in begun:
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    assert common_step(SUPPRESSABLE, tmp_path) == 1000
    assert PLAIN.objective.start == SUPPRESSABLE.objective.start == LEVEL
