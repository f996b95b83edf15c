"""A study as data: what is varied, how often, what is measured, and what is claimed before; imports no JAX."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from jaxinterp.base.configs import changed, from_json, merged
from jaxinterp.base.errors import UserError, unknown
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.facts.splits import SETS
from jaxinterp.metrics.config import ABILITY_SET, MeasureConfig
from jaxinterp.studies.engine.along import keeping
from jaxinterp.studies.engine.hypothesis import Hypothesis, Level
from jaxinterp.training.config import TrainConfig

Point = Mapping[str, Level]  # factor -> level


@dataclasses.dataclass(frozen=True)
class Factor:
    """What is varied. It has one of `levels`, `arms`, and the range `low` to `high`."""

    name: str  # in tables and charts
    field: str = ""  # of the training config, by its dotted name, as objective.weights.control; not with arms
    levels: tuple[Level, ...] = ()  # values of the field
    arms: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)  # level -> dotted name -> value
    low: float | None = None  # range of the field, for a search
    high: float | None = None
    log: bool = False  # whether the range is searched, and levels are drawn, on a logarithmic scale
    whole: bool = False  # whether the range is of whole numbers

    def __post_init__(self) -> None:
        check_numbers(self, f"factor {self.name}: ")
        given = [bool(self.levels), bool(self.arms), self.low is not None or self.high is not None]
        if sum(given) != 1:
            raise UserError(f"factor {self.name!r} needs one of levels, arms, and low with high; it has {sum(given)}")
        if bool(self.field) == bool(self.arms):
            raise UserError(f"factor {self.name!r} needs a field of the training config, or arms, which name theirs")
        if any(not isinstance(level, str | int | float) for level in self.levels):
            raise UserError(
                f"factor {self.name!r}: levels are texts and numbers; use arms for what changes several fields"
            )
        if len({*map(str, self.values)}) < len(self.values):
            raise UserError(f"factor {self.name!r} has a level twice: {', '.join(map(str, self.values))}")
        if self.values and len(self.values) < 2:
            raise UserError(f"factor {self.name!r} has one level; give two or more, or put it into base")
        if self.log and self.values and not (self.is_numeric and min(self.values) > 0):
            raise UserError(f"factor {self.name!r}: levels must be numbers above 0 on a logarithmic scale")
        if given[2]:
            if self.low is None or self.high is None or not self.low < self.high:
                raise UserError(f"factor {self.name!r}: low must be below high, got {self.low} and {self.high}")
            if self.log and self.low <= 0:
                raise UserError(f"factor {self.name!r}: low must be above 0 on a logarithmic scale, got {self.low}")

    @property
    def values(self) -> tuple[Level, ...]:
        """The levels, or the names of the arms; () of a range."""
        return self.levels or tuple(self.arms)

    @property
    def is_numeric(self) -> bool:
        """Whether its levels are numbers, or it is a range."""
        return not self.arms and all(isinstance(of, int | float) and not isinstance(of, bool) for of in self.levels)

    def changes(self, level: Level) -> Mapping[str, Any]:
        """What a level changes in the training config: dotted names and values."""
        return self.arms[str(level)] if self.arms else {self.field: level}


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much is run at most."""

    trials: int = 0  # points: how many a fraction or a search runs; a grid must not have more. 0 is all of a grid
    hours: float = 0.0  # of runs, added up over workers, after which no trial is begun; 0 is no limit

    def __post_init__(self) -> None:
        check_numbers(self, "budget.")
        if self.trials < 0 or self.hours < 0:
            raise UserError(f"budget must be at least 0 (0 is no limit), got {self.trials} trials, {self.hours} hours")


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """Everything that decides a study."""

    name: str
    factors: tuple[Factor, ...]
    metrics: tuple[str, ...]  # SET/METRIC, as unseen_facts/suppressability or ability/cross_entropy
    base: TrainConfig = TrainConfig()  # of all runs, but for what their levels and their seed change
    # grid: all points. fraction: budget.trials of them, with levels and pairs of levels as even as can be. tpe and
    # nsga2: budget.trials points that Optuna's samplers choose by what was measured; random: what they must beat
    design: Literal["grid", "fraction", "random", "tpe", "nsga2"] = "grid"
    optimise: Mapping[str, Literal["minimize", "maximize"]] = dataclasses.field(default_factory=dict)  # of a search
    seeds: tuple[int, ...] = (0,)  # of the training; every point is run with each
    # Whether all seeds of a point are trained in one program, for models that are small against the device. They are
    # consecutive then, and share the order of the data, that of the first; results have keys of their own
    vmapped: bool = False
    budget: Budget = Budget()
    measure: MeasureConfig = MeasureConfig(ablation_queries=0)  # its `metrics` are those above
    # Where data.limit is a factor: the limit whose facts alone are measured, in all runs; 0: each run's own. Means over
    # few facts of a relation differ more, and a neuron looks purer by them, whatever it does
    measured_limit: int = 0
    hypotheses: tuple[Hypothesis, ...] = ()
    front: Mapping[str, Literal["minimize", "maximize"]] = dataclasses.field(default_factory=dict)  # two metrics
    # Of the front's two metrics: the corner from which the hypervolume is taken; {}: the worst values of all points
    reference: Mapping[str, float] = dataclasses.field(default_factory=dict)
    along: int = 1  # evenly spaced steps of a run at which it is measured, the last included
    match: str = (
        ""  # SET/METRIC, the loss at which runs are compared as well; needs along ≥ 2. "": only after all steps
    )
    match_at: float | None = None  # the loss of tables of all points; None: the largest final one of a point
    storage: str = ""  # URL of a database, as postgresql://user@host/name; "": a journal in the study's folder
    heartbeat: float = 10.0  # seconds between signs of life; after three without one a worker counts as dead
    design_seed: int = 0  # of the fraction, and of the search

    def __post_init__(self) -> None:
        check_numbers(self)
        names = [factor.name for factor in self.factors]
        for what, given in (("factor", names), ("seed", self.seeds), ("metric", self.metrics)):
            if not given or len({*given}) < len(given):
                raise UserError(f"a study needs every {what} once, and at least one; got {list(given)}")
        if "seed" in names:
            raise UserError("a factor cannot be named seed; the study's seeds have that name")
        if self.vmapped and self.along > 1:
            raise UserError(f"vmapped seeds are measured after all steps alone; leave out along, got {self.along}")
        if self.vmapped and self.seeds != tuple(range(self.seeds[0], self.seeds[0] + len(self.seeds))):
            raise UserError(f"vmapped needs consecutive seeds, as [0, 1, 2], got {list(self.seeds)}")
        self._check_metrics()
        if self.measured_limit < 0:
            raise UserError(f"measured_limit must be at least 0, got {self.measured_limit}")
        if self.heartbeat <= 0:
            raise UserError(f"heartbeat must be above 0 seconds, got {self.heartbeat}")
        if "@" in self.storage and ":" in self.storage.partition("://")[2].rpartition("@")[0]:
            raise UserError(
                "storage holds a password, and would be saved; leave it out, and set PGPASSWORD or ~/.pgpass"
            )
        self._check_design()
        for hypothesis in self.hypotheses:
            self._check_hypothesis(hypothesis)

    @property
    def searches(self) -> bool:
        """Whether points are chosen while it runs."""
        return self.design in ("random", "tpe", "nsga2")

    def factor(self, name: str) -> Factor:
        """A factor by its name; UserError if there is none."""
        found = {factor.name: factor for factor in self.factors}
        if name not in found:
            raise unknown("factor", name, found)
        return found[name]

    def _check_metrics(self) -> None:
        for metric in self.metrics:
            set_name, slash, name = metric.partition("/")
            if not slash or not name:
                raise UserError(f"metrics are SET/METRIC, as unseen_facts/suppressability, got {metric!r}")
            if set_name not in (*SETS, ABILITY_SET):
                raise unknown("set of metrics", set_name, (*SETS, ABILITY_SET))
        if all(metric.startswith(f"{ABILITY_SET}/") for metric in self.metrics):
            raise UserError(f"metrics are all of the set {ABILITY_SET}; name one of {', '.join(SETS)} as well")
        for what in ("front", "optimise"):
            for metric in getattr(self, what):
                if metric not in self.metrics:
                    raise UserError(f"{what} is over {metric!r}, which is not measured; add it to metrics")
        if len(self.front) not in (0, 2):
            raise UserError(f"front needs two metrics, got {len(self.front)}")
        if self.reference and {*self.reference} != {*self.front}:
            raise UserError(f"reference needs a number for each metric of front, got {', '.join(self.reference)}")
        if self.along < 1:
            raise UserError(f"along must be at least 1, got {self.along}")
        if self.match and self.match not in self.metrics:
            raise UserError(f"match is {self.match!r}, which is not measured; add it to metrics")
        if self.match and self.along < 2:
            raise UserError("match needs metrics along the runs; set along to 2 or more, as 8")
        if self.match_at is not None and not self.match:
            raise UserError(f"match_at = {self.match_at:g} needs match, the loss that it is of")

    def _check_design(self) -> None:
        points = math.prod(len(factor.values) for factor in self.factors)
        if self.searches:
            if not self.optimise or not self.budget.trials:
                raise UserError(f"design {self.design} needs optimise (metric: minimize or maximize) and budget.trials")
            if self.hypotheses:
                raise UserError("a hypothesis needs levels that are all run; use design grid or fraction")
            return
        if not points:
            raise UserError(f"design {self.design} needs levels or arms in every factor; ranges are for searches")
        if self.optimise:
            raise UserError(f"optimise is for searches, not for {self.design}; leave it out")
        if self.design == "fraction" and not 0 < self.budget.trials <= points:
            raise UserError(f"a fraction of {points} points needs budget.trials up to that, got {self.budget.trials}")
        if self.design == "grid" and 0 < self.budget.trials < points:
            raise UserError(f"the grid has {points} points, above budget.trials = {self.budget.trials}; use fraction")

    def _check_hypothesis(self, hypothesis: Hypothesis) -> None:
        where = f"hypothesis {hypothesis.name!r}"
        for metric in hypothesis.metrics:
            if metric not in self.metrics:
                raise UserError(f"{where} is over {metric!r}, not measured; add it to metrics")
        if hypothesis.at == "loss" and (not self.match or self.match in hypothesis.metrics):
            raise UserError(
                f"{where} is at loss; it needs match, which is none of its metrics, got match {self.match!r}"
            )
        if not hypothesis.factor:
            return
        factor = self.factor(hypothesis.factor)
        if hypothesis.kind == "trend" and (not factor.is_numeric or len(factor.levels) < 3):
            raise UserError(f"{where} is a trend, which needs three or more numbers as levels of {factor.name}")
        levels = [str(level) for level in factor.values]
        for level in (hypothesis.before, hypothesis.after) if hypothesis.kind == "contrast" else ():
            if str(level) not in levels:
                raise unknown(f"level of {hypothesis.factor}", str(level), levels)


