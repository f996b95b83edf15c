"""The Goodhart audit: does training for the number improve what the number is for?"""

import dataclasses
import json
import time
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxinterp.facts.encoding import encode
from jaxinterp.facts.worldfacts import describe
from jaxinterp.files import write_json
from jaxinterp.inspection import inspect_answer
from jaxinterp.metrics.measure import measure_sets
from jaxinterp.metrics.registry import get_metric
from jaxinterp.models.bundle import LanguageModel, load_model
from jaxinterp.progress import progress
from jaxinterp.provenance import provenance
from jaxinterp.studies.audit_config import CHEATS, DOSES, TITLES, AuditConfig
from jaxinterp.studies.verdict import Audit, audited, paired_effect
from jaxinterp.training.data import TrainingData, training_data
from jaxinterp.training.loop import train
from jaxinterp.training.run_folder import claim

Measured = Mapping[str, Mapping[str, np.ndarray]]  # set -> metric -> samples
REACHED = 0.9  # suppressability of batches, whose first step is compared
EXAMPLES = 3  # facts that the page shows
WINDOW = 10  # records that are averaged for it


def goodhart_audit(config: AuditConfig, out: Path, data: TrainingData | None = None) -> dict:
    """Trains and measures every group of models, and judges them against the plain ones; writes results.json to `out`.

    Goes on where it was: a model that is measured is not trained again. All groups of a seed come before the next seed,
    so that what is there can be judged at any time.

    Args:
      config: see `AuditConfig`.
      out: folder.
      data: None is `training_data(config.run.data)`.
    Returns:
      What results.json holds; see `judged`.
    Raises:
      UserError: if `out` cannot be written or holds another audit.
    """
    start = time.monotonic()
    plain = dataclasses.asdict(config)
    claim(plain, out, (out / "config.json").exists())
    if data is None:
        print("building facts", flush=True)
        data = training_data(config.run.data)
    print(describe(data.facts), flush=True)
    jobs = [(seed, group) for seed in range(config.seeds) for group in config.groups]
    measured: dict[str, list[Measured]] = {group: [] for group in config.groups}
    steps: dict[str, list[float | None]] = {group: [] for group in config.groups}
    with progress("audit", len(jobs)) as report:
        for done, (seed, group) in enumerate(jobs):
            folder = out / "runs" / group / f"seed{seed}"
            report(done, f"{group}, seed {seed}")
            measured[group].append(_measured(config, data, group, seed, folder))
            steps[group].append(steps_until(folder / "metrics.jsonl"))
        report(len(jobs), "")
    results = judged(config, measured, steps)
    results["examples"] = examples(config, data, out)
    results |= {"provenance": {**provenance(), "config": json.loads(json.dumps(plain, default=str))}}
    results["seconds"] = round(time.monotonic() - start, 1)
    write_json(out / "results.json", results)
    print_verdicts(results)
    return results


def _measured(config: AuditConfig, data: TrainingData, group: str, seed: int, folder: Path) -> Measured:
    """A model's samples, from its folder if it was measured before."""
    path = folder / "samples.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as file:
            found: dict[str, dict[str, np.ndarray]] = {}
            for key in file.files:
                set_name, metric = key.split("/")
                found.setdefault(set_name, {})[metric] = file[key]
            return found
    run = config.training(group, seed)
    model = train(run, data, folder, resume=(folder / "config.json").exists(), title=f"{group}, seed {seed}")
    found = samples_of(config, data, model)
    partial = path.with_name("samples.partial.npz")
    np.savez(partial, **{f"{name}/{metric}": x for name, of in found.items() for metric, x in of.items()})
    partial.replace(path)
    return found


def samples_of(config: AuditConfig, data: TrainingData, model: LanguageModel) -> Measured:
    """Values and replicates of all metrics on all sets, and "ability" of the training sentences."""

    def encoded(queries: np.ndarray):
        return encode(data.facts, queries, model.tokenizer, n_ctx=model.config.n_ctx)

    sets = {name: encoded(getattr(data.split, name)) for name in config.sets}
    measure = dataclasses.replace(config.measure, metrics=config.metrics)
    found = measure_sets(model, data.facts, sets, encoded(data.split.training), measure)
    return {
        **{name: {metric: e.samples for metric, e in of.items()} for name, of in found.sets.items()},
        "ability": {metric: e.samples for metric, e in found.ability.items()},
    }


def examples(config: AuditConfig, data: TrainingData, out: Path) -> list[dict]:
    """A few facts that no objective saw, with their neurons in a plain and a suppressable model of one seed.

    Returns:
      For each of `EXAMPLES` facts of as many relations {"prompt", "answer", "models": {group: what
      `inspection.inspect_answer` gives}}.
    """
    shown = [group for group in ("plain", "suppressable") if group in config.groups]
    models = {group: load_model(out / "runs" / group / "seed0" / "model") for group in shown}
    relations: set[str] = set()
    found = []
    for fact, prompt in data.split.unseen_facts.tolist():
        asked = data.facts.facts[fact]
        if asked.relation in relations or data.facts.after(fact, prompt).strip(" ."):
            continue
        relations.add(asked.relation)
        text = data.facts.prompt(fact, prompt)
        seen = {
            group: inspect_answer(model, text, asked.answer, k=config.measure.k, rule="midpoint")
            for group, model in models.items()
        }
        found.append({"prompt": text, "answer": asked.answer, "models": seen})
        if len(found) == EXAMPLES:
            break
    return found


