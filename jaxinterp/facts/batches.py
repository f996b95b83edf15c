"""Batches of encoded queries: the sequences, the rows at which answers are read, and their controls."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxinterp.attribution.answers import Answers
from jaxinterp.base.errors import UserError
from jaxinterp.facts.controls import CONTROL_KINDS, draw_controls
from jaxinterp.facts.encoding import EncodedQueries
from jaxinterp.models.readout import Rows
from jaxinterp.models.route import Route


class QueryBatch(NamedTuple):
    """B texts, and R rows at which the answers of N of them are read; row arrays end in padding of weight 0.

    The first N texts that hold answers are numbered 0 … N−1 in the order of their rows. For a masked language model
    every row has a text of its own (B = R), in which its token and the answer's later ones are masked.
    """

    tokens_BT: Int[np.ndarray, "B T"]
    length_B: Int[np.ndarray, " B"]  # tokens before padding
    token_weight_BT: Float[np.ndarray, "B T"]  # 1 where a causal model is to predict the token (not <bos>, not padding)
    rows: Rows
    answers: Answers  # the controls are of `CONTROL_KINDS`
    route: Route | None = None  # whom language modelling teaches, [L, …]; None: all neurons at all positions
    text_B: Float[np.ndarray, " B"] | None = None  # 1 for windows of text, 0 for sentences; None: there is no text


def query_batch(
    queries: EncodedQueries,
    *,
    n_sequences: int,
    n_rows: int,
    answered: Sequence[int] | Int[np.ndarray, " A"],
    rng: np.random.Generator,
    n_controls: int = 1,
) -> tuple[QueryBatch, Int[np.ndarray, " n"]]:
    """A batch of fixed shape.

    Args:
      queries: at most `n_sequences` of them; the rest of the batch repeats the first one with weight 0.
      n_sequences: B; of a masked language model it is R whatever stands here.
      n_rows: R, which is N as well; answers are taken while their rows fit, so that an answer is never cut.
      answered: which of the queries are read, in order.
      rng: draws each answer's controls.
      n_controls: of each of `CONTROL_KINDS`, X in all; an answer has fewer, all different, if the batch has no more.
    Returns:
      The batch, and the indices (into `queries`) of the answers that are in it.
    """
    fits = np.cumsum(queries.answer_length_N[list(answered)]) <= n_rows
    taken = np.asarray(answered, int)[fits]
    lengths = queries.answer_length_N[taken]
    n_used, first = int(lengths.sum()), np.concatenate([[0], np.cumsum(lengths)])[:-1].astype(int)
    answer = np.repeat(np.arange(len(taken)), lengths)
    step = np.arange(n_used) - first[answer] if n_used else np.zeros(0, int)
    row_query = taken[answer]

    partner_KXN = draw_controls(queries[taken], CONTROL_KINDS, n_controls, rng)
    partner_XN = partner_KXN.reshape(len(CONTROL_KINDS) * n_controls, len(taken))
    there_XN = partner_XN >= 0
    # A control with fewer tokens lends its rows in turn.
    lent_XR = first[partner_XN[:, answer]] + step % lengths[partner_XN[:, answer]]
    control_XR = np.tile(np.arange(n_rows), (len(partner_XN), 1))
    control_XR[:, :n_used] = np.where(there_XN[:, answer], lent_XR, np.arange(n_used))

    def padded(values: np.ndarray, fill: int, dtype: type, n: int = n_rows) -> np.ndarray:
        return np.concatenate([values, np.full(n - len(values), fill)]).astype(dtype)

    place = queries.answer_start_N[row_query] + step
    target = queries.tokens_NT[row_query, place]
    position = np.arange(queries.tokens_NT.shape[1])
    if queries.mask is None:
        sequence = np.concatenate([np.arange(len(queries)), np.zeros(n_sequences - len(queries), int)])
        tokens, sequence_R, position_R = queries.tokens_NT[sequence], row_query, place - 1
        weight = (position[None] > 0) & (position[None] < queries.length_N[:, None])
        weight = np.concatenate([weight, np.zeros((n_sequences - len(queries), len(position)), bool)])
    else:
        sequence, sequence_R, position_R = padded(row_query, 0, int), np.arange(n_used), place
        end = padded((queries.answer_start_N + queries.answer_length_N)[row_query], 0, int)
        hidden = (position[None] >= padded(place, 0, int)[:, None]) & (position[None] < end[:, None])
        tokens = np.where(hidden, queries.mask, queries.tokens_NT[sequence]).astype(np.int32)
        weight = np.zeros(tokens.shape)
    last = max(len(taken) - 1, 0)
    batch = QueryBatch(
        tokens,
        queries.length_N[sequence].astype(np.int32),
        weight.astype(np.float32),
        Rows(*(padded(values, 0, np.int32) for values in (sequence_R, position_R, target))),
        Answers(
            padded(answer, last, np.int32),
            padded(np.ones(n_used), 0, np.float32),
            control_XR.astype(np.int32),
            padded(np.ones(len(taken)), 0, np.float32),
            np.pad(there_XN, ((0, 0), (0, n_rows - len(taken)))).astype(np.float32),
            padded(queries.fact_N[taken], 0, np.int32),
        ),
    )
    return batch, taken


def batches_of_all(
    queries: EncodedQueries, *, n_rows: int, seed: int
) -> Iterator[tuple[QueryBatch, Int[np.ndarray, " n"]]]:
    """Every query once, in batches of at most `n_rows` rows, in a shuffled order; without controls.

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
            queries[chosen], n_sequences=n_rows, n_rows=n_rows, answered=range(len(chosen)), rng=rng, n_controls=0
        )
        yield batch, chosen[taken]
        start += len(chosen)


def earlier(labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """For each element, how many equal ones stand before it."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    counts = np.empty(len(labels), int)
    counts[order] = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return counts
