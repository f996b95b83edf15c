"""The means of columns over edits, with intervals and the number of edits behind each."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.editing.protocol.columns import COLUMNS, COMBINED, Column
from jaxinterp.metrics.intervals import PARTS, Estimate, interval_of_facts, leaving_out


@dataclasses.dataclass(frozen=True)
class Table:
    """A row for each column."""

    rows: Mapping[str, Estimate]  # mean over edits, its interval, and the number of edits that have the column
    without: Mapping[str, int]  # edits that have no value there; they are in no mean
    level: float  # coverage of the intervals

    def __str__(self) -> str:
        lines = [f"{'column':34s} {'mean':>9s} {f'{self.level:.0%} interval':>21s} {'edits':>6s} {'without':>8s}"]
        for name, found in self.rows.items():
            interval = "" if math.isnan(found.low) else f"{found.low:.4g} to {found.high:.4g}"
            lines.append(f"{name:34s} {found.value:9.4g} {interval:>21s} {found.n:6d} {self.without[name]:8d}")
        return "\n".join(lines)


def summary(
    outcomes: Sequence[Mapping[str, float]], level: float = 0.95, columns: Mapping[str, Column] = COLUMNS
) -> Table:
    """Means over edits of every column, and the combined ones, with intervals over edits.

    An edit's value is the mean over its own prompts; edits without a value are left out of a mean and counted.
    Combined columns are made of the means, not of each edit's values, as ROME's S is. Intervals are those of
    `jaxinterp.metrics.intervals`: a jackknife over edits, which also says something where all edits have one value.
    They count edits as draws of their own, of whatever facts.

    Args:
      outcomes: of edits, at least one, with the same columns.
      level: coverage of the intervals, above 0 and below 1.
      columns: which there are.
    Raises:
      UserError: if there is no outcome, a column is unknown or missing, or the level is out of range.
    """
    if not outcomes:
        raise UserError("there is no outcome to summarise; give at least one")
    if not 0 < level < 1:
        raise UserError(f"the level of an interval must lie between 0 and 1, got {level}")
    names = list(outcomes[0])
    for one in outcomes:
        for name in one:
            if name not in columns or name in COMBINED:
                raise unknown("column", name, [known for known in columns if known not in COMBINED])
        if set(one) != set(names):
            raise UserError(f"outcomes differ in their columns: {min(set(one) ^ set(names))!r} is not in all of them")
    value_NC = np.array([[one[name] for name in names] for one in outcomes], float)
    there = {name: ~np.isnan(value_NC[:, number]) for number, name in enumerate(names)}
    rows = {
        name: _interval(value_NC[there[name], number], columns[name].limits, level) for number, name in enumerate(names)
    }
    for name, parts in COMBINED.items():
        if all(part in names for part in parts):
            rows[name] = _combined(value_NC[:, [names.index(part) for part in parts]], level)
    ordered = {name: rows[name] for name in columns if name in rows}
    return Table(ordered, {name: len(outcomes) - found.n for name, found in ordered.items()}, level)


def harmonic(values: Float[np.ndarray, "samples parts"]) -> Float[np.ndarray, " samples"]:
    """n / Σ 1/x; 0 where an x is 0, NaN where one is missing."""
    with np.errstate(divide="ignore"):
        return values.shape[1] / (1 / values).sum(1)


def _interval(value_N: np.ndarray, limits: tuple[float, float], level: float) -> Estimate:
    if not len(value_N):
        return Estimate(math.nan, math.nan, math.nan, 0)
    weight_SN = leaving_out(len(value_N), min(len(value_N), PARTS))
    return interval_of_facts(_means(weight_SN, value_N), limits, level, len(value_N))


def _combined(value_NP: np.ndarray, level: float) -> Estimate:
    n = int((~np.isnan(value_NP)).sum(0).min())
    if not n:
        return Estimate(math.nan, math.nan, math.nan, 0)
    weight_SN = leaving_out(len(value_NP), min(len(value_NP), PARTS))
    samples = harmonic(np.stack([_means(weight_SN, part_N) for part_N in value_NP.T], 1))
    return interval_of_facts(samples, (0.0, 100.0), level, n)


def _means(weight_SN: np.ndarray, value_N: np.ndarray) -> Float[np.ndarray, " samples"]:
    """Weighted means of the values that are there."""
    there_N = ~np.isnan(value_N)
    total_S = (weight_SN * there_N[None]).sum(1)
    with np.errstate(invalid="ignore"):
        return weight_SN @ np.where(there_N, value_N, 0) / total_S
