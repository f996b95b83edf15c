"""The points of a study, in the order in which they are run; imports no JAX."""

import collections
import itertools
from collections.abc import Sequence

import numpy as np

from jaxinterp.studies.engine.config import Point, StudyConfig, training_of


def points_of(config: StudyConfig) -> list[Point]:
    """All points of a grid, or those of a fraction; [] of a search, whose points are chosen while it runs."""
    if config.searches:
        return []
    names = [factor.name for factor in config.factors]
    grid = [dict(zip(names, levels, strict=True)) for levels in itertools.product(*(f.values for f in config.factors))]
    return even_fraction(grid, config.budget.trials, config.design_seed) if config.design == "fraction" else grid


def even_fraction(grid: Sequence[Point], n: int, seed: int) -> list[Point]:
    """n points in which levels, and pairs of levels of two factors, occur as evenly as choosing one by one allows.

    Each next point is the one whose levels and pairs have occurred least so far, Σ count² least; ties are drawn by
    `seed`. With n the size of a regular fraction it is near one, and any n is allowed.
    """
    left = [grid[index] for index in np.random.default_rng(seed).permutation(len(grid))]
    parts = [_parts(point) for point in left]
    counts: collections.Counter = collections.Counter()
    chosen = []
    for _ in range(n):
        costs = [sum(2 * counts[part] + 1 for part in of) for of in parts]
        best = int(np.argmin(costs))
        chosen.append(left.pop(best))
        counts.update(parts.pop(best))
    return chosen


def _parts(point: Point) -> list[tuple]:
    levels = list(point.items())
    return [*levels, *itertools.combinations(levels, 2)]


def check_points(config: StudyConfig) -> None:
    """Raises UserError if a level cannot be, before anything is run: each level alone, and every point of a design."""
    for factor in config.factors:
        for level in factor.values or (factor.low, factor.high):
            training_of(config, {factor.name: int(level) if factor.whole else level}, config.seeds[0])
    for point in points_of(config):
        training_of(config, point, config.seeds[0])
