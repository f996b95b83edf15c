"""Figures over seeds: means with intervals, and where a single seed's figure is expected. What a README may quote."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy.stats
from jaxtyping import Float

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import write_json
from jaxinterp.base.progress import progress
from jaxinterp.base.provenance import provenance
from jaxinterp.facts.splits import SETS
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.measure import measure
from jaxinterp.metrics.registry import METRICS
from jaxinterp.models.loading.bundle import load_model
from jaxinterp.studies.audit.config import AuditConfig
from jaxinterp.studies.audit.models import folder_of
from jaxinterp.studies.statistics import paired_effect
from jaxinterp.training.data import training_data

LEAST_SEEDS = 2  # of which a spread can be said


def publish(config: AuditConfig, study: Path, arm: str, out: Path, measure_config: MeasureConfig) -> dict:
    """Measures the plain and suppressable models of a study as the main job does; writes the figures over seeds.

    Args:
      config: of the study.
      study: its folder, with the models.
      arm: of the study, whose models are those that the main job calls suppressable.
      out: file, {"provenance", "seeds", "measure", "models": {group: {set: {metric: figure}}}, "ability": {group:
        {metric: figure}}}, figures as `over_seeds` gives them.
      measure_config: of the main job.
    Raises:
      UserError: if a model is missing.
    """
    arms = {"plain": "plain", "suppressable": arm}
    measured: dict[str, list] = {group: [] for group in arms}
    with progress("measure", config.seeds * len(arms)) as report:
        for seed in range(config.seeds):
            data = training_data(config.data(seed))
            for number, (group, trained) in enumerate(arms.items(), 1):
                folder = folder_of(study, trained, seed) / "model"
                if not folder.exists():
                    raise UserError(f"{folder} is missing: the study has not trained it")
                found = measure(load_model(folder), data.facts, data.split, measure_config)
                sets = {**found.sets, "ability": found.ability}
                measured[group].append(
                    {name: {metric: of.samples for metric, of in metrics.items()} for name, metrics in sets.items()}
                )
                report(seed * len(arms) + number, f"{group}, seed {seed}")
    names = {metric for models in measured.values() for model in models for of in model.values() for metric in of}
    figures = published(measured, (*SETS, "ability"), sorted(names))
    result = {
        "provenance": provenance(),
        "seeds": config.seeds,
        "measure": dataclasses.asdict(measure_config),
        "ability": {group: of.pop("ability") for group, of in figures.items()},
        "models": figures,
    }
    write_json(out, result)
    return result


def published(
    measured: Mapping[str, Sequence[Mapping[str, Mapping[str, np.ndarray]] | None]],
    sets: Sequence[str],
    metrics: Sequence[str],
) -> dict[str, dict[str, dict[str, dict[str, float | int]]]]:
    """Group -> set -> metric -> figure, of groups of models that differ by their seed.

    Args:
      measured: group -> models, set -> metric -> samples each (the estimate, then replicates over relations and facts);
        None is a run that failed.
      sets, metrics: names; a metric of which not all models of a group have a finite value on a set is left out.
    Returns:
      Figures as `over_seeds` gives them.
    """
    found: dict[str, dict] = {}
    for group, models in measured.items():
        present = [model for model in models if model is not None]
        if len(present) < LEAST_SEEDS:
            continue
        found[group] = {
            set_name: {
                metric: over_seeds(np.stack([model[set_name][metric] for model in present]), METRICS[metric].range)
                for metric in metrics
                if all(_has_value(model[set_name].get(metric)) for model in present)
            }
            for set_name in sets
        }
    return found


def _has_value(samples: np.ndarray | None) -> bool:
    return samples is not None and bool(np.isfinite(samples[0]))


def over_seeds(
    samples: Float[np.ndarray, "seeds samples"], limits: tuple[float, float], level: float = 0.95
) -> dict[str, float | int]:
    """{"value", "low", "high", "from", "to", "seeds"}: the mean over seeds with its interval, over seeds, relations and
    facts (see `statistics.paired_effect`); and mean ± t · SD · √(1 + 1/n), between which the estimate of
    one more seed lies with probability `level`, if seeds are normal. Both are cut to the metric's limits.
    """
    effect = paired_effect(np.zeros_like(samples), samples, level=level)
    estimates = samples[:, 0]
    n = len(estimates)
    half = scipy.stats.t(n - 1).ppf((1 + level) / 2) * estimates.std(ddof=1) * np.sqrt(1 + 1 / n)
    value, low, high = effect.value, effect.low, effect.high
    lowest, highest = min(limits[0], value), max(limits[1], value)
    return {
        "value": float(value),
        "low": float(max(low, lowest)),
        "high": float(min(high, highest)),
        "from": float(max(value - half, lowest)),
        "to": float(min(value + half, highest)),
        "seeds": n,
    }
