"""What is measured for every answer: its probability untouched, suppressed, under controls, amplified."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxinterp.adaptive import per_layer_attribution
from jaxinterp.attribution import Attribution, neuron_ablation
from jaxinterp.facts.encoding import EncodedQueries, QueryBatch, batches_of_all
from jaxinterp.likelihood import next_token_nll
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.transformer import Edit, Forward, forward
from jaxinterp.planner import evaluations_at_once
from jaxinterp.quadrature import Integral
from jaxinterp.readout import LanguageModelReadout, Readout, Rows, answer_log_probability, lm_readout, read, row_logits
from jaxinterp.selection import top_k
from jaxinterp.suppression import amplify, control_mask, random_mask, suppress

LENGTHS = 8  # tokens; lengths are rounded up to multiples, so that few shapes are compiled


class Answers(NamedTuple):
    """Measured columns of N queries, and each query's knowledge neurons."""

    columns: Mapping[str, Float[np.ndarray, " N"]]
    # How often each neuron was selected, by relation index: [relations, L, F], in answer tokens.
    selected: Float[np.ndarray, "relations L F"]


def measured_answers(
    config: ModelConfig,
    params: Mapping,
    queries: EncodedQueries,
    *,
    k: int,
    n_relations: int,
    integral: Integral,
    n_controls: int = 1,
    rows: int = 64,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> Answers:
    """Measures every query with per-layer integrated gradients and a fixed budget of k neurons an answer token.

    Columns: probability, suppressed, control, random, amplified (probabilities of whole answers, the last four under
    the edits of `jaxinterp.suppression`; control is a mean over controls); log_probability and
    suppressed_log_probability (nats); log_odds and suppressed_log_odds; suppressed_ratio; correct (0 or 1);
    sentence_nll (nats) and sentence_tokens; residual (mean absolute completeness residual). A query without a possible
    control in its batch has NaN there.

    Args:
      config, params: the model.
      queries: what to measure.
      k: neurons an answer token, out of all layers.
      n_relations: number of relations that `queries.relation_N` indexes.
      integral: of the attribution.
      n_controls: other facts whose neurons are switched off, for each query.
      rows: answer tokens at once.
      seed: of controls and random neurons.
      progress: called with the number of queries done in each batch.
    """
    step, ability, key = _answers_step(k), _jitted_ability(config), jax.random.key(seed)
    selected = np.zeros((n_relations, config.n_layers, config.d_mlp))

    def measured(number: int, batch: QueryBatch, taken: np.ndarray) -> Mapping[str, Array]:
        readout, _ = _readout(config, params, batch)
        attribution = _attribution(config, readout, integral, batch)
        columns, mask = step(readout, batch, attribution, jax.random.fold_in(key, number))
        real = batch.weight_R > 0
        relation_R = queries.relation_N[taken][batch.answer_R[real]]
        np.add.at(selected, relation_R, np.asarray(mask).transpose(1, 0, 2)[real])
        return {**columns, **ability(params, batch)}

    parts = _whole_sequences_by_length(config, queries)
    return Answers(_all_batches(queries, rows, seed, measured, progress, n_controls, parts), selected)


def measured_by_ablation(
    config: ModelConfig,
    params: Mapping,
    queries: EncodedQueries,
    *,
    k: int,
    integral: Integral,
    rows: int = 32,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Float[np.ndarray, " N"]]:
    """The second opinion: columns ablation_suppressed, ablation_control and ablation_overlap.

    The same as `measured_answers`, with the k neurons whose exact single ablation costs the answer token most. L·F
    evaluations a token: measure a sample.
    """
    step = _ablation_step(k)

    def measured(number: int, batch: QueryBatch, taken: np.ndarray) -> Mapping[str, Array]:
        readout, _ = _readout(config, params, batch)
        return step(readout, batch, _attribution(config, readout, integral, batch).scores_LRF)

    parts = _whole_sequences_by_length(config, queries)
    return _all_batches(queries, rows, seed, measured, progress, parts=parts)


def measured_ability(
    config: ModelConfig, params: Mapping, queries: EncodedQueries, *, rows: int = 64, seed: int = 0
) -> dict[str, Float[np.ndarray, " N"]]:
    """The columns correct, sentence_nll and sentence_tokens of `measured_answers` alone: one forward a query.

    A bidirectional model has the first alone.
    """
    step = _jitted_ability(config)
    return _all_batches(queries, rows, seed, lambda number, batch, taken: step(params, batch))


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
    return _all_batches(queries, rows, 0, measured, progress, parts=_by_length(config, queries))


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

    found = _all_batches(one_token, rows, 0, best, progress)
    return found["token"].astype(int), found["probability"]


@functools.lru_cache(maxsize=8)
def _jitted_distribution(config: ModelConfig) -> Callable:
    @jax.jit
    def step(params: Mapping, batch: QueryBatch) -> Float[Array, "R V"]:
        result = forward(config, params, batch.tokens_BT, length_B=batch.length_B)
        return jax.nn.softmax(row_logits(config, params, result, _rows(batch)))

    return step


def _by_length(config: ModelConfig, queries: EncodedQueries) -> dict[int, Int[np.ndarray, " n"]]:
    """Indices of queries that are about as long as one another, by that length in tokens."""
    width = np.minimum(-(-queries.length_N // LENGTHS) * LENGTHS, config.n_ctx)
    return {n_positions: np.flatnonzero(width == n_positions) for n_positions in np.unique(width).tolist()}


def _whole_sequences_by_length(config: ModelConfig, queries: EncodedQueries) -> dict[int, Int[np.ndarray, " n"]] | None:
    """`_by_length` where padding costs as much as text: every edit runs whole sequences of a bidirectional model."""
    return _by_length(config, queries) if config.attention == "bidirectional" else None


def _fitted(tokens_NT: np.ndarray, n_positions: int) -> np.ndarray:
    """Cut or padded to `n_positions`; what stands there is padding in any case."""
    missing = max(n_positions - tokens_NT.shape[1], 0)
    return np.pad(tokens_NT, ((0, 0), (0, missing)))[:, :n_positions]


def _all_batches(
    queries: EncodedQueries,
    rows: int,
    seed: int,
    step: Callable[[int, QueryBatch, np.ndarray], Mapping[str, Array]],
    progress: Callable[[int], None] = lambda _: None,
    n_controls: int = 1,
    parts: Mapping[int, Int[np.ndarray, " n"]] | None = None,
) -> dict[str, Float[np.ndarray, " N"]]:
    """The columns that `step` (batch's number, batch, its queries) returns, put back into the queries' order.

    Args:
      parts: queries, by the length of their batches in tokens; None is all of them, as long as they are.
    """
    columns: dict[str, np.ndarray] = {}
    number = 0
    for n_positions, index in (parts or {queries.tokens_NT.shape[1]: np.arange(len(queries))}).items():
        part = queries[index]
        part = dataclasses.replace(part, tokens_NT=_fitted(part.tokens_NT, n_positions))
        for batch, taken in batches_of_all(part, n_rows=rows, seed=seed, n_controls=n_controls):
            for name, value in jax.device_get(step(number, batch, index[taken])).items():
                columns.setdefault(name, np.full(len(queries), np.nan))[index[taken]] = value[: len(taken)]
            progress(len(taken))
            number += 1
    return columns


class _Measured(NamedTuple):
    """A readout at the rows of a batch, with the sums over answers."""

    batch: QueryBatch
    readout: Readout

    def log_probability(self, probability_R: Array) -> Array:
        n_answers = self.batch.answer_weight_N.shape[0]
        return answer_log_probability(probability_R, self.batch.answer_R, self.batch.weight_R, n_answers)

    def probability(self, edit: Edit) -> Array:
        return jnp.exp(self.log_probability(self.readout(*edit)))

    def control(self, mask_LRF: Array) -> Array:
        """P without a control's neurons, a mean over an answer's controls; NaN if it has none."""
        one = lambda control_R: self.probability(suppress(control_mask(mask_LRF, control_R)))  # noqa: E731
        weight_XN = jnp.asarray(self.batch.control_weight_XN)
        return (jax.lax.map(one, jnp.asarray(self.batch.control_XR)) * weight_XN).sum(0) / weight_XN.sum(0)

    def answer_mean(self, value_R: Array) -> Array:
        n_answers = self.batch.answer_weight_N.shape[0]
        total = jax.ops.segment_sum(value_R * self.batch.weight_R, self.batch.answer_R, n_answers)
        return total / jnp.maximum(jax.ops.segment_sum(self.batch.weight_R, self.batch.answer_R, n_answers), 1)


def _readout(config: ModelConfig, params: Mapping, batch: QueryBatch) -> tuple[LanguageModelReadout, Array]:
    return read(config, params, batch.tokens_BT, _rows(batch), batch.length_B)


def _attribution(
    config: ModelConfig, readout: LanguageModelReadout, integral: Integral, batch: QueryBatch
) -> Attribution:
    return per_layer_attribution(readout, integral, at_once=evaluations_at_once(config, batch.tokens_BT.shape[1]))


def _rows(batch: QueryBatch) -> Rows:
    return Rows(batch.sequence_R, batch.position_R, batch.target_R)


@functools.lru_cache(maxsize=8)
def _answers_step(k: int) -> Callable:
    @jax.jit
    def step(
        readout: Readout, batch: QueryBatch, attribution: Attribution, key: PRNGKeyArray
    ) -> tuple[dict[str, Array], Array]:
        measured = _Measured(batch, readout)
        mask = top_k(attribution.scores_LRF, k)
        log_p = measured.log_probability(measured.readout.untouched())
        log_suppressed = measured.log_probability(measured.readout(*suppress(mask)))
        columns = {
            "probability": jnp.exp(log_p),
            "suppressed": jnp.exp(log_suppressed),
            "control": measured.control(mask),
            "random": measured.probability(suppress(random_mask(key, mask))),
            "amplified": measured.probability(amplify(mask)),
            "log_probability": log_p,
            "suppressed_log_probability": log_suppressed,
            "log_odds": log_odds(log_p),
            "suppressed_log_odds": log_odds(log_suppressed),
            "suppressed_ratio": jnp.exp(log_suppressed - log_p),
            "residual": measured.answer_mean(jnp.abs(attribution.residual_PR).mean(0)),
        }
        return columns, mask

    return step


def _ability(config: ModelConfig, params: Mapping, result: Forward, batch: QueryBatch) -> dict[str, Array]:
    n_answers = batch.answer_weight_N.shape[0]
    correct = {"correct": _correct(row_logits(config, params, result, _rows(batch)), batch)}
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
def _jitted_ability(config: ModelConfig) -> Callable:
    @jax.jit
    def step(params: Mapping, batch: QueryBatch) -> dict[str, Array]:
        return _ability(config, params, forward(config, params, batch.tokens_BT, length_B=batch.length_B), batch)

    return step


@functools.lru_cache(maxsize=8)
def _jitted_recall(config: ModelConfig) -> Callable:
    @jax.jit
    def step(params: Mapping, batch: QueryBatch) -> dict[str, Array]:
        result, readout = lm_readout(config, params, batch.tokens_BT, _rows(batch), batch.length_B)
        p = jnp.exp(_Measured(batch, readout).log_probability(readout.untouched()))
        return {"probability": p, "correct": _correct(row_logits(config, params, result, _rows(batch)), batch)}

    return step


@functools.lru_cache(maxsize=8)
def _ablation_step(k: int) -> Callable:
    @jax.jit
    def step(readout: Readout, batch: QueryBatch, scores_LRF: Array) -> dict[str, Array]:
        measured = _Measured(batch, readout)
        mask, by_gradients = top_k(neuron_ablation(readout), k), top_k(scores_LRF, k)
        return {
            "ablation_suppressed": measured.probability(suppress(mask)),
            "ablation_control": measured.control(mask),
            "ablation_overlap": measured.answer_mean((mask * by_gradients).sum((0, 2)) / k),
        }

    return step


def log_odds(log_p: Float[Array, " N"]) -> Float[Array, " N"]:
    """log P/(1 − P), in nats, kept finite where P rounds to 1."""
    return log_p - jnp.log(jnp.maximum(-jnp.expm1(log_p), jnp.finfo(log_p.dtype).eps))
