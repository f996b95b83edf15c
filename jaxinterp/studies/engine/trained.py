"""What makes the runs of a study: a model is trained, and measured along its steps."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxinterp.base.lines import whole_lines
from jaxinterp.studies.engine.along import measured_steps
from jaxinterp.studies.engine.config import ABILITY_SET, StudyConfig
from jaxinterp.studies.engine.run import ByRelation, Curve, Outcome, Samples, measure_config, of_its_levels
from jaxinterp.training.config import TrainConfig

if TYPE_CHECKING:
    from jaxinterp.metrics.estimates import Estimates
    from jaxinterp.metrics.measure import Measurement
    from jaxinterp.models.language_model import LanguageModel
    from jaxinterp.studies.run_data import RunData

POINTS = 200  # of a curve, at most


def trained(run: TrainConfig, config: StudyConfig, out: Path) -> Outcome:
    """Trains and measures a model; the runner of every study but those of tests."""
    from jaxinterp.training.at_step import model_at
    from jaxinterp.training.loop import train
    from jaxinterp.training.runs import Run

    data = data_of(run, config)
    begun = (out / "config.json").exists()
    steps = Run(out).steps if begun else []
    model = train(run, data.training, out, resume=begun, title=out.name)
    outcome = outcome_of(model, data, config, steps[-1] if steps else 0)
    earlier = {
        step: _samples(_measured(model_at(run, data.training, out, step), data, config), config)
        for step in measured_steps(run, config.along)[:-1]
    }
    return outcome._replace(earlier=earlier, curve=training_curve(out, run))


def data_of(run: TrainConfig, config: StudyConfig) -> "RunData":
    """What a run is trained and measured on.

    Raises:
      CannotBe: if there are no such data, or the run's model, objective or measurement do not fit them.
    """
    from jaxinterp.attribution.selection import check_k
    from jaxinterp.studies.run_data import run_data
    from jaxinterp.training.loop import check_run

    sets = {metric.partition("/")[0] for metric in config.metrics} - {ABILITY_SET}
    with of_its_levels():
        data = run_data(run.data, tuple(sorted(sets)), config.measured_limit)
        check_k(config.measure.k, check_run(run, data.training).n_neurons)
    return data


def outcome_of(model: "LanguageModel", data: "RunData", config: StudyConfig, resumed_from: int) -> Outcome:
    """What a trained model gives."""
    import jax

    from jaxinterp.base.digests import arrays_digest

    measured = _measured(model, data, config)
    leaves = jax.tree_util.tree_leaves_with_path(model.model.params)
    parameters = arrays_digest((jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in leaves)
    device = f"{jax.devices()[0].platform}: {jax.devices()[0].device_kind}"
    found = _samples(measured, config), parameters, resumed_from, device
    return Outcome(*found, relations=_relations(measured, config))


def training_curve(out: Path, run: TrainConfig) -> Curve:
    """The language-modelling loss of a run by step, from its log; at most `POINTS` lines, the last included."""
    from jaxinterp.training.driver import METRICS

    logged = [value for _, _, value in whole_lines(out / METRICS)[0] if value.get("lm") is not None]
    # An interruption logs a step of its own, which a run that nothing interrupted does not have.
    lines = [line for line in logged if line["step"] % run.log_every == 0 or line["step"] == run.steps]
    apart = -(-len(lines) // POINTS) or 1
    return [(line["step"], line["lm"]) for line in lines[::-1][::apart]][::-1]


def _measured(model: "LanguageModel", data: "RunData", config: StudyConfig) -> "Measurement":
    from jaxinterp.metrics.held_out import with_text
    from jaxinterp.metrics.measure import measure_sets

    facts, measure = data.training.facts, measure_config(config)
    found = measure_sets(model, facts, data.sets, data.ability, measure, clean=data.clean, required=False)
    if (text := data.training.text) is not None:
        found = with_text(found, model, text.held_out, measure)
    return found


def _estimates(found: "Measurement", config: StudyConfig) -> Mapping[str, "Estimates"]:
    """The study's metrics of a model."""
    sets = {**found.sets, ABILITY_SET: found.ability}
    split = (metric.partition("/") for metric in config.metrics)
    return {f"{of}/{name}": sets[of][name] for of, _, name in split if name in sets[of]}


def _samples(found: "Measurement", config: StudyConfig) -> Samples:
    return {name: of.samples for name, of in _estimates(found, config).items()}


def _relations(found: "Measurement", config: StudyConfig) -> ByRelation:
    return {
        name: {relation: value.value for relation, value in of.by_relation.items() if math.isfinite(value.value)}
        for name, of in _estimates(found, config).items()
    }
