"""The points of a study, in the order in which they are run; imports no JAX."""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from jaxinterp.studies.engine.config import Point, StudyConfig, training_of

STARTS = 8  # of the search for an even fraction
Levels = tuple[tuple[str, str], ...]  # what points, and points without one factor, are told apart by


def levels_of(point: Point, without: str = "") -> Levels:
    """The levels of a point, as texts in the order of the factors' names; perhaps without one factor."""
    return tuple(sorted((name, str(level)) for name, level in point.items() if name != without))


def point_words(point: Point) -> str:
    """A point in one line."""
    return ", ".join(
        f"{name} {level:g}" if isinstance(level, float) else f"{name} {level}" for name, level in point.items()
    )


def points_of(config: StudyConfig) -> list[Point]:
    """All points of a grid, or those of a fraction; [] of a search, whose points are chosen while it runs."""
    if config.searches:
        return []
    names = [factor.name for factor in config.factors]
    grid = [dict(zip(names, levels, strict=True)) for levels in itertools.product(*(f.values for f in config.factors))]
    return even_fraction(grid, config.budget.trials, config.design_seed) if config.design == "fraction" else grid


def even_fraction(grid: Sequence[Point], n: int, seed: int) -> list[Point]:
    """n points in which levels, and pairs of levels of two factors, occur as evenly as exchanging points finds.

    Σ count² over levels and pairs is lowered by putting another point in a chosen one's place, until none lowers it;
    the best of `STARTS` drawn beginnings. A regular fraction has the least there is.
    """
    rng, numbers = np.random.default_rng(seed), {}
    for point in grid:
        for part in _parts(point):
            numbers.setdefault(part, len(numbers))
    has_NP = np.zeros((len(grid), len(numbers)), int)
    for row, point in enumerate(grid):
        has_NP[row, [numbers[part] for part in _parts(point)]] = 1
    tried = [_exchanged(has_NP, rng.permutation(len(grid))[:n]) for _ in range(STARTS)]
    best = min(tried, key=lambda chosen: int(np.square(has_NP[chosen].sum(0)).sum()))
    return [grid[row] for row in sorted(best.tolist())]


def _exchanged(has_NP: Int[np.ndarray, "N P"], chosen: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    chosen, moved = chosen.copy(), True
    while moved:
        moved = False
        for place, row in enumerate(chosen.tolist()):
            # Every point has as many parts, so that the products alone tell which is best.
            cost_N = has_NP @ (has_NP[chosen].sum(0) - has_NP[row])
            cost_N[np.delete(chosen, place)] = np.iinfo(int).max
            if cost_N.min() < cost_N[row]:
                chosen[place], moved = int(cost_N.argmin()), True
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
