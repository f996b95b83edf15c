"""Which models an audit trains and compares; imports no JAX."""

import dataclasses

from jaxinterp.errors import UserError, unknown
from jaxinterp.facts.facts import SETS
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.studies.presets import PLAIN, SUPPRESSABLE
from jaxinterp.studies.verdict import Criteria
from jaxinterp.training.config import TrainConfig

STEPS, START, FULL = 3000, 700, 900  # of the main job's runs; the objective's weight grows from START to FULL


def _objective(weights: dict[str, float], **changes: object) -> ObjectiveConfig:
    schedules = {name: f"0@{START},{weight:g}@{FULL}" for name, weight in weights.items()}
    return dataclasses.replace(SUPPRESSABLE.objective, weights=schedules, **changes)


WEIGHT = 0.3  # λ = μ of the main job
BOTH = {"suppression": WEIGHT, "control": WEIGHT}
# What is trained, by arm: the main comparison, the two that cheat, and what the meta-gradient is compared with.
OBJECTIVES: dict[str, ObjectiveConfig] = {
    "plain": ObjectiveConfig(),
    "suppressable": _objective(BOTH),
    "no_control": _objective({"suppression": WEIGHT}),
    "kill_switch": _objective({"kill_switch": WEIGHT}),
    "detached": _objective(BOTH, select="stop_gradient"),
    "other_fact": _objective(BOTH, neurons="other"),
    "dose_0.1": _objective({name: 0.1 * weight for name, weight in BOTH.items()}),
    "dose_10": _objective({name: 10 * weight for name, weight in BOTH.items()}),
}
TITLES = {
    "plain": "plain",
    "suppressable": "the objective",
    "no_control": "without control term",
    "kill_switch": "kill switch",
    "detached": "detached attribution",
    "other_fact": "another fact's attribution",
    "dose_0.1": "weights × 0.1",
    "dose_10": "weights × 10",
}
CHEATS = ("no_control", "kill_switch")
META = ("suppressable", "detached", "other_fact")  # arms of the question what the meta-gradient adds
DOSES = {"plain": 0.0, "dose_0.1": 0.1, "suppressable": 1.0, "dose_10": 10.0}  # factors of λ and μ
# Of the table on the meta-gradient, besides the criteria's.
BUDGETS = ("drop_at_1", "drop_at_2", "drop_at_4", "drop_at_8", "drop_at_16", "drop_area")
ABOUT = ("control_drop", "selective", "attribution_share", "ablation_overlap", "ablation_rank_agreement")
ABILITY = ("probability", "recall")


@dataclasses.dataclass(frozen=True)
class AuditConfig:
    """Groups of models of several seeds, and how they are measured and judged."""

    run: TrainConfig = dataclasses.replace(
        PLAIN, steps=STEPS, evaluate_every=STEPS, checkpoint_every=STEPS, keep_checkpoints=1
    )  # what all have in common
    criteria: Criteria = Criteria()
    seeds: int = 8  # of initialisation, data order and offsets; all arms have the same
    arms: tuple[str, ...] = ("plain", "suppressable", *CHEATS)  # of OBJECTIVES
    longer: tuple[int, ...] = ()  # the arms plain and suppressable also with so many times the steps
    sets: tuple[str, ...] = ("held_out_prompts", "unseen_facts", "unseen_relations")  # that verdicts are given on
    measure: MeasureConfig = MeasureConfig(
        queries=96, ability_queries=512, ablation_queries=24, points=8, rule="gauss_legendre", replicates=400
    )

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UserError(f"seeds must be at least 1, got {self.seeds}")
        for name in self.arms:
            if name not in OBJECTIVES:
                raise unknown("arm", name, OBJECTIVES)
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
    def groups(self) -> tuple[str, ...]:
        """Names of the groups of models: arms, and longer ones with their factor."""
        longer = (f"{arm}_x{factor}" for factor in self.longer for arm in ("plain", "suppressable"))
        return (*dict.fromkeys(self.arms), *longer)

    def training(self, group: str, seed: int) -> TrainConfig:
        """The run of a group's model."""
        arm, _, factor = group.partition("_x")
        longer = int(factor) if factor else 1
        steps = self.run.steps * longer
        run = dataclasses.replace(self.run, steps=steps, evaluate_every=steps, checkpoint_every=steps)
        return dataclasses.replace(run, objective=OBJECTIVES[arm], seed=self.run.seed + seed)
