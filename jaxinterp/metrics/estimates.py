"""Estimates with bootstrap intervals: relations are drawn, and inside one relation its facts."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import jax
import numpy as np
import scipy.stats
from jaxtyping import Array, Float, Int

from jaxinterp.errors import UserError
from jaxinterp.metrics.registry import Metric, Neurons, base_metrics, get_metric, is_measured

NEURON_REPLICATES = 200  # each goes over all neurons
Relations = Literal["fixed", "drawn"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A measured value, its interval and the number of facts behind it."""

    value: float
    low: float
    high: float
    n: int


@dataclasses.dataclass(frozen=True)
class Estimates:
    """A metric overall and inside each relation."""

    overall: Estimate
    by_relation: Mapping[str, Estimate]
    # The overall value and its replicates; NaN where one lacks what the metric needs. Equal relations, facts and seeds
    # draw equal ones, so that replicates of several models and metrics are paired; see `jaxinterp.studies.verdict`.
    samples: Float[np.ndarray, " samples"] = dataclasses.field(compare=False)


def estimate(
    names: Sequence[str],
    columns: Mapping[str, Float[np.ndarray, " N"]],
    fact_N: Int[np.ndarray, " N"],
    relation_N: Sequence[str],
    *,
    activation_NU: Float[np.ndarray, "N U"] | None = None,
    selected_NU: Float[np.ndarray, "N U"] | None = None,
    relations: Relations = "drawn",
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Estimates]:
    """Metrics with bootstrap intervals, overall and inside each relation.

    Inside each relation a metric of columns is a function of means (of suppressability, a ratio of means); overall it
    is the unweighted mean over the relations that have it. A metric of neurons has a value for each relation, with the
    same mean, or one for all. A derived metric is a function of other metrics' values overall, and of their values in
    a relation there; its `n` is the smallest of theirs. A column whose value is NaN for a query was not measured there:
    means and `n` are over the queries that have all the columns a metric needs.

    The interval inside a relation is that of its facts. A replicate draws all of them with replacement, the same ones
    for every metric, a fact with all its queries (prompts of one fact are not independent). For metrics of columns the
    interval lies between percentiles. For those of neurons it is the value ± the standard deviation's multiple, since a
    replicate sees fewer different facts than there are, and is biased by it: of some neurons nothing is left that they
    are active for. So it is for derived metrics, since the largest of several values grows with their noise.

    The overall interval speaks of relations like these: a replicate draws the set's m relations with replacement, each
    with all its facts, and a relation drawn twice counts twice. The interval is the value ± Student's t with m − 1
    degrees of freedom, times √(m / (m − 1)) times the standard deviation over replicates. For a mean over relations
    that is the interval of a mean of m values, and what few facts a relation has is in the spread of these values
    already: to draw the facts inside the drawn relations as well would count it twice (97 % to 100 % of such intervals
    held the truth where 95 % should). Of 600 simulated sets of 2, 3 or 10 relations of 20 facts, for a mean, a ratio of
    means, a largest of three and a difference, and relations that differ not at all, as much as their facts' means do
    by chance, or three times as much, 92 % to 99 % of the intervals held the truth; of those for fixed relations 94 %
    down to 40 %. Two relations say little of others, and their interval is wide (t = 12.7). One relation says nothing
    of others: the interval is that of its facts. So it is where a metric tells relations from each other and there are
    two, since a replicate with one of them has no value.

    Args:
      names: metrics; what derived ones are of is computed, but not returned.
      columns: measured values by query.
      fact_N, relation_N: each query's fact and relation.
      activation_NU, selected_NU: for metrics of neurons; see `Neurons`.
      relations: "drawn" as above; "fixed" for an overall interval that is that of facts inside these very relations.
      replicates: bootstrap replicates; metrics of neurons take at most `NEURON_REPLICATES`.
      level: coverage of the interval.
      seed: of the bootstrap.
    Returns:
      A metric that tells relations from each other is left out where there is one relation, and what needs it as well.
    Raises:
      UserError: if a metric is unknown, or what it needs was not measured.
    """
    needed = tuple(dict.fromkeys(base for name in names for base in base_metrics(name)))
    there = {name for name, column in columns.items() if column is not None}
    there |= {name for name, x in (("activations", activation_NU), ("selections", selected_NU)) if x is not None}
    for name in names:
        _check_measured(name, there, columns)
        if not len(fact_N):
            raise UserError(f"metric {name!r} was measured on no fact")
    needed = tuple(name for name in needed if is_measured(name, there))
    queries = _Queries(fact_N, relation_N, relations, replicates, seed)
    found = _of_columns([get_metric(name) for name in needed if not get_metric(name).of_neurons], columns, queries)
    if of_neurons := [get_metric(name) for name in needed if get_metric(name).of_neurons]:
        shape = next(x.shape for x in (activation_NU, selected_NU) if x is not None)
        arrays = [np.zeros(shape, np.float32) if x is None else x for x in (activation_NU, selected_NU)]
        found |= {metric.name: _of_neurons(metric, *arrays, queries) for metric in of_neurons}
    results = {}
    for name in names:
        samples = _samples(name, found)
        if samples is not None:
            results[name] = _estimates(get_metric(name), samples, queries.relations, level)
        elif not any(get_metric(base).of_neurons for base in base_metrics(name)):
            raise UserError(f"metric {name!r} was measured on no fact")
    return results


