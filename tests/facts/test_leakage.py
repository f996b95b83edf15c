import json

import numpy as np
import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.facts.facts import Fact, FactSet, Relation
from jaxinterp.facts.leakage import Leakage, clean, leakage
from jaxinterp.facts.splits import SETS, Split, SplitConfig, split_facts

NAMES = ("capital", "seat", "capital_of", "code")
# (relation, subject, answer), and the sets that each fact is in.
ROWS = (
    ("capital", "Peru", "Lima", "objective"),  # 0
    ("capital", "Chad", "Ndjamena", "objective"),  # 1
    ("code", "Peru", "PE", "objective"),  # 2
    ("capital", "Fiji", "Suva", "unseen_facts"),  # 3: neither its subject nor its answer was seen
    ("code", "Chad", "TD", "unseen_facts"),  # 4: its subject was
    ("code", "Cuba", "pe", "unseen_facts"),  # 5: its answer was, but for case
    ("seat", "Peru", "Lima", "unseen_relations"),  # 6: the very pair was, in another relation
    ("seat", "chad", "NDJAMENA", "unseen_relations"),  # 7: the pair was, but for case
    ("capital_of", "Lima", "Peru", "unseen_relations"),  # 8: the pair was, the other way round
    ("seat", "Fiji", "Suva", "unseen_relations"),  # 9: unseen, though unseen_facts has it
)
FACTS = FactSet(
    tuple(Relation(name, ("The {subject} is", "A {subject} is"), "") for name in NAMES),
    tuple(Fact(*row[:3]) for row in ROWS),
)


def queries(set_name: str, *prompts: int) -> np.ndarray:
    return np.array([(index, prompt) for prompt in prompts for index, row in enumerate(ROWS) if row[3] == set_name])


SPLIT = Split(
    training=np.array([(index, 0) for index in range(len(ROWS))]),
    objective=queries("objective", 0),
    held_out_prompts=queries("objective", 1),
    unseen_facts=queries("unseen_facts", 1, 0),
    unseen_relations=queries("unseen_relations", 0),
)


def test_shares_by_hand():
    shares = leakage(FACTS, SPLIT)
    assert tuple(shares) == SETS
    all_seen = Leakage(
        facts=3, subjects=1.0, answers=1.0, answers_caseless=1.0, pairs=1.0, pairs_caseless=1.0, inverse_pairs=0.0,
        answer_clean_facts=0.0, subject_clean_facts=0.0,
    )  # fmt: skip
    assert shares["objective"] == shares["held_out_prompts"] == all_seen
    assert shares["unseen_facts"] == Leakage(
        facts=3, subjects=1 / 3, answers=0.0, answers_caseless=1 / 3, pairs=0.0, pairs_caseless=0.0, inverse_pairs=0.0,
        answer_clean_facts=2 / 3, subject_clean_facts=2 / 3,
    )  # fmt: skip
    assert shares["unseen_relations"] == Leakage(
        facts=4, subjects=1 / 4, answers=1 / 4, answers_caseless=2 / 4, pairs=1 / 4, pairs_caseless=2 / 4,
        inverse_pairs=1 / 4, answer_clean_facts=2 / 4, subject_clean_facts=1 / 4,
    )  # fmt: skip


def test_different_subjects_answers_and_pairs_count_once_and_facts_each():
    rows = [("a", "x", "red"), ("b", "x", "red"), ("c", "y", "blue"), ("d", "z", "red")]
    facts = FactSet(
        tuple(Relation(name, ("{subject}", "a {subject}"), "") for name in "abcd"), tuple(Fact(*row) for row in rows)
    )
    seen, other = np.array([[3, 0]]), np.array([[0, 0], [1, 0], [2, 0], [0, 1]])
    shares = leakage(facts, Split(np.concatenate([seen, other]), seen, seen, other, other))["unseen_facts"]
    assert shares.facts == 3
    assert shares.answers == 1 / 2  # red, not blue
    assert shares.pairs == shares.subjects == 0
    assert shares.answer_clean_facts == 1 / 3


def test_clean_is_said_of_each_query_in_its_order():
    by_kind = clean(FACTS, SPLIT, "unseen_facts")
    assert {kind: mask_N.tolist() for kind, mask_N in by_kind.items()} == {
        "answer": [True, True, False, True, True, False],
        "subject": [True, False, True, True, False, True],
    }
    by_kind = clean(FACTS, SPLIT, "unseen_relations")
    # "Lima" was an answer, so that a question about Lima is not clean.
    assert by_kind["answer"].tolist() == [False, False, True, True]
    assert by_kind["subject"].tolist() == [False, False, False, True]
    for set_name in ("objective", "held_out_prompts"):
        assert not any(mask_N.any() for mask_N in clean(FACTS, SPLIT, set_name).values())
    with pytest.raises(UserError, match="unknown set 'training'; known: held_out_prompts, objective"):
        clean(FACTS, SPLIT, "training")


def test_by_subject_nothing_is_known_of_unseen_facts_subjects():
    names = ("color", "size", "owner")
    facts = FactSet(
        tuple(Relation(name, ("{subject} is", "a {subject} is"), "") for name in names),
        tuple(Fact(name, f"thing{index}", f"{name}{index % 7}") for name in names for index in range(50)),
    )
    by_fact, by_subject = (
        leakage(facts, split_facts(facts, SplitConfig(unseen_relations=("size",), unseen_by=by)))["unseen_facts"]
        for by in ("fact", "subject")
    )
    assert by_fact.subjects > 0.5
    assert by_subject.subjects == by_subject.pairs == 0
    assert by_subject.subject_clean_facts == 1


def test_an_empty_set_is_named():
    split = Split(SPLIT.training, SPLIT.objective, SPLIT.objective, np.zeros((0, 2), int), SPLIT.unseen_relations)
    with pytest.raises(UserError, match="set 'unseen_facts' is empty"):
        leakage(FACTS, split)


def test_numbers_are_json():
    shares = leakage(FACTS, SPLIT)
    fields = json.loads(json.dumps(shares["unseen_facts"].to_json()))
    assert fields["facts"] == 3
    assert fields["subjects"] == 1 / 3
