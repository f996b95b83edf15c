"""Estimates with intervals: relations are drawn by bootstrap, and inside one relation facts are left out in turn."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import jax
import numpy as np
import scipy.special
from jaxtyping import Array, Float, Int

from jaxinterp.base.errors import UserError
from jaxinterp.metrics.registry import METRICS, Metric, Neurons, base_metrics, is_measured

NEURON_REPLICATES = 200  # each goes over all neurons
PARTS = 200  # of a relation's facts that are left out in turn, at most
# Means below it count as 0: whether a device holds a smaller float32, or flushes it to 0, is no figure of a model's.
TINY = float(np.finfo(np.float32).tiny)
SAME = 1e-6  # standard errors up to this share of a value are rounding: all facts have one value
NOTHING_LEFT = "P = 0"  # why a relation is left out
NOT_FINITE = "no finite value"
Relations = Literal["fixed", "drawn"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A measured value, its interval and the number of facts behind it.

    The ends of an interval that was not estimated are NaN: one fact says nothing of others.
    """

    value: float  # NaN if there is none
    low: float
    high: float
    n: int


@dataclasses.dataclass(frozen=True)
class Estimates:
    """A metric overall and inside each relation."""

    overall: Estimate
    by_relation: Mapping[str, Estimate]  # those that are left out have NaN for a value, and their facts
    # The overall value and its replicates; NaN where one lacks what the metric needs. Equal relations, facts and seeds
    # draw equal ones, so that replicates of several models and metrics are paired; see `studies.audit.verdict`.
    samples: Float[np.ndarray, " samples"] = dataclasses.field(compare=False)
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)  # relation -> why the overall value lacks it


