"""Improved or Goodharted? The rule by which two groups of models are told apart, and its statistics.

Imports no JAX: it works on the bootstrap samples of metrics, whoever measured them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import scipy.stats
from jaxtyping import Float

from jaxinterp.errors import UserError

Verdict = Literal["improved", "harmed", "Goodharted", "no change", "worse"]
Samples = Mapping[str, Float[np.ndarray, "seeds samples"]]  # metric -> values; the first sample is the estimate itself

LEAST_INDEPENDENT = 6  # metrics that a verdict must look at besides the one that was trained for


@dataclasses.dataclass(frozen=True)
class Criteria:
    """What a verdict depends on."""

    trained: str = "suppressability"  # the metric that the objective raises
    # Metrics that no loss has in it: other selectors, other ablations, specificity, faithfulness, recovery, units. Left
    # out are those that share the selector and the ablation of S, which any cheat raises.
    independent: tuple[str, ...] = (
        "ablation_selective",
        "gradient_x_activation_selective",
        "projection_selective",
        "resample_selective",
        "interchange",
        "overlap_across",
        "hub_share",
        "insertion_area",
        "selectivity",
        "concept_auroc",
        "probe_1",
    )
    ability: tuple[str, ...] = ("recall",)  # what the model can do, which must not be the price
    most_lost: float = 0.05  # of an ability, in its unit
    least: float = 0.1  # the trained metric must change by more than this, in its unit
    level: float = 0.95  # of intervals; 1 − level bounds the chance that luck changes any independent metric

    def __post_init__(self) -> None:
        if len(set(self.independent) - {self.trained}) < LEAST_INDEPENDENT:
            raise UserError(
                f"criteria.independent must name at least {LEAST_INDEPENDENT} metrics besides {self.trained!r}, got "
                f"{len(set(self.independent) - {self.trained})}"
            )
        for field in ("least", "most_lost"):
            if getattr(self, field) < 0:
                raise UserError(f"criteria.{field} must be at least 0, got {getattr(self, field)}")
        if not 0.5 < self.level < 1:
            raise UserError(f"criteria.level must be above 0.5 and below 1, got {self.level}")


class Effect(NamedTuple):
    """The change of a metric from one group of models to another, a mean over pairs of seeds."""

    value: float
    low: float
    high: float
    p: float  # two-sided, that there is no change
    replicates: Float[np.ndarray, " samples"]  # without the estimate; NaN where one lacks what the metric needs
    error: float  # standard error
    freedom: float  # degrees of it; infinite where it is that of facts alone


def paired_effect(
    before: Float[np.ndarray, "seeds samples"],
    after: Float[np.ndarray, "seeds samples"],
    *,
    level: float = 0.95,
    seed: int = 0,
    between: Float[np.ndarray, " models"] | None = None,
) -> Effect:
    """mean over seeds of (after − before), with a bootstrap over seeds and facts.

    Sample r of all models has the same facts drawn, so that their differences are paired by fact; on top of it each
    replicate draws pairs of seeds with replacement. The standard deviation of the replicates, times √(n / (n − 1)) for
    n seeds, is the standard error; interval and p are those of Student's t with n − 1 degrees of freedom, for counted
    replicates could not resolve the p that a correction for many metrics asks for.

    One pair says nothing of other seeds. What they do to a metric can come from m models that differ by their seed
    alone: the variance of the change is then that over facts and twice theirs, with m − 1 degrees of freedom. Without
    them the interval is that of the facts, and what it finds may be the seed's doing.

    Args:
      before, after: a row a seed, paired; column 0 is the estimate, the others are replicates over facts.
      level: of the interval.
      seed: of the bootstrap over seeds.
      between: estimates of those m models, for one pair.
    Raises:
      UserError: if the two are not of one shape, or there are no replicates.
    """
    if before.shape != after.shape or before.shape[1] < 3:
        raise UserError(f"paired samples must have one shape and replicates, got {before.shape} and {after.shape}")
    change = after - before
    n_seeds, n = change.shape[0], change.shape[1] - 1
    drawn = np.random.default_rng(seed).integers(0, n_seeds, (n, n_seeds))
    replicates = change[drawn, 1 + np.arange(n)[:, None]].mean(1)
    value = float(change[:, 0].mean())
    # A replicate can lack what a metric needs, such as a pair of facts of a relation.
    known = replicates[np.isfinite(replicates)]
    freedom = n_seeds - 1.0 if n_seeds > 1 else np.inf
    if len(known) < 2 or not np.isfinite(value):
        return Effect(value, np.nan, np.nan, 1.0, replicates, np.nan, freedom)
    variance = known.var(ddof=1) * (n_seeds / (n_seeds - 1) if n_seeds > 1 else 1)
    if between is not None and n_seeds == 1:
        variance, freedom = variance + 2 * between.var(ddof=1), len(between) - 1.0
    error = float(variance**0.5)
    half = float(scipy.stats.t(freedom).ppf((1 + level) / 2) * error)
    return Effect(
        value, value - half, value + half, float(_p(np.array([value]), error, freedom)[0]), replicates, error, freedom
    )


def _p(values: Float[np.ndarray, " n"], error: float, freedom: float) -> Float[np.ndarray, " n"]:
    """Two-sided, that such a change is none."""
    if not error > 0:
        return (values == 0).astype(float)
    return 2 * scipy.stats.t(freedom).sf(np.abs(values) / error)


def holm(p: Sequence[float]) -> Float[np.ndarray, " m"]:
    """p values adjusted for their number, step by step from the smallest (Holm 1979)."""
    values = np.asarray(p, float)
    order = np.argsort(values, kind="stable")
    factors = len(values) - np.arange(len(values))
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * factors))
    return adjusted


@dataclasses.dataclass(frozen=True)
class Audit:
    """A verdict and what it rests on."""

    verdict: Verdict
    effects: Mapping[str, Effect]  # the trained metric's, the independent ones' and the abilities'
    adjusted: Mapping[str, float]  # Holm's p of the independent ones
    votes: Mapping[str, int]  # +1 for a change to the better beyond chance, −1 to the worse, 0 for none
    resamples: Mapping[str, float]  # share of bootstrap replicates in which the rule gives each verdict


def audited(
    before: Samples,
    after: Samples,
    better: Mapping[str, str],
    criteria: Criteria,
    *,
    seed: int = 0,
    between: Mapping[str, Float[np.ndarray, " models"]] | None = None,
) -> Audit:
    """The verdict on what was done between two groups of models.

    The trained metric has risen if its interval lies above `least`. Each independent metric votes +1, 0 or −1: its
    change, in the direction in which it is better, counts where Holm's correction over all of them leaves p below
    1 − level. If the trained metric has risen and the median vote is not above 0, the number was Goodharted. Otherwise
    the model was harmed if an ability's interval lies below −most_lost; if it does not, the model has improved where
    the trained metric has risen, and is worse where that fell below −least.

    Args:
      before, after: samples of the trained and independent metrics; see `paired_effect`.
      better: for each metric "higher" or "lower".
      criteria: what is trained and what is independent.
      seed: of the bootstrap over seeds.
      between: for one pair of models, estimates of models that differ by their seed alone.
    Raises:
      UserError: if a metric was not measured, or has no better direction.
    """
    independent = tuple(name for name in criteria.independent if name != criteria.trained)
    names = (criteria.trained, *independent, *criteria.ability)
    for name in names:
        if name not in before or name not in after:
            raise UserError(f"the audit needs the metric {name!r}, which was not measured in both groups")
        if better.get(name) not in ("higher", "lower"):
            raise UserError(f"the metric {name!r} has no better direction, so that an audit cannot count it")
    spread = between or {}
    effects = {
        name: paired_effect(before[name], after[name], level=criteria.level, seed=seed, between=spread.get(name))
        for name in names
    }
    sign = {name: 1 if better[name] == "higher" else -1 for name in names}
    adjusted = dict(zip(independent, holm([effects[name].p for name in independent]).tolist(), strict=True))
    votes = {name: _vote(sign[name] * effects[name].value, adjusted[name], criteria.level) for name in independent}
    trained = effects[criteria.trained]
    low, high = sorted(sign[criteria.trained] * bound for bound in (trained.low, trained.high))
    lost = [max(sign[name] * effects[name].low, sign[name] * effects[name].high) for name in criteria.ability]
    verdict = _rule(low, high, list(votes.values()), lost, criteria)
    return Audit(verdict, effects, adjusted, votes, _resampled(effects, sign, independent, criteria))


def _vote(towards_better: float, adjusted: float, level: float) -> int:
    return int(np.sign(towards_better)) if adjusted < 1 - level else 0


def _rule(low: float, high: float, votes: Sequence[int], ability: Sequence[float], criteria: Criteria) -> Verdict:
    """From the trained metric's interval, the votes, and the upper ends of the abilities' intervals."""
    risen = low > criteria.least
    if risen and np.median(votes) <= 0:
        return "Goodharted"
    if any(upper < -criteria.most_lost for upper in ability):
        return "harmed"
    if risen:
        return "improved"
    return "worse" if high < -criteria.least else "no change"


def _resampled(
    effects: Mapping[str, Effect], sign: Mapping[str, int], independent: Sequence[str], criteria: Criteria
) -> dict[str, float]:
    """How often the rule gives each verdict if every effect is that of a replicate, with its error and a p of its own;
    of the replicates in which every metric has a value.
    """
    shares = dict.fromkeys(get_args(Verdict), 0.0)
    n = min(len(effect.replicates) for effect in effects.values())  # metrics of neurons have fewer
    usable = np.flatnonzero(np.isfinite([effect.replicates[:n] for effect in effects.values()]).all(0))
    trained = effects[criteria.trained]
    below, above = trained.value - trained.low, trained.high - trained.value
    p = [_p(effects[name].replicates, effects[name].error, effects[name].freedom) for name in independent]
    for index in usable:
        value = {name: sign[name] * effect.replicates[index] for name, effect in effects.items()}
        raw = trained.replicates[index]
        low, high = sorted(sign[criteria.trained] * bound for bound in (raw - below, raw + above))
        adjusted = holm([of[index] for of in p])
        votes = [_vote(value[name], q, criteria.level) for name, q in zip(independent, adjusted, strict=True)]
        ability = [value[name] + (effects[name].high - effects[name].low) / 2 for name in criteria.ability]
        shares[_rule(low, high, votes, ability, criteria)] += 1 / len(usable)
    return shares
