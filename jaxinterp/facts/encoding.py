"""From queries (a fact and a prompt) to arrays: sentences, answers, and the rows at which answers are read.

Everything here is numpy on the host; the batches are pytrees of arrays that go under jit.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from tokenizers import Tokenizer

from jaxinterp.errors import UserError
from jaxinterp.facts.facts import FactSet
from jaxinterp.models.tokenizers import BOS, PAD, UNK


@dataclasses.dataclass(frozen=True)
class EncodedQueries:
    """Sentences "<bos> prompt answer." with their answers' places; N queries, T positions."""

    tokens_NT: Int[np.ndarray, "N T"]
    length_N: Int[np.ndarray, " N"]  # tokens before padding
    answer_start_N: Int[np.ndarray, " N"]  # position of the answer's first token
    answer_length_N: Int[np.ndarray, " N"]  # tokens
    fact_N: Int[np.ndarray, " N"]  # index into the fact set
    prompt_N: Int[np.ndarray, " N"]  # index into the relation's prompts
    relation_N: Int[np.ndarray, " N"]  # index into the fact set's relations
    subject_N: Int[np.ndarray, " N"]  # equal for equal subjects

    def __len__(self) -> int:
        return len(self.tokens_NT)

    def __getitem__(self, index: Int[np.ndarray, " n"] | slice) -> "EncodedQueries":
        return EncodedQueries(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))


def sentence(facts: FactSet, fact: int, prompt: int) -> str:
    """The training text of a query."""
    return f"{facts.prompt(fact, prompt)} {facts.facts[fact].answer}."


def encode(
    facts: FactSet, queries: Int[np.ndarray, "N 2"], tokenizer: Tokenizer, *, n_ctx: int | None = None
) -> EncodedQueries:
    """Encodes queries (fact index, prompt index).

    Args:
      facts: the set that the indices point into.
      queries: what to encode.
      tokenizer: its encoding of "prompt answer." must be that of "prompt", then the answer, then the full stop.
      n_ctx: most tokens of a sentence; None takes the longest sentence's length.
    Raises:
      UserError: if there are no queries, a sentence is longer than `n_ctx`, or has a word outside the vocabulary, or an
        answer's tokens cannot be told from the prompt's.
    """
    if not len(queries):
        raise UserError("no queries to encode: the set is empty")
    pad, bos, unk = (tokenizer.token_to_id(token) for token in (PAD, BOS, UNK))
    sentences = [sentence(facts, *query) for query in queries.tolist()]
    # Python loops over a million sentences are slow; the library encodes batches in parallel.
    whole = tokenizer.encode_batch(sentences)
    prompts = tokenizer.encode_batch([facts.prompt(*query) for query in queries.tolist()])
    stop = tokenizer.encode("a.").ids[len(tokenizer.encode("a").ids) :]
    start = np.array([1 + len(prompt.ids) for prompt in prompts])
    length = np.array([1 + len(text.ids) for text in whole])
    n_positions = int(length.max())
    if n_ctx is not None and n_positions > n_ctx:
        longest = facts.prompt(*queries[length.argmax()].tolist())
        raise UserError(
            f"the prompt {longest!r} with its answer has {n_positions} tokens, above the model's context of {n_ctx}; "
            "use a shorter prompt or a model with a longer context"
        )
    tokens = np.full((len(queries), n_positions), pad, np.int32)
    tokens[:, 0] = bos
    for row, (text, prompt) in enumerate(zip(whole, prompts, strict=True)):
        n_answer = len(text.ids) - len(prompt.ids) - len(stop)
        if n_answer < 1 or text.ids[: len(prompt.ids)] != prompt.ids or text.ids[len(prompt.ids) + n_answer :] != stop:
            raise UserError(
                f"the answer of {sentences[row]!r} cannot be told from its prompt and the full stop in tokens"
            )
        if unk in text.ids:
            word = _unknown_word(tokenizer, sentences[row])
            raise UserError(f"the tokenizer does not know {word!r} in {sentences[row]!r}")
        tokens[row, 1 : 1 + len(text.ids)] = text.ids
    relations = {relation.name: index for index, relation in enumerate(facts.relations)}
    subjects = {subject: index for index, subject in enumerate(sorted({fact.subject for fact in facts.facts}))}
    asked = [facts.facts[fact] for fact in queries[:, 0]]
    return EncodedQueries(
        tokens,
        length,
        start,
        length - len(stop) - start,
        queries[:, 0],
        queries[:, 1],
        np.array([relations[fact.relation] for fact in asked]),
        np.array([subjects[fact.subject] for fact in asked]),
    )


def _unknown_word(tokenizer: Tokenizer, text: str) -> str:
    encoding = tokenizer.encode(text)
    start, end = encoding.offsets[encoding.tokens.index(UNK)]
    return text[start:end]


