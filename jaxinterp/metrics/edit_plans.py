"""Which facts are edited, to what, and which other facts are asked afterwards."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from jaxinterp.facts.encoding import EncodedQueries

EDITS = 32  # queries of a set that are edited, each by itself
ASKED = 16  # other facts that are asked after an edit, of each kind
KINDS = ("relation", "subject", "other")


class PlannedEdit(NamedTuple):
    """A query, the tokens that its prompt is to give, and whom to ask afterwards."""

    query: int  # index into the measured queries
    answer: Int[np.ndarray, " tokens"]  # as many as the old answer has
    asked: Mapping[str, Int[np.ndarray, " _"]]  # by kind, indices into the pool


def planned_edits(
    queries: EncodedQueries, pool: EncodedQueries, correct_N: Bool[np.ndarray, " N"], seed: int
) -> list[PlannedEdit]:
    """Which queries are edited, spread over relations and subjects, and to what.

    Only what is answered correctly is edited, and what has another answer to be given: that of another subject in the
    same relation, as long, and without a token of the old one.

    Args:
      queries: that may be edited.
      pool: the set's queries, of which other facts and new answers are taken, with one of each fact's prompts.
      correct_N: which of the queries are answered correctly.
      seed: of all that is drawn.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(pool))
    one_each = order[np.unique(pool.fact_N[order], return_index=True)[1]]
    facts = pool[one_each]
    choices = {query: _other_answers(queries[query : query + 1], facts) for query in np.flatnonzero(correct_N).tolist()}
    editable = np.array([query for query, answers in choices.items() if len(answers)], int)
    plans = []
    for query in editable[_spread(queries[editable], EDITS, rng)].tolist() if len(editable) else []:
        same_relation = facts.relation_N == queries.relation_N[query]
        same_subject = facts.subject_N == queries.subject_N[query]
        # A fact with both, the edited one first of all, is of no kind.
        kinds = (same_relation & ~same_subject, ~same_relation & same_subject, ~same_relation & ~same_subject)
        asked = {
            kind: one_each[rng.permutation(np.flatnonzero(is_kind))[:ASKED]]
            for kind, is_kind in zip(KINDS, kinds, strict=True)
        }
        plans.append(PlannedEdit(query, choices[query][rng.integers(len(choices[query]))], asked))
    return plans


def _other_answers(query: EncodedQueries, facts: EncodedQueries) -> Int[np.ndarray, "n tokens"]:
    """The different answers that a query can be given in place of its own."""
    length = int(query.answer_length_N[0])
    fits = (facts.relation_N == query.relation_N) & (facts.subject_N != query.subject_N)
    answers = np.unique(_answers(facts[np.flatnonzero(fits & (facts.answer_length_N == length))], length), axis=0)
    return answers[~np.isin(answers, _answers(query, length)).any(1)]


def _answers(queries: EncodedQueries, length: int) -> Int[np.ndarray, "N length"]:
    place = queries.answer_start_N[:, None] + np.arange(length)[None]
    return np.take_along_axis(queries.tokens_NT, place, 1)


def _spread(queries: EncodedQueries, n: int, rng: np.random.Generator) -> list[int]:
    """At most n of the queries, in a drawn order, always one whose fact, relation and subject were taken least."""
    left, chosen = rng.permutation(len(queries)).tolist(), []
    taken: Counter = Counter()

    def labels(query: int) -> list[tuple[str, int]]:
        return [(name, int(getattr(queries, name)[query])) for name in ("fact_N", "relation_N", "subject_N")]

    while left and len(chosen) < n:
        best = min(left, key=lambda query: [taken[label] for label in labels(query)])
        taken.update(labels(best))
        left.remove(best)
        chosen.append(best)
    return chosen


def reworded(query: EncodedQueries, answer: Int[np.ndarray, " tokens"]) -> EncodedQueries:
    """One query with another answer, of as many tokens."""
    tokens_NT, start = query.tokens_NT.copy(), int(query.answer_start_N[0])
    tokens_NT[0, start : start + len(answer)] = answer
    return dataclasses.replace(query, tokens_NT=tokens_NT)
