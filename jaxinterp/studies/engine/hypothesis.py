"""Claims that are written down before the runs; imports no JAX."""

import dataclasses
from typing import Any, Literal

from jaxinterp.base.errors import UserError
from jaxinterp.base.numbers_given import check_numbers

Level = Any  # a text, a number or a truth value; YAML and JSON say which
# Kind -> the fields that it needs, besides those of all, and those that it may have
NEEDS = {
    "contrast": (("factor", "before", "after"), ()),
    "trend": (("factor",), ()),
    "association": (("other",), ("given",)),
    "retest": ((), ()),
}
OF_KINDS = ("factor", "before", "after", "other", "given")


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """A claim about a metric. Its kind says what is judged:

    - contrast: metric(`after`) − metric(`before`), of two levels of a factor, in units of the metric;
    - trend: Spearman's ρ of the metric and the levels of a numeric factor, within each seed;
    - association: Spearman's ρ of the metric and `other` over points, without what both share with `given`;
    - retest: the intraclass correlation of the metric, with points as classes and seeds as repetitions.
    """

    name: str
    metric: str  # SET/METRIC, one of the study's
    factor: str = ""  # of a contrast and a trend
    before: Level = None  # a level of the factor, of a contrast
    after: Level = None  # another one
    direction: Literal["higher", "lower", "same"] = "higher"  # which way the metric, or ρ from 0, is claimed to go
    margin: float = 0.0  # in units of the metric, or of ρ; ≥ 0: by more than this; of "same": by less than this
    kind: Literal["contrast", "trend", "association", "retest"] = "contrast"
    at: Literal["steps", "loss"] = "steps"  # after all steps, or where runs have an equal loss, the study's `match`
    other: str = ""  # SET/METRIC, of an association
    given: str = ""  # SET/METRIC whose ranks are taken out of both, of an association; "": none

    def __post_init__(self) -> None:
        where = f"hypothesis {self.name!r}"
        check_numbers(self, f"hypothesis {self.name}: ")
        needed, possible = NEEDS[self.kind]
        for field in OF_KINDS:
            is_given = getattr(self, field) not in ("", None)
            if field in needed and not is_given:
                raise UserError(f"{where} is a {self.kind}, which needs {', '.join(needed)}; {field} is missing")
            if is_given and field not in (*needed, *possible):
                raise UserError(f"{where} is a {self.kind}, which has no {field}; leave it out, or change its kind")
        if self.margin < 0 or (self.direction == "same" and self.margin == 0):
            raise UserError(f"{where}: margin must be ≥ 0, and above 0 for same, got {self.margin}")
        if self.kind == "contrast" and str(self.before) == str(self.after):
            raise UserError(f"{where} compares the level {self.before!r} with itself")
        if self.kind != "contrast" and self.margin >= 1:
            raise UserError(f"{where}: margin is of a correlation and must be below 1, got {self.margin}")
        if self.kind == "retest" and self.direction != "higher":
            raise UserError(f"{where}: a retest can only claim higher, got {self.direction}")
        if self.kind == "association" and len({*self.metrics}) < len(self.metrics):
            raise UserError(f"{where} names a metric twice: {', '.join(self.metrics)}")

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics that it is about."""
        return tuple(metric for metric in (self.metric, self.other, self.given) if metric)
