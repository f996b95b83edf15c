"""Every query once, in batches: the loop that measurements share."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.attribution.adaptive import per_layer_attribution
from jaxinterp.attribution.integrated_gradients import Attribution
from jaxinterp.attribution.quadrature import Integral
from jaxinterp.attribution.readout import LanguageModelReadout, Rows, read
from jaxinterp.facts.encoding import EncodedQueries, QueryBatch, batches_of_all
from jaxinterp.models.config import ModelConfig
from jaxinterp.training.planner import evaluations_at_once

LENGTHS = 8  # tokens; lengths are rounded up to multiples, so that few shapes are compiled


def by_length(config: ModelConfig, queries: EncodedQueries) -> dict[int, Int[np.ndarray, " n"]]:
    """Indices of queries that are about as long as one another, by that length in tokens."""
    width = np.minimum(-(-queries.length_N // LENGTHS) * LENGTHS, config.n_ctx)
    return {n_positions: np.flatnonzero(width == n_positions) for n_positions in np.unique(width).tolist()}


def whole_sequences_by_length(config: ModelConfig, queries: EncodedQueries) -> dict[int, Int[np.ndarray, " n"]] | None:
    """`by_length` where padding costs as much as text: every edit runs whole sequences of a bidirectional model."""
    return by_length(config, queries) if config.attention == "bidirectional" else None


def _fitted(tokens_NT: np.ndarray, n_positions: int) -> np.ndarray:
    """Cut or padded to `n_positions`; what stands there is padding in any case."""
    missing = max(n_positions - tokens_NT.shape[1], 0)
    return np.pad(tokens_NT, ((0, 0), (0, missing)))[:, :n_positions]


def all_batches(
    queries: EncodedQueries,
    rows: int,
    seed: int,
    step: Callable[[int, QueryBatch, np.ndarray], Mapping[str, Array]],
    progress: Callable[[int], None] = lambda _: None,
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
        for batch, taken in batches_of_all(part, n_rows=rows, seed=seed):
            for name, value in jax.device_get(step(number, batch, index[taken])).items():
                columns.setdefault(name, np.full(len(queries), np.nan))[index[taken]] = value[: len(taken)]
            progress(len(taken))
            number += 1
    return columns


def readout_of(config: ModelConfig, params: Mapping, batch: QueryBatch) -> tuple[LanguageModelReadout, Array]:
    """The readout at a batch's rows, and their logits [R, V]."""
    return read(config, params, batch.tokens_BT, rows_of(batch), batch.length_B)


def attribution_of(
    config: ModelConfig, readout: LanguageModelReadout, integral: Integral, batch: QueryBatch
) -> Attribution:
    """Integrated gradients on the per-layer path at a batch's rows, as many at once as fit."""
    return per_layer_attribution(readout, integral, at_once=evaluations_at_once(config, batch.tokens_BT.shape[1]))


def rows_of(batch: QueryBatch) -> Rows:
    """Where a batch is read."""
    return Rows(batch.sequence_R, batch.position_R, batch.target_R)
