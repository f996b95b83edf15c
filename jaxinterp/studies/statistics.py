"""Statistics of several models, such as those of several seeds; imports no JAX."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.special
import scipy.stats
from jaxtyping import Float

from jaxinterp.base.errors import UserError

Share = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Effect:
    """A change from one group of models to another, a mean over pairs of seeds, and what it varies by."""

    value: float
    seed_sd: float  # standard deviation over pairs of seeds
    fact_error: float  # standard error by the draw of facts, which more seeds do not lower
    n_seeds: int
    level: float = 0.95  # of the interval

    @property
    def error(self) -> float:
        """Standard error, √(seed_sd² / n + fact_error²)."""
        return math.sqrt(self.seed_sd**2 / self.n_seeds + self.fact_error**2)

    @property
    def freedom(self) -> float:
        """Degrees of freedom: n − 1 seeds; infinite for one pair, whose interval is that of its facts."""
        return self.n_seeds - 1.0 if self.n_seeds > 1 else math.inf

    @property
    def half(self) -> float:
        """Half the interval's width, of Student's t."""
        return float(scipy.special.stdtrit(self.freedom, (1 + self.level) / 2)) * self.error

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.value - self.half

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.value + self.half

    @property
    def p(self) -> float:
        """Two-sided, that there is no change."""
        if self.error == 0:
            return float(self.value == 0)
        return 2 * float(scipy.special.stdtr(self.freedom, -abs(self.value) / self.error))

    def above(self, bound: float) -> float:
        """One-sided p that the change is at most `bound`; small where it is shown to be above."""
        if self.error == 0:
            return 0.0 if self.value > bound else 1.0
        return float(scipy.special.stdtr(self.freedom, (bound - self.value) / self.error))

    def below(self, bound: float) -> float:
        """One-sided p that the change is at least `bound`; small where it is shown to be below."""
        return dataclasses.replace(self, value=-self.value).above(-bound)

    def detectable(self, power: float = 0.8) -> float:
        """The smallest true change that such an interval would leave 0 out of with this probability.

        (t_(1 + level)/2 + t_power) · error, with n − 1 degrees of freedom: near what the non-central t gives.
        """
        quantiles = scipy.special.stdtrit(self.freedom, [(1 + self.level) / 2, power])
        return float(quantiles.sum()) * self.error

    def power(self, change: float) -> float:
        """The probability of leaving 0 out where the true change is that: what `detectable` is the inverse of."""
        if self.error == 0:
            return float(change != 0)
        quantile = scipy.special.stdtrit(self.freedom, (1 + self.level) / 2)
        return float(scipy.special.stdtr(self.freedom, abs(change) / self.error - quantile))

    def at(self, n_seeds: int) -> "Effect":
        """The same with so many seeds, if mean and spread stay what they are."""
        return dataclasses.replace(self, n_seeds=n_seeds)


def paired_effect(
    before: Float[np.ndarray, "seeds samples"], after: Float[np.ndarray, "seeds samples"], *, level: float = 0.95
) -> Effect:
    """mean over n seeds of (after − before), with seeds and facts drawn anew.

    Sample r of all models has the same facts (and relations) drawn, so that differences are paired by fact. With d_sr
    the difference of seed s in replicate r, and d_s0 that of the estimates,

        error² = Var_s(d_s0) / n + Var_r(mean_s d_sr),

    what a bootstrap over pairs of seeds and over facts gives, without its own noise (Owen 2007, "The pigeonhole
    bootstrap": such a sum counts what is of a seed and a fact twice, and errs on the safe side). Interval and p are
    those of Student's t with n − 1 degrees of freedom. Where facts come from fewer than n relations in all, there are
    less, and the interval is too short for other relations like them.

    Args:
      before, after: a row a seed, paired; column 0 is the estimate, the others are replicates over facts. A replicate
        that lacks the metric in one of the models is NaN, and left out.
      level: of the interval.
    Raises:
      UserError: if the two are not of one shape, or there are no replicates.
    """
    if before.shape != after.shape or before.shape[1] < 3:
        raise UserError(f"paired samples must have one shape and replicates, got {before.shape} and {after.shape}")
    return effect_of(after - before, level)


def effect_of(change: Float[np.ndarray, "seeds samples"], level: float) -> Effect:
    """That of changes, as `paired_effect` describes it; NaN is left out."""
    n_seeds, estimates = len(change), change[:, 0]
    replicates = change[:, 1:].mean(0)
    replicates = replicates[np.isfinite(replicates)]
    return Effect(
        float(estimates.mean()),
        float(estimates.std(ddof=1)) if n_seeds > 1 else 0.0,
        float(replicates.std(ddof=1)) if len(replicates) > 1 else math.nan,
        n_seeds,
        level,
    )


def holm(values: Sequence[float]) -> list[float]:
    """p-values of several claims, adjusted so that any of them is wrongly below α with probability at most α.

    Of m sorted p-values the i-th, from 0, becomes max over j ≤ i of min(1, (m − j) p_j); Holm 1979.
    """
    order, adjusted, highest = np.argsort(values, kind="stable"), [1.0] * len(values), 0.0
    for rank, index in enumerate(order.tolist()):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = highest
    return adjusted


def share(count: int, n: int, level: float = 0.95) -> Share:
    """A proportion with Wilson's interval: {"value", "low", "high", "n"}."""
    interval = scipy.stats.binomtest(count, n).proportion_ci(level, method="wilson")
    return {"value": count / n, "low": float(interval.low), "high": float(interval.high), "n": n}


def spread(values: Sequence[float]) -> dict[str, float | int | None]:
    """{"mean", "sd" (with n − 1; None of one value), "min", "max", "n"}."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": math.fsum(values) / len(values), "sd": sd, "min": min(values), "max": max(values), "n": len(values)}
