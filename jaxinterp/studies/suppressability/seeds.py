"""How much of a figure is the seed's: an ensemble, measured member by member, with the spread over seeds."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxinterp.api.measured import measured_results
from jaxinterp.base.files import write_json
from jaxinterp.base.owner import owned
from jaxinterp.base.provenance import provenance
from jaxinterp.facts.worldfacts import describe
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.results import is_known, missing_sentence
from jaxinterp.report.printed import remarks_shown, spread_shown
from jaxinterp.report.sections import Section, write_sections
from jaxinterp.report.shown import Part, print_parts
from jaxinterp.studies.statistics import spread
from jaxinterp.training.data import TrainingData, training_data
from jaxinterp.training.ensemble import train_ensemble
from jaxinterp.training.ensemble_config import EnsembleConfig, Member

REPORT = "report.html"
LEAD = ("Several seeds of several weights of the objective, trained in one program, and measured one by one.",)


def seeds_study(
    config: EnsembleConfig, measure_config: MeasureConfig, out: Path, data: TrainingData | None = None
) -> dict:
    """Trains an ensemble and measures every member; writes results.json and `REPORT` to `out`.

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
    with owned(out):
        return _study(config, measure_config, out, data)


def _study(config: EnsembleConfig, measure_config: MeasureConfig, out: Path, data: TrainingData | None) -> dict:
    start = time.monotonic()
    if data is None:
        print("building facts", flush=True)
        data = training_data(config.run.data)
    print(describe(data.facts), flush=True)
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
    parts = spread_parts(results)
    sections = [Section("spread", "Spread over seeds", parts)]
    write_sections(out / REPORT, "The main job from several seeds", LEAD, sections, results["provenance"])
    print_parts(parts)
    return results


def seed_spread(models: Mapping[Member, Mapping]) -> dict[str, dict[str, dict[str, dict]]]:
    """Setting -> set -> metric -> spread over seeds of what `metrics.results.model_results` gave for each member."""
    settings: dict[str, list[Mapping]] = {}
    for member, result in models.items():
        settings.setdefault(member.setting, []).append(result["sets"])
    return {setting: spread_of_sets(results) for setting, results in settings.items()}


def spread_of_sets(models: Sequence[Mapping]) -> dict[str, dict[str, dict]]:
    """Set -> metric -> spread over models of the "sets" of their results; a metric that one model lacks has none."""
    return {
        set_name: {
            name: spread([sets[set_name][name]["value"] for sets in models])
            for name in models[0][set_name]
            if all(is_known(sets[set_name].get(name)) for sets in models)
        }
        for set_name in models[0]
    }


def spread_parts(results: Mapping) -> list[Part]:
    """Settings by metric and set: mean ± standard deviation over seeds, and the range; and who is in no figure."""
    missing = missing_sentence(results)
    table = spread_shown(results["spread"], "setting", "seeds")
    failed = [f"{name} failed and is in no figure: {reason}" for name, reason in results["failed"].items()]
    return [table, *([missing] if missing else []), *remarks_shown(results), *failed]
