"""What an audit found: verdicts and their error rates, effects, doses, and what the meta-gradient adds."""

import collections
import dataclasses
import json
import math
from collections.abc import Mapping

import numpy as np

from jaxinterp.metrics.registry import METRICS
from jaxinterp.studies.audit.arms import DOSES, META
from jaxinterp.studies.audit.config import AuditConfig, base, title
from jaxinterp.studies.audit.contrasts import contrasts
from jaxinterp.studies.audit.false_alarms import false_alarms
from jaxinterp.studies.audit.models import LEFT_OUT, Measured
from jaxinterp.studies.audit.rates import rates_of_audit
from jaxinterp.studies.audit.verdict import Samples, Scale, audited, seeds_to_decide
from jaxinterp.studies.statistics import Effect, paired_effect

Models = list[Measured | None]  # a seed each; None is one whose run failed
LEAST_SEEDS = 4  # that both groups of a comparison must have; of a smaller audit, all, and two for a verdict


def judged(
    config: AuditConfig,
    measured: Mapping[str, Models],
    steps: Mapping[str, list[float | None]],
    *,
    simulations: int = 300,
    divisions: int = 200,
) -> dict:
    """Verdicts and effects of what was measured.

    Groups are compared on the seeds of which both have a model; where those are fewer than `LEAST_SEEDS` there is no
    verdict.

    Args:
      config: of the audit.
      measured: group -> models.
      steps: group -> steps until the trained metric is high, a seed each.
      simulations: for each error rate of a verdict.
      divisions: of the plain models, for false alarms.
    Returns:
      Plain JSON; what has no value is null.
      - "titles": {group: words}, "seeds", "criteria": fields of `Criteria`;
      - "ability": {group: {metric: mean}}, on the training sentences;
      - "verdicts": {group: {set: V}}, V = {"verdict", "because", "seeds": of each group, "seeds_to_decide": how many
        would decide, "seeds" if they did, null if more than `MOST_SEEDS`; "level": of the families' intervals,
        "families": {family: F}, "effects": {metric: E}, "set_aside": {metric: why}, "rates": as
        `rates.rates_of_audit` gives them};
        F = {"state", "metrics", "counted": those with room, "value", "low", "high"}, towards the better and in smallest
        effects, a mean over those with room, or over all where none has;
        E = {"value", "low", "high", "p", "before", "after"} in the metric's unit, with {"smallest", "family"} where it
        is of a family;
      - "false_alarms": {set: as `false_alarms.false_alarms` gives them};
      - "arms": {set: {metric: {arm: mean}}}, "contrasts": as `contrasts.contrasts` gives them;
      - "doses": {set: {metric: {group: [value a seed]}}},
        "steps_to_90": {group: [step or null]}, "failed": {group: runs};
      - "left_out": {group: {set: {what and why: models}}}, how many models' figures lack a relation, or facts
        that have no control of a kind. Effects are
        then of sets that differ by it.
    """
    present = {group: [model for model in models if model is not None] for group, models in measured.items()}
    present = {group: models for group, models in present.items() if models}
    pairs = {group: _common(measured[base(group)], measured[group]) for group in config.groups if group != base(group)}
    least = max(2, min(LEAST_SEEDS, config.seeds))
    plain = present.get("plain", [])
    return _without_nan(
        {
            "titles": {group: title(group) for group in config.groups},
            "seeds": config.seeds,
            "criteria": json.loads(json.dumps(dataclasses.asdict(config.criteria))),
            "ability": {
                group: {
                    metric: _mean([of["ability"][metric][0] for of in models])
                    for metric in models[0].get("ability", {})
                }
                for group, models in present.items()
            },
            "verdicts": {
                group: {name: _verdict(config, name, *pair, simulations) for name in config.sets}
                for group, pair in pairs.items()
                if len(pair[0]) >= least
            },
            "arms": {name: _arms(config, present, name) for name in config.sets},
            "contrasts": contrasts(config, measured),
            "steps_to_90": {group: list(values) for group, values in steps.items()},
            "doses": {name: _doses(config, present, name) for name in config.sets},
            "failed": {group: sum(model is None for model in models) for group, models in measured.items()},
            "left_out": _left_out(present),
            "false_alarms": {
                name: false_alarms(*_judgeable(config, plain, name), config.criteria, divisions=divisions)
                for name in config.sets
            },
        }
    )


