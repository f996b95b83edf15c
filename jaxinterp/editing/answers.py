"""The answers that a model gives to requests, as rows of a readout."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float

from jaxinterp.editing.places import ANSWER, MULTIPLE, batches
from jaxinterp.editing.request import Request
from jaxinterp.facts.batches import QueryBatch, query_batch
from jaxinterp.facts.encoding import EncodedQueries, encode_texts
from jaxinterp.facts.facts import Text
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.readout import LanguageModelReadout, read


def old_answer(model: LanguageModel, request: Request) -> EncodedQueries:
    """A request's prompt with its old answer: the given one, or the token that is most probable.

    Raises:
      UserError: if the text cannot be encoded.
    """
    if request.old is not None:
        return answer_of(model, request, request.old)
    queries = dataclasses.replace(answer_of(model, request, request.new), answer_length_N=np.ones(1, int))
    tokens_NT = queries.tokens_NT.copy()
    tokens_NT[0, queries.answer_start_N] = int(answer_readout(model, queries)[1][0].argmax())
    return dataclasses.replace(queries, tokens_NT=tokens_NT)


def answer_of(model: LanguageModel, request: Request, answer: str) -> EncodedQueries:
    """A request's prompt with an answer, in tokens; UserError if the text cannot be encoded."""
    return _padded(model, [request.text(answer)])


def _padded(model: LanguageModel, texts: Sequence[Text]) -> EncodedQueries:
    queries = encode_texts(texts, model.tokenizer, n_ctx=model.config.n_ctx)
    n_positions = queries.tokens_NT.shape[1]
    more = min(-n_positions % MULTIPLE, model.config.n_ctx - n_positions)
    padded = np.pad(queries.tokens_NT, ((0, 0), (0, more)), constant_values=model.tokenizer.pad)
    return dataclasses.replace(queries, tokens_NT=padded)


def answer_tokens(queries: EncodedQueries) -> list[int]:
    """The tokens of the one answer."""
    start, length = int(queries.answer_start_N[0]), int(queries.answer_length_N[0])
    return queries.tokens_NT[0, start : start + length].tolist()


def answer_readout(
    model: LanguageModel, queries: EncodedQueries
) -> tuple[LanguageModelReadout, Float[Array, "R V"], QueryBatch]:
    """The readout of one answer, a row for each token, the logits there, and the batch that has its rows."""
    n_rows, rng = int(queries.answer_length_N[0]), np.random.default_rng(0)  # of controls: there are none
    batch, _ = query_batch(queries, n_sequences=1, n_rows=n_rows, answered=[0], rng=rng, n_controls=0)
    return *read(model.model, batch.tokens_BT, batch.rows, batch.length_B), batch


def answered(model: LanguageModel, requests: Sequence[Request]) -> list[bool]:
    """Whether each request's old answer is what the model says, each token the most probable one; without one, True.

    Raises:
      UserError: if a text cannot be encoded.
    """
    found = np.ones(len(requests), bool)
    given = np.array([number for number, request in enumerate(requests) if request.old is not None], int)
    if not len(given):
        return found.tolist()
    queries = _padded(model, [requests[number].text(requests[number].old) for number in given])
    for part in batches(len(given)):
        n_rows = len(part) * int(-(-queries.answer_length_N.max() // ANSWER) * ANSWER)
        rng = np.random.default_rng(0)  # of controls: there are none
        asked = {"n_sequences": len(part), "n_rows": n_rows, "answered": range(len(part)), "n_controls": 0}
        batch, _ = query_batch(queries[part], rng=rng, **asked)
        best_R = np.asarray(read(model.model, batch.tokens_BT, batch.rows, batch.length_B)[1].argmax(-1))
        wrong_R = (best_R != batch.rows.target_R) & (batch.answers.weight_R > 0)
        right = np.ones(len(part), bool)
        right[batch.answers.answer_R[wrong_R]] = False
        found[given[part]] = right
    return found.tolist()
