"""Estimates with intervals: relations are drawn by bootstrap, and inside one relation facts are left out in turn."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from jaxinterp.base.errors import UserError
from jaxinterp.metrics.intervals import Estimate, interval_of_facts, interval_of_replicates
from jaxinterp.metrics.registry import METRICS, Metric, base_metrics, is_measured
from jaxinterp.metrics.samples import Queries, Relations, Samples, of_columns, of_neurons, samples_of


@dataclasses.dataclass(frozen=True)
class Estimates:
    """A metric overall and inside each relation."""

    overall: Estimate
    by_relation: Mapping[str, Estimate]  # those that are left out have NaN for a value, and their facts
    # The overall value and its replicates; NaN where one lacks what the metric needs. Equal relations, facts and seeds
    # draw equal ones, so that replicates of several models and metrics are paired; see `studies.statistics`.
    samples: Float[np.ndarray, " samples"] = dataclasses.field(compare=False)
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)  # relation -> why the overall value lacks it


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
    """Metrics with intervals, overall (by a bootstrap over relations) and inside each relation (by a jackknife).

    Inside each relation a metric of columns is a function of means (of suppressability, a ratio of means); overall it
    is the unweighted mean over the relations that have it. A metric of neurons has a value for each relation, with the
    same mean, or one for all. A derived metric is a function of other metrics' values overall, and of their values in
    a relation there; its `n` is the smallest of theirs. A column whose value is NaN for a query was not measured there:
    means and `n` are over the queries that have all the columns a metric needs.

    A relation in which a metric that was measured has no finite value is left out of its overall value, and told: such
    as one whose answers have a mean probability of 0 (or below `TINY`), of which no share can be lost.

    The interval inside a relation is that of its facts, each with all its queries: prompts of one fact are not
    independent. The overall interval speaks of relations like these, which replicates draw. One relation says nothing
    of others: the interval is that of its facts. So it is where a metric tells relations from each other and there are
    two, since a replicate with one of them has no value. Replicates draw facts where they do not draw relations, all of
    them with replacement and the same ones for every metric; the interval of fixed relations is that of the spread of
    these replicates. How intervals are made, and how often they hold the truth: `jaxinterp.metrics.intervals`.

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
    queries = Queries(fact_N, relation_N, relations, replicates, level, seed)
    found = of_columns([METRICS[name] for name in needed if not METRICS[name].of_neurons], columns, queries)
    if neuron_metrics := [METRICS[name] for name in needed if METRICS[name].of_neurons]:
        shape = next(x.shape for x in (activation_NU, selected_NU) if x is not None)
        arrays = [np.zeros(shape, np.float32) if x is None else x for x in (activation_NU, selected_NU)]
        found |= {metric.name: of_neurons(metric, *arrays, queries) for metric in neuron_metrics}
    results = {}
    for name in names:
        samples = samples_of(name, found)
        if samples is not None:
            results[name] = _estimates(METRICS[name], samples, queries)
        elif not any(METRICS[base].of_neurons for base in base_metrics(name)):
            raise UserError(f"metric {name!r} was measured on no fact")
    return results


def _check_measured(name: str, there: set[str], columns: Mapping[str, np.ndarray]) -> None:
    if is_measured(name, there):
        return
    for base in base_metrics(name):
        if missing := [need for need in METRICS[base].needs if need not in there]:
            raise UserError(
                f"metric {name!r} needs the column {missing[0]!r}, which was not measured; measured: {sorted(columns)}"
            )


def _estimates(metric: Metric, samples: Samples, queries: Queries) -> Estimates:
    """Puts intervals around a value."""
    by_relation = {}
    if samples.inside is not None:
        for index, name in enumerate(queries.relations):
            if n := int(samples.counts[index]):
                by_relation[name] = interval_of_facts(samples.inside[:, index], metric.range, queries.level, n)
            elif index in samples.left_out:
                by_relation[name] = Estimate(math.nan, math.nan, math.nan, samples.left_out[index][1])
    if samples.alone is not None:
        overall = interval_of_facts(samples.alone, metric.range, queries.level, samples.n)
    else:
        overall = interval_of_replicates(samples.overall, metric.range, samples.multiple, samples.n)
    why = {queries.relations[index]: why for index, (why, _) in samples.left_out.items()}
    return Estimates(overall, by_relation, samples.overall, why)
