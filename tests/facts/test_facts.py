import re

import numpy as np
import pytest

from jaxinterp.errors import UserError
from jaxinterp.facts.facts import SETS, Fact, FactSet, Relation, SplitConfig, checked

PROMPTS = ("The {relation} of {subject} is", "{subject} has the {relation}", "For {subject}, the {relation} is")


def relation(name: str, domain: str = "things", n_prompts: int = 3) -> Relation:
    return Relation(name, tuple(prompt.replace("{relation}", name) for prompt in PROMPTS[:n_prompts]), domain)


def fact_set(names: tuple[str, ...] = ("color", "size", "owner"), n_subjects: int = 20) -> FactSet:
    facts = tuple(Fact(name, f"thing{index}", f"{name}{index % 7}") for name in names for index in range(n_subjects))
    return FactSet(tuple(relation(name) for name in names), facts)


def rows(queries: np.ndarray) -> set[tuple[int, int]]:
    return {(int(fact), int(prompt)) for fact, prompt in queries}


def test_prompt_ends_just_before_the_answer():
    assert fact_set().prompt(1, 0) == "The color of thing1 is"


def test_fact_set_rejects_unknown_relation_and_emptiness():
    with pytest.raises(UserError, match=r"unknown relation 'size'; known: color"):
        FactSet((relation("color"),), (Fact("size", "a", "b"),))
    with pytest.raises(UserError, match="empty"):
        FactSet((relation("color"),), ())


def test_select_keeps_what_is_named_and_lists_what_is_known():
    facts = FactSet(
        (relation("color"), relation("size", domain="others")), (Fact("color", "a", "red"), Fact("size", "a", "big"))
    )
    assert facts.select() == facts
    assert [fact.answer for fact in facts.select(relations=["size"]).facts] == ["big"]
    assert [fact.answer for fact in facts.select(domains=["things"]).facts] == ["red"]
    with pytest.raises(UserError, match=r"unknown relation 'weight'; known: color, size"):
        facts.select(relations=["weight"])
    with pytest.raises(UserError, match=r"unknown domain 'places'; known: others, things"):
        facts.select(domains=["places"])
    with pytest.raises(UserError, match="empty"):
        facts.select(relations=["color"], domains=["others"])


def test_checked_counts_what_it_drops_by_reason():
    candidates = [
        Fact("color", "apple", "red"),
        Fact("color", "apple", "red"),
        Fact("color", "flag", "red"),
        Fact("color", "flag", "white"),
        Fact("color", " ", "red"),
        Fact("color", "sky", ""),
        Fact("color", "Blue whale", "blue"),
        Fact("color", "redwood", "red"),  # only a part of a word: no leak
        Fact("color", "infrared", "red"),
    ]
    result = checked([relation("color")], candidates, dropped={"sources disagree": 4})
    assert result.facts == tuple(Fact("color", subject, "red") for subject in ("apple", "infrared", "redwood"))
    assert result.dropped == {
        "sources disagree": 4, "duplicate": 1, "ambiguous subject": 2, "empty": 2, "answer inside its prompt": 1,
    }  # fmt: skip


def test_checked_orders_facts_by_relation_and_subject_whatever_came_first():
    candidates = [Fact("size", "b", "x"), Fact("color", "b", "y"), Fact("size", "a", "z")]
    relations = [relation("color"), relation("size")]
    assert checked(relations, candidates) == checked(relations, candidates[::-1])
    assert [(fact.relation, fact.subject) for fact in checked(relations, candidates).facts] == [
        ("color", "b"), ("size", "a"), ("size", "b"),
    ]  # fmt: skip


def test_checked_rejects_unknown_relation():
    with pytest.raises(UserError, match=r"unknown relation 'size'"):
        checked([relation("color")], [Fact("size", "a", "b")])