def _check_measured(name: str, there: set[str], columns: Mapping[str, np.ndarray]) -> None:
    if is_measured(name, there):
        return
    for base in base_metrics(name):
        if missing := [need for need in get_metric(base).needs if need not in there]:
            raise UserError(
                f"metric {name!r} needs the column {missing[0]!r}, which was not measured; measured: {sorted(columns)}"
            )


class _Queries:
    """Which query is of which fact and relation, and how often a replicate draws them."""

    def __init__(
        self, fact_N: np.ndarray, relation_N: Sequence[str], relations: Relations, replicates: int, seed: int
    ) -> None:
        names_N = np.asarray(relation_N)
        self.relations: list[str] = sorted(set(names_N.tolist()))
        self.concept_N = np.searchsorted(self.relations, names_N)
        self.fact_N = np.unique(np.stack([self.concept_N, fact_N]), axis=1, return_inverse=True)[1].reshape(-1)
        self.rows = [np.flatnonzero(self.concept_N == index) for index in range(len(self.relations))]
        self.fact_of_row = [np.unique(fact_N[rows], return_inverse=True)[1] for rows in self.rows]  # 0, 1, …
        self.drawn = relations == "drawn" and len(self.relations) > 1
        self.replicates, self._seed = replicates, seed

    def facts_drawn(self, index: int) -> Float[np.ndarray, "samples n"]:
        """How often each fact of a relation is drawn: once, and then by replicate."""
        n_facts = int(self.fact_of_row[index].max()) + 1
        return _draws(n_facts, [self._seed, *self.relations[index].encode()], self.replicates)

    def relations_drawn(self) -> Float[np.ndarray, "samples relations"]:
        """The same of the relations."""
        entropy = [self._seed, 256, *"\n".join(self.relations).encode()]  # no relation's, whose bytes are below 256
        return _draws(len(self.relations), entropy, self.replicates)


def _draws(n: int, entropy: list[int], replicates: int) -> Float[np.ndarray, "samples n"]:
    drawn = np.random.default_rng(entropy).multinomial(n, np.full(n, 1 / n), replicates)
    return np.concatenate([np.ones((1, n)), drawn])


@dataclasses.dataclass(frozen=True)
class _Samples:
    """A metric's value and replicates, before intervals are put around it."""

    overall: Float[np.ndarray, " samples"]
    inside: Float[np.ndarray, "samples relations"] | None  # NaN for a relation that has none; None: one value for all
    counts: Int[np.ndarray, " relations"]  # facts
    n: int  # facts behind the overall value
    drawn: int  # relations that its replicates draw; 1 if they draw facts
    biased: bool  # whether the spread of the replicates counts, and not their place