def study_of(fields: Mapping, where: str, scale: str = "") -> StudyConfig:
    """A study out of what a YAML or JSON file holds.

    Args:
      fields: those of `StudyConfig`, and `scales`: {name: fields that a scale changes, nested as they are}.
      where: the file, for messages.
      scale: one of the scales; "" is the study as it stands.
    Raises:
      UserError: if a field or the scale is unknown, or a value is none.
    """
    fields = dict(fields)
    scales = fields.pop("scales", {})
    if scale and (not isinstance(scales, Mapping) or scale not in scales):
        raise unknown("scale", scale, scales)
    config = from_json(StudyConfig, fields, where)
    return changed(config, scales[scale], where) if scale else config


def training_of(config: StudyConfig, point: Point, seed: int) -> TrainConfig:
    """The training config of a point and a seed.

    Raises:
      UserError: if a level names a field that there is not, or has a value that it cannot have, or `keeping` does.
    """
    run = config.base
    for name, level in point.items():
        where, fields = f"factor {name!r}, level {level!r}", dict[str, Any]()
        for field, value in config.factor(name).changes(level).items():
            if field == "seed":
                raise UserError(f"{where}: seed cannot be varied; the study's seeds are")
            fields = merged(fields, _nested(run, field.split("."), value, where))
        run = changed(run, _whole(run, fields), where)  # at once: alone, one of them may not be allowed
    return keeping(dataclasses.replace(run, seed=seed), config.along)


def _whole(config: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Changes as `changed` takes them: with the keys of mappings that stay as they are."""
    found = {}
    for name, value in fields.items():
        inside = getattr(config, name)
        if isinstance(inside, Mapping) and isinstance(value, Mapping):
            value = {**inside, **value}
        elif dataclasses.is_dataclass(inside) and isinstance(value, Mapping):
            value = _whole(inside, value)
        found[name] = value
    return found


def _nested(config: Any, names: list[str], value: Any, where: str) -> dict[str, Any]:
    """The change of one field by its dotted name."""
    first, rest = names[0], names[1:]
    known = [field.name for field in dataclasses.fields(config)]
    if first not in known:
        raise UserError(f"{where}: {unknown('field', first, known)}")
    inside = getattr(config, first)
    if not rest:
        return {first: value}
    if isinstance(inside, Mapping):
        return {first: {".".join(rest): value}}
    if not dataclasses.is_dataclass(inside):
        raise UserError(f"{where}: {first} has no field {'.'.join(rest)!r}; it is {inside!r}")
    return {first: _nested(inside, rest, value, where)}
