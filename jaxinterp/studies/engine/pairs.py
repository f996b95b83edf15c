"""Pairs of runs that differ in one factor alone, and the changes between them; imports no JAX."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from jaxinterp.studies.engine.config import Level
from jaxinterp.studies.engine.hypothesis import Hypothesis
from jaxinterp.studies.engine.matching import matched_change, matched_gap
from jaxinterp.studies.engine.points import Levels, levels_of
from jaxinterp.studies.engine.run import Result

Pair = tuple[int, Levels]  # the seed of both runs, and the levels of all other factors
Change = Callable[[Result, Result], np.ndarray | None]  # (before, after) -> samples; None: it has no value


def changes(
    results: Sequence[Result], factor: str, before: Level, after: Level, metric: str, match: str = ""
) -> tuple[Float[np.ndarray, "seeds samples"], int]:
    """metric(after) − metric(before) of each seed, a mean over pairs of runs that differ in one factor alone.

    Args:
      results: of all runs.
      factor, before, after: what the two runs of a pair differ in.
      metric: SET/METRIC.
      match: the loss that both runs are compared at, see `matched_change`; "" is after all steps.
    Returns:
      A row a seed that has a pair: the estimate, and its replicates over facts; and the number of pairs.
    """
    found = pair_changes(results, factor, before, after, metric, match)
    rows = _seed_means(found)
    return np.array(rows) if rows else np.zeros((0, 0)), len(found)


def pair_changes(
    results: Sequence[Result], factor: str, before: Level, after: Level, metric: str, match: str = ""
) -> dict[Pair, Float[np.ndarray, " samples"]]:
    """The same of each pair that has a value."""

    def change(one: Result, other: Result) -> np.ndarray | None:
        if not all(math.isfinite(run.values.get(metric, math.nan)) for run in (one, other)):
            return None
        if match:
            return matched_change(one, other, metric, match)
        return other.samples[metric] - one.samples[metric]

    return _of_pairs(results, factor, before, after, change)


def mean_gap(results: Sequence[Result], claim: Hypothesis, match: str) -> float:
    """How far apart the measured values are that a contrast at one loss is read off between, a mean over its pairs."""

    def gap(one: Result, other: Result) -> np.ndarray | None:
        of = matched_gap(one, other, claim.metric, match)
        return np.array(of) if math.isfinite(of) else None

    found = _of_pairs(results, claim.factor, claim.before, claim.after, gap)
    return float(np.mean(list(found.values()))) if found else math.nan


def relation_changes(
    results: Sequence[Result], factor: str, before: Level, after: Level, metric: str
) -> Float[np.ndarray, "seeds relations"]:
    """The same change in each relation that all runs with values at the two levels have one of."""

    def known(run: Result) -> Mapping[str, float]:
        return run.relations.get(metric, {})

    levels = (str(before), str(after))
    of_runs = [set(known(run)) for run in results if str(run.point[factor]) in levels and known(run)]
    names = sorted(set.intersection(*of_runs)) if of_runs else []

    def change(one: Result, other: Result) -> np.ndarray | None:
        if not (known(one) and known(other)):
            return None
        return np.array([known(other)[name] - known(one)[name] for name in names])

    rows = _seed_means(_of_pairs(results, factor, before, after, change))
    return np.array(rows).reshape(len(rows), len(names))


def _of_pairs(
    results: Sequence[Result], factor: str, before: Level, after: Level, change: Change
) -> dict[Pair, np.ndarray]:
    runs: dict[Pair, dict[str, Result]] = {}
    for result in results:
        pair = result.seed, levels_of(result.point, factor)
        runs.setdefault(pair, {})[str(result.point[factor])] = result
    found = {}
    for pair, by_level in runs.items():
        ends = by_level.get(str(before)), by_level.get(str(after))
        of = None if ends[0] is None or ends[1] is None else change(ends[0], ends[1])
        if of is not None:
            found[pair] = of
    return found


def _seed_means(found: Mapping[Pair, np.ndarray]) -> list[np.ndarray]:
    """A mean over the pairs of each seed, in the order of seeds."""
    of_seeds: dict[int, list[np.ndarray]] = {}
    for (seed, _), change in found.items():
        of_seeds.setdefault(seed, []).append(change)
    return [np.mean(of, axis=0) for _, of in sorted(of_seeds.items())]
