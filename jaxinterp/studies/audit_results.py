"""What an audit found: verdicts, effects, doses, and what the meta-gradient adds."""

import dataclasses
import json
import math
from collections.abc import Mapping
from itertools import combinations

import numpy as np
from rich.table import Table

from jaxinterp.metrics.registry import get_metric
from jaxinterp.progress import print_table
from jaxinterp.studies.audit_config import CHEATS, DOSES, AuditConfig, base, title
from jaxinterp.studies.audit_models import Measured
from jaxinterp.studies.verdict import Audit, audited, paired_effect

Models = list[Measured | None]  # a seed each; None is one whose run failed
LEAST_SEEDS = 4  # that both groups of a comparison must have; of a smaller audit, all


def judged(config: AuditConfig, measured: Mapping[str, Models], steps: Mapping[str, list[float | None]]) -> dict:
    """Verdicts and effects of what was measured.

    Groups are compared on the seeds of which both have a model; where those are fewer than `LEAST_SEEDS` there is no
    verdict.

    Returns:
      {"titles", "seeds", "verdicts": {group: {set: V}}, "meta": {set: {metric: {comparison: E}}}, "steps_to_90":
      {group: [step or null]}, "failed": {group: runs}, "doses": {set: {metric: {group: [value a seed]}}},
      "false_alarms": {set: {"pairs", "alarms"}}}, with V = {"verdict", "seeds", "resamples", "effects": {metric: E},
      "left_out": [metric]} and E = {"value", "low", "high", "p", "adjusted", "vote", "before", "after"}. What has no
      value is null.
    """
    verdicts: dict[str, dict] = {}
    present = {group: [model for model in models if model is not None] for group, models in measured.items()}
    present = {group: models for group, models in present.items() if models}
    for group in config.groups:
        if group != base(group):
            before, after = _common(measured[base(group)], measured[group])
            if len(after) >= min(LEAST_SEEDS, config.seeds):
                verdicts[group] = {name: _plain(config, name, before, after) for name in config.sets}
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
            "verdicts": verdicts,
            "meta": {name: _meta(config, measured, name) for name in config.sets},
            "steps_to_90": {group: list(values) for group, values in steps.items()},
            "doses": {name: _doses(config, present, name) for name in config.sets},
            "failed": {group: sum(model is None for model in models) for group, models in measured.items()},
            "false_alarms": {name: false_alarms(config, present["plain"], name) for name in config.sets},
        }
    )


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


def _audit(
    config: AuditConfig,
    set_name: str,
    before: list[Measured],
    after: list[Measured],
    equals: list[Measured] | None = None,
) -> Audit:
    names = (config.criteria.trained, *config.criteria.independent, *config.criteria.ability)
    there = [name for name in names if all(name in model[set_name] for model in (*before, *after))]
    criteria = dataclasses.replace(
        config.criteria, independent=tuple(name for name in config.criteria.independent if name in there)
    )
    groups = ({name: _samples(models, set_name, name) for name in there} for models in (before, after))
    between = {name: _samples(equals, set_name, name)[:, 0] for name in there} if equals else None
    return audited(*groups, {name: get_metric(name).better for name in there}, criteria, between=between)


def _plain(config: AuditConfig, set_name: str, before: list[Measured], after: list[Measured]) -> dict:
    audit = _audit(config, set_name, before, after)
    effects = {
        name: {
            **{key: float(getattr(effect, key)) for key in ("value", "low", "high", "p")},
            "adjusted": audit.adjusted.get(name),
            "vote": audit.votes.get(name),
            "before": _mean(_samples(before, set_name, name)[:, 0]),
            "after": _mean(_samples(after, set_name, name)[:, 0]),
        }
        for name, effect in audit.effects.items()
    }
    # A set of one relation has no controls, and none of what needs other relations.
    left_out = [name for name in config.criteria.independent if name not in effects]
    return {
        "verdict": audit.verdict,
        "seeds": len(after),
        "resamples": dict(audit.resamples),
        "effects": effects,
        "left_out": left_out,
    }


