"""From queries (a fact and a prompt) to arrays: sentences, answers, and the rows at which answers are read.

Everything here is numpy on the host; the batches are pytrees of arrays that go under jit.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxinterp.base.errors import UserError
from jaxinterp.facts.facts import FactSet, Text
from jaxinterp.facts.spelling import same_text
from jaxinterp.models.tokenizers import TextTokenizer

# Why a query cannot be encoded, as it is counted.
UNKNOWN, UNCLEAR, TOO_LONG, SPELLED = (
    "word outside the vocabulary",
    "answer that merges with its text",
    "too long for the context",
    "text that spells out a control token",
)


@dataclasses.dataclass(frozen=True)
class EncodedQueries:
    """Texts "<bos> prompt answer." with their answers' places; N queries, T positions."""

    tokens_NT: Int[np.ndarray, "N T"]
    length_N: Int[np.ndarray, " N"]  # tokens before padding
    answer_start_N: Int[np.ndarray, " N"]  # position of the answer's first token
    answer_length_N: Int[np.ndarray, " N"]  # tokens
    fact_N: Int[np.ndarray, " N"]  # index into the fact set
    prompt_N: Int[np.ndarray, " N"]  # index into the relation's prompts
    relation_N: Int[np.ndarray, " N"]  # index into the fact set's relations
    subject_N: Int[np.ndarray, " N"]  # equal for equal subjects
    mask: int | None = None  # the token that hides an answer from a masked language model; None for a causal one
    # Equal for equal answers, and a subject's number where an answer is that subject; None: told apart by their tokens
    answer_N: Int[np.ndarray, " N"] | None = None

    def __post_init__(self) -> None:
        if self.answer_N is None:
            object.__setattr__(self, "answer_N", self._numbered_answers())

    def _numbered_answers(self) -> Int[np.ndarray, " N"]:
        places = zip(self.answer_start_N.tolist(), self.answer_length_N.tolist(), strict=True)
        answers = [
            tuple(row[start : start + n].tolist()) for row, (start, n) in zip(self.tokens_NT, places, strict=True)
        ]
        first = 1 + max(self.subject_N.tolist(), default=0)
        number = {answer: first + index for index, answer in enumerate(dict.fromkeys(answers))}
        return np.array([number[answer] for answer in answers], int)

    def __len__(self) -> int:
        return len(self.tokens_NT)

    def __getitem__(self, index: Int[np.ndarray, " n"] | slice) -> "EncodedQueries":
        arrays = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "mask"}
        return EncodedQueries(**{name: array[index] for name, array in arrays.items()}, mask=self.mask)

    def answer_parts(self) -> Float[np.ndarray, "N V"]:
        """1 for the tokens that each answer holds, out of those of all answers."""
        place = np.arange(self.tokens_NT.shape[1])[None] - self.answer_start_N[:, None]
        row, column = np.nonzero((place >= 0) & (place < self.answer_length_N[:, None]))
        tokens, index = np.unique(self.tokens_NT[row, column], return_inverse=True)
        holds = np.zeros((len(self), len(tokens)), np.float32)
        holds[row, index] = 1
        return holds


def sentence(facts: FactSet, fact: int, prompt: int) -> str:
    """The text of a query: prompt, answer and what comes after it."""
    return "".join(facts.text(fact, prompt))


def encode(
    facts: FactSet,
    queries: Int[np.ndarray, "N 2"],
    tokenizer: TextTokenizer,
    *,
    n_ctx: int | None = None,
    dropped: dict[str, int] | None = None,
) -> EncodedQueries:
    """Encodes queries (fact index, prompt index); see `encode_texts`.

    Raises:
      UserError: if there are no queries, or none that can be encoded; without `dropped`, for the first that cannot.
    """
    asked = queries.tolist()
    found = encode_texts([facts.text(*query) for query in asked], tokenizer, n_ctx=n_ctx, dropped=dropped)
    relations = {relation.name: index for index, relation in enumerate(facts.relations)}
    kept = queries[found.fact_N]
    spelled = [(same_text(fact.subject), same_text(fact.answer)) for fact in facts.facts]
    number = {text: index for index, text in enumerate(sorted({text for pair in spelled for text in pair}))}
    chosen = [facts.facts[fact] for fact in kept[:, 0]]
    return dataclasses.replace(
        found,
        fact_N=kept[:, 0],
        prompt_N=kept[:, 1],
        relation_N=np.array([relations[fact.relation] for fact in chosen]),
        subject_N=np.array([number[spelled[fact][0]] for fact in kept[:, 0]]),
        answer_N=np.array([number[spelled[fact][1]] for fact in kept[:, 0]]),
    )


