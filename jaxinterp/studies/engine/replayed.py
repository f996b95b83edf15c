"""Searches over designs whose runs are all known, so that each search can be repeated many times at no cost.

After Ying et al. 2019, "NAS-Bench-101": a study that has run a whole grid is a table, and a search that asks for a
design is given the run that is there. One search is the luck of its first draws; a mean over repetitions is not.

A search sees the runs of one seed. What it chose is judged by those of the next seed, as the best of many designs looks
better by the seed that chose it than it is; and every seed judges once, so that an interval can be over seeds.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxinterp.base.errors import UserError
from jaxinterp.studies.engine.config import Budget, Point, StudyConfig
from jaxinterp.studies.engine.front import hypervolume
from jaxinterp.studies.engine.points import levels_of, points_of
from jaxinterp.studies.engine.run import Result
from jaxinterp.studies.engine.trials import sampler_of, suggested
from jaxinterp.studies.statistics import Effect, effect_of

Ways = Mapping[str, Literal["minimize", "maximize"]]


class Search(NamedTuple):
    """A way to look for designs."""

    name: str
    design: Literal["random", "tpe", "nsga2"]
    optimise: Ways


class Table(NamedTuple):
    """What is known of all designs: the two metrics of the study's front, larger is better in both."""

    config: StudyConfig
    points: Sequence[Point]
    value_SPK2: Float[np.ndarray, "S P K 2"]  # of each seed and point; the estimate first, then K − 1 draws of facts
    reference_2: Float[np.ndarray, "2"]


class Found(NamedTuple):
    """What the repetitions of a search found by each of their trials, a mean over them for each seed that they saw."""

    area_SNK: Float[np.ndarray, "S N K"]  # hypervolume, by the next seed, of the front that the search has seen
    best_SNK2: Float[np.ndarray, "S N K 2"]  # both metrics, by the next seed, of its best design by the second metric


def searches_of(config: StudyConfig) -> list[Search]:
    """Those that are compared: for both metrics of a front in two ways, for the second alone, and by chance."""
    second = list(config.front)[1]
    return [
        Search("both", "tpe", config.front),
        Search("both, NSGA-II", "nsga2", config.front),
        Search("second alone", "tpe", {second: config.front[second]}),
        Search("chance", "random", config.front),
    ]


def table_of(config: StudyConfig, results: Sequence[Result], trials: int) -> Table:
    """The table of a study that has run a grid, for searches of so many trials.

    Raises:
      UserError: if it is no grid with a front and its reference and two seeds, a run is missing or lacks a metric, or
        trials are no fewer than its points.
    """
    if config.design != "grid" or not (config.front and config.reference) or len(config.seeds) < 2:
        raise UserError("a table of designs is a study of a grid with a front, its reference and two seeds or more")
    points, values = points_of(config), dict[tuple, np.ndarray]()
    if not 0 < trials < len(points):
        raise UserError(
            f"trials must lie in 1 … {len(points) - 1}, below the study's {len(points)} designs, got {trials}"
        )
    signs = np.array([1 if way == "maximize" else -1 for way in config.front.values()])
    for result in results:
        samples = [result.samples.get(metric) for metric in config.front]
        if result.failed or any(of is None or not np.isfinite(of[0]) for of in samples):
            continue
        values[levels_of(result.point), result.seed] = np.stack(samples, axis=-1) * signs
    missing = [(point, seed) for seed in config.seeds for point in points if (levels_of(point), seed) not in values]
    if missing:
        raise UserError(
            f"{len(missing)} runs of {config.name} are missing or lack a metric of the front, as {missing[0]}"
        )
    table = np.array([[values[levels_of(point), seed] for point in points] for seed in config.seeds])
    return Table(config, points, table, np.array([config.reference[metric] for metric in config.front]) * signs)


def found_by(search: Search, table: Table, trials: int, repeats: int, told: Callable[[], None] = lambda: None) -> Found:
    """Repeats a search for each seed of the table.

    Args:
      search: which one.
      table: of all designs.
      trials: of each search.
      repeats: of each seed.
      told: called after each repetition.
    """
    areas, bests = [], []
    for number in range(len(table.config.seeds)):
        of_seed = []
        for repeat in range(repeats):
            of_seed.append(_judged(table, number, _tried(search, table, number, trials, repeat)))
            told()
        areas.append(np.mean([area for area, _ in of_seed], axis=0))
        bests.append(np.mean([best for _, best in of_seed], axis=0))
    return Found(np.array(areas), np.array(bests))


def whole(table: Table) -> Found:
    """What a search finds that tries every design: the most that there is to find, in one trial."""
    every = [_judged(table, number, list(range(len(table.points)))) for number in range(len(table.config.seeds))]
    return Found(*(np.array([of[part][-1:] for of in every]) for part in (0, 1)))


def gained(one: Float[np.ndarray, "S K"], other: Float[np.ndarray, "S K"]) -> Effect:
    """one − other over seeds, with the draw of facts; see `studies.statistics.effect_of`."""
    return effect_of(one - other, 0.95)


def _tried(search: Search, table: Table, number: int, trials: int, repeat: int) -> list[int]:
    """The designs that a search tries, in its order, by their number."""
    import optuna

    config = dataclasses.replace(
        table.config,
        name=f"{search.design}-{repeat}",
        design=search.design,
        optimise=search.optimise,
        budget=Budget(trials=trials),
        hypotheses=(),
        seeds=(table.config.seeds[number],),
        design_seed=repeat * len(table.config.seeds) + number,
    )
    values_P2 = table.value_SPK2[number, :, 0]
    columns = [list(table.config.front).index(metric) for metric in search.optimise]
    numbers, tried = {levels_of(point): place for place, point in enumerate(table.points)}, []
    study = optuna.create_study(directions=["maximize"] * len(columns))  # larger is better in all of the table
    for trial_number in range(trials):
        study.sampler = sampler_of(config, trial_number)
        trial = study.ask()
        tried.append(numbers[levels_of(suggested(config, trial))])
        study.tell(trial, values_P2[tried[-1], columns].tolist())
    return tried


def _judged(table: Table, number: int, tried: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """After each trial: the hypervolume of the front so far, and its best design by the second metric.

    Both are chosen by the estimates of the seed that is searched with, and judged by the next seed.
    """
    seen_P2 = table.value_SPK2[number, :, 0]
    next_PK2 = table.value_SPK2[(number + 1) % len(table.value_SPK2)]
    areas, bests = [], []
    for n in range(1, len(tried) + 1):
        so_far = list(dict.fromkeys(tried[:n]))
        beaten = [
            ((seen_P2[so_far] >= seen_P2[p]).all(1) & (seen_P2[so_far] > seen_P2[p]).any(1)).any() for p in so_far
        ]
        chosen = [p for p, is_beaten in zip(so_far, beaten, strict=True) if not is_beaten]
        areas.append([hypervolume(of_P2, table.reference_2) for of_P2 in next_PK2[chosen].swapaxes(0, 1)])
        bests.append(next_PK2[max(so_far, key=lambda p: seen_P2[p, 1])])
    return np.array(areas), np.array(bests)
