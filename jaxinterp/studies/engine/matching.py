"""Metrics where runs have an equal loss, from what was measured along each run; imports no JAX.

A run that is slower, or that pays for its interpretability with loss, differs after equal steps in all that goes with
the loss. Along each run its metrics are a curve over its loss, and curves can be compared at one loss.

A run has a loss where the straight line between two measured steps has it; of several such places it is the last one,
so that a run that is at the loss when it ends is taken as it ends. Its metrics, and their replicates over facts, are
those of the straight line there. A run that never had the loss between two measured steps has no value.

Between two measured steps a metric that changes one way may be anywhere between its two values there: their distance is
the gap of what is read off. Monotone cubics (PCHIP, over the loss, the step or its logarithm) are no better on made-up
curves of three or four measured steps: without noise they halve the error of exponentials, which is small, and where
lines err by much (a metric that rises late, or comes and goes) they gain a quarter or lose; with noise of 2 % of the
metric's range they are worse on exponentials.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxinterp.studies.engine.config import Point, StudyConfig
from jaxinterp.studies.engine.points import Levels, levels_of
from jaxinterp.studies.engine.run import Result, Samples

FAR = 0.25  # of the way from a measured step, beyond which what is read off is marked
Place = tuple[int, float]  # a measured step's number, and the share of the way to the next one


def reached(losses: Sequence[float], loss: float) -> Place | None:
    """Where measured losses, joined by straight lines, have a loss for the last time; None if they never have it."""
    for last in range(len(losses) - 1, -1, -1):
        if losses[last] == loss:
            return last, 0.0
        before = losses[last - 1] if last else losses[last]
        if (before - loss) * (losses[last] - loss) < 0:
            return last - 1, (before - loss) / (before - losses[last])
    return None


def samples_at(run: Result, metric: str, place: Place) -> Float[np.ndarray, " samples"] | None:
    """A metric and its replicates at a place along a run; None where it was not measured."""
    steps, (number, share) = sorted(run.along), place
    ends = [run.along[step].get(metric) for step in steps[number : number + 1 + (share > 0)]]
    if any(end is None or not np.isfinite(end[0]) for end in ends):
        return None
    return ends[0] if len(ends) == 1 else (1 - share) * ends[0] + share * ends[1]


def gap_at(run: Result, metric: str, place: Place) -> float:
    """By how much a metric changes from the measured step before a place to that after; 0 at a measured step."""
    number, share = place
    start, end = samples_at(run, metric, (number, 0.0)), samples_at(run, metric, (number + (share > 0), 0.0))
    return math.nan if start is None or end is None else float(end[0] - start[0])


def matched_change(before: Result, after: Result, metric: str, match: str) -> Float[np.ndarray, " samples"] | None:
    """metric(after) − metric(before) at the larger of the two runs' final losses, which the better one had on its way.

    None if one of them never had it, as one that was below it when it was measured first.
    """
    places = _common_places(before, after, match)
    if places is None:
        return None
    one, other = (samples_at(run, metric, place) for run, place in zip((before, after), places, strict=True))
    return None if one is None or other is None else other - one


def matched_gap(before: Result, after: Result, metric: str, match: str) -> float:
    """How far apart the measured values are that the better of two runs is read off between; NaN without any."""
    places = _common_places(before, after, match)
    if places is None:
        return math.nan
    return sum(abs(gap_at(run, metric, place)) for run, place in zip((before, after), places, strict=True))


def _common_places(before: Result, after: Result, match: str) -> tuple[Place, Place] | None:
    curves = [losses_of(run, match) for run in (before, after)]
    if not all(curves):
        return None
    loss = max(curve[-1] for curve in curves)
    one, other = (reached(curve, loss) for curve in curves)
    return None if one is None or other is None else (one, other)


def losses_of(run: Result, match: str) -> list[float]:
    """The loss at each measured step of a run, in their order; [] if the run failed."""
    return [float(run.along[step][match][0]) for step in sorted(run.along) if match in run.along[step]]


class ReadOff(NamedTuple):
    """Where the runs of a point are taken."""

    steps: tuple[int, int]  # the measured steps before and after; twice the same where it is one of them
    share: float  # of the way from the one to the other, in loss: 0 ≤ share < 1
    gaps: Mapping[str, float]  # SET/METRIC -> distance between its means over seeds at the two steps

    @property
    def is_far(self) -> bool:
        """Whether it is more than `FAR` of the way from either of the two steps."""
        return min(self.share, 1 - self.share) > FAR


class Common(NamedTuple):
    """A study's runs at one loss."""

    loss: float
    results: Sequence[Result]  # with the values and samples that they have there; those that have none are left out
    missed: Sequence[Point]  # points whose mean loss never was that
    read_off: Mapping[Levels, ReadOff]  # of the other points, by `levels_of`


def at_common_loss(config: StudyConfig, results: Sequence[Result]) -> Common | None:
    """All points at one loss: `match_at`, or the largest final loss of a point, which is a mean over its seeds.

    A point's runs are all taken where their mean loss is the common one. Were each taken where its own loss is, half of
    the runs of the worst point would lack a value for want of luck alone.

    Returns:
      None if no run has a loss, or the study has no `match`.
    """
    runs: dict[tuple, list[Result]] = {}
    for result in results:
        if config.match and result.along and np.isfinite(losses_of(result, config.match)).all():
            runs.setdefault(tuple(result.point.items()), []).append(result)
    curves = {point: np.mean([losses_of(run, config.match) for run in of], axis=0) for point, of in runs.items()}
    if not curves:
        return None
    loss = max(float(curve[-1]) for curve in curves.values()) if config.match_at is None else config.match_at
    places = {point: reached(curve.tolist(), loss) for point, curve in curves.items()}
    found = [_at(run, place) for point, place in places.items() if place is not None for run in runs[point]]
    read_off = {
        levels_of(dict(point)): _read_off(runs[point], place) for point, place in places.items() if place is not None
    }
    return Common(loss, found, [dict(point) for point, place in places.items() if place is None], read_off)


def _read_off(runs: Sequence[Result], place: Place) -> ReadOff:
    number, share = place
    steps = sorted(runs[0].along)
    gaps = {metric: [gap_at(run, metric, place) for run in runs] for metric in runs[0].samples}
    means = {metric: abs(float(np.mean(known))) for metric, of in gaps.items() if (known := [x for x in of if x == x])}
    return ReadOff((steps[number], steps[number + (share > 0)]), share, means)


def _at(run: Result, place: Place) -> Result:
    known: Mapping[str, np.ndarray | None] = {metric: samples_at(run, metric, place) for metric in run.samples}
    samples: Samples = {metric: of for metric, of in known.items() if of is not None}
    return run._replace(samples=samples, values={metric: float(of[0]) for metric, of in samples.items()})
