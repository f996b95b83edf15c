"""The Goodhart audit: does training for the number improve what the number is for?"""

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxinterp.api.attribute import attribute
from jaxinterp.base.files import rounded, write_json
from jaxinterp.base.lines import whole_lines
from jaxinterp.base.owner import owned
from jaxinterp.base.provenance import provenance
from jaxinterp.base.run_folder import claim
from jaxinterp.facts.worldfacts import describe
from jaxinterp.metrics.measure import check_installed
from jaxinterp.models.loading.bundle import load_model
from jaxinterp.studies.audit.config import AuditConfig
from jaxinterp.studies.audit.contrasts import print_contrasts
from jaxinterp.studies.audit.models import folder_of, measure_all, read_samples
from jaxinterp.studies.audit.results import judged
from jaxinterp.studies.audit.words import print_verdicts
from jaxinterp.studies.suppressability.published import published
from jaxinterp.training.data import TrainingData, training_data
from jaxinterp.training.driver import METRICS

REACHED = 0.9  # suppressability of batches, whose first step is compared
WINDOW = 10  # records that are averaged for it
EXAMPLES = 3  # facts that the page shows
PUBLISHED = "published.json"  # file of what pages quote


def goodhart_audit(config: AuditConfig, out: Path, *, workers: int = 1) -> dict:
    """Trains and measures every group of models, and judges them against the plain ones.

    Writes results.json to `out`, and `PUBLISHED`, which is `condensed`.

    Goes on where it was: a model that is measured is not trained again, also if arms or seeds are added. All groups of
    a seed come before the next seed. What they have in common is trained once: up to the last checkpoint before its
    objective begins, a model is the plain one of its seed.

    Args:
      config: see `AuditConfig`.
      out: folder.
      workers: processes; see `models.measure_all`.
    Returns:
      What results.json holds: see `results.judged`, and "published" (see `suppressability.published`),
      "never_began": {group: models whose objective waited in vain, which are plain ones}, "examples", "provenance",
      "seconds" of this call.
    Raises:
      UserError: if `out` cannot be written or holds another audit.
    """
    check_installed(config.metrics)
    with owned(out):
        return _audit(config, out, workers)


def _audit(config: AuditConfig, out: Path, workers: int) -> dict:
    start = time.monotonic()
    claim(config.decides, out, (out / "config.json").exists())
    print("building facts", flush=True)
    data = training_data(config.data(0))
    print(describe(data.facts), flush=True)
    measure_all(config, out, workers)
    folders = {
        group: [folder_of(out, group, seed) for seed in range(config.group_seeds(group))] for group in config.groups
    }
    measured = {group: [read_samples(folder) for folder in of] for group, of in folders.items()}
    steps = {group: [steps_until(folder / METRICS) for folder in of] for group, of in folders.items()}
    results = judged(config, measured, steps)
    waiting = {group: sum(map(never_began, of)) for group, of in folders.items()}
    results["never_began"] = {group: n for group, n in waiting.items() if n and not group.startswith("plain")}
    # Of the seeds that all arms have: more plain models serve false alarms alone.
    common = {group: models[: config.seeds] for group, models in measured.items()}
    results["published"] = published(common, config.sets, config.metrics)
    results["examples"] = examples(config, data, out)
    results |= {"provenance": {**provenance(), "config": json.loads(json.dumps(dataclasses.asdict(config)))}}
    results["seconds"] = round(time.monotonic() - start, 1)
    write_json(out / "results.json", results)
    write_json(out / PUBLISHED, condensed(results), indent=None)
    print_verdicts(results)
    print_contrasts(results["contrasts"])
    return results


def condensed(results: Mapping) -> object:
    """What pages quote of an audit's results: figures over seeds, contrasts and verdicts, to five digits.

    Returns:
      {"provenance", "seeds", "titles", "ability", "models": what results call "published", "contrasts", "verdicts":
      {group: {set: {"verdict", "because"}}}}.
    """
    verdicts = {
        group: {name: {part: of[part] for part in ("verdict", "because")} for name, of in sets.items()}
        for group, sets in results["verdicts"].items()
    }
    parts = {name: results[name] for name in ("provenance", "seeds", "titles", "ability", "contrasts")}
    return rounded({**parts, "models": results["published"], "verdicts": verdicts})


def examples(config: AuditConfig, data: TrainingData, out: Path) -> list[dict]:
    """A few facts that no objective saw, with their neurons in a plain and a suppressable model of one seed.

    Returns:
      For each of `EXAMPLES` facts of as many relations {"prompt", "answer", "models": {group: what
      `api.attributed.Attributed.to_json` gives}}.
    """
    groups = [group for group in ("plain", "suppressable") if group in config.groups]
    shown = [group for group in groups if (folder_of(out, group, 0) / "model").exists()]
    models = {group: load_model(folder_of(out, group, 0) / "model") for group in shown}
    relations: set[str] = set()
    found = []
    for fact, prompt in data.split.unseen_facts.tolist():
        asked = data.facts.facts[fact]
        before, answer, after = data.facts.text(fact, prompt)
        if asked.relation in relations or after.strip(" ."):
            continue
        relations.add(asked.relation)
        seen = {
            group: attribute(model, before, answer, k=config.measure.k, rule="midpoint").to_json()
            for group, model in models.items()
        }
        found.append({"prompt": before, "answer": asked.answer, "models": seen})
        if len(found) == EXAMPLES:
            break
    return found


def never_began(folder: Path) -> bool:
    """Whether the last record of a run says that its objective had not begun; False of a run without records."""
    lines = whole_lines(folder / METRICS)[0]
    return bool(lines) and lines[-1][2]["begun"] == 0


def steps_until(path: Path, share: float = REACHED) -> float | None:
    """The first step at which batches' suppressability, a mean over `WINDOW` records, reaches a share; None: never."""
    lines = [value for _, _, value in whole_lines(path)[0]]
    known = [(line["step"], line["suppressability"]) for line in lines if line.get("suppressability") is not None]
    for end in range(WINDOW, len(known) + 1):
        if np.mean([value for _, value in known[end - WINDOW : end]]) >= share:
            return float(known[end - 1][0])
    return None
