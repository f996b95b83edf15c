"""Which models an audit trains and compares; imports no JAX."""

import dataclasses
from collections.abc import Mapping

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.facts.controls import KINDS
from jaxinterp.facts.splits import SETS
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.studies.audit.arms import CHEATS, RUNS, SIDE, TITLES, objectives
from jaxinterp.studies.audit.verdict import Criteria
from jaxinterp.studies.suppressability.presets import FOLDS, LEVEL, PLAIN, RAMP, SUPPRESSABLE, WEIGHTS
from jaxinterp.training.config import DataConfig, TrainConfig

# Of the table on the meta-gradient, besides the criteria's.
BUDGETS = ("drop_at_1", "drop_at_2", "drop_at_4", "drop_at_8", "drop_at_16", "drop_area")
ABOUT = (
    *(f"control_drop_{kind}" for kind in KINDS),
    *("control_drop", "selective", "random_drop", "amplification"),
    *(f"suppressability_{n}" for n in ("1_token", "2_tokens", "3_tokens")),
    *("token_suppressability", "each_suppressability", "suppressability_new_answer"),
    *("insertion_area", "attention_share", "own_early_drop", "own_middle_drop", "own_late_drop"),
    *("attribution_share", "ablation_suppressability", "ablation_control_drop", "ablation_overlap"),
    *("ablation_rank_agreement", "edit_success", "edit_kept_relation", "edit_kept_subject", "edit_kept_other"),
)
ABILITY = ("probability", "recall", "bypass")


@dataclasses.dataclass(frozen=True)
class AuditConfig:
    """Groups of models of several seeds, and how they are measured and judged."""

    run: TrainConfig = PLAIN  # what all have in common
    # Mean P of the objective's facts at which it begins (see `objective.start`); up to its last checkpoint before that
    # a model is the plain one of its seed. Its weights grow from 0 in `ramp` steps
    level: float = LEVEL
    ramp: int = RAMP
    # Relations that the objective never sees: those of one fold for each seed in turn, so that every relation is unseen
    # for some; () are those of `run.data.split` for all. A seed also draws its own unseen facts
    folds: tuple[tuple[str, ...], ...] = FOLDS
    criteria: Criteria = Criteria()
    seeds: int = 8  # of initialisation, data order and offsets; all arms have the same
    # What is audited: weights are numbers here, and grow from 0 in `ramp` steps. The other arms are changes of it
    objective: ObjectiveConfig = dataclasses.replace(
        SUPPRESSABLE.objective, start=0.0, weights={name: f"{weight:g}" for name, weight in WEIGHTS.items()}
    )
    # Factors of μ by arm, so that arms can be compared where their control drops are alike; to be tuned on other seeds
    control: Mapping[str, float] = dataclasses.field(default_factory=dict)
    arms: tuple[str, ...] = ("plain", "suppressable", *CHEATS)  # of jaxinterp.studies.audit.arms
    plain_seeds: int = 0  # plain models, if more than `seeds`: for false alarms, which want sixteen
    longer: tuple[int, ...] = ()  # the arms plain and suppressable also with so many times the steps
    side_seeds: int = 3  # of the doses and the longer ones; no verdict is given on fewer than four
    sets: tuple[str, ...] = ("held_out_prompts", "unseen_facts", "unseen_relations")  # that verdicts are given on
    measure: MeasureConfig = MeasureConfig(
        queries=96, ability_queries=512, ablation_queries=24, points=8, rule="gauss_legendre", replicates=400
    )

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("seeds", "side_seeds"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.level < 1:
            raise UserError(f"level is a probability: at least 0 and below 1, got {self.level}")
        if not 0 < self.ramp <= self.run.steps:
            raise UserError(f"ramp must be at least 1 and at most run.steps = {self.run.steps}, got {self.ramp}")
        if self.run.objective.weights:
            raise UserError("run.objective is chosen by the arms; leave its weights out")
        if self.objective.start:
            raise UserError(f"objective.start is chosen by level; leave it out, got {self.objective.start}")
        for name in (*self.arms, *self.control):
            if name not in TITLES:
                raise unknown("arm", name, TITLES)
        for name in self.sets:
            if name not in SETS:
                raise unknown("set", name, SETS)
        if "plain" not in self.arms or len(set(self.arms)) < 2:
            raise UserError(f"an audit compares arms with plain, got {', '.join(self.arms) or 'none'}")
        if any(factor < 2 for factor in self.longer):
            raise UserError(f"longer must be factors of at least 2, got {self.longer}")

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics that are measured."""
        judged = (self.criteria.trained, *self.criteria.independent, *self.criteria.ability)
        names = (*judged, *BUDGETS, *ABOUT, *ABILITY)
        return tuple(dict.fromkeys(names))

    @property
    def decides(self) -> dict[str, object]:
        """What a measured model depends on; the rest may change from one call to the next on one folder."""
        fields = dataclasses.asdict(self)
        arms = {arm: dataclasses.asdict(objective) for arm, objective in self.objectives.items()}
        names = ("run", "level", "ramp", "folds", "sets", "measure")
        return {**{name: fields[name] for name in names}, "metrics": self.metrics, "objectives": arms}

    @property
    def objectives(self) -> dict[str, ObjectiveConfig]:
        """The objective of every arm, whether it is among `arms` or not."""
        return objectives(self.objective, self.control)

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of models by name, arms first of which plain is the first, and longer ones with their factor."""
        longer = (f"{arm}_x{factor}" for factor in self.longer for arm in ("plain", "suppressable"))
        return (*dict.fromkeys(("plain", *self.arms)), *longer)

    def group_seeds(self, group: str) -> int:
        """How many models a group has."""
        if group == "plain":
            return max(self.seeds, self.plain_seeds)
        return min(self.seeds, self.side_seeds) if "_x" in group or group in SIDE else self.seeds

    def data(self, seed: int) -> DataConfig:
        """The facts of a seed's models, split anew for each seed."""
        data = self.run.data
        unseen = self.folds[seed % len(self.folds)] if self.folds else data.split.unseen_relations
        return dataclasses.replace(
            data, split=dataclasses.replace(data.split, seed=data.split.seed + seed, unseen_relations=unseen)
        )

    def training(self, group: str, seed: int) -> TrainConfig:
        """The run of a group's model; a plain one keeps all checkpoints, for others to go on from."""
        arm, _, factor = group.partition("_x")
        steps, ramp = (int(factor or 1) * step for step in (self.run.steps, self.ramp))
        objective = self.objectives[arm]
        weights = {name: f"0@0,{weight}@{ramp}" for name, weight in objective.weights.items()}
        return dataclasses.replace(
            self.run,
            data=self.data(seed),
            steps=steps,
            evaluate_every=0,
            keep_checkpoints=steps // self.run.checkpoint_every + 1 if arm == "plain" else 1,
            objective=dataclasses.replace(objective, weights=weights, start=self.level),
            seed=self.run.seed + seed,
            **RUNS.get(arm, {}),
        )


def base(group: str) -> str:
    """The plain models that a group is compared with: those of its length."""
    return group.replace(group.partition("_x")[0], "plain", 1)


def title(group: str) -> str:
    """For people."""
    arm, _, factor = group.partition("_x")
    return TITLES[arm] + (f", {factor} × the steps" if factor else "")
