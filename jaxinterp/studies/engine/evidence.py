"""What runs say of a hypothesis before it is judged: an estimate with an interval, by the hypothesis's kind."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxinterp.studies.correlations import Correlation, Retest, association, retest, smallest_step, spearman
from jaxinterp.studies.engine.config import StudyConfig
from jaxinterp.studies.engine.hypothesis import Hypothesis
from jaxinterp.studies.engine.matching import at_common_loss
from jaxinterp.studies.engine.missing import FEWEST, Missing, missing
from jaxinterp.studies.engine.pairs import changes, mean_gap
from jaxinterp.studies.engine.points import levels_of, points_of
from jaxinterp.studies.engine.run import Result
from jaxinterp.studies.statistics import Effect, effect_of

FEW = "fewer than five points have all of the metrics, or one of these is constant"


Estimated = Effect | Correlation | Retest


class Evidence(NamedTuple):
    """An estimate, what it rests on, and why it cannot be judged, if it cannot."""

    effect: Estimated | None
    n: int  # of `unit`
    unit: Literal["seeds", "points"]  # what is drawn, and what the interval is over
    n_runs: int  # pairs of runs of a contrast; runs of the other kinds
    why_not: str = ""
    missing: Missing = Missing()  # of the runs that it should rest on
    gap: float | None = None  # of a contrast at one loss, see `mean_gap`; None of others


def evidence(config: StudyConfig, results: Sequence[Result], claims: Sequence[Hypothesis]) -> list[Evidence]:
    """What the runs say of each hypothesis, after all steps or at one loss, as the hypothesis has it.

    A contrast at one loss compares each pair at a loss of its own; the other kinds take all points at the common one.
    """
    common, points, found = at_common_loss(config, results), points_of(config), []
    for claim in claims:
        own = results
        if claim.kind != "contrast" and claim.at == "loss":
            own = [] if common is None else common.results
        match = config.match if claim.at == "loss" else ""
        lacks = missing(points, config.seeds, results, own, claim, match)
        found.append(_KINDS[claim.kind](own, claim, match)._replace(missing=lacks))
    return found


def _contrast(results: Sequence[Result], claim: Hypothesis, match: str) -> Evidence:
    of = (results, claim.factor, claim.before, claim.after, claim.metric)
    change, n_pairs = changes(*of, match=match)
    if len(change):
        gap = mean_gap(results, claim, match) if match else None
        return _over_seeds(effect_of(change, 0.95), n_pairs)._replace(gap=gap)
    runs_there_are = match and changes(*of)[1]
    why_not = "no two runs that differ in this factor alone have values"
    if runs_there_are:
        why_not = "no two paired runs have had one loss"
    return Evidence(None, 0, "seeds", 0, why_not)


def _over_seeds(effect: Effect, n_runs: int) -> Evidence:
    why_not = "one seed says nothing of others" if effect.n_seeds < 2 else ""
    if not why_not and not math.isfinite(effect.error):
        why_not = "the spread over facts is not known"
    return Evidence(effect, effect.n_seeds, "seeds", n_runs, why_not)


def _trend(results: Sequence[Result], claim: Hypothesis, match: str) -> Evidence:
    """Runs that are equal in their seed and all other factors have one ρ; those of a seed are averaged.

    Seeds do not count as closer to one another than one exchange of neighbouring levels: three levels are in order by
    chance in one seed of six.
    """
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        if math.isfinite(result.values.get(claim.metric, math.nan)):
            groups.setdefault((result.seed, levels_of(result.point, claim.factor)), []).append(result)
    groups = {key: of for key, of in groups.items() if len(of) >= FEWEST}
    of_seeds: dict[int, list[np.ndarray]] = {}
    for (seed, _), runs in groups.items():
        levels = np.array([float(run.point[claim.factor]) for run in runs])
        rho = spearman(np.stack([run.samples[claim.metric] for run in runs], axis=1), levels)
        of_seeds.setdefault(seed, []).append(np.where(np.isnan(rho), 0.0, rho))  # a constant metric has no order
    if not of_seeds:
        return Evidence(None, 0, "seeds", 0, "no three levels were run with a seed and the same other factors")
    effect = effect_of(np.array([np.mean(rhos, axis=0) for rhos in of_seeds.values()]), 0.95)
    least = smallest_step(min(map(len, groups.values())))
    return _over_seeds(dataclasses.replace(effect, seed_sd=max(effect.seed_sd, least)), sum(map(len, groups.values())))


def _association(results: Sequence[Result], claim: Hypothesis, match: str) -> Evidence:
    tables = [_by_seed_and_point(results, metric) for metric in claim.metrics]
    found = association(*tables) if tables[0].size else None
    n_runs = int(np.isfinite(tables).all(0).sum())
    return Evidence(found, found.n if found else 0, "points", n_runs, "" if found else FEW)


def _retest(results: Sequence[Result], claim: Hypothesis, match: str) -> Evidence:
    values_SP = _by_seed_and_point(results, claim.metric)
    classes = [of[np.isfinite(of)].tolist() for of in values_SP.T]
    found, used = retest(classes), [of for of in classes if len(of) > 1]
    why_not = "" if found else "no two points have two seeds, or no two runs differ"
    return Evidence(found, len(used), "points", sum(map(len, used)), why_not)


def _by_seed_and_point(results: Sequence[Result], metric: str) -> Float[np.ndarray, "S P"]:
    """The metric's values, NaN where a run is missing or has none."""
    seeds = sorted({result.seed for result in results})
    points = list(dict.fromkeys(tuple(result.point.items()) for result in results))
    values_SP = np.full((len(seeds), len(points)), np.nan)
    for result in results:
        place = seeds.index(result.seed), points.index(tuple(result.point.items()))
        values_SP[place] = result.values.get(metric, math.nan)
    return values_SP


_KINDS: Mapping[str, Callable[[Sequence[Result], Hypothesis, str], Evidence]] = {
    "contrast": _contrast,
    "trend": _trend,
    "association": _association,
    "retest": _retest,
}
