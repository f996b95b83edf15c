"""One run of a study: a model trained and measured, and the record of it, which is never computed twice."""

import dataclasses
import hashlib
import io
import math
import time
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.base.files import read_json, write_bytes, write_json
from jaxinterp.base.lines import CHECK, is_as_written, whole_lines, with_check
from jaxinterp.base.owner import owned
from jaxinterp.studies.engine.along import measured_steps
from jaxinterp.studies.engine.config import ABILITY_SET, Point, StudyConfig, training_of
from jaxinterp.studies.engine.version import code_version, digest_of
from jaxinterp.training.config import TrainConfig

if TYPE_CHECKING:
    from jaxinterp.metrics.estimates import Estimates
    from jaxinterp.metrics.measure import Measurement
    from jaxinterp.models.language_model import LanguageModel
    from jaxinterp.studies.run_data import RunData

RESULT, SAMPLES = "result.json", "samples.npz"
Samples = Mapping[str, Float[np.ndarray, " _samples"]]  # SET/METRIC -> the value, and its replicates
Curve = Sequence[tuple[int, float]]  # (step, language-modelling loss of its batch)
ByRelation = Mapping[str, Mapping[str, float]]  # SET/METRIC -> relation -> value; without those that have none
NONE: Mapping = types.MappingProxyType({})
POINTS = 200  # of a curve, at most
KEPT = ("values", "samples", "parameters", "failed", "curve", "relations")  # what a run's record says it computed


class Outcome(NamedTuple):
    """What a run gives."""

    samples: Samples
    parameters: str  # digest of the model's
    resumed_from: int  # step of the checkpoint that it went on from; 0: it began anew
    device: str
    earlier: Mapping[int, Samples] = NONE  # of the measured steps before the last
    curve: Curve = ()
    relations: ByRelation = NONE


# (the run's training, the study, the run's folder) -> what it gives; goes on where the folder's checkpoint is. Raises
# NotFinite if the run's numbers stop being finite
Runner = Callable[[TrainConfig, StudyConfig, Path], Outcome]


class Result(NamedTuple):
    """A run that is done."""

    point: Point
    seed: int
    values: Mapping[str, float]  # SET/METRIC -> value, NaN if there is none; {} of a run that failed
    samples: Samples
    failed: str  # why; "": it did not
    seconds: float
    record: Mapping  # all that its file says
    along: Mapping[int, Samples] = NONE  # of all measured steps, the last included
    curve: Curve = ()
    relations: ByRelation = NONE


def key_of(config: StudyConfig, point: Point, seed: int, code: str) -> str:
    """What a run's result is kept by: a digest of its training, its measurement and the version of the code."""
    training, measure = dataclasses.asdict(training_of(config, point, seed)), _measure_config(config)
    measured = {**dataclasses.asdict(measure), "metrics": sorted(config.metrics)}
    return digest_of({"training": training, "measure": measured, "code": code})


def folder_of(folder: Path, key: str) -> Path:
    """The folder of a run in that of its study."""
    return folder / "runs" / key


def done(config: StudyConfig, folder: Path, point: Point, seed: int, runner: Runner) -> Result:
    """The result of a run, which is read if it is there and computed if not.

    Raises:
      UserError: if it was tampered with, another process computes it, or the run cannot go on.
    """
    key = key_of(config, point, seed, code_version())
    out = folder_of(folder, key)
    with owned(out):
        if not (out / RESULT).exists():
            _compute(config, out, key, point, seed, runner)
    return read_result(out)


def _compute(config: StudyConfig, out: Path, key: str, point: Point, seed: int, runner: Runner) -> None:
    from jaxinterp.training.driver import NotFinite

    start = time.monotonic()
    run = training_of(config, point, seed)
    about = {"key": key, "code": code_version(), "point": dict(point), "seed": seed, "step": run.steps}
    try:
        outcome = runner(run, config, out)
    except NotFinite as error:  # a result: of these levels' doing
        about |= {"failed": str(error), "values": {}, "samples": "", "parameters": "", "resumed_from": 0, "device": ""}
        about |= {"curve": [], "relations": {}}
    else:
        content = _npz(outcome)
        write_bytes(out / SAMPLES, content)
        found = {name: float(samples[0]) for name, samples in outcome.samples.items()}
        values = {name: found[name] if math.isfinite(found.get(name, math.nan)) else None for name in config.metrics}
        about |= {"failed": "", "values": values, "samples": hashlib.sha256(content).hexdigest()}
        about |= {name: getattr(outcome, name) for name in ("parameters", "resumed_from", "device", "curve")}
        about["relations"] = {name: dict(of) for name, of in outcome.relations.items()}
    write_json(out / RESULT, with_check({**about, "seconds": round(time.monotonic() - start, 3)}))