def _samples(name: str, found: Mapping[str, _Samples | None]) -> _Samples | None:
    """Those of a metric, computed from those that were measured; None if there are none."""
    metric = get_metric(name)
    if not metric.of:
        return found.get(name)
    of = {component: _samples(component, found) for component in metric.of}
    of = {component: samples for component, samples in of.items() if samples is not None}
    if len(of) < (len(metric.of) if metric.every else 1):
        return None
    size = min(len(samples.overall) for samples in of.values())

    def derived(values: Mapping[str, np.ndarray]) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(metric.formula({component: value[:size] for component, value in values.items()}))

    of_relations = all(samples.inside is not None for samples in of.values())
    inside = derived({component: samples.inside for component, samples in of.items()}) if of_relations else None
    # A metric without facts in a relation takes no part in it.
    counts = np.stack([np.where(samples.counts > 0, samples.counts, np.inf) for samples in of.values()]).min(0)
    if inside is not None:
        counts = np.where(np.isnan(inside[0]), np.inf, counts)
    return _Samples(
        derived({component: samples.overall for component, samples in of.items()}),
        inside,
        np.where(np.isfinite(counts), counts, 0).astype(int),
        min(samples.n for samples in of.values()),
        min(samples.drawn for samples in of.values()),
        biased=True,  # the largest of several tends to be too large, and that of a replicate even more
    )


def _of_columns(
    metrics: Sequence[Metric], columns: Mapping[str, np.ndarray], queries: _Queries
) -> dict[str, _Samples | None]:
    """Those of metrics of columns; None where no fact has what a metric needs."""
    inside: dict[str, list[np.ndarray]] = {metric.name: [] for metric in metrics}
    counts: dict[str, list[int]] = {metric.name: [] for metric in metrics}
    for index, (rows, fact_of_row) in enumerate(zip(queries.rows, queries.fact_of_row, strict=True)):
        draws = queries.facts_drawn(index)
        for metric in metrics:
            of = {column: columns[column][rows] for column in metric.needs}
            values, n = _inside(metric, of, fact_of_row, draws)
            inside[metric.name].append(values)
            counts[metric.name].append(n)
    found: dict[str, _Samples | None] = {}
    for metric in metrics:
        values, facts = np.stack(inside[metric.name], axis=1), np.array(counts[metric.name])
        # A relation that is drawn has all its facts, and its value.
        drawn = np.broadcast_to(values[:1], values.shape) if queries.drawn else None
        found[metric.name] = _with_mean(values, drawn, facts, queries, biased=False) if facts.any() else None
    return found


def _inside(
    metric: Metric, columns: Mapping[str, np.ndarray], fact_of_row: np.ndarray, draws: np.ndarray
) -> tuple[Float[np.ndarray, " samples"], int]:
    """Values in one relation, NaN for a replicate whose facts all lack a column; and how many facts have them."""
    known = ~np.any([np.isnan(values) for values in columns.values()], axis=0)
    fact, n_facts = fact_of_row[known], draws.shape[1]
    rows_F = np.bincount(fact, minlength=n_facts)
    total = draws @ rows_F

    def mean(column: str) -> np.ndarray:
        if column not in columns:
            raise UserError(f"metric {metric.name!r} takes the mean of {column!r}, which is not in its needs")
        return (draws @ np.bincount(fact, columns[column][known], minlength=n_facts) / total)[:, None]

    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(metric.formula(mean))[:, 0], int((rows_F > 0).sum())


def _of_neurons(
    metric: Metric, activation_NU: np.ndarray, selected_NU: np.ndarray, queries: _Queries
) -> _Samples | None:
    """Those of a metric of neurons; None if no relation has a value."""
    run = functools.partial(_replicated(metric.name, len(queries.relations)), activation_NU, selected_NU)
    n_samples = min(queries.replicates, NEURON_REPLICATES) + 1

    def values(weights: np.ndarray) -> np.ndarray:
        return np.asarray(run(queries.concept_N, queries.fact_N, weights.astype(np.float32)), np.float64)

    counts = np.array([len(np.unique(facts)) for facts in queries.fact_of_row])
    drawn = values(queries.relations_drawn()[:n_samples, queries.concept_N]) if queries.drawn else None
    if drawn is not None and drawn.ndim == 1:
        return _Samples(drawn, None, counts, int(counts.sum()), len(counts), biased=True)
    weights = np.ones((n_samples, len(queries.concept_N)))
    for index, (rows, fact_of_row) in enumerate(zip(queries.rows, queries.fact_of_row, strict=True)):
        weights[:, rows] = queries.facts_drawn(index)[:n_samples, fact_of_row]
    inside = values(weights)
    if inside.ndim == 1:
        return _Samples(inside, None, counts, int(counts.sum()), 1, biased=True)
    there = ~np.isnan(inside[0])
    if not there.any():
        return None  # a single relation has no other to be told from
    return _with_mean(inside, drawn, counts * there, queries, biased=True)


