"""Pairs of runs that differ in one factor alone, and the changes between them; imports no JAX."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from jaxinterp.studies.engine.config import Level
from jaxinterp.studies.engine.matching import matched_change
from jaxinterp.studies.engine.run import Result

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

    def change(one: Result, other: Result) -> np.ndarray | None:
        if not all(math.isfinite(run.values.get(metric, math.nan)) for run in (one, other)):
            return None
        if match:
            return matched_change(one, other, metric, match)
        return other.samples[metric] - one.samples[metric]

    of_seeds = _by_seed(results, factor, before, after, change)
    rows = [np.mean(of, axis=0) for _, of in sorted(of_seeds.items())]
    return np.array(rows) if rows else np.zeros((0, 0)), sum(map(len, of_seeds.values()))


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

    of_seeds = _by_seed(results, factor, before, after, change)
    return np.array([np.mean(of, axis=0) for _, of in sorted(of_seeds.items())]).reshape(len(of_seeds), len(names))


def _by_seed(
    results: Sequence[Result], factor: str, before: Level, after: Level, change: Change
) -> dict[int, list[np.ndarray]]:
    """Seed -> the changes of its pairs that have one."""
    runs: dict[tuple, dict[str, Result]] = {}
    for result in results:
        others = tuple(sorted((name, str(level)) for name, level in result.point.items() if name != factor))
        runs.setdefault((result.seed, others), {})[str(result.point[factor])] = result
    found: dict[int, list[np.ndarray]] = {}
    for (seed, _), by_level in runs.items():
        ends = by_level.get(str(before)), by_level.get(str(after))
        of = None if ends[0] is None or ends[1] is None else change(ends[0], ends[1])
        if of is not None:
            found.setdefault(seed, []).append(of)
    return found