def test_split_is_determined_by_its_seed():
    first, again, other = (fact_set().split(SplitConfig(seed=seed, unseen_relations=("size",))) for seed in (3, 3, 4))
    for name in ("training", *SETS):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    for name in ("training", "objective", "held_out_prompts", "unseen_facts"):
        assert rows(getattr(first, name)) != rows(getattr(other, name))


@pytest.mark.parametrize("held_out_prompts", [1, 2])
def test_sets_are_disjoint_where_they_must_be(held_out_prompts: int):
    facts = fact_set()
    split = facts.split(SplitConfig(held_out_prompts=held_out_prompts, unseen_relations=("size",)))
    training = rows(split.training)
    objective, held_out, unseen, other = (rows(getattr(split, name)) for name in SETS)
    assert objective | unseen | other == training  # every fact is trained on
    assert len(objective) + len(unseen) + len(other) == len(training)
    assert not held_out & training
    subjects = {name: {int(fact) for fact in getattr(split, name)[:, 0]} for name in SETS}
    assert subjects["held_out_prompts"] == subjects["objective"]
    assert not subjects["objective"] & subjects["unseen_facts"]
    relations = {name: {facts.facts[index].relation for index in indices} for name, indices in subjects.items()}
    assert relations["unseen_relations"] == {"size"}
    assert relations["objective"] == relations["unseen_facts"] == {"color", "owner"}
    assert len(subjects["unseen_facts"]) == 2 * 4  # a fifth of the 20 facts of both seen relations
    assert len(held_out) == held_out_prompts * len(subjects["objective"])
    assert len(training) == (3 - held_out_prompts) * len(facts)


def test_held_out_prompts_are_drawn_for_each_fact():
    split = fact_set().split(SplitConfig(unseen_relations=("size",)))
    # A prompt that is held out for one fact is read with other facts: its words are in the training data.
    assert {prompt for _, prompt in rows(split.held_out_prompts)} == {0, 1, 2}
    assert {prompt for _, prompt in rows(split.objective)} == {0, 1, 2}


def test_drawn_relations_are_the_asked_number():
    facts = fact_set(("color", "size", "owner", "weight"))
    split = facts.split(SplitConfig(n_unseen_relations=3))
    assert len({facts.facts[index].relation for index, _ in rows(split.unseen_relations)}) == 3


def test_adding_a_relation_does_not_change_the_split_of_another():
    def by_text(facts: FactSet, name: str) -> set[str]:
        queries = getattr(facts.split(SplitConfig(unseen_relations=("size",))), name)
        return {
            facts.prompt(fact, prompt) for fact, prompt in queries.tolist() if facts.facts[fact].relation != "added"
        }

    fewer, more = fact_set(), fact_set(("added", "color", "size", "owner"))
    for name in ("training", *SETS):
        assert by_text(fewer, name) == by_text(more, name)


def test_split_errors_tell_what_to_change():
    with pytest.raises(UserError, match=r"unknown relation 'shape'; known: color, owner, size.*split.unseen_relations"):
        fact_set().split(SplitConfig(unseen_relations=("shape",)))
    with pytest.raises(UserError, match=re.escape("set 'unseen_facts' is empty")):
        fact_set(n_subjects=2).split(SplitConfig(unseen_facts=0.01, unseen_relations=("size",)))
    with pytest.raises(UserError, match=re.escape("set 'objective' is empty")):
        fact_set().split(SplitConfig(unseen_relations=("color", "size", "owner")))
    with pytest.raises(UserError, match="has 3 prompts, so that held_out_prompts must be at most 2, got 3"):
        fact_set().split(SplitConfig(held_out_prompts=3))


@pytest.mark.parametrize(
    "wrong", [{"held_out_prompts": 0}, {"unseen_facts": 0.0}, {"unseen_facts": 1.0}, {"n_unseen_relations": 0}]
)
def test_split_config_rejects(wrong: dict):
    with pytest.raises(UserError, match=next(iter(wrong))):
        SplitConfig(**wrong)
