"""Values of metrics in samples of facts and relations: what their intervals are made of."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.base.errors import UserError
from jaxinterp.metrics.intervals import PARTS, draws, leaving_out, multiple_of_facts, multiple_of_relations
from jaxinterp.metrics.registry import METRICS, Metric, Neurons

NEURON_REPLICATES = 200  # each goes over all neurons
# Means below it count as 0: whether a device holds a smaller float32, or flushes it to 0, is no figure of a model's.
TINY = float(np.finfo(np.float32).tiny)
NOTHING_LEFT = "P = 0"  # why a relation is left out
NOT_FINITE = "no finite value"
Relations = Literal["fixed", "drawn"]


class Queries:
    """Which query is of which fact and relation, and how much each weighs in what is computed."""

    def __init__(
        self,
        fact_N: np.ndarray,
        relation_N: Sequence[str],
        relations: Relations,
        replicates: int,
        level: float,
        seed: int,
    ) -> None:
        names_N = np.asarray(relation_N)
        self.relations: list[str] = sorted(set(names_N.tolist()))
        self.concept_N = np.searchsorted(self.relations, names_N)
        self.fact_N = np.unique(np.stack([self.concept_N, fact_N]), axis=1, return_inverse=True)[1].reshape(-1)
        self.rows = [np.flatnonzero(self.concept_N == index) for index in range(len(self.relations))]
        self.fact_of_row = [np.unique(fact_N[rows], return_inverse=True)[1] for rows in self.rows]  # 0, 1, …
        self.drawn = relations == "drawn" and len(self.relations) > 1
        self.replicates, self.level, self._seed = replicates, level, seed
        self.n_parts = min(PARTS, 1 + max((int(facts.max()) for facts in self.fact_of_row), default=0))

    def fact_weights(self, index: int, replicates: int) -> Float[np.ndarray, "samples n"]:
        """Weights of a relation's facts: all 1; 0 for each part in turn; how often replicates draw them."""
        n_facts = int(self.fact_of_row[index].max()) + 1
        drawn = draws(n_facts, [self._seed, *self.relations[index].encode()], self.replicates)
        return np.concatenate([leaving_out(n_facts, self.n_parts), drawn[1 : 1 + replicates]])

    def relations_drawn(self) -> Float[np.ndarray, "samples relations"]:
        """How often each relation is drawn: once, and then by replicate."""
        entropy = [self._seed, 256, *"\n".join(self.relations).encode()]  # no relation's, whose bytes are below 256
        return draws(len(self.relations), entropy, self.replicates)

    def divided(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of samples by `fact_weights`: the value and those without each part, and the value and replicates."""
        return values[: 1 + self.n_parts], np.concatenate([values[:1], values[1 + self.n_parts :]])


@dataclasses.dataclass(frozen=True)
class Samples:
    """A metric's value and what its intervals are made of."""

    overall: Float[np.ndarray, " samples"]  # the value and replicates
    # The value in each relation and those without each part of its facts in turn, NaN for a relation that has none;
    # None: one value for all
    inside: Float[np.ndarray, "parts relations"] | None
    alone: Float[np.ndarray, " parts"] | None  # the same of the overall value, where it is that of one relation
    multiple: float  # of the standard deviation over replicates: half the overall interval; NaN: it is not estimated
    counts: Int[np.ndarray, " relations"]  # facts; 0 where a relation has no value
    n: int  # facts behind the overall value
    left_out: Mapping[int, tuple[str, int]] = dataclasses.field(default_factory=dict)  # relation -> why, facts


def samples_of(name: str, found: Mapping[str, Samples | None]) -> Samples | None:
    """Those of a metric, computed from those that were measured; None if there are none."""
    metric = METRICS[name]
    if not metric.of:
        return found.get(name)
    of = {component: samples_of(component, found) for component in metric.of}
    of = {component: samples for component, samples in of.items() if samples is not None}
    if len(of) < (len(metric.of) if metric.every else 1):
        return None
    size = min(len(samples.overall) for samples in of.values())

    def derived(field: str, size: int | None = None) -> np.ndarray | None:
        values = {component: getattr(samples, field) for component, samples in of.items()}
        if any(value is None for value in values.values()):
            return None
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(metric.formula({component: value[:size] for component, value in values.items()}))

    overall, inside = derived("overall", size), derived("inside")
    # A metric without facts in a relation takes no part in it.
    counts = np.stack([np.where(samples.counts > 0, samples.counts, np.inf) for samples in of.values()]).min(0)
    left_out: dict[int, tuple[str, int]] = {}
    if inside is not None:
        counts = np.where(np.isfinite(inside[0]), counts, np.inf)
        for samples in of.values():
            left_out |= {index: why for index, why in samples.left_out.items() if not np.isfinite(inside[0, index])}
    known = [samples.n for samples in of.values() if samples.n] if np.isfinite(overall[0]) else []
    return Samples(
        overall,
        inside,
        derived("alone"),
        # Replicates of those that vary most count; of one value whose interval is not estimated nothing is.
        float(np.max([samples.multiple for samples in of.values() if samples.n] or [math.nan])),
        np.where(np.isfinite(counts), counts, 0).astype(int),
        min(known, default=0),
        left_out,
    )


def of_columns(
    metrics: Sequence[Metric], columns: Mapping[str, np.ndarray], queries: Queries
) -> dict[str, Samples | None]:
    """Those of metrics of columns; None where no fact has what a metric needs."""
    inside: dict[str, list[np.ndarray]] = {metric.name: [] for metric in metrics}
    counts: dict[str, list[int]] = {metric.name: [] for metric in metrics}
    nothing_left = []
    for index, (rows, fact_of_row) in enumerate(zip(queries.rows, queries.fact_of_row, strict=True)):
        weights = queries.fact_weights(index, queries.replicates)
        p = columns["probability"][rows] if "probability" in columns else np.ones(1)
        nothing_left.append(not (p[~np.isnan(p)] >= TINY).any())
        for metric in metrics:
            of = {column: columns[column][rows] for column in metric.needs}
            values, n = _inside(metric, of, fact_of_row, weights)
            inside[metric.name].append(values)
            counts[metric.name].append(n)
    found: dict[str, Samples | None] = {}
    for metric in metrics:
        values, facts = np.stack(inside[metric.name], axis=1), np.array(counts[metric.name])
        lost = (facts > 0) & ~np.isfinite(values[0])
        left_out = {
            index: (NOTHING_LEFT if nothing_left[index] else NOT_FINITE, int(facts[index]))
            for index in np.flatnonzero(lost).tolist()
        }
        # A relation that is drawn has all its facts, and its value.
        drawn = np.broadcast_to(values[:1], (queries.replicates + 1, len(facts))) if queries.drawn else None
        samples = _with_mean(values, drawn, np.where(lost, 0, facts), queries, left_out)
        found[metric.name] = samples if facts.any() else None
    return found


def _inside(
    metric: Metric, columns: Mapping[str, np.ndarray], fact_of_row: np.ndarray, weights: np.ndarray
) -> tuple[Float[np.ndarray, " samples"], int]:
    """Values in one relation, NaN for a sample whose facts all lack a column; and how many facts have them."""
    known = ~np.any([np.isnan(values) for values in columns.values()], axis=0)
    fact, n_facts = fact_of_row[known], weights.shape[1]
    rows_F = np.bincount(fact, minlength=n_facts)
    total = weights @ rows_F

    def mean(column: str) -> np.ndarray:
        if column not in columns:
            raise UserError(f"metric {metric.name!r} takes the mean of {column!r}, which is not in its needs")
        means = (weights @ np.bincount(fact, columns[column][known], minlength=n_facts) / total)[:, None]
        return np.where(np.abs(means) < TINY, 0, means)

    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(metric.formula(mean))[:, 0], int((rows_F > 0).sum())


def of_neurons(metric: Metric, activation_NU: np.ndarray, selected_NU: np.ndarray, queries: Queries) -> Samples | None:
    """Those of a metric of neurons; None if no relation has a value."""
    run = functools.partial(_replicated(metric.name, len(queries.relations)), activation_NU, selected_NU)
    n_replicates = min(queries.replicates, NEURON_REPLICATES)

    def values(weights: np.ndarray) -> np.ndarray:
        return np.asarray(run(queries.concept_N, queries.fact_N, weights.astype(np.float32)), np.float64)

    counts = np.array([len(np.unique(facts)) for facts in queries.fact_of_row])
    n, m = int(counts.sum()), len(counts)
    drawn = values(queries.relations_drawn()[: n_replicates + 1, queries.concept_N]) if queries.drawn else None
    if drawn is not None and drawn.ndim == 1:
        return Samples(drawn, None, None, multiple_of_relations(queries.level, m), counts, n)
    # All relations leave a part out at once: a relation's value may look at the others' facts, too.
    weights = np.ones((1 + queries.n_parts + n_replicates, len(queries.concept_N)))
    for index, (rows, fact_of_row) in enumerate(zip(queries.rows, queries.fact_of_row, strict=True)):
        weights[:, rows] = queries.fact_weights(index, n_replicates)[:, fact_of_row]
    inside = values(weights)
    if inside.ndim == 1:
        own, replicates = queries.divided(inside)
        return Samples(replicates, None, own if m == 1 else None, multiple_of_facts(queries.level, counts), counts, n)
    there = ~np.isnan(inside[0])
    if not there.any():
        return None  # a single relation has no other to be told from
    return _with_mean(inside, drawn, counts * there, queries, {})


def _with_mean(
    inside: np.ndarray,
    drawn: np.ndarray | None,
    counts: np.ndarray,
    queries: Queries,
    left_out: Mapping[int, tuple[str, int]],
) -> Samples:
    """Samples of the unweighted mean over the relations that have facts.

    Args:
      inside: values in relations [samples, relations], by `Queries.fact_weights`.
      drawn: the value and those of replicates that draw relations, [samples, relations]; None if they are fixed.
      counts: facts by relation.
      queries, left_out: see `Samples`.
    """
    there = counts > 0
    own, replicates = queries.divided(inside)
    if not there.any():
        return Samples(np.full(len(replicates), np.nan), own, None, math.nan, counts, 0, left_out)
    overall = _mean(replicates, there * np.ones_like(replicates))
    multiple = multiple_of_facts(queries.level, counts[there])
    if drawn is not None and there.sum() > 1:
        times = there * queries.relations_drawn()[: len(drawn)]
        of_relations = _mean(drawn, times)
        # With one of two relations a metric that tells relations from each other has no value.
        if there.sum() > 2 or not np.isnan(of_relations[times.any(1)]).any():
            overall, multiple = of_relations, multiple_of_relations(queries.level, int(there.sum()))
    overall[0] = own[0, there].mean()
    alone = own[:, there][:, 0] if there.sum() == 1 else None
    return Samples(overall, own, alone, multiple, counts, int(counts.sum()), left_out)


def _mean(values: np.ndarray, weights: np.ndarray) -> Float[np.ndarray, " samples"]:
    """Weighted means over relations; a replicate can lack what a metric needs in one."""
    weights = np.where(np.isfinite(values), weights, 0)
    with np.errstate(invalid="ignore"):
        return np.where(weights > 0, values * weights, 0).sum(1) / weights.sum(1)


@functools.lru_cache(maxsize=64)
def _replicated(name: str, n_concepts: int) -> Callable:
    formula = METRICS[name].formula

    @jax.jit
    def run(activation_NU: Array, selected_NU: Array, concept_N: Array, fact_N: Array, weights: Array) -> Array:
        return jax.lax.map(
            lambda weight_N: formula(Neurons(activation_NU, selected_NU, concept_N, fact_N, weight_N, n_concepts)),
            weights,
        )

    return run
