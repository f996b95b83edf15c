"""Which points are worth choosing between, where two metrics pull apart; imports no JAX."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxinterp.base.errors import UserError
from jaxinterp.metrics.intervals import Estimate, draws, interval_of_replicates, multiple_of_relations
from jaxinterp.studies.engine.config import Point, StudyConfig
from jaxinterp.studies.engine.run import Result
from jaxinterp.studies.statistics import spread

REPLICATES = 500  # of the hypervolume, each with other seeds


class PointMeans(NamedTuple):
    """A point and its metrics over seeds."""

    point: Point
    spread: Mapping[str, Mapping[str, float | int | None]]  # SET/METRIC -> mean, sd, min, max, n
    n_failed: int  # of its runs


class Front(NamedTuple):
    """The points that no other point beats in both metrics."""

    points: Sequence[PointMeans]  # by the first metric
    hypervolume: float  # area between the front and the reference, in the units of both
    reference: tuple[float, float]  # the study's, or the worst values of all points


def means_of(config: StudyConfig, results: Sequence[Result]) -> list[PointMeans]:
    """The points that were run, in their order; a metric without a finite value is left out."""
    runs: dict[tuple, list[Result]] = {}
    for result in results:
        runs.setdefault(tuple(result.point.items()), []).append(result)
    found = []
    for of in runs.values():
        values = {
            metric: [x for r in of if np.isfinite(x := r.values.get(metric, np.nan))] for metric in config.metrics
        }
        spreads = {metric: spread(known) for metric, known in values.items() if known}
        found.append(PointMeans(of[0].point, spreads, sum(bool(result.failed) for result in of)))
    return found


def pareto(config: StudyConfig, means: Sequence[PointMeans]) -> Front:
    """The front of the study's two metrics, of means over seeds.

    Raises:
      UserError: if no point has both.
    """
    (first, second), signs = config.front, [1 if way == "maximize" else -1 for way in config.front.values()]
    both = [of for of in means if first in of.spread and second in of.spread]
    if not both:
        raise UserError(f"the front is empty: no point has both {first} and {second}; wait for more trials")
    values_N2 = np.array([[of.spread[first]["mean"], of.spread[second]["mean"]] for of in both]) * signs
    best = [n for n, own in enumerate(values_N2) if not ((values_N2 >= own).all(1) & (values_N2 > own).any(1)).any()]
    best.sort(key=lambda n: tuple(values_N2[n]))
    given = config.reference
    reference_2 = np.array([given[first], given[second]]) * signs if given else values_N2.min(0)
    reference = tuple(float(x) for x in reference_2 * signs)
    return Front([both[n] for n in best], hypervolume(values_N2[best], reference_2), reference)


def hypervolume_interval(config: StudyConfig, results: Sequence[Result], front: Front) -> Estimate:
    """The front's hypervolume with its interval over seeds, above the same reference; NaN for one seed.

    A replicate draws seeds, the same for all points, so that the points on the front change with them. The interval is
    the value ± Student's t with n − 1 degrees of freedom · √(n / (n − 1)) · the standard deviation over replicates.
    """
    signs = np.array([1 if way == "maximize" else -1 for way in config.front.values()])
    seeds = sorted({result.seed for result in results})
    points = list(dict.fromkeys(tuple(result.point.items()) for result in results))
    values_SP2 = np.full((len(seeds), len(points), 2), np.nan)
    for result in results:
        place = seeds.index(result.seed), points.index(tuple(result.point.items()))
        values_SP2[place] = [result.values.get(metric, np.nan) for metric in config.front]
    known_SP = np.isfinite(values_SP2).all(2)
    times_RS = draws(len(seeds), [config.design_seed], REPLICATES)
    values_SP2 = np.where(known_SP[:, :, None], values_SP2 * signs, 0)
    with np.errstate(invalid="ignore"):
        means_RP2 = np.einsum("rs,spk->rpk", times_RS, values_SP2) / (times_RS @ known_SP)[:, :, None]
    reference_2 = np.array(front.reference) * signs
    areas = np.array([hypervolume(of[np.isfinite(of).all(1)], reference_2) for of in means_RP2])
    areas[0] = front.hypervolume
    multiple = multiple_of_relations(0.95, len(seeds)) if len(seeds) > 1 else np.nan
    return interval_of_replicates(areas, (0.0, np.inf), multiple, len(seeds))


def hypervolume(points_N2: np.ndarray, reference: np.ndarray) -> float:
    """The area that points dominate above a reference, where higher is better in both: a sum of rectangles."""
    area, height = 0.0, float(reference[1])
    for x, y in sorted(points_N2.tolist(), reverse=True):
        if y > height and x > reference[0]:
            area += (x - float(reference[0])) * (y - height)
            height = y
    return area
