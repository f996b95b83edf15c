"""Probes in tokens, as arrays of shapes that several cases share."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jaxinterp.base.errors import UserError
from jaxinterp.editing.places import MULTIPLE, Texts, with_answers
from jaxinterp.editing.protocol.case import Probe
from jaxinterp.facts.encoding import encode_texts
from jaxinterp.facts.facts import Text
from jaxinterp.models.language_model import LanguageModel

WITH_KL = ("neighbourhood", "neighbourhood_plus")  # kinds whose next-token distributions are compared


class Questions(NamedTuple):
    """Q probes, the last ones of padding; a probe that is compared with nothing has its expected answer twice."""

    expected: Texts
    other: Texts
    kl_K: Int[np.ndarray, " K"]  # probes whose next-token distribution is kept; padding repeats the first


class Encoded(NamedTuple):
    """N probes that could be encoded, with both answers, padded to the longest."""

    probes: tuple[Probe, ...]
    compared_N: np.ndarray  # whether the probe has another answer
    expected: Texts
    other: Texts
    number_N: np.ndarray  # of the probes that were given

    def take(self, rows: Int[np.ndarray, " n"]) -> "Encoded":
        """Some of the probes."""
        expected, other = (Texts(*(x[rows] for x in texts)) for texts in (self.expected, self.other))
        probes = tuple(self.probes[row] for row in rows)
        return Encoded(probes, self.compared_N[rows], expected, other, self.number_N[rows])


class Shape(NamedTuple):
    """Of the arrays of a case."""

    probes: int
    positions: int
    tokens: int  # of an answer
    kl: int


def encoded_probes(model: LanguageModel, probes: Sequence[Probe], dropped: dict[str, int] | None) -> Encoded:
    """The probes whose answers can both be encoded, in order; of the edited prompt they must.

    Args:
      model: whose tokenizer and context.
      probes: of any kinds; one without another answer has its expected one twice.
      dropped: if given, others are left out and counted here by kind and reason.
    Raises:
      UserError: for an edited prompt that cannot be encoded; without `dropped`, for any; and if none is left.
    """
    by_kind: dict[str, list[int]] = {}
    for number, probe in enumerate(probes):
        by_kind.setdefault(probe.kind, []).append(number)
    kept: list[int] = []
    sides: list[list[Texts]] = [[], []]
    for kind, numbers in by_kind.items():
        counts = None if dropped is None or kind == "edited" else {}
        texts = [probe.text(probe.expected) for probe in (probes[number] for number in numbers)]
        texts += [probe.text(probe.other or probe.expected) for probe in (probes[number] for number in numbers)]
        own, pair = _both_answers(model, texts, counts)
        if counts:
            reason = f"{kind}: {' or '.join(counts)}"
            dropped[reason] = dropped.get(reason, 0) + len(numbers) - len(own)
        kept += [numbers[place] for place in own]
        for side, found in zip(sides, pair, strict=True):
            side += found
    if not kept:
        raise UserError(f"none of the {len(probes)} probes can be encoded: {dropped}")
    width, tokens = (max(max(one[part].shape[1] for one in side) for side in sides) for part in (0, 2))
    order = np.argsort(kept, kind="stable")
    wide = ([_wider(one, width, tokens, model.tokenizer.pad) for one in side] for side in sides)
    expected, other = (Texts(*(np.concatenate(part)[order] for part in zip(*side, strict=True))) for side in wide)
    chosen = tuple(probes[kept[place]] for place in order)
    return Encoded(chosen, np.array([probe.other is not None for probe in chosen]), expected, other, np.sort(kept))


def _both_answers(
    model: LanguageModel, texts: Sequence[Text], dropped: dict[str, int] | None
) -> tuple[list[int], list[list[Texts]]]:
    """Of n texts with one answer and then with another: which can be encoded with both, and the arrays of each."""
    bare = [text._replace(after="") for text in texts]
    try:
        queries = encode_texts(bare, model.tokenizer, n_ctx=model.config.n_ctx, dropped=dropped)
    except UserError:
        if dropped is None:
            raise
        return [], [[], []]
    n, row = len(texts) // 2, {text: row for row, text in enumerate(queries.fact_N.tolist())}
    own = [place for place in range(n) if place in row and n + place in row]
    pair = []
    for first in (0, n):
        found = queries[np.array([row[first + place] for place in own], int)]
        pair.append([with_answers(found, int(found.answer_length_N.max(initial=1)))])
    return own, pair


def _wider(texts: Texts, width: int, n_answer: int, pad: int, rows: int | None = None) -> Texts:
    """Texts of more positions, longer answers and more rows; what is added weighs nothing."""
    tokens_QT, length_Q, read_QA, target_QA, weight_QA = texts
    more_Q = (0, 0 if rows is None else rows - len(length_Q))
    more_T, more_A = (0, width - tokens_QT.shape[1]), (0, n_answer - read_QA.shape[1])
    return Texts(
        np.pad(tokens_QT, (more_Q, more_T), constant_values=pad),
        np.pad(length_Q, more_Q, constant_values=1),
        *(np.pad(x, (more_Q, more_A)) for x in (read_QA, target_QA, weight_QA)),
    )


def shared_shape(model: LanguageModel, encoded: Sequence[Encoded]) -> Shape:
    """A shape that all of them fit."""
    texts = [text for one in encoded for text in (one.expected, one.other)]
    width = max(text.tokens_QT.shape[1] for text in texts)
    width = min(width + -width % MULTIPLE, model.config.n_ctx)
    n_kl = max(sum(probe.kind in WITH_KL for probe in one.probes) for one in encoded)
    n_probes = max(len(one.probes) for one in encoded)
    return Shape(n_probes, width, max(text.read_QA.shape[1] for text in texts), max(n_kl, 1))


def as_questions(model: LanguageModel, found: Encoded, shape: Shape) -> Questions:
    """The probes in arrays of a shape."""
    pad = model.tokenizer.pad
    expected, other = (
        _wider(text, shape.positions, shape.tokens, pad, shape.probes) for text in (found.expected, found.other)
    )
    kl = [number for number, probe in enumerate(found.probes) if probe.kind in WITH_KL]
    kl_K = np.array(kl + [0] * (shape.kl - len(kl)), int)
    return Questions(expected, other, kl_K)


def as_prompts(
    model: LanguageModel, prompts: Sequence[tuple[int, ...]], rows: int, width: int
) -> tuple[Int[np.ndarray, "G T"], Int[np.ndarray, " G"]]:
    """Prompts in tokens as an array of so many rows, and their lengths; rows that are added have one token."""
    tokens_GT = np.full((rows, width), model.tokenizer.pad, np.int32)
    length_G = np.ones(rows, int)
    for number, ids in enumerate(prompts):
        tokens_GT[number, : len(ids)], length_G[number] = ids, len(ids)
    return tokens_GT, length_G