class QueryBatch(NamedTuple):
    """B sentences, and R rows at which the answers of N of them are read; row arrays end in padding of weight 0.

    The first N sentences that hold answers are numbered 0 … N−1 in the order of their rows.
    """

    tokens_BT: Int[np.ndarray, "B T"]
    token_weight_BT: Float[np.ndarray, "B T"]  # 1 where the token is to be predicted (not <bos>, not padding)
    sequence_R: Int[np.ndarray, " R"]  # sentence of the row
    position_R: Int[np.ndarray, " R"]  # of the token before the answer's token
    target_R: Int[np.ndarray, " R"]  # the answer's token
    answer_R: Int[np.ndarray, " R"]  # which answer the row belongs to
    weight_R: Float[np.ndarray, " R"]  # 1 for a row, 0 for padding
    control_R: Int[np.ndarray, " R"]  # row of another fact (other subject, other relation), or the row itself: none
    answer_weight_N: Float[np.ndarray, " N"]  # 1 for an answer, 0 for padding
    control_weight_N: Float[np.ndarray, " N"]  # 1 for an answer that has a control


def query_batch(
    queries: EncodedQueries,
    *,
    n_sequences: int,
    n_rows: int,
    answered: Sequence[int] | Int[np.ndarray, " A"],
    rng: np.random.Generator,
) -> tuple[QueryBatch, Int[np.ndarray, " n"]]:
    """A batch of fixed shape.

    Args:
      queries: at most `n_sequences` of them; the rest of the batch repeats the first one with weight 0.
      n_sequences: B.
      n_rows: R, which is N as well; answers are taken while their rows fit, so that an answer is never cut.
      answered: which of the queries are read, in order.
      rng: draws each answer's control.
    Returns:
      The batch, and the indices (into `queries`) of the answers that are in it.
    """
    pad_to = n_sequences - len(queries)
    tokens = np.concatenate([queries.tokens_NT, np.repeat(queries.tokens_NT[:1], pad_to, 0)])
    position = np.arange(tokens.shape[1])
    weight = (position[None] > 0) & (position[None] < queries.length_N[:, None])
    weight = np.concatenate([weight, np.zeros((pad_to, tokens.shape[1]), bool)])
    fits = np.cumsum(queries.answer_length_N[list(answered)]) <= n_rows
    taken = np.asarray(answered, int)[fits]
    lengths = queries.answer_length_N[taken]
    n_used, first = int(lengths.sum()), np.concatenate([[0], np.cumsum(lengths)])[:-1].astype(int)
    answer = np.repeat(np.arange(len(taken)), lengths)
    step = np.arange(n_used) - first[answer] if n_used else np.zeros(0, int)
    row_query = taken[answer]

    subject, relation = queries.subject_N[taken], queries.relation_N[taken]
    allowed = (subject[:, None] != subject[None]) & (relation[:, None] != relation[None])
    score = np.where(allowed, rng.random(allowed.shape), -1.0)
    partner = score.argmax(1) if len(taken) else np.zeros(0, int)
    has_control = allowed.any(1) if len(taken) else np.zeros(0, bool)
    # A control with fewer tokens lends its rows in turn.
    control = np.where(has_control[answer], first[partner[answer]] + step % lengths[partner[answer]], np.arange(n_used))

    def padded(values: np.ndarray, fill: int, dtype: type) -> np.ndarray:
        return np.concatenate([values, np.full(n_rows - len(values), fill)]).astype(dtype)

    last = max(len(taken) - 1, 0)
    batch = QueryBatch(
        tokens,
        weight.astype(np.float32),
        padded(row_query, 0, np.int32),
        padded(queries.answer_start_N[row_query] - 1 + step, 0, np.int32),
        padded(tokens[row_query, queries.answer_start_N[row_query] + step], 0, np.int32),
        padded(answer, last, np.int32),
        padded(np.ones(n_used), 0, np.float32),
        np.concatenate([control, np.arange(n_used, n_rows)]).astype(np.int32),
        padded(np.ones(len(taken)), 0, np.float32),
        padded(has_control, 0, np.float32),
    )
    return batch, taken


def batches_of_all(
    queries: EncodedQueries, *, n_rows: int, seed: int
) -> Iterator[tuple[QueryBatch, Int[np.ndarray, " n"]]]:
    """Every query once, in batches of at most `n_rows` rows, in a shuffled order (so that controls are varied).

    Yields each batch with the indices of its answers.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(queries))
    if (longest := int(queries.answer_length_N.max())) > n_rows:
        raise UserError(f"an answer has {longest} tokens, above the {n_rows} rows of a batch; raise the number of rows")
    start = 0
    while start < len(order):
        ahead = order[start : start + n_rows]
        chosen = ahead[np.cumsum(queries.answer_length_N[ahead]) <= n_rows]
        batch, taken = query_batch(
            queries[chosen], n_sequences=n_rows, n_rows=n_rows, answered=range(len(chosen)), rng=rng
        )
        yield batch, chosen[taken]
        start += len(chosen)