def _with_mean(
    inside: np.ndarray, drawn: np.ndarray | None, counts: np.ndarray, queries: _Queries, *, biased: bool
) -> _Samples:
    """Samples of the unweighted mean over the relations that have facts.

    Args:
      inside: values in relations [samples, relations], of replicates that draw facts.
      drawn: the same, of replicates that draw relations; None if they are fixed.
      counts: facts by relation.
      queries, biased: see `_Samples`.
    """
    there = counts > 0
    overall, m = _mean(inside, there * np.ones_like(inside)), 1
    if drawn is not None and there.sum() > 1:
        times = there * queries.relations_drawn()[: len(drawn)]
        of_relations = _mean(drawn, times)
        # With one of two relations a metric that tells relations from each other has no value.
        if there.sum() > 2 or not np.isnan(of_relations[times.any(1)]).any():
            overall, m = of_relations, int(there.sum())
    overall[0] = inside[0, there].mean()  # NaN if a relation's is
    return _Samples(overall, inside, counts, int(counts.sum()), m, biased)


def _mean(values: np.ndarray, weights: np.ndarray) -> Float[np.ndarray, " samples"]:
    """Weighted means over relations; a replicate can lack what a metric needs in one."""
    weights = np.where(np.isnan(values), 0, weights)
    with np.errstate(invalid="ignore"):
        return np.where(weights > 0, values * weights, 0).sum(1) / weights.sum(1)


@functools.lru_cache(maxsize=64)
def _replicated(name: str, n_concepts: int) -> Callable:
    formula = get_metric(name).formula

    @jax.jit
    def run(activation_NU: Array, selected_NU: Array, concept_N: Array, fact_N: Array, weights: Array) -> Array:
        return jax.lax.map(
            lambda weight_N: formula(Neurons(activation_NU, selected_NU, concept_N, fact_N, weight_N, n_concepts)),
            weights,
        )

    return run


def _estimates(metric: Metric, samples: _Samples, relations: Sequence[str], level: float) -> Estimates:
    """Puts intervals around a value and its replicates."""
    facts = functools.partial(_normal, metric=metric) if samples.biased else _percentiles
    by_relation = {}
    if samples.inside is not None:
        there = np.flatnonzero(samples.counts > 0)
        by_relation = {
            relations[index]: facts(samples.inside[:, index], level=level, n=int(samples.counts[index]))
            for index in there
        }
    if samples.drawn > 1:
        overall = _normal(samples.overall, metric=metric, level=level, n=samples.n, drawn=samples.drawn)
    else:
        overall = facts(samples.overall, level=level, n=samples.n)
    return Estimates(overall, by_relation, samples.overall)


def _percentiles(values: np.ndarray, level: float, n: int) -> Estimate:
    replicates = values[1:][~np.isnan(values[1:])]
    tail = 50 * (1 - level)
    low, high = np.percentile(replicates, [tail, 100 - tail]) if len(replicates) else (values[0], values[0])
    return Estimate(float(values[0]), float(low), float(high), n)


def _normal(values: np.ndarray, metric: Metric, level: float, n: int, drawn: int = 0) -> Estimate:
    """The value ± the standard deviation's multiple, inside the metric's range; of Student's t for drawn relations."""
    value, replicates = float(values[0]), values[1:][np.isfinite(values[1:])]
    half = float(replicates.std(ddof=1)) if len(replicates) > 1 else 0.0
    half *= scipy.stats.norm.ppf((1 + level) / 2) if not drawn else _multiple(level, drawn)
    low, high = metric.range
    return Estimate(value, float(max(value - half, min(low, value))), float(min(value + half, max(high, value))), n)


def _multiple(level: float, drawn: int) -> float:
    """Of the standard deviation over replicates that draw so many relations."""
    return float(scipy.stats.t(drawn - 1).ppf((1 + level) / 2)) * (drawn / (drawn - 1)) ** 0.5