def estimate(
    names: Sequence[str],
    columns: Mapping[str, Float[np.ndarray, " N"]],
    fact_N: Int[np.ndarray, " N"],
    relation_N: Sequence[str],
    *,
    activation_NU: Float[np.ndarray, "N U"] | None = None,
    selected_NU: Float[np.ndarray, "N U"] | None = None,
    relations: Relations = "drawn",
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Estimates]:
    """Metrics with intervals, overall (by a bootstrap over relations) and inside each relation (by a jackknife).

    Inside each relation a metric of columns is a function of means (of suppressability, a ratio of means); overall it
    is the unweighted mean over the relations that have it. A metric of neurons has a value for each relation, with the
    same mean, or one for all. A derived metric is a function of other metrics' values overall, and of their values in
    a relation there; its `n` is the smallest of theirs. A column whose value is NaN for a query was not measured there:
    means and `n` are over the queries that have all the columns a metric needs.

    A relation in which a metric that was measured has no finite value is left out of its overall value, and told: such
    as one whose answers have a mean probability of 0 (or below `TINY`), of which no share can be lost.

    The interval inside a relation is that of its n facts, each with all its queries (prompts of one fact are not
    independent). With s the standard error by the jackknife, s² = (n − 1) / n Σ (value without fact i − value)² (of a
    mean the usual one; of more than `PARTS` facts as many parts are left out in turn), it is

        value ± t · s,   t of Student's distribution with n − 1 degrees of freedom,

    cut to the metric's range. Facts between two ends are skew near an end: of a metric whose range has two, the
    interval is as wide as it needs to be to hold value ± t · s on the scale of log odds as well. Other metrics (ratios
    and differences) have n / (n − 1) times the width. Where all facts have one value s says nothing: of a metric with
    two ends the interval is then what a share of 1 − (α / 2)^(1 / n) of all facts could make of it, which n facts may
    well miss, with α = 1 − level. Otherwise, and of one fact, there is no interval.

    Of 2,000 to 10,000 simulated relations of 2, 3, 4, 5, 8 and 20 facts, of 95 % intervals so many held the truth: for
    means of probabilities that are uniform, beta(2, 2), beta(5, 1), beta(1, 4) or beta(0.5, 0.5), 95 % to 98 %, and
    beta(5, 0.5), 93 % to 96 %; of zeros and ones, 98 % to 100 %; for S where P and what is left of it are of these
    kinds, 92 % to 97 %, and for S − C 95 % to 97 %. Few facts do not show what is rare: where probabilities are
    log-uniform from 0.001 to 1, 87 % to 94 %, where S is small and a few facts make it, 85 % to 92 %, and where one
    fact in ten has a probability near 0 and the others near 1, 89 %, 77 %, 54 %, 42 %, 58 % and 86 %. (The percentiles
    of a bootstrap over two uniform facts held the truth in 52 % of cases.)

    The overall interval speaks of relations like these: a replicate draws the set's m relations with replacement, each
    with all its facts, and a relation drawn twice counts twice. The interval is the value ± Student's t with m − 1
    degrees of freedom, times √(m / (m − 1)) times the standard deviation over replicates. For a mean over relations
    that is the interval of a mean of m values, and what few facts a relation has is in the spread of these values
    already: to draw the facts inside the drawn relations as well would count it twice (97 % to 100 % of such intervals
    held the truth where 95 % should). Of 600 simulated sets of 2, 3 or 10 relations of 20 facts, for a mean, a ratio of
    means, a largest of three and a difference, and relations that differ not at all, as much as their facts' means do
    by chance, or three times as much, 92 % to 99 % of the intervals held the truth; of those for fixed relations 94 %
    down to 40 %. Relations that all have one value leave it without an interval. Two relations say little of others,
    and their interval is wide (t = 12.7). One relation says nothing of others: the interval is that of its facts. So it
    is where a metric tells relations from each other and there are two, since a replicate with one of them has no
    value. Replicates draw facts where they do not draw relations, all of them with replacement and the same ones for
    every metric; the interval of fixed relations is that of the spread of these replicates.

    Args:
      names: metrics; what derived ones are of is computed, but not returned.
      columns: measured values by query.
      fact_N, relation_N: each query's fact and relation.
      activation_NU, selected_NU: for metrics of neurons; see `Neurons`.
      relations: "drawn" as above; "fixed" for an overall interval that is that of facts inside these very relations.
      replicates: bootstrap replicates; metrics of neurons take at most `NEURON_REPLICATES`.
      level: coverage of the interval.
      seed: of the bootstrap.
    Returns:
      A metric that tells relations from each other is left out where there is one relation, and what needs it as well.
    Raises:
      UserError: if a metric is unknown, or what it needs was not measured.
    """
    needed = tuple(dict.fromkeys(base for name in names for base in base_metrics(name)))
    there = {name for name, column in columns.items() if column is not None}
    there |= {name for name, x in (("activations", activation_NU), ("selections", selected_NU)) if x is not None}
    for name in names:
        _check_measured(name, there, columns)
        if not len(fact_N):
            raise UserError(f"metric {name!r} was measured on no fact")
    needed = tuple(name for name in needed if is_measured(name, there))
    queries = _Queries(fact_N, relation_N, relations, replicates, level, seed)
    found = _of_columns([METRICS[name] for name in needed if not METRICS[name].of_neurons], columns, queries)
    if of_neurons := [METRICS[name] for name in needed if METRICS[name].of_neurons]:
        shape = next(x.shape for x in (activation_NU, selected_NU) if x is not None)
        arrays = [np.zeros(shape, np.float32) if x is None else x for x in (activation_NU, selected_NU)]
        found |= {metric.name: _of_neurons(metric, *arrays, queries) for metric in of_neurons}
    results = {}
    for name in names:
        samples = _samples(name, found)
        if samples is not None:
            results[name] = _estimates(METRICS[name], samples, queries)
        elif not any(METRICS[base].of_neurons for base in base_metrics(name)):
            raise UserError(f"metric {name!r} was measured on no fact")
    return results


def _check_measured(name: str, there: set[str], columns: Mapping[str, np.ndarray]) -> None:
    if is_measured(name, there):
        return
    for base in base_metrics(name):
        if missing := [need for need in METRICS[base].needs if need not in there]:
            raise UserError(
                f"metric {name!r} needs the column {missing[0]!r}, which was not measured; measured: {sorted(columns)}"
            )


