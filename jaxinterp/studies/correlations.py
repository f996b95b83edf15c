"""Rank correlations and test–retest reliability, with intervals and one-sided tests; imports no JAX."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.special
import scipy.stats
from jaxtyping import Float

REPLICATES = 1000  # of the bootstrap


def spearman(x: Float[np.ndarray, "*#n points"], y: Float[np.ndarray, "*#n points"]) -> Float[np.ndarray, "..."]:
    """Spearman's ρ over the last axis, ties by mean ranks; NaN where one of both is constant."""
    ranks = [scipy.stats.rankdata(values, axis=-1) for values in np.broadcast_arrays(x, y)]
    x, y = (of - of.mean(-1, keepdims=True) for of in ranks)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1)))


def partial_spearman(
    x: Float[np.ndarray, "*#n points"], y: Float[np.ndarray, "*#n points"], given: Float[np.ndarray, "*#n points"]
) -> Float[np.ndarray, "..."]:
    """ρ of what is left of the ranks of x and y when a straight line through those of `given` is taken out of both.

    (ρ_xy − ρ_xg ρ_yg) / √((1 − ρ_xg²) (1 − ρ_yg²)); NaN where one of both has the order of `given`.
    """
    rho_xy, rho_xg, rho_yg = spearman(x, y), spearman(x, given), spearman(y, given)
    left = (1 - rho_xg**2) * (1 - rho_yg**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(left > 1e-12, (rho_xy - rho_xg * rho_yg) / np.sqrt(np.maximum(left, 0)), np.nan)


def smallest_step(n: int) -> float:
    """What exchanging two neighbours changes in a ρ of n ranks, 12 / (n (n² − 1))."""
    return 12 / (n * (n**2 - 1))


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Spearman's ρ over points, with Student's t on Fisher's scale z = artanh ρ."""

    value: float
    error: float  # standard error of z
    n: int  # points
    n_given: int = 0  # metrics that were taken out
    level: float = 0.95  # of the interval

    @property
    def freedom(self) -> float:
        """n − 2 − n_given."""
        return self.n - 2.0 - self.n_given

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return math.tanh(self._z - self._quantile * self.error)

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return math.tanh(self._z + self._quantile * self.error)

    def above(self, bound: float) -> float:
        """One-sided p that ρ is at most `bound`."""
        return float(scipy.special.stdtr(self.freedom, (math.atanh(bound) - self._z) / self.error))

    def below(self, bound: float) -> float:
        """One-sided p that ρ is at least `bound`."""
        return float(scipy.special.stdtr(self.freedom, (self._z - math.atanh(bound)) / self.error))

    def detectable(self, power: float = 0.8) -> float:
        """The smallest true ρ that such an interval would leave 0 out of with this probability; see `Effect`."""
        return math.tanh((self._quantile + float(scipy.special.stdtrit(self.freedom, power))) * self.error)

    def power(self, change: float) -> float:
        """The probability of leaving 0 out where the true ρ is that."""
        return float(scipy.special.stdtr(self.freedom, math.atanh(abs(change)) / self.error - self._quantile))

    @property
    def _z(self) -> float:
        step = smallest_step(self.n) / 2  # a ρ of 1 is no more than ranks can tell
        return math.atanh(min(1 - step, max(step - 1, self.value)))

    @property
    def _quantile(self) -> float:
        return float(scipy.special.stdtrit(self.freedom, (1 + self.level) / 2))


def association(
    x_SP: Float[np.ndarray, "S P"],
    y_SP: Float[np.ndarray, "S P"],
    given_SP: Float[np.ndarray, "S P"] | None = None,
    *,
    seed: int = 0,
) -> Correlation | None:
    """Spearman's ρ of two metrics over points, each a mean over its seeds; partial if a third one is given.

    Points are clusters: a replicate draws P points and S seeds with replacement, and a point that is drawn has its runs
    of the drawn seeds. Another seed alone would leave the points as they are, and say nothing of other ones. The
    standard error of artanh ρ is that of replicates, and at least √((1 + ρ²/2) / (P − 3 − given)), what it is of
    independent points (Bonett and Wright 2000), which the replicates of few points fall short of.

    Args:
      x_SP, y_SP, given_SP: a row a seed, a column a point; NaN where a run lacks a value.
      seed: of the draws.
    Returns:
      None if fewer than five points (of a partial one six) have all metrics, or one of them is constant.
    """
    metrics = [x_SP, y_SP] if given_SP is None else [x_SP, y_SP, given_SP]
    known = np.isfinite(metrics).all(0)
    all_MSP = np.where(known, metrics, np.nan)[:, :, known.any(0)]
    n_points, n_given = all_MSP.shape[2], len(metrics) - 2
    of = spearman if given_SP is None else partial_spearman
    if n_points < 5 + n_given or not np.isfinite(rho := float(of(*np.nanmean(all_MSP, axis=1)))):
        return None
    means_MRP = _drawn(all_MSP, np.random.default_rng(seed))
    found = of(*means_MRP[:, np.isfinite(means_MRP).all((0, 2))])
    most = 1 - smallest_step(n_points) / 2
    z = np.arctanh(np.clip(found[np.isfinite(found)], -most, most))
    least = math.sqrt((1 + rho**2 / 2) / (n_points - 3 - n_given))
    return Correlation(rho, max(least, float(z.std(ddof=1)) if len(z) > 1 else 0.0), n_points, n_given)


def _drawn(all_MSP: Float[np.ndarray, "M S P"], rng: np.random.Generator) -> Float[np.ndarray, "M R P"]:
    """Means over drawn seeds at drawn points; NaN where no run of a drawn point has a drawn seed."""
    n_seeds, n_points = all_MSP.shape[1:]
    times_RS = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), REPLICATES)
    known_MSP = np.isfinite(all_MSP)
    with np.errstate(invalid="ignore", divide="ignore"):
        means_MRP = (times_RS @ np.where(known_MSP, all_MSP, 0)) / (times_RS @ known_MSP)
    points_RP = rng.integers(n_points, size=(REPLICATES, n_points))
    return np.take_along_axis(means_MRP, points_RP[None], axis=2)


