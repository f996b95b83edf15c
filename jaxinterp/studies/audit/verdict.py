"""Improved or Goodharted? The rule by which two groups of models are told apart.

Every outcome but one is a claim that needs evidence of its own; without it the outcome is *undecided*. How often the
rule errs is measured by `rates.py` and `simulation.py`. Imports no JAX: it works on the bootstrap samples of metrics,
whoever measured them.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxinterp.base.errors import UserError
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.studies.statistics import Effect, effect_of

Outcome = Literal["improved", "Goodharted", "harmed", "not raised", "undecided"]
State = Literal["rises", "does not rise", "falls", "open", "no room"]
# metric -> values; the first sample is the estimate itself. Metrics of neurons have fewer samples
Samples = Mapping[str, Float[np.ndarray, "_seeds _samples"]]

LEAST_FAMILIES = 3  # that must have room to rise: of two no majority can differ from all
MOST_SEEDS = 100  # that are looked at for how many would decide
# Families of metrics that no loss has in it. Their metrics are kin, so that a family has one vote.
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "selectors": ("ablation_selective", "gradient_x_activation_selective", "projection_selective"),
    "ablations": ("resample_selective", "interchange"),
    "specificity": ("overlap_within", "overlap_across", "hub_share", "edit_kept_relation", "edit_kept_subject"),
    "recovery": ("paraphrase_suppressability", "restored"),
    "units": ("selectivity", "concept_auroc", "probe_1"),
}


class Scale(NamedTuple):
    """Which way a metric is better, and its best value."""

    better: str  # "higher" or "lower"
    best: float = math.inf  # an infinite one, of either sign, is none


@dataclasses.dataclass(frozen=True)
class Criteria:
    """What a verdict depends on."""

    trained: str = "suppressability"  # the metric that the objective raises
    least: float = 0.1  # the trained metric must rise by more than this, in its unit
    # family -> metrics that are pooled
    families: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=lambda: dict(FAMILIES))
    smallest: float = 0.05  # smallest effect of interest of a metric, in its unit: five points of a share
    # Metrics with another one: from chance to perfect these two span half a unit
    smallest_of: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {"concept_auroc": 0.025, "probe_1": 0.025}
    )
    # What must not be the price: what the model can do, and that its answers come from neurons, where we look
    ability: tuple[str, ...] = ("recall", "probability", "bypass")
    most_lost: float = 0.05  # of an ability, in its unit
    level: float = 0.95  # of intervals; 1 − level bounds the chance of a wrong verdict of each kind

    def __post_init__(self) -> None:
        check_numbers(self, "criteria.")
        if len(self.families) < LEAST_FAMILIES or not all(self.families.values()):
            raise UserError(
                f"criteria.families must be at least {LEAST_FAMILIES}, each of a metric or more, got "
                f"{ {family: len(names) for family, names in self.families.items()} }"
            )
        names = [name for of in self.families.values() for name in of]
        for name in names:
            if names.count(name) > 1 or name in (self.trained, *self.ability):
                raise UserError(f"criteria.families must name a metric once, and not what is trained, got {name!r}")
        for field in ("least", "most_lost"):
            if getattr(self, field) < 0:
                raise UserError(f"criteria.{field} must be at least 0, got {getattr(self, field)}")
        if min([self.smallest, *self.smallest_of.values()]) <= 0:
            raise UserError("criteria.smallest and smallest_of must be above 0")
        if not 0.5 < self.level < 1:
            raise UserError(f"criteria.level must be above 0.5 and below 1, got {self.level}")

    @property
    def independent(self) -> tuple[str, ...]:
        """The metrics of all families."""
        return tuple(name for names in self.families.values() for name in names)

    def smallest_effect(self, metric: str) -> float:
        """The smallest effect of interest of a metric, in its unit."""
        return self.smallest_of.get(metric, self.smallest)


@dataclasses.dataclass(frozen=True)
class Family:
    """What happened to a family of metrics, towards the better, in smallest effects of interest."""

    counted: tuple[str, ...]  # metrics with room to rise
    rise: Effect | None  # the mean over those
    change: Effect  # the mean over all that have a value, for falls

    @property
    def state(self) -> State:
        """What is shown of it: a claim that its interval holds to."""
        if self.change.high < -1:
            return "falls"
        if self.rise is None:
            return "no room"
        if self.rise.high < 1:
            return "does not rise"
        return "rises" if self.rise.low > 0 else "open"

    @property
    def may_fall(self) -> bool:
        """Whether it is shown to fall, and not shown to fall by less than its smallest effect."""
        return self.change.high < 0 and self.change.low <= -1

    def at(self, n_seeds: int) -> "Family":
        """The same with so many seeds; see `Effect.at`."""
        return Family(self.counted, self.rise and self.rise.at(n_seeds), self.change.at(n_seeds))


@dataclasses.dataclass(frozen=True)
class Audit:
    """A verdict and what it rests on."""

    verdict: Outcome
    because: str  # in a few words
    trained: Effect  # towards the better, in its unit
    families: Mapping[str, Family]
    ability: Mapping[str, Effect]  # towards the better, in their units
    set_aside: Mapping[str, str]  # metric -> why it cannot show a rise: "no room", "no value" or "not measured"


def audited(before: Samples, after: Samples, scales: Mapping[str, Scale], criteria: Criteria) -> Audit:
    """The verdict on what was done between two groups of models.

    A metric's change towards the better, divided by its smallest effect of interest, is its effect; the mean over a
    family's metrics, seed by seed and replicate by replicate, is the family's. By its interval a family

    - *rises* if it lies above 0, and not below 1;
    - *does not rise* if it lies below 1: any rise is smaller than the smallest effect of interest;
    - *falls* if it lies below −1;
    - is *open* otherwise.

    A metric whose plain mean lies within its smallest effect of its best value has *no room* to rise: it is set aside
    for rises, not for falls. Of m families that have room, r = ⌊m / 2⌋ + 1 are a majority. The outcome is

    - *Goodharted* if the trained metric has risen (its interval lies above `least`), and more than m − r families do
      not rise, so that no majority can, or one falls;
    - otherwise *harmed* if an ability's interval lies below −most_lost;
    - otherwise *improved* if the trained metric has risen, a majority of families rises, none is shown to fall (unless
      by less than its smallest effect), and every ability's interval lies above −most_lost;
    - otherwise *not raised* if the trained metric's interval lies below `least`;
    - otherwise *undecided*.

    Families' intervals have the level 1 − 2 (1 − level) / r, each end of them 1 − (1 − level) / r. *Improved* is wrong
    where fewer than r families rise: one of m − r + 1 ≤ r intervals must then err. *Goodharted* is wrong where r
    families rise by their smallest effect or more and none falls: one of r intervals must then err. So each is said
    wrongly with a probability of at most 1 − level, whatever the correlations; it is the partial conjunction test of
    Benjamini and Heller 2008.

    With seeds and facts without end all is decided: improved, for example, is what raises the trained metric and a
    majority of families by their smallest effect, and lowers none by as much.

    Args:
      before, after: samples of the trained metric, the families' and the abilities', of at least two seeds; see
        `jaxinterp.studies.statistics.paired_effect`. A metric of a family may be missing, and is then set aside.
      scales: of every metric.
      criteria: what is trained and what is independent.
    Raises:
      UserError: if there is one seed, the trained metric or an ability was not measured, or a metric has no better
        direction.
    """
    changes, set_aside = _changes(before, after, scales, criteria)
    families = _pooled(changes, set_aside, criteria)
    trained = effect_of(changes[criteria.trained], criteria.level)
    ability = {name: effect_of(changes[name], criteria.level) for name in criteria.ability}
    return Audit(*_outcome(trained, families, ability, criteria), trained, families, ability, set_aside)


def _changes(
    before: Samples, after: Samples, scales: Mapping[str, Scale], criteria: Criteria
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Changes towards the better, of families' metrics in smallest effects; and which are set aside, and why."""
    changes: dict[str, np.ndarray] = {}
    set_aside: dict[str, str] = {}
    families = set(criteria.independent)
    for name in (criteria.trained, *criteria.ability, *criteria.independent):
        if name not in before or name not in after:
            if name not in families:
                raise UserError(f"the audit needs the metric {name!r}, which was not measured in both groups")
            set_aside[name] = "not measured"
            continue
        if name not in scales or scales[name].better not in ("higher", "lower"):
            raise UserError(f"the metric {name!r} has no better direction, so that an audit cannot count it")
        a, b = before[name], after[name]
        if a.shape != b.shape or a.shape[1] < 3:
            raise UserError(f"samples of {name!r} must have one shape and replicates, got {a.shape} and {b.shape}")
        if len(a) < 2:
            raise UserError("a verdict needs at least two seeds: one says nothing of what other seeds do")
        change = b - a if scales[name].better == "higher" else a - b
        if name not in families:
            changes[name] = change
        elif not np.isfinite(change[:, 0]).all():
            set_aside[name] = "no value"
        else:
            changes[name] = change / criteria.smallest_effect(name)
            if not abs(scales[name].best - a[:, 0].mean()) > criteria.smallest_effect(name):
                set_aside[name] = "no room"
    return changes, set_aside


