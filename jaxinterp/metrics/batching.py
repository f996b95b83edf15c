"""The loop that measurements share: every answer once, in batches."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.attribution.answers import Answers
from jaxinterp.facts.batches import QueryBatch, batches_of_all
from jaxinterp.facts.encoding import EncodedQueries
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.model import Model
from jaxinterp.models.readout import LanguageModelReadout, read

LENGTHS = 8  # tokens; lengths are rounded up to multiples, so that few shapes are compiled


@runtime_checkable
class Batch(Protocol):
    """Answers, and whatever their readout is made of."""

    answers: Answers


Batches = Iterable[tuple[Batch, Int[np.ndarray, " n"]]]  # each with the numbers of its answers


def by_length(config: ModelConfig, queries: EncodedQueries) -> dict[int, Int[np.ndarray, " n"]]:
    """Indices of queries that are about as long as one another, by that length in tokens."""
    width = _rounded(config, queries.length_N)
    return {n_positions: np.flatnonzero(width == n_positions) for n_positions in np.unique(width).tolist()}


def of_one_length(config: ModelConfig, queries: EncodedQueries) -> dict[int, Int[np.ndarray, " n"]]:
    """All queries as one part, as long as what they were encoded with: parts of a set, and sets that differ a little in
    their longest text, share what is compiled, which takes longer than a few more tokens do.
    """
    return {int(_rounded(config, queries.tokens_NT.shape[1])): np.arange(len(queries))}


def _rounded(config: ModelConfig, length: Any) -> Any:
    return np.minimum(-(-length // LENGTHS) * LENGTHS, config.n_ctx)


def _fitted(tokens_NT: np.ndarray, n_positions: int) -> np.ndarray:
    """Cut or padded to `n_positions`; what stands there is padding in any case."""
    missing = max(n_positions - tokens_NT.shape[1], 0)
    return np.pad(tokens_NT, ((0, 0), (0, missing)))[:, :n_positions]


def query_batches(
    queries: EncodedQueries, rows: int, seed: int, parts: Mapping[int, Int[np.ndarray, " n"]] | None = None
) -> Iterator[tuple[QueryBatch, Int[np.ndarray, " n"]]]:
    """Batches of all queries, without controls.

    Args:
      queries: N of them.
      rows: answer tokens of a batch.
      seed: of their order.
      parts: queries, by the length of their batches in tokens; None is all of them, as long as they are.
    """
    for n_positions, index in (parts or {queries.tokens_NT.shape[1]: np.arange(len(queries))}).items():
        part = queries[index]
        part = dataclasses.replace(part, tokens_NT=_fitted(part.tokens_NT, n_positions))
        for batch, taken in batches_of_all(part, n_rows=rows, seed=seed):
            yield batch, index[taken]


def columns_of(
    batches: Batches,
    n: int,
    step: Callable[[int, Batch, np.ndarray], Mapping[str, Array]],
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Float[np.ndarray, " N"]]:
    """The columns that `step` (batch's number, batch, its answers) returns, put back into the order of n answers."""
    columns: dict[str, np.ndarray] = {}
    for number, (batch, taken) in enumerate(batches):
        for name, value in jax.device_get(step(number, batch, taken)).items():
            columns.setdefault(name, np.full(n, np.nan))[taken] = value[: len(taken)]
        progress(len(taken))
    return columns


def readout_of(model: Model, batch: QueryBatch) -> LanguageModelReadout:
    """The readout at a batch's rows."""
    return read(model, batch.tokens_BT, batch.rows, batch.length_B)[0]
