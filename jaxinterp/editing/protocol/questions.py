"""Probes as arrays of fixed shapes, and what a model says to them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxinterp.base.errors import UserError
from jaxinterp.editing.likelihood import answer_logits
from jaxinterp.editing.places import MULTIPLE, Texts
from jaxinterp.editing.protocol.case import Case, Probe
from jaxinterp.facts.encoding import encode_texts
from jaxinterp.facts.facts import FactSet, Text
from jaxinterp.facts.spelling import runs_together
from jaxinterp.models.decoding import GREEDY, continued
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.tokenizers import TextTokenizer

ROWS = 64  # probes at once, of those that are not of one case
WITH_KL = ("neighbourhood", "neighbourhood_plus")  # kinds whose next-token distributions are compared


class Questions(NamedTuple):
    """Q probes, the last ones of padding; a probe that is compared with nothing has its expected answer twice."""

    expected: Texts
    other: Texts
    prompt_QT: Int[np.ndarray, "Q T"]
    prompt_length_Q: Int[np.ndarray, " Q"]
    kl_K: Int[np.ndarray, " K"]  # probes whose next-token distribution is kept; padding repeats the first


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A case as arrays. All cases that are prepared together have the same shapes, and are run by one program."""

    case: Case
    probes: tuple[Probe, ...]  # of the case, those that could be encoded
    compared_N: Bool[np.ndarray, " N"]  # whether the probe has another answer
    questions: Questions
    generation: tuple[np.ndarray, np.ndarray] | None  # tokens [G, T] of prompts, and their lengths [G]
    left_out: Mapping[str, int]  # probes without an encoding, by kind and reason


class Says(NamedTuple):
    """What one model says to the N probes of a case."""

    log_p_N: Float[np.ndarray, " N"]  # log P(expected | prompt), all its tokens, in nats
    log_p_other_N: Float[np.ndarray, " N"]  # NaN where there is none
    tokens_N: Int[np.ndarray, " N"]  # of the expected answer
    other_tokens_N: Int[np.ndarray, " N"]
    right_N: Bool[np.ndarray, " N"]  # greedy generation begins with the expected answer's tokens
    right_other_N: Bool[np.ndarray, " N"]  # and with the other's; False where there is none
    ended_N: Bool[np.ndarray, " N"]  # no letter or digit that would continue the expected answer's word comes next
    forced_N: Float[np.ndarray, " N"]  # share of the expected tokens that are most probable after the true ones
    next_log_p_KV: Float[np.ndarray, "K V"]  # next-token distributions of the probes of `WITH_KL`, in order
    texts: tuple[str, ...] = ()  # continuations of the case's prompts


class _Encoded(NamedTuple):
    probes: tuple[Probe, ...]
    compared_N: np.ndarray
    expected: Texts
    other: Texts
    number_N: np.ndarray  # of those that were given


def prepared(model: LanguageModel, cases: Sequence[Case]) -> list[Prepared]:
    """Cases as arrays of the same shapes.

    Args:
      model: a causal one; its tokenizer and context are looked at.
      cases: at least one.
    Raises:
      UserError: if there is no case, the model is not causal, or an edited prompt cannot be encoded. Other probes that
        cannot are left out and counted in `left_out`.
    """
    if model.config.attention != "causal":
        raise UserError(
            f"the protocol generates text, for which the model has to be causal, not {model.config.attention}"
        )
    if not cases:
        raise UserError("there is no case to prepare; give at least one")
    encoded, dropped = [], []
    for one in cases:
        counts: dict[str, int] = {}
        encoded.append(_encoded(model, one.probes, counts))
        dropped.append(counts)
    shape = _shape(model, encoded)
    prompts = [[model.tokenizer.prefix + tuple(_ids(model, text)) for text in one.generation] for one in cases]
    rows, width = max(map(len, prompts)), max((len(p) for own in prompts for p in own), default=0)
    return [
        Prepared(
            one, found.probes, found.compared_N, _questions(model, found, shape),
            _generation(model, own, rows, width) if own else None, counts,
        )
        for one, found, own, counts in zip(cases, encoded, prompts, dropped, strict=True)
    ]  # fmt: skip


def says(model: LanguageModel, asked: Prepared, n_generated: int = 0) -> Says:
    """What a model says to the probes of a case.

    Args:
      model: any with the tokenizer and the shape of the one for which the case was prepared.
      asked: the case.
      n_generated: tokens by which the case's generation prompts are continued, greedily; 0 is none.
    """
    found = _said(model, asked.questions, len(asked.probes), asked.compared_N)
    n_kl = sum(probe.kind in WITH_KL for probe in asked.probes)
    texts: tuple[str, ...] = ()
    if n_generated and asked.generation is not None:
        tokens_GT, length_G = asked.generation
        n = len(asked.case.generation)
        whole = _continued(model, tokens_GT, length_G, n_generated)
        texts = tuple(
            model.tokenizer.text(ids[: tokens + length].tolist())[len(model.tokenizer.text(ids[:tokens].tolist())) :]
            for ids, tokens, length in zip(whole[0][:n], length_G[:n].tolist(), whole[1][:n].tolist(), strict=True)
        )
    return found._replace(next_log_p_KV=found.next_log_p_KV[:n_kl], texts=texts)