class _Queries:
    """Which query is of which fact and relation, and how much each weighs in what is computed."""

    def __init__(
        self,
        fact_N: np.ndarray,
        relation_N: Sequence[str],
        relations: Relations,
        replicates: int,
        level: float,
        seed: int,
    ) -> None:
        names_N = np.asarray(relation_N)
        self.relations: list[str] = sorted(set(names_N.tolist()))
        self.concept_N = np.searchsorted(self.relations, names_N)
        self.fact_N = np.unique(np.stack([self.concept_N, fact_N]), axis=1, return_inverse=True)[1].reshape(-1)
        self.rows = [np.flatnonzero(self.concept_N == index) for index in range(len(self.relations))]
        self.fact_of_row = [np.unique(fact_N[rows], return_inverse=True)[1] for rows in self.rows]  # 0, 1, …
        self.drawn = relations == "drawn" and len(self.relations) > 1
        self.replicates, self.level, self._seed = replicates, level, seed
        self.n_parts = min(PARTS, 1 + max((int(facts.max()) for facts in self.fact_of_row), default=0))

    def fact_weights(self, index: int, replicates: int) -> Float[np.ndarray, "samples n"]:
        """Weights of a relation's facts: all 1; 0 for each part in turn; how often replicates draw them."""
        n_facts = int(self.fact_of_row[index].max()) + 1
        part_F = np.arange(n_facts) % self.n_parts
        without = (part_F[None] != np.arange(self.n_parts)[:, None]).astype(float)
        drawn = _draws(n_facts, [self._seed, *self.relations[index].encode()], self.replicates)
        return np.concatenate([np.ones((1, n_facts)), without, drawn[:replicates]])

    def relations_drawn(self) -> Float[np.ndarray, "samples relations"]:
        """How often each relation is drawn: once, and then by replicate."""
        entropy = [self._seed, 256, *"\n".join(self.relations).encode()]  # no relation's, whose bytes are below 256
        n = len(self.relations)
        return np.concatenate([np.ones((1, n)), _draws(n, entropy, self.replicates)])

    def divided(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of samples by `fact_weights`: the value and those without each part, and the value and replicates."""
        return values[: 1 + self.n_parts], np.concatenate([values[:1], values[1 + self.n_parts :]])

    def multiple_of_relations(self, m: int) -> float:
        """Half an interval in standard deviations over replicates that draw m relations."""
        return _student(self.level, m - 1) * (m / (m - 1)) ** 0.5

    def multiple_of_facts(self, counts: Int[np.ndarray, " relations"]) -> float:
        """The same of replicates that draw facts, of so many in each relation; NaN where a relation has one alone."""
        if (counts < 2).any():
            return math.nan
        # A replicate's spread is too small by √((n − 1) / n).
        return _student(self.level, int((counts - 1).sum())) * float((counts / (counts - 1)).mean()) ** 0.5


def _draws(n: int, entropy: list[int], replicates: int) -> Float[np.ndarray, "replicates n"]:
    return np.random.default_rng(entropy).multinomial(n, np.full(n, 1 / n), replicates).astype(float)


def _student(level: float, freedom: int) -> float:
    return float(scipy.special.stdtrit(freedom, (1 + level) / 2))


@dataclasses.dataclass(frozen=True)
class _Samples:
    """A metric's value and what its intervals are made of."""

    overall: Float[np.ndarray, " samples"]  # the value and replicates
    # The value in each relation and those without each part of its facts in turn, NaN for a relation that has none;
    # None: one value for all
    inside: Float[np.ndarray, "parts relations"] | None
    alone: Float[np.ndarray, " parts"] | None  # the same of the overall value, where it is that of one relation
    multiple: float  # of the standard deviation over replicates: half the overall interval; NaN: it is not estimated
    counts: Int[np.ndarray, " relations"]  # facts; 0 where a relation has no value
    n: int  # facts behind the overall value
    left_out: Mapping[int, tuple[str, int]] = dataclasses.field(default_factory=dict)  # relation -> why, facts


def _samples(name: str, found: Mapping[str, _Samples | None]) -> _Samples | None:
    """Those of a metric, computed from those that were measured; None if there are none."""
    metric = METRICS[name]
    if not metric.of:
        return found.get(name)
    of = {component: _samples(component, found) for component in metric.of}
    of = {component: samples for component, samples in of.items() if samples is not None}
    if len(of) < (len(metric.of) if metric.every else 1):
        return None
    size = min(len(samples.overall) for samples in of.values())

    def derived(field: str, size: int | None = None) -> np.ndarray | None:
        values = {component: getattr(samples, field) for component, samples in of.items()}
        if any(value is None for value in values.values()):
            return None
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(metric.formula({component: value[:size] for component, value in values.items()}))

    overall, inside = derived("overall", size), derived("inside")
    # A metric without facts in a relation takes no part in it.
    counts = np.stack([np.where(samples.counts > 0, samples.counts, np.inf) for samples in of.values()]).min(0)
    left_out: dict[int, tuple[str, int]] = {}
    if inside is not None:
        counts = np.where(np.isfinite(inside[0]), counts, np.inf)
        for samples in of.values():
            left_out |= {index: why for index, why in samples.left_out.items() if not np.isfinite(inside[0, index])}
    known = [samples.n for samples in of.values() if samples.n] if np.isfinite(overall[0]) else []
    return _Samples(
        overall,
        inside,
        derived("alone"),
        # Replicates of those that vary most count; of one value whose interval is not estimated nothing is.
        float(np.max([samples.multiple for samples in of.values() if samples.n] or [math.nan])),
        np.where(np.isfinite(counts), counts, 0).astype(int),
        min(known, default=0),
        left_out,
    )


def _of_columns(
    metrics: Sequence[Metric], columns: Mapping[str, np.ndarray], queries: _Queries
) -> dict[str, _Samples | None]:
    """Those of metrics of columns; None where no fact has what a metric needs."""
    inside: dict[str, list[np.ndarray]] = {metric.name: [] for metric in metrics}
    counts: dict[str, list[int]] = {metric.name: [] for metric in metrics}
    nothing_left = []
    for index, (rows, fact_of_row) in enumerate(zip(queries.rows, queries.fact_of_row, strict=True)):
        weights = queries.fact_weights(index, queries.replicates)
        p = columns["probability"][rows] if "probability" in columns else np.ones(1)
        nothing_left.append(not (p[~np.isnan(p)] >= TINY).any())
        for metric in metrics:
            of = {column: columns[column][rows] for column in metric.needs}
            values, n = _inside(metric, of, fact_of_row, weights)
            inside[metric.name].append(values)
            counts[metric.name].append(n)
    found: dict[str, _Samples | None] = {}
    for metric in metrics:
        values, facts = np.stack(inside[metric.name], axis=1), np.array(counts[metric.name])
        lost = (facts > 0) & ~np.isfinite(values[0])
        left_out = {
            index: (NOTHING_LEFT if nothing_left[index] else NOT_FINITE, int(facts[index]))
            for index in np.flatnonzero(lost).tolist()
        }
        # A relation that is drawn has all its facts, and its value.
        drawn = np.broadcast_to(values[:1], (queries.replicates + 1, len(facts))) if queries.drawn else None
        samples = _with_mean(values, drawn, np.where(lost, 0, facts), queries, left_out)
        found[metric.name] = samples if facts.any() else None
    return found


def _inside(
    metric: Metric, columns: Mapping[str, np.ndarray], fact_of_row: np.ndarray, weights: np.ndarray
) -> tuple[Float[np.ndarray, " samples"], int]:
    """Values in one relation, NaN for a sample whose facts all lack a column; and how many facts have them."""
    known = ~np.any([np.isnan(values) for values in columns.values()], axis=0)
    fact, n_facts = fact_of_row[known], weights.shape[1]
    rows_F = np.bincount(fact, minlength=n_facts)
    total = weights @ rows_F

    def mean(column: str) -> np.ndarray:
        if column not in columns:
            raise UserError(f"metric {metric.name!r} takes the mean of {column!r}, which is not in its needs")
        means = (weights @ np.bincount(fact, columns[column][known], minlength=n_facts) / total)[:, None]
        return np.where(np.abs(means) < TINY, 0, means)

    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(metric.formula(mean))[:, 0], int((rows_F > 0).sum())


def _of_neurons(
    metric: Metric, activation_NU: np.ndarray, selected_NU: np.ndarray, queries: _Queries
) -> _Samples | None:
    """Those of a metric of neurons; None if no relation has a value."""
    run = functools.partial(_replicated(metric.name, len(queries.relations)), activation_NU, selected_NU)
    n_replicates = min(queries.replicates, NEURON_REPLICATES)

    def values(weights: np.ndarray) -> np.ndarray:
        return np.asarray(run(queries.concept_N, queries.fact_N, weights.astype(np.float32)), np.float64)

    counts = np.array([len(np.unique(facts)) for facts in queries.fact_of_row])
    n, m = int(counts.sum()), len(counts)
    drawn = values(queries.relations_drawn()[: n_replicates + 1, queries.concept_N]) if queries.drawn else None
    if drawn is not None and drawn.ndim == 1:
        return _Samples(drawn, None, None, queries.multiple_of_relations(m), counts, n)
    # All relations leave a part out at once: a relation's value may look at the others' facts, too.
    weights = np.ones((1 + queries.n_parts + n_replicates, len(queries.concept_N)))
    for index, (rows, fact_of_row) in enumerate(zip(queries.rows, queries.fact_of_row, strict=True)):
        weights[:, rows] = queries.fact_weights(index, n_replicates)[:, fact_of_row]
    inside = values(weights)
    if inside.ndim == 1:
        own, replicates = queries.divided(inside)
        return _Samples(replicates, None, own if m == 1 else None, queries.multiple_of_facts(counts), counts, n)
    there = ~np.isnan(inside[0])
    if not there.any():
        return None  # a single relation has no other to be told from
    return _with_mean(inside, drawn, counts * there, queries, {})


def _with_mean(
    inside: np.ndarray,
    drawn: np.ndarray | None,
    counts: np.ndarray,
    queries: _Queries,
    left_out: Mapping[int, tuple[str, int]],
) -> _Samples:
    """Samples of the unweighted mean over the relations that have facts.

    Args:
      inside: values in relations [samples, relations], by `_Queries.fact_weights`.
      drawn: the value and those of replicates that draw relations, [samples, relations]; None if they are fixed.
      counts: facts by relation.
      queries, left_out: see `_Samples`.
    """
    there = counts > 0
    own, replicates = queries.divided(inside)
    if not there.any():
        return _Samples(np.full(len(replicates), np.nan), own, None, math.nan, counts, 0, left_out)
    overall, multiple = _mean(replicates, there * np.ones_like(replicates)), queries.multiple_of_facts(counts[there])
    if drawn is not None and there.sum() > 1:
        times = there * queries.relations_drawn()[: len(drawn)]
        of_relations = _mean(drawn, times)
        # With one of two relations a metric that tells relations from each other has no value.
        if there.sum() > 2 or not np.isnan(of_relations[times.any(1)]).any():
            overall, multiple = of_relations, queries.multiple_of_relations(int(there.sum()))
    overall[0] = own[0, there].mean()
    alone = own[:, there][:, 0] if there.sum() == 1 else None
    return _Samples(overall, own, alone, multiple, counts, int(counts.sum()), left_out)


def _mean(values: np.ndarray, weights: np.ndarray) -> Float[np.ndarray, " samples"]:
    """Weighted means over relations; a replicate can lack what a metric needs in one."""
    weights = np.where(np.isfinite(values), weights, 0)
    with np.errstate(invalid="ignore"):
        return np.where(weights > 0, values * weights, 0).sum(1) / weights.sum(1)


@functools.lru_cache(maxsize=64)
def _replicated(name: str, n_concepts: int) -> Callable:
    formula = METRICS[name].formula

    @jax.jit
    def run(activation_NU: Array, selected_NU: Array, concept_N: Array, fact_N: Array, weights: Array) -> Array:
        return jax.lax.map(
            lambda weight_N: formula(Neurons(activation_NU, selected_NU, concept_N, fact_N, weight_N, n_concepts)),
            weights,
        )

    return run


def _estimates(metric: Metric, samples: _Samples, queries: _Queries) -> Estimates:
    """Puts intervals around a value."""
    by_relation = {}
    if samples.inside is not None:
        for index, name in enumerate(queries.relations):
            if n := int(samples.counts[index]):
                by_relation[name] = interval_of_facts(samples.inside[:, index], metric.range, queries.level, n)
            elif index in samples.left_out:
                by_relation[name] = Estimate(math.nan, math.nan, math.nan, samples.left_out[index][1])
    if samples.alone is not None:
        overall = interval_of_facts(samples.alone, metric.range, queries.level, samples.n)
    else:
        overall = _of_replicates(samples, metric)
    why = {queries.relations[index]: why for index, (why, _) in samples.left_out.items()}
    return Estimates(overall, by_relation, samples.overall, why)


def interval_of_facts(
    values: Float[np.ndarray, " parts"], limits: tuple[float, float], level: float, n: int
) -> Estimate:
    """A value of n facts with the interval that `estimate` describes.

    Args:
      values: the value, and those without each fact, or part of the facts, in turn.
      limits: between which such values lie.
      level: coverage of the interval.
      n: facts.
    """
    value, without = float(values[0]), values[1:]
    if n < 2 or not np.isfinite(values).all():
        return Estimate(value, math.nan, math.nan, n)
    parts, (low, high) = min(n, len(without)), limits
    error = math.sqrt((parts - 1) / parts * float(np.square(without - value).sum()))
    if error <= SAME * abs(value):
        if not math.isfinite(high - low):
            return Estimate(value, math.nan, math.nan, n)
        missed = 1 - ((1 - level) / 2) ** (1 / n)
        return Estimate(value, value - missed * max(value - low, 0), value + missed * max(high - value, 0), n)
    half = _student(level, n - 1) * error
    if not math.isfinite(high - low):
        half *= n / (n - 1)
        return _within(limits, value, value - half, value + half, n)
    below, above = max(value - low, 0), max(high - value, 0)
    ends = [value - half, value + half]
    if below > 0 and above > 0:
        log_odds, half_odds = math.log(below / above), half * (high - low) / (below * above)
        ends += [low + (high - low) * float(scipy.special.expit(log_odds + sign * half_odds)) for sign in (-1, 1)]
    return _within(limits, value, min(ends), max(ends), n)


def _of_replicates(samples: _Samples, metric: Metric) -> Estimate:
    """The overall value ± a multiple of the standard deviation over replicates, inside the metric's range."""
    value, replicates = float(samples.overall[0]), samples.overall[1:][np.isfinite(samples.overall[1:])]
    if not math.isfinite(value) or math.isnan(samples.multiple):
        return Estimate(value if math.isfinite(value) else math.nan, math.nan, math.nan, samples.n)
    spread = float(replicates.std(ddof=1)) if len(replicates) > 1 else 0.0
    if spread <= SAME * abs(value):
        return Estimate(value, math.nan, math.nan, samples.n)
    half = samples.multiple * spread
    return _within(metric.range, value, value - half, value + half, samples.n)


def _within(limits: tuple[float, float], value: float, low: float, high: float, n: int) -> Estimate:
    """The interval, cut to the limits."""
    lowest, highest = limits
    return Estimate(value, float(max(low, min(lowest, value))), float(min(high, max(highest, value))), n)
