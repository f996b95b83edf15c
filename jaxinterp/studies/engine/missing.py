"""Runs without a value, and what that leaves of a claim that rests on them; imports no JAX.

A claim rests on places: pairs of points for a contrast, single points for the other kinds. Each place has a run for
each seed of the study. A run's value may be missing for two reasons:

- All seeds of a place are done, and none has a value. That is the nature of the place: models of its kind do not have
  the metric, its levels cannot be, or every training breaks there. The place is left out, and counted.
- Some seeds have a value and others have none, because a run failed, is not done yet, or never had the common loss.
  Chance, or the value itself, would then choose which seeds count. The claim is undecided until all seeds have one.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jaxinterp.studies.engine.config import Point
from jaxinterp.studies.engine.hypothesis import Hypothesis
from jaxinterp.studies.engine.pairs import pair_changes
from jaxinterp.studies.engine.points import Levels, levels_of, point_words
from jaxinterp.studies.engine.run import Result

FEWEST = 3  # levels that a trend needs
Runs = set[tuple[Levels, int]]  # places with a seed


class Missing(NamedTuple):
    """What is missing of a claim, in words; "" is nothing."""

    lacks: str = ""  # why it is undecided
    left_out: str = ""  # how many places have no value in any seed


def missing(
    points: Sequence[Point],
    seeds: Sequence[int],
    results: Sequence[Result],
    judged: Sequence[Result],
    claim: Hypothesis,
    match: str,
) -> Missing:
    """What a claim lacks of the runs that the study plans.

    Args:
      points, seeds: that the study plans.
      results: of all runs that are done, those that failed included.
      judged: the runs with the values that the claim is judged by: after all steps, or at one loss.
      claim: the hypothesis.
      match: the loss at which the two runs of a contrast are compared; "" is after all steps.
    """
    done = {(levels_of(run.point), run.seed) for run in results}
    if claim.kind == "contrast":
        return _of_pairs(points, seeds, done, judged, claim, match)
    known = {
        (levels_of(run.point), run.seed)
        for run in judged
        if np.isfinite([run.values.get(metric, np.nan) for metric in claim.metrics]).all()
    }
    places = {levels_of(point): point for point in points}
    if claim.kind == "trend":
        others = [levels_of(point, claim.factor) for point in points]
        places = {of: point for of, point in places.items() if others.count(levels_of(point, claim.factor)) >= FEWEST}
    nowhere, lacking = _split(places, seeds, done, known)
    at = " at that loss" if claim.at == "loss" else ""
    left_out = _left_out(nowhere, len(places), "points", at)
    if not lacking:
        return Missing("", left_out)
    place, seed = lacking[0]
    one_factor = claim.kind == "trend" and len(places[place]) == 1
    where = f"the level {places[place][claim.factor]}" if one_factor else f"the point {point_words(places[place])}"
    others = len(lacking) - 1
    more = f", and {others} more {'run has' if others == 1 else 'runs have'} no value" if others else ""
    return Missing(f"seed {seed} lacks {where}{more}{at}", left_out)


def _of_pairs(
    points: Sequence[Point], seeds: Sequence[int], done: Runs, judged: Sequence[Result], claim: Hypothesis, match: str
) -> Missing:
    ends: dict[Levels, dict[str, Levels]] = {}  # of each pair: the points at its two levels
    for point in points:
        level = str(point[claim.factor])
        if level in (str(claim.before), str(claim.after)):
            ends.setdefault(levels_of(point, claim.factor), {})[level] = levels_of(point)
    pairs = {place: of.values() for place, of in ends.items() if len(of) == 2}
    both = {(place, seed) for place, of in pairs.items() for seed in seeds if all((end, seed) in done for end in of)}
    changes = pair_changes(judged, claim.factor, claim.before, claim.after, claim.metric, match)
    nowhere, lacking = _split(pairs, seeds, both, {(place, seed) for seed, place in changes})
    at = " at one loss" if match else ""
    left_out = _left_out(nowhere, len(pairs), "pairs", at)
    if not lacking:
        return Missing("", left_out)
    n = len({*seeds} - {seed for _, seed in lacking})
    words = "both runs" if len(pairs) - nowhere == 1 else "both runs of every pair"
    return Missing(f"{n} of {len(seeds)} seeds {'has' if n == 1 else 'have'} {words}{at}", left_out)


def _split(
    places: Iterable[Levels], seeds: Sequence[int], done: Runs, known: Runs
) -> tuple[int, list[tuple[Levels, int]]]:
    """How many places have no value in any seed, and which runs of the others have none."""
    nowhere, lacking = 0, []
    for place in places:
        without = [seed for seed in seeds if (place, seed) not in known]
        if len(without) == len(seeds) and all((place, seed) in done for seed in seeds):
            nowhere += 1
        else:
            lacking += [(place, seed) for seed in without]
    return nowhere, lacking


def _left_out(nowhere: int, n: int, what: str, at: str) -> str:
    return f"{nowhere} of {n} {what} {'has' if nowhere == 1 else 'have'} no value{at}" if 0 < nowhere < n else ""