def _left_out(present: Mapping[str, list[Measured]]) -> dict[str, dict[str, dict[str, int]]]:
    found: dict[str, dict[str, dict[str, int]]] = {}
    for group, models in present.items():
        for set_name, metrics in (item for model in models for item in model.items()):
            for relation in np.asarray(metrics.get(LEFT_OUT, ())).tolist():
                found.setdefault(group, {}).setdefault(set_name, collections.Counter())[relation] += 1
    return found


def _without_nan(value: object) -> object:
    """None for numbers that JSON has not."""
    if isinstance(value, dict):
        return {key: _without_nan(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_without_nan(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _common(before: Models, after: Models) -> tuple[list[Measured], list[Measured]]:
    """The seeds of which both groups have a model."""
    pairs = [(a, b) for a, b in zip(before, after, strict=False) if a is not None and b is not None]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _samples(models: list[Measured], set_name: str, metric: str) -> np.ndarray:
    return np.stack([model[set_name][metric] for model in models])


def _judgeable(config: AuditConfig, models: list[Measured], set_name: str) -> tuple[Samples, Mapping[str, Scale]]:
    """What verdicts look at, of the metrics that all the models have, with their scales."""
    criteria = config.criteria
    names = (criteria.trained, *criteria.independent, *criteria.ability)
    present = [name for name in names if models and all(name in model[set_name] for model in models)]
    return {name: _samples(models, set_name, name) for name in present}, {name: scale_of(name) for name in present}


def scale_of(name: str) -> Scale:
    """That of a registered metric."""
    metric = METRICS[name]
    return Scale(metric.better, metric.range[0 if metric.better == "lower" else 1])


def _verdict(
    config: AuditConfig, set_name: str, before: list[Measured], after: list[Measured], simulations: int
) -> dict:
    criteria = config.criteria
    (plain, scales), (trained, _) = (_judgeable(config, models, set_name) for models in (before, after))
    audit = audited(plain, trained, scales, criteria)
    family_of = {name: family for family, names in criteria.families.items() for name in names}
    effects = {}
    for name in (name for name in plain if name in trained):
        effect = paired_effect(plain[name], trained[name], level=criteria.level)
        means = {"before": _mean(plain[name][:, 0]), "after": _mean(trained[name][:, 0])}
        effects[name] = {**_about(effect, "value", "low", "high", "p"), **means}
        if name in family_of:
            effects[name] |= {"smallest": criteria.smallest_effect(name), "family": family_of[name]}
    return {
        "verdict": audit.verdict,
        "because": audit.because,
        "seeds": len(after),
        "seeds_to_decide": seeds_to_decide(audit, criteria),
        "level": next((family.change.level for family in audit.families.values()), None),
        "families": {
            name: {
                "state": family.state,
                "metrics": list(criteria.families[name]),
                "counted": list(family.counted),
                **_about(family.rise or family.change, "value", "low", "high"),
            }
            for name, family in audit.families.items()
        },
        "effects": effects,
        "set_aside": dict(audit.set_aside),
        "rates": rates_of_audit(plain, trained, scales, criteria, simulations=simulations),
    }


def _about(effect: Effect, *fields: str) -> dict[str, float]:
    return {field: float(getattr(effect, field)) for field in fields}


def _mean(values: object) -> float:
    return float(np.mean(np.asarray(values)))


def _arms(config: AuditConfig, present: Mapping[str, list[Measured]], set_name: str) -> dict:
    """Means over the seeds of each arm that is compared, metric by metric."""
    arms = [arm for arm in ("suppressable", *META) if arm in present]
    return {
        metric: {arm: _mean(_samples(present[arm], set_name, metric)[:, 0]) for arm in arms}
        for metric in config.metrics
        if all(metric in model[set_name] for arm in arms for model in present[arm])
    }


def _doses(config: AuditConfig, measured: Mapping[str, list[Measured]], set_name: str) -> dict:
    groups = [group for group in measured if group in DOSES or "_x" in group]
    return {
        metric: {group: [float(model[set_name][metric][0]) for model in measured[group]] for group in groups}
        for metric in config.metrics
        if all(metric in model[set_name] for group in groups for model in measured[group])
    }
