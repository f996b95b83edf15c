"""Controls: which facts may be one, of each kind, by hand and against a slow loop; and how they are drawn."""

import numpy as np
import pytest

from jaxinterp.facts import controls
from jaxinterp.facts.controls import CONTROL_KINDS, KINDS, allowed, draw_controls
from jaxinterp.facts.encoding import EncodedQueries, encode, sentence
from jaxinterp.facts.facts import Fact, FactSet, Relation
from jaxinterp.models.tokenizer_training import train_tokenizer

FACTS = FactSet(
    (
        Relation("capital", ("The capital of {subject} is",), "countries"),
        Relation("language", ("In {subject} people speak",), "countries"),
        Relation("country", ("{subject} lies in",), "cities"),
        Relation("largest", ("The largest city of {subject} is",), "countries"),
    ),
    (
        Fact("capital", "France", "Paris"),
        Fact("capital", "Peru", "Lima"),
        Fact("capital", "Mexico", "Mexico City"),
        Fact("capital", "Panama", "Panama City"),
        Fact("language", "France", "French"),
        Fact("language", "Mexico", "Spanish"),
        Fact("language", "Peru", "Spanish"),
        Fact("country", "Paris", "France"),
        Fact("largest", "Peru", "Lima"),
    ),
)
# By fact. The capitals 2 and 3 share "City", the languages 5 and 6 their answer; 7 is 0 the other way round; 1 and 8
# are of one subject, but of one answer, too.
EXPECTED = {
    "relation": [{1, 2, 3}, {0, 2, 3}, {0, 1}, {0, 1}, {5, 6}, {4}, {4}, set(), set()],
    "subject": [{4}, {6}, {5}, set(), {0}, {2}, {1, 8}, set(), {6}],
    "other": [
        {5, 6, 8},
        {4, 5, 7},
        {4, 6, 7, 8},
        {4, 5, 6, 7, 8},
        {1, 2, 3, 7, 8},
        {0, 1, 3, 7, 8},
        {0, 2, 3, 7},
        {1, 2, 3, 4, 5, 6, 8},
        {0, 2, 3, 4, 5, 7},
    ],
    "answer": [set(), set(), set(), set(), set(), {6}, {5}, set(), set()],
}


@pytest.fixture(scope="module")
def queries():
    asked = np.array([[fact, 0] for fact in range(9)])
    return encode(FACTS, asked, train_tokenizer([sentence(FACTS, *query) for query in asked.tolist()]))


@pytest.mark.parametrize("kind", KINDS)
def test_who_may_be_a_control_by_hand(queries, kind):
    found = allowed(queries, slice(0, 9), kind, queries.answer_parts())
    assert [set(np.flatnonzero(row).tolist()) for row in found] == EXPECTED[kind]


def test_all_that_there_are_are_drawn_and_no_more(queries):
    drawn = draw_controls(queries, KINDS, 10, np.random.default_rng(0))
    assert drawn.shape == (4, 10, 9)
    for of_kind, kind in zip(drawn, KINDS, strict=True):
        for found, expected in zip(of_kind.T.tolist(), EXPECTED[kind], strict=True):
            n = len(expected)
            assert set(found[:n]) == expected and found[n:] == [-1] * (10 - n)


def test_several_controls_are_different(queries):
    for seed in range(10):
        drawn = draw_controls(queries, CONTROL_KINDS, 2, np.random.default_rng(seed))
        for of_kind, kind in zip(drawn, CONTROL_KINDS, strict=True):
            for found, expected in zip(of_kind.T.tolist(), EXPECTED[kind], strict=True):
                there = [other for other in found if other >= 0]
                assert len(set(there)) == len(there) == min(2, len(expected)) and set(there) <= expected


def test_controls_are_drawn_evenly_and_by_the_generator_alone(queries):
    def draws(seed, kinds=CONTROL_KINDS):
        return draw_controls(queries, kinds, 1, np.random.default_rng(seed))

    np.testing.assert_array_equal(draws(3), draws(3))
    # A kind's controls do not depend on which other kinds are asked for.
    np.testing.assert_array_equal(draws(3, ("answer", "other"))[1], draws(3)[2])
    counts = np.bincount([draws(seed)[2, 0, 3] for seed in range(500)], minlength=9)
    # One of five, 100 ± 9 of 500.
    assert counts[:4].sum() == 0 and np.abs(counts[4:] - 100).max() < 5 * 9


def test_none_are_asked_for_and_none_are_there(queries):
    assert draw_controls(queries, KINDS, 0, np.random.default_rng(0)).shape == (4, 0, 9)
    assert draw_controls(queries[:0], KINDS, 2, np.random.default_rng(0)).shape == (4, 2, 0)
    np.testing.assert_array_equal(draw_controls(queries[:1], KINDS, 2, np.random.default_rng(0)), -1)


def test_a_large_set_is_drawn_in_parts(queries, monkeypatch):
    whole = draw_controls(queries, KINDS, 3, np.random.default_rng(1))
    monkeypatch.setattr(controls, "CHUNK", 4)
    np.testing.assert_array_equal(draw_controls(queries, KINDS, 3, np.random.default_rng(1)), whole)


def random_queries(n, rng):
    """Few subjects, relations and answer tokens, so that all kinds of equality occur; answers of 1 to 3 tokens."""
    length = rng.integers(1, 4, n)
    start = 5 - length
    subject, relation = rng.integers(0, 6, n), rng.integers(0, 3, n)
    # An answer's number may be a subject's.
    tokens, answer = rng.integers(1, 15, (n, 6)).astype(np.int32), rng.integers(0, 8, n)
    every = np.full(n, 6)
    return EncodedQueries(tokens, every, start, length, np.arange(n), 0 * every, relation, subject, answer_N=answer)


def kinds_between(queries, a, b):
    """The kinds of control that b is for a, by their definitions."""
    tokens = [
        set(queries.tokens_NT[i, queries.answer_start_N[i] : 5].tolist())  # every answer ends before position 5
        for i in (a, b)
    ]
    subject, relation, answer = ((of[a], of[b]) for of in (queries.subject_N, queries.relation_N, queries.answer_N))
    found = set()
    if subject[0] != subject[1] and answer[0] == answer[1]:
        found.add("answer")
    if tokens[0] & tokens[1] or (subject[0] == answer[1] and answer[0] == subject[1]):
        return found
    if relation[0] == relation[1] and subject[0] != subject[1]:
        found.add("relation")
    if relation[0] != relation[1] and subject[0] == subject[1]:
        found.add("subject")
    if relation[0] != relation[1] and subject[0] != subject[1]:
        found.add("other")
    return found


def test_a_random_set_against_a_slow_loop():
    queries = random_queries(60, np.random.default_rng(2))
    part = slice(13, 47)
    seen = dict.fromkeys(KINDS, 0)
    found = {kind: allowed(queries, part, kind, queries.answer_parts()) for kind in KINDS}
    for row, a in enumerate(range(13, 47)):
        for b in range(60):
            kinds = kinds_between(queries, a, b)
            assert {kind for kind in KINDS if found[kind][row, b]} == kinds
            for kind in kinds:
                seen[kind] += 1
    assert min(seen.values()) > 20
    inverse = (queries.subject_N[:, None] == queries.answer_N[None]) & (
        queries.answer_N[:, None] == queries.subject_N[None]
    )
    assert inverse.any()