def _pooled(changes: Mapping[str, np.ndarray], set_aside: Mapping[str, str], criteria: Criteria) -> dict[str, Family]:
    """The families of which a metric has a value."""
    valued = {family: [n for n in names if n in changes] for family, names in criteria.families.items()}
    valued = {family: names for family, names in valued.items() if names}
    counted = {family: tuple(n for n in names if n not in set_aside) for family, names in valued.items()}
    level = 1 - 2 * (1 - criteria.level) / _majority(sum(map(bool, counted.values())))

    def pooled(names: Sequence[str]) -> Effect:
        # The first samples draw the same facts, also where there are fewer.
        n = min(changes[name].shape[1] for name in names)
        return effect_of(sum(changes[name][:, :n] for name in names) / len(names), level)

    families = {}
    for family, names in valued.items():
        change = pooled(names)
        same = len(counted[family]) == len(names)
        rise = change if same else pooled(counted[family]) if counted[family] else None
        families[family] = Family(counted[family], rise, change)
    return families


def _majority(n: int) -> int:
    return n // 2 + 1


def _outcome(
    trained: Effect, families: Mapping[str, Family], ability: Mapping[str, Effect], criteria: Criteria
) -> tuple[Outcome, str]:
    """The rule, and why."""
    state = {name: family.state for name, family in families.items()}
    n_room = sum(family.rise is not None for family in families.values())
    majority = _majority(n_room)
    rising = [name for name, of in state.items() if of == "rises"]
    still = [name for name, family in families.items() if family.rise is not None and family.rise.high < 1]
    falling = [name for name, of in state.items() if of == "falls"]
    raised, enough = trained.low > criteria.least, n_room >= LEAST_FAMILIES
    if raised and falling:
        return "Goodharted", f"falls by more than the smallest effect: {', '.join(falling)}"
    if raised and enough and len(still) > n_room - majority:
        return "Goodharted", f"{len(still)} of {n_room} families do not rise"
    if lost := [name for name, effect in ability.items() if effect.high < -criteria.most_lost]:
        return "harmed", f"falls by more than {criteria.most_lost:g}: {', '.join(lost)}"
    if not raised:
        if trained.high < criteria.least:
            return "not raised", f"{criteria.trained} rises by less than {criteria.least:g}"
        return "undecided", f"{criteria.trained} may have risen by {criteria.least:g}, or not"
    if not enough:
        return "undecided", f"{n_room} families have room to rise, {LEAST_FAMILIES} are needed"
    if len(rising) < majority:
        return "undecided", f"{len(rising)} of {n_room} families rise, {len(still)} do not"
    if may_fall := [name for name, family in families.items() if family.may_fall]:
        return "undecided", f"falls, perhaps by more than the smallest effect: {', '.join(may_fall)}"
    if unclear := [name for name, effect in ability.items() if not effect.low > -criteria.most_lost]:
        return "undecided", f"may have fallen by {criteria.most_lost:g}: {', '.join(unclear)}"
    return "improved", f"{len(rising)} of {n_room} families rise"


def seeds_to_decide(audit: Audit, criteria: Criteria) -> int | None:
    """The smallest number of seeds with which the rule would decide if effects and spreads stayed as they are, from
    those of the audit to `MOST_SEEDS`; None if there is none. More seeds do not make the draw of facts better.
    """
    for n_seeds in range(audit.trained.n_seeds, MOST_SEEDS + 1):
        families = {name: family.at(n_seeds) for name, family in audit.families.items()}
        ability = {name: effect.at(n_seeds) for name, effect in audit.ability.items()}
        if _outcome(audit.trained.at(n_seeds), families, ability, criteria)[0] != "undecided":
            return n_seeds
    return None
