"""What a model says to the probes of a case: probabilities, greedy generation, and next-token distributions.

Greedy generation begins with an answer exactly where every one of its tokens is the most probable one after the prompt
and those before it. So one forward of prompt and answer tells what generating would, token by token. That is not the
share of an answer's tokens that are most probable after the true ones, which is what "teacher-forced" figures are of.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxinterp.base.errors import UserError
from jaxinterp.editing.likelihood import answer_logits
from jaxinterp.editing.places import Texts, prompt_ids
from jaxinterp.editing.protocol.case import Case, Probe
from jaxinterp.editing.protocol.encoded import (
    WITH_KL,
    Questions,
    as_prompts,
    as_questions,
    encoded_probes,
    shared_shape,
)
from jaxinterp.facts.facts import FactSet
from jaxinterp.facts.spelling import runs_together
from jaxinterp.models.decoding import GREEDY, continued
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.tokenizers import TextTokenizer
from jaxinterp.models.transformer import forward, unembed

ROWS = 64  # probes at once, of those that are not of one case


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
    ended_N: Bool[np.ndarray, " N"]  # no letter or digit that would continue the expected answer's word comes after it
    forced_N: Float[np.ndarray, " N"]  # share of the expected tokens that are most probable after the true ones
    next_log_p_KV: Float[np.ndarray, "K V"]  # next-token distributions of the probes of `WITH_KL`, in order
    texts: tuple[str, ...] = ()  # continuations of the case's prompts


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
    found, left_out = [], []
    for one in cases:
        counts: dict[str, int] = {}
        found.append(encoded_probes(model, one.probes, counts))
        left_out.append(counts)
    shape = shared_shape(model, found)
    prompts = [[prompt_ids(model, text) for text in one.generation] for one in cases]
    rows, width = max(map(len, prompts)), max((len(ids) for own in prompts for ids in own), default=0)
    return [
        Prepared(
            one,
            own.probes,
            own.compared_N,
            as_questions(model, own, shape),
            as_prompts(model, texts, rows, width) if texts else None,
            counts,
        )
        for one, own, texts, counts in zip(cases, found, prompts, left_out, strict=True)
    ]


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


def recalled(
    model: LanguageModel, probes: Sequence[Probe], dropped: dict[str, int] | None = None
) -> Bool[np.ndarray, " N"]:
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
    found = encoded_probes(model, [dataclasses.replace(probe, other=None) for probe in probes], dropped)
    shape, right = shared_shape(model, [found])._replace(probes=ROWS), np.zeros(len(probes), bool)
    for start in range(0, len(found.probes), ROWS):
        part = found.take(np.arange(start, min(start + ROWS, len(found.probes))))
        texts = jax.tree.map(jnp.asarray, as_questions(model, part, shape).expected)
        right[part.number_N] = np.asarray(_whole(model.model, texts))[: len(part.probes)]
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
def _whole(model: Model, texts: Texts) -> Bool[Array, " Q"]:
    """Whether all tokens of each answer are the most probable ones."""
    return _all_right(answer_logits(model, texts).argmax(-1) == texts.target_QA, texts)


def _all_right(best_QA: Bool[Array, "Q A"], texts: Texts) -> Bool[Array, " Q"]:
    return (best_QA | (texts.weight_QA == 0)).all(1)


@jax.jit
def _scored(model: Model, expected: Texts, other: Texts, kl_K: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    def of(texts: Texts) -> tuple[Array, ...]:
        resid_QTD = forward(model, texts.tokens_QT).resid_final_BTD
        log_p_QAV = jax.nn.log_softmax(answer_logits(model, texts, resid_QTD).astype(jnp.float32))
        own_QA = jnp.take_along_axis(log_p_QAV, texts.target_QA[..., None], -1)[..., 0]
        best_QA = log_p_QAV.argmax(-1) == texts.target_QA
        n_Q = texts.weight_QA.sum(1)
        share_Q = (best_QA * texts.weight_QA).sum(1) / jnp.maximum(n_Q, 1)
        last_Q1 = jnp.maximum(n_Q.astype(int) - 1, 0)[:, None]
        end_Q1 = jnp.take_along_axis(texts.read_QA, last_Q1, 1) + 1  # where what follows the answer is read
        after_Q = unembed(model, jnp.take_along_axis(resid_QTD, end_Q1[..., None], 1))[:, 0].argmax(-1)
        return (own_QA * texts.weight_QA).sum(1), _all_right(best_QA, texts), share_Q, after_Q, log_p_QAV[kl_K, 0]

    return of(expected), of(other)[:2]


def _said(model: LanguageModel, asked: Questions, n: int, compared_N: np.ndarray) -> Says:
    texts = (jax.tree.map(jnp.asarray, text) for text in (asked.expected, asked.other))
    own, (log_p_other, right_other) = jax.device_get(_scored(model.model, *texts, jnp.asarray(asked.kl_K)))
    log_p, right, forced, after, next_log_p = own
    tokens_Q, other_tokens_Q = (text.weight_QA.sum(1).astype(int) for text in (asked.expected, asked.other))
    ends_V = _ends_of(model)
    ended = []
    for row in range(n):
        end = int(asked.expected.read_QA[row, 0]) + 1 + int(tokens_Q[row])
        ids, more = asked.expected.tokens_QT[row, :end].tolist(), int(after[row])
        ended.append(bool(ends_V[more]) or _ended(model.tokenizer, ids, more))
    return Says(
        log_p[:n].astype(np.float64),
        np.where(compared_N, log_p_other[:n].astype(np.float64), np.nan),
        tokens_Q[:n],
        other_tokens_Q[:n],
        right[:n],
        right_other[:n] & compared_N,
        np.array(ended, bool),
        forced[:n].astype(np.float64),
        next_log_p,
    )


def _ended(tokenizer: TextTokenizer, ids: list[int], more: int) -> bool:
    """Whether the word that ids end in does not go on with one more."""
    before, after = tokenizer.text(ids), tokenizer.text([*ids, more])
    return not runs_together(before, after[len(before) :])
