"""How much of a figure is the seed's: an ensemble, measured member by member, with the spread over seeds."""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from jaxinterp.api.measured import measured_results
from jaxinterp.base.files import writable_folder, write_json
from jaxinterp.base.provenance import provenance
from jaxinterp.facts.worldfacts import describe
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.results import is_known, missing_sentence
from jaxinterp.report.printed import remarks_shown, shown_figures
from jaxinterp.report.shown import print_parts
from jaxinterp.training.data import TrainingData, training_data
from jaxinterp.training.ensemble import train_ensemble
from jaxinterp.training.ensemble_config import EnsembleConfig, Member


def seeds_study(
    config: EnsembleConfig, measure_config: MeasureConfig, out: Path, data: TrainingData | None = None
) -> dict:
    """Trains an ensemble and measures every member; writes results.json to `out`.

    An ensemble in `out` is continued, or read if it is done.

    Args:
      config: the members.
      measure_config: how all of them are measured.
      out: folder; see `train_ensemble` for what else it holds.
      data: None is `training_data(config.run.data)`.
    Returns:
      What results.json holds: {"provenance", "seconds" (of this call), "models": {name: M}, "failed": {name: why},
      "never_began": {name: why it is a plain model}, "spread": {setting: {set: {metric: {"mean", "sd", "min", "max",
      "n"}}}}}, M as `metrics.results.model_results` gives it, and the spread that of the members' values over seeds
      ("sd" with n − 1; null of one seed).
    Raises:
      UserError: if `out` cannot be written or holds another run, or no member is finite.
    """
    start = time.monotonic()
    if data is None:
        print("building facts", flush=True)
        data = training_data(config.run.data)
    print(describe(data.facts), flush=True)
    writable_folder(out)
    title = f"train {len(config.members)} models"
    trained = train_ensemble(config, data, out, resume=(out / "config.json").exists(), title=title)
    models = {
        member: measured_results(member.name, model, data, measure_config) for member, model in trained.models.items()
    }
    results = {
        "provenance": {**provenance(), "measure": dataclasses.asdict(measure_config)},
        "seconds": round(time.monotonic() - start, 1),
        "models": {member.name: result for member, result in models.items()},
        "failed": {member.name: reason for member, reason in trained.failed.items()},
        "never_began": {member.name: sentence for member, sentence in trained.never_began.items()},
        "spread": seed_spread(models),
    }
    write_json(out / "results.json", results)
    print_spread(results)
    return results


def seed_spread(models: Mapping[Member, Mapping]) -> dict[str, dict[str, dict[str, dict]]]:
    """Setting -> set -> metric -> spread over seeds of what `metrics.results.model_results` gave for each member."""
    settings: dict[str, list[Mapping]] = {}
    for member, result in models.items():
        settings.setdefault(member.setting, []).append(result["sets"])
    return {
        setting: {
            set_name: {
                name: _spread([result[set_name][name]["value"] for result in results])
                for name in results[0][set_name]
                if all(is_known(result[set_name].get(name)) for result in results)
            }
            for set_name in results[0]
        }
        for setting, results in settings.items()
    }


def _spread(values: Sequence[float]) -> dict[str, float | int | None]:
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": math.fsum(values) / len(values), "sd": sd, "min": min(values), "max": max(values), "n": len(values)}


def print_spread(results: Mapping) -> None:
    """Prints settings by metric and set: mean ± standard deviation over seeds, and the range."""
    spread = results["spread"]
    sets = list(dict.fromkeys(set_name for by_set in spread.values() for set_name in by_set))
    measured = {name for by_set in spread.values() for metrics in by_set.values() for name in metrics}
    shown = shown_figures(measured)
    names = (set_name.replace("_", " ") for set_name in sets)
    table = Table("setting", "", "seeds", *names, title="%, mean ± standard deviation over seeds, and range")
    for setting, by_set in spread.items():
        for metric, label in shown.items():
            found = [by_set.get(set_name, {}).get(metric) for set_name in sets]
            n = max((value["n"] for value in found if value), default=0)
            table.add_row(setting if metric == next(iter(shown)) else "", label, str(n), *map(_percent, found))
        table.add_section()
    missing = missing_sentence(results)
    print_parts([table, *([missing] if missing else []), *remarks_shown(results)])
    for name, reason in results["failed"].items():
        print(f"{name} failed and is in no figure: {reason}")


def _percent(spread: Mapping | None) -> str:
    if spread is None or not math.isfinite(spread["mean"]):
        return "–"
    sd = "" if spread["sd"] is None else f" ± {100 * spread['sd']:.1f}"
    return f"{100 * spread['mean']:.1f}{sd} [{100 * spread['min']:.1f}, {100 * spread['max']:.1f}]"
