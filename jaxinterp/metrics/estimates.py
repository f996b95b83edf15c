"""Estimates with bootstrap intervals clustered by fact."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
import scipy.stats
from jaxtyping import Array, Float, Int

from jaxinterp.errors import UserError
from jaxinterp.metrics.registry import Metric, Neurons, get_metric

NEURON_REPLICATES = 200  # each goes over all neurons


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
    # The overall value and its replicates. Equal facts and seeds draw equal facts, so that replicates of several models
    # are paired; see `jaxinterp.studies.verdict`.
    samples: Float[np.ndarray, " samples"] = dataclasses.field(compare=False)


def estimate(
    names: Sequence[str],
    columns: Mapping[str, Float[np.ndarray, " N"]],
    fact_N: Int[np.ndarray, " N"],
    relation_N: Sequence[str],
    *,
    activation_NU: Float[np.ndarray, "N U"] | None = None,
    selected_NU: Float[np.ndarray, "N U"] | None = None,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Estimates]:
    """Metrics with bootstrap intervals: percentiles, and for metrics of neurons ± the standard deviation's multiple.

    A replicate of a metric of neurons sees fewer different facts than there are, and is biased by it: of some neurons
    nothing is left that they are active for. The spread of the replicates is used, not their place.

    Inside each relation a metric of columns is a function of means (of suppressability, a ratio of means); overall it
    is the unweighted mean over relations. A metric of neurons has a value for each relation, with the same mean, or one
    for all. A replicate draws each relation's facts with replacement, a fact with all its queries (relations are fixed,
    prompts of one fact are not independent). A column whose value is NaN for a query was not measured there; means,
    replicates and `n` are over the queries that have all the columns a metric needs.

    Args:
      names: metrics.
      columns: measured values by query.
      fact_N, relation_N: each query's fact and relation.
      activation_NU, selected_NU: for metrics of neurons; see `Neurons`.
      replicates: bootstrap replicates; metrics of neurons take at most `NEURON_REPLICATES`.
      level: coverage of the interval.
      seed: of the bootstrap.
    Raises:
      UserError: if a metric is unknown, or what it needs was not measured.
    """
    relation_N = np.asarray(relation_N)
    relations = sorted(set(relation_N.tolist()))
    tail = 50 * (1 - level)
    measured = {"activations": activation_NU, "selections": selected_NU, **columns}
    results = {}
    for name in names:
        metric = get_metric(name)
        if missing := [need for need in metric.needs if measured.get(need) is None]:
            raise UserError(
                f"metric {name!r} needs the column {missing[0]!r}, which was not measured; measured: {sorted(columns)}"
            )
        if not len(fact_N):
            raise UserError(f"metric {name!r} was measured on no fact")
        if metric.of_neurons:
            counts = [len(np.unique(fact_N[relation_N == relation])) for relation in relations]
            weights = _weights(fact_N, relation_N, relations, min(replicates, NEURON_REPLICATES), seed)
            concept_N = np.searchsorted(relations, relation_N)
            shape = next(x.shape for x in (activation_NU, selected_NU) if x is not None)
            arrays = (np.zeros(shape, np.float32) if x is None else x for x in (activation_NU, selected_NU))
            values = _of_neurons(metric, *arrays, concept_N, weights, len(relations))
        else:
            values, counts = _of_columns(metric, columns, fact_N, relation_N, relations, replicates, seed)
        if values.ndim == 1:  # one value for all relations
            results[name] = Estimates(_normal(values, metric, tail, sum(counts)), {}, values)
            continue
        there = [index for index, count in enumerate(counts) if count]
        if metric.of_neurons:
            there = [index for index in there if not np.isnan(values[0, index])]
            if not there:
                continue  # a single relation has no other to be told from
        if not there:
            raise UserError(f"metric {name!r} was measured on no fact")
        interval = functools.partial(_normal, metric=metric) if metric.of_neurons else _interval
        by_relation = {relations[index]: interval(values[:, index], tail=tail, n=counts[index]) for index in there}
        # A replicate can lack what a metric of neurons needs in a relation, such as a pair of facts.
        mean = np.nanmean if metric.of_neurons else np.mean
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # in all of them
            samples = mean(values[:, there], axis=1)
        results[name] = Estimates(interval(samples, tail=tail, n=sum(counts)), by_relation, samples)
    return results


def _draws(n: int, relation: str, replicates: int, seed: int) -> Float[np.ndarray, "samples n"]:
    """How often each of n facts of a relation is drawn: once, and then by replicate."""
    rng = np.random.default_rng([seed, *relation.encode()])
    drawn = rng.multinomial(n, np.full(n, 1 / max(n, 1)), replicates) if n else np.zeros((replicates, 0))
    return np.concatenate([np.ones((1, n)), drawn])


def _of_columns(
    metric: Metric,
    columns: Mapping[str, np.ndarray],
    fact_N: np.ndarray,
    relation_N: np.ndarray,
    relations: Sequence[str],
    replicates: int,
    seed: int,
) -> tuple[Float[np.ndarray, "samples relations"], list[int]]:
    """Values inside relations, and the facts behind them."""
    known = ~np.any([np.isnan(columns[column]) for column in metric.needs], axis=0)
    values, counts = [], []
    for relation in relations:
        rows = np.flatnonzero((relation_N == relation) & known)
        facts, cluster = np.unique(fact_N[rows], return_inverse=True)
        weights = _draws(len(facts), relation, replicates, seed)[:, cluster]

        def mean(column: str, weights: np.ndarray = weights, rows: np.ndarray = rows) -> np.ndarray:
            if column not in metric.needs:
                raise UserError(f"metric {metric.name!r} takes the mean of {column!r}, which is not in its needs")
            with np.errstate(invalid="ignore"):
                return (weights @ columns[column][rows] / weights.sum(1))[:, None]

        values.append(metric.formula(mean)[:, 0])
        counts.append(len(facts))
    return np.stack(values, axis=1), counts


def _weights(
    fact_N: np.ndarray, relation_N: np.ndarray, relations: Sequence[str], replicates: int, seed: int
) -> Float[np.ndarray, "samples N"]:
    """How often each query counts."""
    weights = np.zeros((replicates + 1, len(fact_N)), np.float32)
    for relation in relations:
        rows = np.flatnonzero(relation_N == relation)
        facts, cluster = np.unique(fact_N[rows], return_inverse=True)
        weights[:, rows] = _draws(len(facts), relation, replicates, seed)[:, cluster]
    return weights


def _of_neurons(
    metric: Metric,
    activation_NU: np.ndarray,
    selected_NU: np.ndarray,
    concept_N: np.ndarray,
    weights: np.ndarray,
    n_concepts: int,
) -> np.ndarray:
    """Values of all replicates: [replicates + 1, concepts] or [replicates + 1]."""
    run = _replicated(metric.name, n_concepts)
    return np.asarray(run(activation_NU, selected_NU, concept_N, weights), np.float64)


@functools.lru_cache(maxsize=64)
def _replicated(name: str, n_concepts: int) -> Callable:
    formula = get_metric(name).formula

    @jax.jit
    def run(activation_NU: Array, selected_NU: Array, concept_N: Array, weights: Array) -> Array:
        return jax.lax.map(
            lambda weight_N: formula(Neurons(activation_NU, selected_NU, concept_N, weight_N, n_concepts)), weights
        )

    return run


def _interval(values: np.ndarray, tail: float, n: int) -> Estimate:
    low, high = np.percentile(values[1:], [tail, 100 - tail])
    return Estimate(float(values[0]), float(low), float(high), n)


def _normal(values: np.ndarray, metric: Metric, tail: float, n: int) -> Estimate:
    value, replicates = float(values[0]), values[1:][np.isfinite(values[1:])]
    half = float(scipy.stats.norm.ppf(1 - tail / 100) * replicates.std(ddof=1)) if len(replicates) > 1 else 0.0
    low, high = metric.range
    return Estimate(value, max(value - half, min(low, value)), min(value + half, max(high, value)), n)
