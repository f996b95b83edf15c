"""Estimates with bootstrap intervals clustered by fact."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from jaxinterp.errors import UserError
from jaxinterp.metrics.registry import get_metric


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


def estimate(
    names: Sequence[str],
    columns: Mapping[str, Float[np.ndarray, " N"]],
    fact_N: Int[np.ndarray, " N"],
    relation_N: Sequence[str],
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Estimates]:
    """Metrics with percentile-bootstrap intervals.

    Inside each relation a metric is a function of means (of suppressability, a ratio of means); overall it is the
    unweighted mean over relations. A replicate draws each relation's facts with replacement, a fact with all its
    queries (relations are fixed, prompts of one fact are not independent). A column whose value is NaN for a query
    was not measured there; means, replicates and `n` are over the queries that have all the columns a metric needs.

    Args:
      names: metrics.
      columns: measured values by query.
      fact_N, relation_N: each query's fact and relation.
      replicates: bootstrap replicates.
      level: coverage of the interval.
      seed: of the bootstrap.
    Raises:
      UserError: if a metric is unknown, or a column that it needs was not measured.
    """
    relation_N = np.asarray(relation_N)
    relations = sorted(set(relation_N.tolist()))
    results = {}
    for name in names:
        metric = get_metric(name)
        if missing := [column for column in metric.needs if column not in columns]:
            raise UserError(
                f"metric {name!r} needs the column {missing[0]!r}, which was not measured; measured: {sorted(columns)}"
            )
        known = ~np.any([np.isnan(columns[column]) for column in metric.needs], axis=0)
        per_relation, counts = [], []
        for relation in relations:
            rows = np.flatnonzero((relation_N == relation) & known)
            facts, cluster = np.unique(fact_N[rows], return_inverse=True)
            rng = np.random.default_rng([seed, *relation.encode()])
            draws = (
                rng.multinomial(len(facts), np.full(len(facts), 1 / max(len(facts), 1)), replicates)
                if len(facts)
                else np.zeros((replicates, 0))
            )
            weights = np.concatenate([np.ones((1, len(facts))), draws])[:, cluster]

            def mean(column: str, weights: np.ndarray = weights, rows: np.ndarray = rows) -> np.ndarray:
                with np.errstate(invalid="ignore"):
                    return (weights @ columns[column][rows] / weights.sum(1))[:, None]

            per_relation.append(metric.formula(mean)[:, 0])
            counts.append(len(facts))
        values = np.stack(per_relation, axis=1)
        measured = [index for index, count in enumerate(counts) if count]
        if not measured:
            raise UserError(f"metric {name!r} was measured on no fact")
        tail = 50 * (1 - level)
        by_relation = {relations[index]: _interval(values[:, index], tail, counts[index]) for index in measured}
        overall = _interval(values[:, measured].mean(1), tail, sum(counts))
        results[name] = Estimates(overall, by_relation)
    return results


def _interval(values: np.ndarray, tail: float, n: int) -> Estimate:
    low, high = np.percentile(values[1:], [tail, 100 - tail])
    return Estimate(float(values[0]), float(low), float(high), n)
