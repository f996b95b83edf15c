"""Which other facts' neurons an answer is compared with: controls, by kind.

The neurons of a fact mean something only against those of other facts, and of *every* kind of them: a model that has
neurons for each relation, and none for facts, passes any comparison with other relations.
"""

from collections.abc import Sequence
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

Kind = Literal["relation", "subject", "other", "answer"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CONTROL_KINDS = KINDS[:3]  # whose largest drop is C; "answer" is for information
CHUNK = 512  # answers compared with all others at once


@runtime_checkable
class Comparable(Protocol):
    """N answers, and what they have in common: equal numbers are equal facts, relations, subjects and answers."""

    fact_N: Int[np.ndarray, " N"]
    relation_N: Int[np.ndarray, " N"]
    subject_N: Int[np.ndarray, " N"]
    answer_N: Int[np.ndarray, " N"]

    def __len__(self) -> int: ...

    def answer_parts(self) -> Float[np.ndarray, "N V"]:
        """1 for what each answer is made of, such as tokens."""


def draw_controls(
    queries: Comparable, kinds: Sequence[Kind], n: int, rng: np.random.Generator
) -> Int[np.ndarray, "K n N"]:
    """For each answer n different controls of each kind, drawn from all queries; −1 where there are no more.

    relation: same relation, other subject, other answer. subject: same subject, other relation, other answer. other:
    other subject, relation and answer. answer: same answer, other subject. Other answers have no part in common. What
    asks for the same pair the other way round (its subject is the answer, its answer the subject) is never a control.

    Args:
      queries: N of them.
      kinds: K of `KINDS`.
      n: controls of each kind.
      rng: consumed.
    """
    drawn = np.full((len(kinds), n, len(queries)), -1)
    shared = queries.answer_parts()
    for start in range(0, len(queries) if n else 0, CHUNK):
        part = slice(start, start + CHUNK)
        score = rng.random((len(queries.answer_N[part]), len(queries)))
        most = min(n, len(queries))
        for place, kind in enumerate(kinds):
            fits = np.where(allowed(queries, part, kind, shared), score, -1.0)
            best = np.argsort(-fits, axis=1, kind="stable")[:, :most]
            there = np.take_along_axis(fits, best, 1) >= 0
            drawn[place, :most, part] = np.where(there, best, -1).T
    return drawn


def allowed(
    queries: Comparable, part: slice, kind: Kind, holds_NV: Float[np.ndarray, "N V"]
) -> Bool[np.ndarray, "n N"]:
    """Which queries may be a control of that kind, for each query of a part; `holds_NV` is from `answer_parts`."""
    subject, relation, answer = queries.subject_N, queries.relation_N, queries.answer_N
    same_subject = subject[part, None] == subject[None]
    if kind == "answer":
        return ~same_subject & (answer[part, None] == answer[None])
    inverse = (subject[part, None] == answer[None]) & (answer[part, None] == subject[None])
    other_answer = (holds_NV[part] @ holds_NV.T == 0) & ~inverse
    same_relation = relation[part, None] == relation[None]
    if kind == "relation":
        return same_relation & ~same_subject & other_answer
    if kind == "subject":
        return same_subject & ~same_relation & other_answer
    return ~same_subject & ~same_relation & other_answer
