"""What a model knows: recall, cross-entropy, and what it would answer itself."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.attribution.readout import answer_log_probability, lm_readout, row_logits
from jaxinterp.facts.encoding import EncodedQueries, QueryBatch
from jaxinterp.metrics.batching import all_batches, by_length, rows_of
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.likelihood import next_token_nll
from jaxinterp.models.transformer import Forward, forward


def measured_ability(
    config: ModelConfig, params: Mapping, queries: EncodedQueries, *, rows: int = 64, seed: int = 0
) -> dict[str, Float[np.ndarray, " N"]]:
    """The columns correct, sentence_nll and sentence_tokens of `measured_answers` alone: one forward a query.

    A bidirectional model has the first alone.
    """
    step = ability_step(config)
    return all_batches(queries, rows, seed, lambda number, batch, taken: step(params, batch))


def recalled(
    config: ModelConfig,
    params: Mapping,
    queries: EncodedQueries,
    *,
    rows: int = 32,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Float[np.ndarray, " N"]]:
    """The columns probability and correct of `measured_answers` alone, for many queries: what a model knows.

    Queries are taken by length, so that short ones are not padded to the longest.
    """
    step = _jitted_recall(config)
    measured = lambda number, batch, taken: step(params, batch)  # noqa: E731
    return all_batches(queries, rows, 0, measured, progress, parts=by_length(config, queries))


def most_probable(
    config: ModelConfig,
    params: Mapping,
    queries: EncodedQueries,
    candidates: Mapping[int, Int[np.ndarray, " n"]],
    *,
    rows: int = 32,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[Int[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """What a causal model itself would answer, out of the given tokens, and with which probability.

    Args:
      config, params: the model.
      queries: whose answers are not looked at.
      candidates: tokens, by the queries' relation index.
      rows: queries at once.
      progress: called with the number of queries done in each batch.
    """
    one_token = dataclasses.replace(queries, answer_length_N=np.ones(len(queries), int))
    step = _jitted_distribution(config)

    def best(number: int, batch: QueryBatch, taken: np.ndarray) -> Mapping[str, np.ndarray]:
        p_RV = np.asarray(step(params, batch))[: len(taken)]
        own = [candidates[relation] for relation in queries.relation_N[taken].tolist()]
        token = np.array([tokens[p_V[tokens].argmax()] for tokens, p_V in zip(own, p_RV, strict=True)])
        return {"token": token, "probability": np.take_along_axis(p_RV, token[:, None], 1)[:, 0]}

    found = all_batches(one_token, rows, 0, best, progress)
    return found["token"].astype(int), found["probability"]


@functools.lru_cache(maxsize=8)
def _jitted_distribution(config: ModelConfig) -> Callable:
    @jax.jit
    def step(params: Mapping, batch: QueryBatch) -> Float[Array, "R V"]:
        result = forward(config, params, batch.tokens_BT, length_B=batch.length_B)
        return jax.nn.softmax(row_logits(config, params, result, rows_of(batch)))

    return step


def _ability(config: ModelConfig, params: Mapping, result: Forward, batch: QueryBatch) -> dict[str, Array]:
    n_answers = batch.answer_weight_N.shape[0]
    correct = {"correct": _correct(row_logits(config, params, result, rows_of(batch)), batch)}
    if config.attention == "bidirectional":
        return correct  # it does not predict the next token
    nll_BT = next_token_nll(config, params, result, batch.tokens_BT)
    weight_BT = batch.token_weight_BT[:, 1:]
    # An answer's sentence is that of its first row.
    first_R = jnp.concatenate([jnp.ones(1, bool), batch.answer_R[1:] != batch.answer_R[:-1]]) * batch.weight_R
    sentence_N = jax.ops.segment_sum(first_R * batch.sequence_R, batch.answer_R, n_answers).astype(jnp.int32)
    return {
        **correct,
        "sentence_nll": (nll_BT * weight_BT).sum(1)[sentence_N],
        "sentence_tokens": weight_BT.sum(1)[sentence_N],
    }


def _correct(logits_RV: Float[Array, "R V"], batch: QueryBatch) -> Float[Array, " N"]:
    """1 where every token of an answer is the most probable one."""
    wrong_R = logits_RV.argmax(-1) != batch.target_R
    errors_N = jax.ops.segment_sum(wrong_R * batch.weight_R, batch.answer_R, batch.answer_weight_N.shape[0])
    return (errors_N == 0).astype(logits_RV.dtype)


@functools.lru_cache(maxsize=8)
def ability_step(config: ModelConfig) -> Callable[[Mapping, QueryBatch], dict[str, Array]]:
    """The columns of `measured_ability` for a batch."""

    @jax.jit
    def step(params: Mapping, batch: QueryBatch) -> dict[str, Array]:
        return _ability(config, params, forward(config, params, batch.tokens_BT, length_B=batch.length_B), batch)

    return step


@functools.lru_cache(maxsize=8)
def _jitted_recall(config: ModelConfig) -> Callable:
    @jax.jit
    def step(params: Mapping, batch: QueryBatch) -> dict[str, Array]:
        result, readout = lm_readout(config, params, batch.tokens_BT, rows_of(batch), batch.length_B)
        n_answers = batch.answer_weight_N.shape[0]
        p = jnp.exp(answer_log_probability(readout.untouched(), batch.answer_R, batch.weight_R, n_answers))
        return {"probability": p, "correct": _correct(row_logits(config, params, result, rows_of(batch)), batch)}

    return step