@dataclasses.dataclass(frozen=True)
class Retest:
    """The intraclass correlation of single values: the share of their variance that is between classes."""

    ratio: float  # F: the mean square between classes over that within
    between: float  # degrees of freedom: classes − 1
    within: float  # values − classes
    size: float  # values of a class; of unequal classes n0
    level: float = 0.95  # of the interval

    @property
    def value(self) -> float:
        """(F − 1) / (F + size − 1)."""
        return self._icc(self.ratio)

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self._icc(self.ratio / self._quantile((1 + self.level) / 2))

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self._icc(self.ratio / self._quantile((1 - self.level) / 2))

    def above(self, bound: float) -> float:
        """One-sided p that it is at most `bound`."""
        return float(scipy.stats.f.sf(self.ratio / self._growth(bound), self.between, self.within))

    def below(self, bound: float) -> float:
        """One-sided p that it is at least `bound`."""
        return float(scipy.stats.f.cdf(self.ratio / self._growth(bound), self.between, self.within))

    def detectable(self, power: float = 0.8) -> float:
        """The smallest true one that such an interval would lie above 0 of with this probability."""
        return self._icc(self._quantile((1 + self.level) / 2) / self._quantile(1 - power))

    def power(self, change: float) -> float:
        """The probability of an interval above 0 where the true one is that."""
        bound = self._quantile((1 + self.level) / 2) / self._growth(change)
        return float(scipy.stats.f.sf(bound, self.between, self.within))

    def _icc(self, ratio: float) -> float:
        return (ratio - 1) / (ratio + self.size - 1) if math.isfinite(ratio) else 1.0

    def _growth(self, icc: float) -> float:
        """How much larger F is than without differences between classes, 1 + size · icc / (1 − icc)."""
        return 1 + self.size * icc / (1 - icc)

    def _quantile(self, p: float) -> float:
        return float(scipy.stats.f.ppf(p, self.between, self.within))


def retest(classes: Sequence[Sequence[float]]) -> Retest | None:
    """ICC(1, 1) of classes by one-way analysis of variance, with the F interval; Shrout and Fleiss 1979.

    Of a class of k values, MS_b = Σ k (mean − grand mean)² / (n − 1) and MS_w = Σ (value − mean)² / (N − n) over n
    classes of N values; size is (N − Σ k² / N) / (n − 1). The interval of unequal classes is approximate. A class of
    one value is left out.

    Returns:
      None if fewer than two classes have two values, or none of them differ.
    """
    groups = [np.asarray(values, float) for values in classes if len(values) > 1]
    if len(groups) < 2:
        return None
    sizes = np.array([len(group) for group in groups], float)
    total, mean = sizes.sum(), np.concatenate(groups).mean()
    between = sum(len(group) * (group.mean() - mean) ** 2 for group in groups) / (len(groups) - 1)
    within = sum(np.square(group - group.mean()).sum() for group in groups) / (total - len(groups))
    if within == 0 and between == 0:
        return None
    size = (total - np.square(sizes).sum() / total) / (len(groups) - 1)
    ratio = float(between / within) if within else math.inf
    return Retest(ratio, len(groups) - 1.0, float(total - len(groups)), float(size))
