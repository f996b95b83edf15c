import dataclasses
import itertools
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from synthetic import TEMPLATES, SyntheticConfig, SyntheticFacts

from jaxinterp.base.errors import UserError
from jaxinterp.facts.checks import checked
from jaxinterp.facts.splits import SplitConfig, split_facts

SMALL = SyntheticConfig(n_subjects=1000, n_relations=7, n_answers=11)


def test_length_is_subjects_times_relations():
    assert len(SyntheticFacts(SMALL)) == 7000
    assert sum(1 for _ in SyntheticFacts(SMALL)) == 7000


def test_same_config_same_facts_and_other_seed_other_facts():
    again, other = (SyntheticFacts(dataclasses.replace(SMALL, seed=seed)) for seed in (0, 1))
    assert list(SyntheticFacts(SMALL)) == list(again)
    assert not set(SyntheticFacts(SMALL)) & set(other)


def test_random_access_equals_stream():
    facts = SyntheticFacts(SMALL)
    stream = list(facts)
    # The ends, both sides of a block's border, and some between, in an order that is not the stream's.
    for index in (6999, 0, 4096, 4095, 1, 5000, 17):
        assert facts.fact(index) == stream[index]
        assert SyntheticFacts(SMALL).fact(index) == stream[index]


def test_blocks_differ():
    ranks = [SyntheticFacts(SMALL)._ranks(block) for block in range(2)]
    assert not np.array_equal(*ranks)


def test_every_subject_has_one_answer_in_every_relation_and_no_word_has_two_roles():
    facts = list(SyntheticFacts(SMALL))
    assert len({(fact.relation, fact.subject) for fact in facts}) == len(facts)
    assert len({fact.subject for fact in facts}) == 1000
    assert len({fact.relation for fact in facts}) == 7
    relations_of: dict[str, set[str]] = {}
    for fact in facts:
        relations_of.setdefault(fact.answer, set()).add(fact.relation)
    assert len(relations_of) == 7 * 11
    assert all(len(relations) == 1 for relations in relations_of.values())
    subjects = {fact.subject.lower() for fact in facts}
    assert not subjects & relations_of.keys() and not subjects & {fact.relation for fact in facts}
    assert all(word.isalpha() and word.isascii() for word in subjects | relations_of.keys())


def test_words_stay_unique_where_they_get_longer():
    # 100 syllables: 10,001 subjects need three of them.
    facts = SyntheticFacts(SyntheticConfig(n_subjects=10_001, n_relations=1))
    subjects = {fact.subject for fact in facts}
    assert len(subjects) == 10_001
    assert {len(subject) for subject in subjects} == {7}


@pytest.mark.parametrize("zipf", [0.0, 1.0, 1.5])
def test_answer_frequencies(zipf: float):
    facts = SyntheticFacts(SyntheticConfig(n_subjects=40_000, n_relations=1, n_answers=20, zipf=zipf))
    counts = sorted(Counter(fact.answer for fact in facts).values(), reverse=True)
    weights = np.arange(1, 21) ** -zipf
    expected = 40_000 * weights / weights.sum()
    # Five standard deviations of each count.
    np.testing.assert_array_less(np.abs(np.array(counts) - expected), 5 * np.sqrt(expected))


def test_neighbouring_facts_are_independent():
    ranks = SyntheticFacts(SyntheticConfig(n_answers=2, zipf=0.0))._ranks(0)
    assert abs(np.corrcoef(ranks[:-1], ranks[1:])[0, 1]) < 0.08  # five standard deviations of 4096 draws


def test_nothing_is_dropped_when_checked():
    facts = SyntheticFacts(SyntheticConfig(n_subjects=200, n_prompts=len(TEMPLATES)))
    assert not checked(facts.relations, facts).dropped


def test_prompts():
    relation = SyntheticFacts(SMALL).relations[0]
    assert relation.prompts[0] == f"The {relation.name} of {{subject}} is"
    assert len(set(relation.prompts)) == 5
    for template in TEMPLATES:
        assert template.count("{subject}") == 1 and template.count("{relation}") == 1


def test_fact_set_takes_the_first_facts_and_can_be_split():
    facts = SyntheticFacts(SMALL)
    assert facts.fact_set(10).facts == tuple(itertools.islice(facts, 10))
    assert len(facts.fact_set()) == len(facts)
    split = split_facts(facts.fact_set(), SplitConfig())
    assert len(split.training) == 7000 * 4
    for limit in (0, 7001):
        with pytest.raises(UserError, match=f"limit must lie between 1 and the number of facts 7000, got {limit}"):
            facts.fact_set(limit)


@pytest.mark.parametrize("index", [-1, 7000])
def test_no_such_fact(index: int):
    with pytest.raises(IndexError, match="between 0 and 6999"):
        SyntheticFacts(SMALL).fact(index)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_subjects": 0}, {"n_relations": 0}, {"n_answers": 0}, {"zipf": -0.1}, {"zipf": float("nan")},
        {"zipf": float("inf")}, {"n_prompts": 0}, {"n_prompts": len(TEMPLATES) + 1}, {"seed": -1}, {"seed": 2**64},
    ],
)  # fmt: skip
def test_config_rejects(wrong: dict):
    with pytest.raises(UserError, match=next(iter(wrong))):
        SyntheticConfig(**wrong)


def test_streaming_and_far_access_keep_no_table():
    # Ten million facts, of which the first hundred thousand are read, and the last one.
    facts = SyntheticFacts(SyntheticConfig(n_subjects=1_000_000, n_answers=1000))
    facts.fact(0)
    tracemalloc.start()
    for _ in itertools.islice(facts, 100_000):
        pass
    facts.fact(len(facts) - 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 2**20