def encode_texts(
    texts: Sequence[Text],
    tokenizer: TextTokenizer,
    *,
    n_ctx: int | None = None,
    dropped: dict[str, int] | None = None,
    control_tokens: bool = False,
) -> EncodedQueries:
    """Encodes texts with an answer in each; every text counts as a fact and a subject of its own.

    The parts of a text are taken as they stand, and nothing is put between them. An answer's tokens are those between
    the tokens of the text before it and of the text after it: it has its leading space where the tokenizer writes one,
    and as many tokens as it needs. Where the whole would merge letters across the beginning of an answer that ends its
    text, as vocabularies of bytes do in Chinese, a causal model reads the tokens of the prompt alone, and then those of
    the answer alone: so it is when it is asked with that prompt.

    Args:
      texts: before the answer, the answer, after it.
      tokenizer: of the model; if it has a mask token, the answers are to be read in place of it.
      n_ctx: most tokens of a text; None takes the longest one's length.
      dropped: if given, texts that cannot be encoded are left out and counted here by reason; otherwise they are
        errors. Reasons: `UNKNOWN`, `UNCLEAR`, `TOO_LONG`, `SPELLED`.
      control_tokens: whether a control token that is spelled out in a text, as "<|im_end|>", is meant; otherwise such
        a text cannot be encoded.
    Raises:
      UserError: if there are no texts, or none that can be encoded; without `dropped`, for the first that cannot.
    """
    if not texts:
        raise UserError("no queries to encode: the set is empty")

    spelled = [None if control_tokens else tokenizer.spelled_control_token("".join(text)) for text in texts]

    def encoded(n_parts: int) -> list[list[int]]:
        parts = ["" if name else "".join(text[:n_parts]) for text, name in zip(texts, spelled, strict=True)]
        # Python loops over a million sentences are slow; the library encodes batches in parallel.
        return tokenizer.encode_batch(parts, control_tokens=control_tokens)

    kept: list[int] = []
    rows: list[_Encoded] = []
    for row, (whole, stem, head) in enumerate(zip(encoded(3), encoded(2), encoded(1), strict=True)):
        text = texts[row]
        found = _Encoded(tokenizer.prefix, *_divided(text, whole, stem, head, tokenizer), tokenizer.suffix)
        if control_tokens and tokenizer.prefix and head[: len(tokenizer.prefix)] == [*tokenizer.prefix]:
            found = found._replace(prefix=())  # it is spelled out
        reason, words = _obstacle(text, spelled[row], whole, found, tokenizer, n_ctx)
        if reason is None:
            kept.append(row)
            rows.append(found)
        elif dropped is None:
            raise UserError(words)
        else:
            dropped[reason] = dropped.get(reason, 0) + 1
    if not kept:
        raise UserError(f"none of the {len(texts)} queries can be encoded: {dropped}")
    length = np.array([sum(map(len, found)) for found in rows])
    tokens = np.full((len(rows), int(length.max())), tokenizer.pad, np.int32)
    for index, found in enumerate(rows):
        tokens[index, : length[index]] = [id for part in found for id in part]
    start = np.array([len(found.prefix) + len(found.before) for found in rows])
    n_answer = np.array([len(found.answer) for found in rows])
    index = np.array(kept)
    return EncodedQueries(tokens, length, start, n_answer, index, index * 0, index * 0, index, tokenizer.mask)


class _Encoded(NamedTuple):
    """A text's tokens in parts; no answer if it cannot be told from what is around it."""

    prefix: Sequence[int]
    before: Sequence[int]
    answer: Sequence[int]
    after: Sequence[int]
    suffix: Sequence[int]


def _divided(
    text: Text, whole: list[int], stem: list[int], head: list[int], tokenizer: TextTokenizer
) -> tuple[list[int], list[int], list[int]]:
    """Tokens before the answer, of it, and after it."""
    if stem[: len(head)] == head and whole[: len(stem)] == stem:
        return head, stem[len(head) :], whole[len(stem) :]
    if tokenizer.mask is None and head and whole == stem:
        answer = tokenizer.encode(text[1])
        # A tokenizer that begins every text with a space cannot write an answer that has none.
        if answer and tokenizer.text([*head, *answer]) == tokenizer.text(stem):
            return head, answer, []
    return head, [], []


def _obstacle(
    text: Text, spelled: str | None, whole: list[int], found: _Encoded, tokenizer: TextTokenizer, n_ctx: int | None
) -> tuple[str | None, str]:
    """Why a text cannot be encoded: the reason as it is counted, and a sentence."""
    written = "".join(text)
    if spelled is not None:
        return SPELLED, f"{written!r} spells out {spelled!r}, a control token of this tokenizer; reword the text"
    if tokenizer.unk is not None and tokenizer.unk in whole:
        return UNKNOWN, f"the tokenizer does not know {tokenizer.unknown_word(written)!r} in {written!r}"
    # A causal model reads an answer after something.
    nothing_before = tokenizer.mask is None and not (found.prefix or found.before)
    if not found.answer or nothing_before:
        return UNCLEAR, f"the answer of {written!r} cannot be told from the text around it in tokens"
    n_tokens = sum(map(len, found))
    if n_ctx is not None and n_tokens > n_ctx:
        return TOO_LONG, (
            f"the prompt {text[0]!r} with its answer has {n_tokens} tokens, above the model's context of {n_ctx}; use "
            "a shorter prompt or a model with a longer context"
        )
    return None, ""


def tokens_read(queries: EncodedQueries, row: int, tokenizer: TextTokenizer) -> dict[str, object]:
    """The tokens of a query as a person reads them.

    Returns:
      {"tokens": all of them in order, "answer": [first, last + 1] of those that are the answer's}
    """
    start, n = int(queries.answer_start_N[row]), int(queries.answer_length_N[row])
    ids = queries.tokens_NT[row, : int(queries.length_N[row])].tolist()
    return {"tokens": [tokenizer.token(id) for id in ids], "answer": [start, start + n]}