def read_result(out: Path) -> Result:
    """The result in a run's folder.

    Raises:
      UserError: if it is missing, or not what was written: its numbers, its samples, or the folder it stands in.
    """
    path = out / RESULT
    record = read_json(path)
    if CHECK not in record or not is_as_written(record) or record["key"] != out.name:
        raise UserError(f"{path} was tampered with: it is not what was written; delete the folder to compute it anew")
    samples: dict[str, np.ndarray] = {}
    if record["samples"]:
        content = (out / SAMPLES).read_bytes() if (out / SAMPLES).exists() else b""
        if hashlib.sha256(content).hexdigest() != record["samples"]:
            raise UserError(
                f"{out / SAMPLES} was tampered with: it is not what was written; delete the folder to compute it anew"
            )
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            samples = {name: file[name] for name in file.files}
    values = {name: math.nan if value is None else value for name, value in record["values"].items()}
    along: dict[int, dict[str, np.ndarray]] = {}
    for name, array in samples.items():
        step, _, metric = name.rpartition(":")
        along.setdefault(int(step or record["step"]), {})[metric] = array
    last = along.get(record["step"], {})
    about = (record["failed"], record["seconds"], record, along, record["curve"], record["relations"])
    return Result(record["point"], record["seed"], values, last, *about)


def _npz(outcome: Outcome) -> bytes:
    """Arrays as one file, whose bytes depend on them alone; those of a step before the last are named STEP:METRIC."""
    content = io.BytesIO()
    before = {f"{step}:{name}": array for step, of in outcome.earlier.items() for name, array in of.items()}
    np.savez(content, **outcome.samples, **before)
    return content.getvalue()


def trained(run: TrainConfig, config: StudyConfig, out: Path) -> Outcome:
    """Trains and measures a model; the runner of every study but those of tests."""
    import jax

    from jaxinterp.base.digests import arrays_digest
    from jaxinterp.studies.run_data import run_data
    from jaxinterp.training.at_step import model_at
    from jaxinterp.training.loop import train
    from jaxinterp.training.runs import Run

    data = run_data(run.data, tuple(sorted({metric.partition("/")[0] for metric in config.metrics} - {ABILITY_SET})))
    begun = (out / "config.json").exists()
    steps = Run(out).steps if begun else []
    model = train(run, data.training, out, resume=begun, title=out.name)
    measured = _measured(model, data, config)
    earlier = {
        step: _samples(_measured(model_at(run, data.training, out, step), data, config), config)
        for step in measured_steps(run, config.along)[:-1]
    }
    leaves = jax.tree_util.tree_leaves_with_path(model.model.params)
    parameters = arrays_digest((jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in leaves)
    device = f"{jax.devices()[0].platform}: {jax.devices()[0].device_kind}"
    about = (
        parameters,
        steps[-1] if steps else 0,
        device,
        earlier,
        training_curve(out, run),
        _relations(measured, config),
    )
    return Outcome(_samples(measured, config), *about)


def training_curve(out: Path, run: TrainConfig) -> Curve:
    """The language-modelling loss of a run by step, from its log; at most `POINTS` lines, the last included."""
    from jaxinterp.training.driver import METRICS

    logged = [value for _, _, value in whole_lines(out / METRICS)[0] if value.get("lm") is not None]
    # An interruption logs a step of its own, which a run that nothing interrupted does not have.
    lines = [line for line in logged if line["step"] % run.log_every == 0 or line["step"] == run.steps]
    apart = -(-len(lines) // POINTS) or 1
    return [(line["step"], line["lm"]) for line in lines[::-1][::apart]][::-1]


def _measure_config(config: StudyConfig):
    names = tuple(
        name for set_name, _, name in (metric.partition("/") for metric in config.metrics) if set_name != ABILITY_SET
    )
    return dataclasses.replace(config.measure, metrics=tuple(dict.fromkeys(names)))


def _measured(model: "LanguageModel", data: "RunData", config: StudyConfig) -> "Measurement":
    from jaxinterp.metrics.measure import measure_sets

    facts, measure = data.training.facts, _measure_config(config)
    return measure_sets(model, facts, data.sets, data.ability, measure, clean=data.clean)


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


def check_metrics(config: StudyConfig) -> None:
    """Raises UserError if a metric is unknown, or needs a package that is not installed: before work, not after."""
    from jaxinterp.metrics.measure import check_installed
    from jaxinterp.metrics.registry import METRICS
    from jaxinterp.metrics.results import ABILITY

    for metric in config.metrics:
        set_name, _, name = metric.partition("/")
        METRICS[name]  # which says which there are
        if set_name == ABILITY_SET and name not in ABILITY:
            raise unknown(f"metric of the set {ABILITY_SET}", name, ABILITY)
    check_installed(_measure_config(config).metrics)
