"""What an audit found: verdicts and their error rates, effects, doses, and what the meta-gradient adds."""

import dataclasses
import json
import math
from collections.abc import Mapping

import numpy as np
from rich.table import Table

from jaxinterp.base.progress import print_table
from jaxinterp.metrics.registry import METRICS
from jaxinterp.studies.audit.config import CHEATS, DOSES, AuditConfig, base, title
from jaxinterp.studies.audit.false_alarms import false_alarms
from jaxinterp.studies.audit.models import LEFT_OUT, Measured
from jaxinterp.studies.audit.verdict import MOST_SEEDS, Effect, Samples, Scale, audited, paired_effect, seeds_to_decide
from jaxinterp.studies.audit.verdict_rates import FOUND, rates_of_audit

Models = list[Measured | None]  # a seed each; None is one whose run failed
REASONS = ("no room", "no value", "not measured")  # why a metric is set aside
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
        `verdict_rates.rates_of_audit` gives them};
        F = {"state", "metrics", "counted": those with room, "value", "low", "high"}, towards the better and in smallest
        effects, a mean over those with room, or over all where none has;
        E = {"value", "low", "high", "p", "before", "after"} in the metric's unit, with {"smallest", "family"} where it
        is of a family;
      - "false_alarms": {set: as `false_alarms.false_alarms` gives them};
      - "meta": {set: {metric: {comparison: E}}}, "doses": {set: {metric: {group: [value a seed]}}},
        "steps_to_90": {group: [step or null]}, "failed": {group: runs};
      - "left_out": {group: {set: {what and why: models}}}, how many models' figures lack a relation, or facts
        that have no control of a kind. Effects are
        then of sets that differ by it.
    """
    verdicts: dict[str, dict] = {}
    present = {group: [model for model in models if model is not None] for group, models in measured.items()}
    present = {group: models for group, models in present.items() if models}
    for group in config.groups:
        if group != base(group):
            before, after = _common(measured[base(group)], measured[group])
            if len(after) >= max(2, min(LEAST_SEEDS, config.seeds)):
                verdicts[group] = {name: _verdict(config, name, before, after, simulations) for name in config.sets}
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
            "verdicts": verdicts,
            "meta": {name: _meta(config, measured, name) for name in config.sets},
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
        for model in models:
            for set_name, metrics in model.items():
                for relation in np.asarray(metrics.get(LEFT_OUT, ())).tolist():
                    counts = found.setdefault(group, {}).setdefault(set_name, {})
                    counts[relation] = counts.get(relation, 0) + 1
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
    samples = {name: _samples(models, set_name, name) for name in present}
    return samples, {name: _scale(name) for name in present}


def _scale(name: str) -> Scale:
    metric = METRICS[name]
    return Scale(metric.better, metric.range[0 if metric.better == "lower" else 1])


def _verdict(
    config: AuditConfig, set_name: str, before: list[Measured], after: list[Measured], simulations: int
) -> dict:
    criteria = config.criteria
    groups = [_judgeable(config, models, set_name) for models in (before, after)]
    samples, scales = [of for of, _ in groups], groups[0][1]
    audit = audited(*samples, scales, criteria)
    decides = seeds_to_decide(audit, criteria)
    families = {
        name: {
            "state": family.state,
            "metrics": list(criteria.families[name]),
            "counted": list(family.counted),
            **_about(family.rise or family.change, "value", "low", "high"),
        }
        for name, family in audit.families.items()
    }
    family_of = {name: family for family, names in criteria.families.items() for name in names}
    effects = {}
    for name in (name for name in scales if name in samples[1]):
        effects[name] = {
            **_about(paired_effect(*(of[name] for of in samples), level=criteria.level), "value", "low", "high", "p"),
            "before": _mean(samples[0][name][:, 0]),
            "after": _mean(samples[1][name][:, 0]),
        }
        if name in family_of:
            effects[name] |= {"smallest": criteria.smallest_effect(name), "family": family_of[name]}
    return {
        "verdict": audit.verdict,
        "because": audit.because,
        "seeds": len(after),
        "seeds_to_decide": decides,
        "level": next((family.change.level for family in audit.families.values()), None),
        "families": families,
        "effects": effects,
        "set_aside": dict(audit.set_aside),
        "rates": rates_of_audit(*samples, scales, criteria, simulations=simulations),
    }


def _about(effect: Effect, *fields: str) -> dict[str, float]:
    return {field: float(getattr(effect, field)) for field in fields}


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
            about = {"seeds": len(before), **_about(effect, "low", "high", "p")}
            found[metric][arm] = {"value": _mean(before[:, 0]), "gain": effect.value, **about}
    return found


def _doses(config: AuditConfig, measured: Mapping[str, list[Measured]], set_name: str) -> dict:
    groups = [group for group in measured if group in DOSES or "_x" in group]
    return {
        metric: {group: [float(model[set_name][metric][0]) for model in measured[group]] for group in groups}
        for metric in config.metrics
        if all(metric in model[set_name] for group in groups for model in measured[group])
    }


def with_interval(effect: Mapping, key: str = "value", digits: int = 3) -> str:
    """A change and its interval, in words."""
    if effect[key] is None:
        return "–"
    value, low, high = (
        None if x is None else f"{round(x, digits) + 0.0:+.{digits}f}".replace("-", "−")
        for x in (effect[key], effect["low"], effect["high"])
    )
    return value if low is None else f"{value} [{low}, {high}]"


def decided_by(found: Mapping) -> str:
    """How many seeds would decide a verdict, in words; nothing if it is decided."""
    if found["verdict"] != "undecided":
        return ""
    seeds = found["seeds_to_decide"]
    return f"more than {MOST_SEEDS} seeds would decide" if seeds is None else f"{seeds} seeds would decide"


def aside_in_words(found: Mapping) -> str:
    """The metrics of a verdict that cannot show a rise, by the reason."""
    reasons = {why: [name for name in found["set_aside"] if found["set_aside"][name] == why] for why in REASONS}
    return "; ".join(
        f"{why}: {', '.join(str(METRICS[name].label) for name in names)}" for why, names in reasons.items() if names
    )


def in_words(alarms: Mapping) -> str:
    """False alarms of a set."""
    if not alarms["divisions"]:
        return f"{alarms['models']} plain models are too few to divide"
    rate, counts = alarms["rate"], alarms["outcomes"]
    counted = ", ".join(f"{n} {outcome}" for outcome, n in counts.items() if n)
    return (
        f"{rate['value']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}] of {alarms['divisions']} divisions of "
        f"{alarms['models']} plain models into two groups of {alarms['size']} ({counted}); if S is made to rise as "
        f"well, {alarms['granted'].get('improved', 0)} of them are improved, and {alarms['rising']['value']:.1%} of "
        "single families rise"
    )


def left_out_sentences(results: Mapping) -> list[str]:
    """For each group and set, what the figures of its models lack, and of how many."""
    return [
        f"{results['titles'][group]}, {set_name.replace('_', ' ')}: left out: "
        + "; ".join(f"{what} in {n} model{'s' * (n > 1)}" for what, n in counts.items())
        for group, by_set in results["left_out"].items()
        for set_name, counts in by_set.items()
    ]


def print_verdicts(results: Mapping) -> None:
    """Prints the verdicts, with the change of the trained metric, what the families do, and how often they err."""
    trained = results["criteria"]["trained"]
    errs = ("improved wrongly", "Goodharted wrongly", "improved found", "Goodharted found")
    table = Table("models", "set", "verdict", "because", f"change of {trained}", *errs)
    for group, by_set in results["verdicts"].items():
        for set_name, found in by_set.items():
            table.add_row(
                results["titles"][group] + (" (a cheat)" if group in CHEATS else ""),
                set_name.replace("_", " "),
                found["verdict"],
                "; ".join(filter(None, (found["because"], decided_by(found)))),
                with_interval(found["effects"][trained]),
                *(f"{rate['value']:.1%}" for rate in found["rates"].values()),
            )
        table.add_section()
    print_table(table)
    if not results["verdicts"]:
        print("no verdict: too few seeds")
    print(f"found: of such audits, where all families rise by {FOUND:g} smallest effects, and where none rises")
    heads = ("models", "set", *results["criteria"]["families"], "set aside")
    families = Table(*heads, title="families, in smallest effects")
    for group, by_set in results["verdicts"].items():
        for set_name, found in by_set.items():
            cells = (found["families"].get(name) for name in results["criteria"]["families"])
            words = ("–" if of is None else f"{of['state']}\n{with_interval(of, digits=1)}" for of in cells)
            families.add_row(results["titles"][group], set_name.replace("_", " "), *words, aside_in_words(found))
        families.add_section()
    print_table(families)
    for group, n in results["failed"].items():
        if n:
            print(f"{results['titles'][group]}: {n} runs failed, their numbers stopped being finite")
    for sentence in left_out_sentences(results):
        print(sentence)
    for set_name, alarms in results["false_alarms"].items():
        print(f"false alarms, {set_name.replace('_', ' ')}: {in_words(alarms)}")