def steps_until(path: Path, share: float = REACHED) -> float | None:
    """The first step at which batches' suppressability, a mean over `WINDOW` records, reaches a share; None: never."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    known = [(line["step"], line["suppressability"]) for line in lines if line.get("suppressability") is not None]
    for end in range(WINDOW, len(known) + 1):
        if np.mean([value for _, value in known[end - WINDOW : end]]) >= share:
            return float(known[end - 1][0])
    return None


def judged(
    config: AuditConfig,
    measured: Mapping[str, list[Measured]],
    steps: Mapping[str, list[float | None]],
) -> dict:
    """Verdicts and effects of what was measured.

    Returns:
      {"titles", "seeds", "verdicts": {group: {set: V}}, "meta": {set: {metric: {comparison: E}}}, "steps_to_90":
      {group: [step or null]}, "doses": {set: {metric: {group: [value a seed]}}}, "false_alarms": {set: {"pairs",
      "alarms"}}}, with V = {"verdict", "resamples", "effects": {metric: E}} and E = {"value", "low", "high", "p",
      "adjusted", "vote", "before", "after"}.
    """
    verdicts: dict[str, dict] = {}
    for group in config.groups:
        base = group.replace(group.partition("_x")[0], "plain", 1) if "_x" in group else "plain"
        if group != base:
            pairs = {name: (measured[base], measured[group]) for name in config.sets}
            verdicts[group] = {name: _plain(_audit(config, name, *pair), *pair, name) for name, pair in pairs.items()}
    return {
        "titles": {group: title(group) for group in config.groups},
        "seeds": config.seeds,
        "criteria": json.loads(json.dumps(dataclasses.asdict(config.criteria))),
        "ability": {
            group: {
                metric: _mean([of["ability"][metric][0] for of in models]) for metric in models[0].get("ability", {})
            }
            for group, models in measured.items()
        },
        "verdicts": verdicts,
        "meta": {name: _meta(config, measured, name) for name in config.sets},
        "steps_to_90": {group: list(values) for group, values in steps.items()},
        "doses": {name: _doses(config, measured, name) for name in config.sets},
        "false_alarms": {name: false_alarms(config, measured["plain"], name) for name in config.sets},
    }


def title(group: str) -> str:
    """For people."""
    arm, _, factor = group.partition("_x")
    return TITLES[arm] + (f", {factor} × the steps" if factor else "")


def _samples(models: list[Measured], set_name: str, metric: str) -> np.ndarray:
    return np.stack([model[set_name][metric] for model in models])


def _audit(config: AuditConfig, set_name: str, before: list[Measured], after: list[Measured]) -> Audit:
    names = (config.criteria.trained, *config.criteria.independent, *config.criteria.ability)
    there = [name for name in names if all(name in model[set_name] for model in (*before, *after))]
    criteria = dataclasses.replace(
        config.criteria, independent=tuple(name for name in config.criteria.independent if name in there)
    )
    groups = ({name: _samples(models, set_name, name) for name in there} for models in (before, after))
    return audited(*groups, {name: get_metric(name).better for name in there}, criteria)


def _plain(audit: Audit, before: list[Measured], after: list[Measured], set_name: str) -> dict:
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
    return {"verdict": audit.verdict, "resamples": dict(audit.resamples), "effects": effects}


def _mean(values: object) -> float:
    return float(np.mean(np.asarray(values)))


def _meta(config: AuditConfig, measured: Mapping[str, list[Measured]], set_name: str) -> dict:
    """What the meta-gradient adds to each other arm, metric by metric."""
    others = [arm for arm in ("detached", "other_fact", "plain") if arm in measured]
    if "suppressable" not in measured:
        return {}
    found: dict[str, dict] = {}
    for metric in config.metrics:
        arms = ("suppressable", *others)
        if not all(metric in model[set_name] for arm in arms for model in measured[arm]):
            continue
        samples = {arm: _samples(measured[arm], set_name, metric) for arm in arms}
        found[metric] = {arm: {"value": _mean(samples[arm][:, 0])} for arm in arms}
        for arm in others:
            effect = paired_effect(samples[arm], samples["suppressable"], level=config.criteria.level)
            found[metric][arm] |= {key: float(getattr(effect, key)) for key in ("low", "high", "p")}
            found[metric][arm]["gain"] = effect.value
    return found


def _doses(config: AuditConfig, measured: Mapping[str, list[Measured]], set_name: str) -> dict:
    groups = [group for group in measured if group in DOSES or "_x" in group]
    return {
        metric: {group: [float(model[set_name][metric][0]) for model in measured[group]] for group in groups}
        for metric in config.metrics
        if all(metric in model[set_name] for group in groups for model in measured[group])
    }


def false_alarms(config: AuditConfig, plain: list[Measured], set_name: str, most: int = 20) -> dict:
    """Pairs of plain models of different seeds, and how many verdicts say anything else than "no change"."""
    pairs = list(combinations(range(len(plain)), 2))[:most]
    verdicts = [_audit(config, set_name, [plain[a]], [plain[b]]).verdict for a, b in pairs]
    return {"pairs": len(pairs), "alarms": sum(verdict != "no change" for verdict in verdicts)}


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
                f"{effect['value']:+.3f} [{effect['low']:+.3f}, {effect['high']:+.3f}]",
                *(str(sum(vote == sign for vote in votes)) for sign in (1, -1, 0)),
            )
        table.add_section()
    console = Console()
    Console(width=None if console.is_terminal else 160).print(table)
    for set_name, found in results["false_alarms"].items():
        print(
            f"false alarms, {set_name.replace('_', ' ')}: {found['alarms']} of {found['pairs']} pairs of plain models"
        )