def recalled(model: LanguageModel, probes: Sequence[Probe], dropped: dict[str, int] | None = None) -> np.ndarray:
    """Whether greedy generation begins with each probe's expected answer, all its tokens.

    Args:
      model: a causal one.
      probes: of any kinds, `ROWS` at a time.
      dropped: if given, probes that cannot be encoded are not recalled, and counted here.
    Returns:
      A Boolean for each probe.
    Raises:
      UserError: if a probe cannot be encoded, and `dropped` is not given.
    """
    encoded = _encoded(model, [dataclasses.replace(probe, other=None) for probe in probes], dropped)
    shape, right = _shape(model, [encoded]), np.zeros(len(probes), bool)
    for start in range(0, len(encoded.probes), ROWS):
        rows = np.arange(start, min(start + ROWS, len(encoded.probes)))
        expected, other = (Texts(*(x[rows] for x in text)) for text in (encoded.expected, encoded.other))
        part = _Encoded(tuple(encoded.probes[i] for i in rows), encoded.compared_N[rows], expected, other, rows)
        asked = _questions(model, part, shape._replace(probes=ROWS))
        right[encoded.number_N[rows]] = _said(model, asked, len(rows), part.compared_N).right_N
    return right


def known_facts(model: LanguageModel, facts: FactSet, prompt: int = 0) -> Bool[np.ndarray, " N"]:
    """Which facts the model answers, by greedy generation after one prompt of their relation.

    Args:
      model: a causal one.
      facts: `answer_last()`.
      prompt: of the relation, its first one if it has fewer. Facts that cannot be encoded are not known.
    """
    probes = []
    for number, fact in enumerate(facts.facts):
        n_prompts = len(facts.relation[fact.relation].prompts)
        text = facts.text(number, prompt if prompt < n_prompts else 0)
        probes.append(Probe("other", text.before, text.answer, None, text.after))
    return recalled(model, probes, {})


class _Shape(NamedTuple):
    probes: int
    positions: int
    tokens: int  # of an answer
    kl: int


def _ids(model: LanguageModel, text: str) -> list[int]:
    ids = model.tokenizer.encode(text)
    if model.tokenizer.unk is not None and model.tokenizer.unk in ids:
        raise UserError(f"the tokenizer does not know {model.tokenizer.unknown_word(text)!r} in {text!r}")
    return ids


def _encoded(model: LanguageModel, probes: Sequence[Probe], dropped: dict[str, int] | None) -> _Encoded:
    """The probes whose answers can both be encoded, in order; of the edited prompt they must."""
    by_kind: dict[str, list[int]] = {}
    for number, probe in enumerate(probes):
        by_kind.setdefault(probe.kind, []).append(number)
    kept: list[int] = []
    sides: list[list[Texts]] = [[], []]
    for kind, numbers in by_kind.items():
        counts = None if dropped is None or kind == "edited" else {}
        texts = [probe.text(probe.expected) for probe in (probes[number] for number in numbers)]
        texts += [probe.text(probe.other or probe.expected) for probe in (probes[number] for number in numbers)]
        own, pair = _texts_of(model, texts, counts)
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
    return _Encoded(chosen, np.array([probe.other is not None for probe in chosen]), expected, other, np.sort(kept))


