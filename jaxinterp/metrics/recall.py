"""What a model knows: recall, cross-entropy, and what it would answer itself."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.facts.batches import QueryBatch
from jaxinterp.facts.encoding import EncodedQueries
from jaxinterp.metrics.batching import by_length, columns_of, of_one_length, query_batches
from jaxinterp.models.likelihood import next_token_nll
from jaxinterp.models.mesh import beside
from jaxinterp.models.model import Model
from jaxinterp.models.readout import lm_readout, row_logits
from jaxinterp.models.transformer import forward


def measured_ability(
    model: Model, queries: EncodedQueries, *, rows: int = 64, seed: int = 0
) -> dict[str, Float[np.ndarray, " N"]]:
    """The columns correct, sentence_nll and sentence_tokens of `measured_answers` alone: one forward for each query.

    A bidirectional model has the first alone.
    """
    batches = query_batches(queries, rows, seed, of_one_length(model.config, queries))
    return columns_of(batches, len(queries), lambda number, batch, taken: ability(model, beside(model.params, batch)))


def recalled(
    model: Model,
    queries: EncodedQueries,
    *,
    rows: int = 32,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Float[np.ndarray, " N"]]:
    """The columns probability and correct of `measured_answers` alone, for many queries: what a model knows.

    Queries are taken by length, so that short ones are not padded to the longest.
    """

    def recall(number: int, batch: QueryBatch, taken: np.ndarray) -> Mapping[str, Array]:
        return _recall(model, beside(model.params, batch))

    batches = query_batches(queries, rows, 0, by_length(model.config, queries))
    return columns_of(batches, len(queries), recall, progress)


def most_probable(
    model: Model,
    queries: EncodedQueries,
    candidates: Mapping[int, Int[np.ndarray, " n"]],
    *,
    rows: int = 32,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[Int[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """What a causal model itself would answer, out of the given tokens, and with which probability.

    Args:
      model: the model.
      queries: whose answers are not looked at.
      candidates: tokens, by the queries' relation index.
      rows: queries at once.
      progress: called with the number of queries done in each batch.
    """
    one_token = dataclasses.replace(queries, answer_length_N=np.ones(len(queries), int))

    def best(number: int, batch: QueryBatch, taken: np.ndarray) -> Mapping[str, np.ndarray]:
        p_RV = np.asarray(_distribution(model, beside(model.params, batch)))[: len(taken)]
        own = [candidates[relation] for relation in queries.relation_N[taken].tolist()]
        token = np.array([tokens[p_V[tokens].argmax()] for tokens, p_V in zip(own, p_RV, strict=True)])
        return {"token": token, "probability": np.take_along_axis(p_RV, token[:, None], 1)[:, 0]}

    columns = columns_of(query_batches(one_token, rows, 0), len(queries), best, progress)
    return columns["token"].astype(int), columns["probability"]


@jax.jit
def _distribution(model: Model, batch: QueryBatch) -> Float[Array, "R V"]:
    result = forward(model, batch.tokens_BT, length_B=batch.length_B)
    return jax.nn.softmax(row_logits(model, result, batch.rows))


@jax.jit
def ability(model: Model, batch: QueryBatch) -> dict[str, Array]:
    """The columns of `measured_ability` for a batch."""
    result = forward(model, batch.tokens_BT, length_B=batch.length_B)
    correct = {"correct": _correct(row_logits(model, result, batch.rows), batch)}
    if model.config.attention == "bidirectional":
        return correct  # it does not predict the next token
    nll_BT = next_token_nll(model, result, batch.tokens_BT)
    weight_BT = batch.token_weight_BT[:, 1:]
    # An answer's sentence is that of its first row.
    sentence_N = batch.answers.sum(batch.answers.first_R * batch.rows.sequence_R).astype(jnp.int32)
    return {
        **correct,
        "sentence_nll": (nll_BT * weight_BT).sum(1)[sentence_N],
        "sentence_tokens": weight_BT.sum(1)[sentence_N],
    }


@jax.jit
def _recall(model: Model, batch: QueryBatch) -> dict[str, Array]:
    result, readout = lm_readout(model, batch.tokens_BT, batch.rows, batch.length_B)
    logits_RV = row_logits(model, result, batch.rows)
    return {
        "probability": batch.answers.probability(readout.untouched()),
        "correct": _correct(logits_RV, batch),
    }


def _correct(logits_RV: Float[Array, "R V"], batch: QueryBatch) -> Float[Array, " N"]:
    """1 where every token of an answer is the most probable one."""
    wrong_R = logits_RV.argmax(-1) != batch.rows.target_R
    return (batch.answers.sum(wrong_R.astype(logits_RV.dtype)) == 0).astype(logits_RV.dtype)