def _mean(values: object) -> float:
    return float(np.mean(np.asarray(values)))


def _meta(config: AuditConfig, measured: Mapping[str, Models], set_name: str) -> dict:
    """What the meta-gradient adds to each other arm, metric by metric, on the seeds that both have."""
    if "suppressable" not in measured:
        return {}
    pairs = {
        arm: _common(measured[arm], measured["suppressable"])
        for arm in ("detached", "other_fact", "plain")
        if arm in measured
    }
    pairs = {arm: pair for arm, pair in pairs.items() if len(pair[0]) >= min(LEAST_SEEDS, config.seeds)}
    full = [model for model in measured["suppressable"] if model is not None]
    found: dict[str, dict] = {}
    for metric in config.metrics:
        models = [*full, *(model for before, _ in pairs.values() for model in before)]
        if not all(metric in model[set_name] for model in models):
            continue
        found[metric] = {"suppressable": {"value": _mean(_samples(full, set_name, metric)[:, 0])}}
        for arm, pair in pairs.items():
            before, after = (_samples(of, set_name, metric) for of in pair)
            effect = paired_effect(before, after, level=config.criteria.level)
            about = {key: float(getattr(effect, key)) for key in ("low", "high", "p")}
            found[metric][arm] = {"value": _mean(before[:, 0]), "gain": effect.value, "seeds": len(before), **about}
    return found


def _doses(config: AuditConfig, measured: Mapping[str, list[Measured]], set_name: str) -> dict:
    groups = [group for group in measured if group in DOSES or "_x" in group]
    return {
        metric: {group: [float(model[set_name][metric][0]) for model in measured[group]] for group in groups}
        for metric in config.metrics
        if all(metric in model[set_name] for group in groups for model in measured[group])
    }


def false_alarms(config: AuditConfig, plain: list[Measured], set_name: str, most: int = 20) -> dict:
    """Pairs of plain models of different seeds, and how many verdicts say anything else than "no change".

    What a seed does to a metric is what it does to all plain models; fewer than four say too little.
    """
    pairs = list(combinations(plain, 2))[: most if len(plain) > 3 else 0]
    verdicts = [_audit(config, set_name, [a], [b], plain).verdict for a, b in pairs]
    return {"pairs": len(pairs), "alarms": sum(verdict != "no change" for verdict in verdicts)}


def with_interval(effect: Mapping, key: str = "value") -> str:
    """A change and its interval, in words."""
    if effect[key] is None:
        return "–"
    interval = "" if effect["low"] is None else f" [{effect['low']:+.3f}, {effect['high']:+.3f}]"
    return f"{effect[key]:+.3f}{interval}"


def print_verdicts(results: Mapping) -> None:
    """Prints the verdicts, with the change of the trained metric and the votes of the others."""
    trained = results["criteria"]["trained"]
    table = Table("models", "set", "verdict", "resamples", f"change of {trained}", "better", "worse", "no change")
    for group, by_set in results["verdicts"].items():
        for set_name, found in by_set.items():
            effect = found["effects"][trained]
            votes = [e["vote"] for e in found["effects"].values()]
            table.add_row(
                results["titles"][group] + (" (a cheat)" if group in CHEATS else ""),
                set_name.replace("_", " "),
                found["verdict"],
                f"{found['resamples'][found['verdict']]:.0%}",
                with_interval(effect),
                *(str(sum(vote == sign for vote in votes)) for sign in (1, -1, 0)),
            )
        table.add_section()
    print_table(table)
    for group, n in results["failed"].items():
        if n:
            print(f"{results['titles'][group]}: {n} runs failed, their numbers stopped being finite")
    for set_name, found in results["false_alarms"].items():
        print(
            f"false alarms, {set_name.replace('_', ' ')}: {found['alarms']} of {found['pairs']} pairs of plain models"
        )