def _texts_of(
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
        token_A = np.arange(int(found.answer_length_N.max(initial=1)))[None]
        within_NA = token_A < found.answer_length_N[:, None]
        place_NA = found.answer_start_N[:, None] + np.where(within_NA, token_A, 0)
        target_NA = np.take_along_axis(found.tokens_NT, place_NA, 1)
        pair.append([Texts(found.tokens_NT, found.length_N, place_NA - 1, target_NA, within_NA.astype(np.float32))])
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


def _shape(model: LanguageModel, encoded: Sequence[_Encoded]) -> _Shape:
    texts = [text for one in encoded for text in (one.expected, one.other)]
    width = max(text.tokens_QT.shape[1] for text in texts)
    width = min(width + -width % MULTIPLE, model.config.n_ctx)
    n_kl = max(sum(probe.kind in WITH_KL for probe in one.probes) for one in encoded)
    n_probes = max(len(one.probes) for one in encoded)
    return _Shape(n_probes, width, max(text.read_QA.shape[1] for text in texts), max(n_kl, 1))


def _questions(model: LanguageModel, found: _Encoded, shape: _Shape) -> Questions:
    pad = model.tokenizer.pad
    expected, other = (
        _wider(text, shape.positions, shape.tokens, pad, shape.probes) for text in (found.expected, found.other)
    )
    prompt_length_Q = np.ones(shape.probes, int)
    prompt_length_Q[: len(found.probes)] = found.expected.read_QA[:, 0] + 1
    position_T = np.arange(shape.positions)
    prompt_QT = np.where(position_T[None] < prompt_length_Q[:, None], expected.tokens_QT, pad)
    kl = [number for number, probe in enumerate(found.probes) if probe.kind in WITH_KL]
    kl_K = np.array(kl + [0] * (shape.kl - len(kl)), int)
    return Questions(expected, other, prompt_QT, prompt_length_Q, kl_K)


def _generation(model: LanguageModel, prompts: list[tuple[int, ...]], rows: int, width: int):
    tokens_GT = np.full((rows, width), model.tokenizer.pad, np.int32)
    length_G = np.ones(rows, int)
    for number, ids in enumerate(prompts):
        tokens_GT[number, : len(ids)], length_G[number] = ids, len(ids)
    return tokens_GT, length_G


def _continued(
    model: LanguageModel, tokens_BT: np.ndarray, length_B: np.ndarray, n: int
) -> tuple[Int[np.ndarray, "B T"], Int[np.ndarray, " B"]]:
    """Greedy continuations by at most n tokens: whole texts, and how many tokens are new."""
    room = min(n + tokens_BT.shape[1], model.config.n_ctx) - tokens_BT.shape[1]
    tokens_BT = np.pad(tokens_BT, ((0, 0), (0, max(room, 0))), constant_values=model.tokenizer.pad).astype(np.int32)
    ends_V = _ends_of(model)
    key = jax.random.key(0)  # nothing is drawn
    found, whole = continued(model.model, tokens_BT, length_B, ends_V, key, n_tokens=n, sampler=GREEDY)
    return np.asarray(found), np.asarray(whole) - length_B


def _ends_of(model: LanguageModel) -> Bool[np.ndarray, " V"]:
    ends_V = np.zeros(model.config.d_vocab, bool)
    ends_V[model.tokenizer.n_tokens :] = True
    ends_V[[id for id in model.tokenizer.special if id < model.config.d_vocab]] = True
    return ends_V


@jax.jit
def _scored(model: Model, expected: Texts, other: Texts, kl_K: Array) -> tuple[Array, Array, Array, Array]:
    def of(texts: Texts) -> tuple[Array, Array, Array]:
        log_p_QAV = jax.nn.log_softmax(answer_logits(model, texts).astype(jnp.float32))
        own_QA = jnp.take_along_axis(log_p_QAV, texts.target_QA[..., None], -1)[..., 0]
        best_QA = (log_p_QAV.argmax(-1) == texts.target_QA) * texts.weight_QA
        share_Q = best_QA.sum(1) / jnp.maximum(texts.weight_QA.sum(1), 1)
        return (own_QA * texts.weight_QA).sum(1), share_Q, log_p_QAV[:, 0]

    log_p_Q, share_Q, next_QV = of(expected)
    return log_p_Q, of(other)[0], share_Q, next_QV[kl_K]


def _said(model: LanguageModel, asked: Questions, n: int, compared_N: np.ndarray) -> Says:
    texts = (jax.tree.map(jnp.asarray, text) for text in (asked.expected, asked.other))
    scored = _scored(model.model, *texts, jnp.asarray(asked.kl_K))
    log_p, log_p_other, forced, next_log_p = (np.asarray(x) for x in jax.device_get(scored))
    n_most = asked.expected.read_QA.shape[1]
    # Room for one token more than any answer has.
    whole_QT, new_Q = _continued(model, asked.prompt_QT, asked.prompt_length_Q, n_most + 1)
    said = [
        whole_QT[row, length : length + more].tolist()
        for row, (length, more) in enumerate(zip(asked.prompt_length_Q.tolist(), new_Q.tolist(), strict=True))
    ]
    answers = [
        [target[: int(weight.sum())].tolist() for target, weight in zip(text.target_QA, text.weight_QA, strict=True)]
        for text in (asked.expected, asked.other)
    ]
    right, right_other = (
        np.array([said[row][: len(own[row])] == own[row] for row in range(n)], bool) for own in answers
    )
    prompts = [asked.prompt_QT[row, : asked.prompt_length_Q[row]].tolist() for row in range(n)]
    ended = [_ended(model.tokenizer, prompts[row], said[row], len(answers[0][row])) for row in range(n)]
    return Says(
        log_p[:n].astype(np.float64),
        np.where(compared_N, log_p_other[:n].astype(np.float64), np.nan),
        np.array([len(own) for own in answers[0][:n]], int),
        np.array([len(own) for own in answers[1][:n]], int),
        right,
        right_other & compared_N,
        np.array(ended, bool),
        forced[:n].astype(np.float64),
        next_log_p,
    )


def _ended(tokenizer: TextTokenizer, prompt: list[int], said: list[int], n: int) -> bool:
    """Whether the word that the first n generated tokens end in goes no further."""
    answer, more = tokenizer.text([*prompt, *said[:n]]), tokenizer.text([*prompt, *said[: n + 1]])
    return not runs_together(answer, more[len(answer) :])
