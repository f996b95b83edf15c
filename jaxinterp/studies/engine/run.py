"""One run of a study: a model trained and measured, and the record of it, which is never computed twice."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import math
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.base.files import read_json, write_bytes, write_json
from jaxinterp.base.lines import CHECK, is_as_written, with_check
from jaxinterp.base.owner import owned
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.studies.engine.config import ABILITY_SET, Point, StudyConfig, training_of
from jaxinterp.studies.engine.version import code_version, digest_of
from jaxinterp.training.config import DataConfig, TrainConfig

RESULT, SAMPLES = "result.json", "samples.npz"
Samples = Mapping[str, Float[np.ndarray, " _samples"]]  # SET/METRIC -> the value, and its replicates
Curve = Sequence[tuple[int, float]]  # (step, language-modelling loss of its batch)
ByRelation = Mapping[str, Mapping[str, float]]  # SET/METRIC -> relation -> value; without those that have none
NONE: Mapping = types.MappingProxyType({})
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


class CannotBe(UserError):
    """A run that its levels do not allow: a result of that run alone. Other mistakes stop the worker."""


# (the run's training, the study, the run's folder) -> what it gives; goes on where the folder's checkpoint is. Raises
# NotFinite if the run's numbers stop being finite, and CannotBe
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
    try:
        run = training_of(config, point, seed)
    except UserError:  # of a search, whose points are not known before; that it failed is kept as any result is
        training = {"base": dataclasses.asdict(config.base), "point": dict(point), "seed": seed}
    else:
        training = dataclasses.asdict(run)
        if run.data.text:  # a folder's name says nothing of what is in it
            training["text"] = _text_digest(run.data)
    measured = {**dataclasses.asdict(measure_config(config)), "metrics": sorted(config.metrics)}
    if config.measured_limit:
        measured["limit"] = config.measured_limit
    together = {"vmapped": config.seeds} if config.vmapped else {}  # last digits, and the order of the data, are others
    return digest_of({"training": training, "measure": measured, "code": code, **together})


@functools.lru_cache(maxsize=16)
def _text_digest(config: DataConfig) -> str:
    from jaxinterp.training.data import text_documents

    documents = text_documents(config)
    return documents.digest if documents else ""


def folder_of(folder: Path, key: str) -> Path:
    """The folder of a run in that of its study."""
    return folder / "runs" / key


def done(config: StudyConfig, folder: Path, point: Point, seed: int, runner: Runner) -> Result:
    """The result of a run, which is read if it is there and computed if not.

    Raises:
      UserError: if it was tampered with, another process computes it, or the run cannot go on.
    """
    out = folder_of(folder, key_of(config, point, seed, code_version()))
    with owned(out):
        if not (out / RESULT).exists():
            _compute(config, out, point, seed, runner)
    return read_result(out)


def _compute(config: StudyConfig, out: Path, point: Point, seed: int, runner: Runner) -> None:
    from jaxinterp.training.driver import NotFinite

    start = time.monotonic()
    try:
        with of_its_levels():
            training = training_of(config, point, seed)
        outcome: Outcome | str = runner(training, config, out)
    except (NotFinite, CannotBe) as error:
        outcome = str(error)
    keep(config, out, point, seed, outcome, time.monotonic() - start)


@contextlib.contextmanager
def of_its_levels() -> Iterator[None]:
    """Says of a mistake that is told within that it is of the run's levels."""
    try:
        yield
    except UserError as error:
        raise CannotBe(str(error)) from None


def keep(config: StudyConfig, out: Path, point: Point, seed: int, outcome: Outcome | str, seconds: float) -> None:
    """Writes what a run gave, or why it failed, into its folder, whose name is the run's key."""
    about = {"key": out.name, "code": code_version(), "point": dict(point), "seed": seed}
    if isinstance(outcome, str):  # a result: of these levels' doing
        about |= {"failed": outcome, "values": {}, "samples": "", "parameters": "", "resumed_from": 0, "device": ""}
        about |= {"step": 0, "curve": [], "relations": {}}
    else:
        content = _npz(outcome)
        write_bytes(out / SAMPLES, content)
        found = {name: float(samples[0]) for name, samples in outcome.samples.items()}
        values = {name: found[name] if math.isfinite(found.get(name, math.nan)) else None for name in config.metrics}
        about |= {"failed": "", "values": values, "samples": hashlib.sha256(content).hexdigest()}
        about |= {name: getattr(outcome, name) for name in ("parameters", "resumed_from", "device", "curve")}
        about["step"] = training_of(config, point, seed).steps
        about["relations"] = {name: dict(of) for name, of in outcome.relations.items()}
    write_json(out / RESULT, with_check({**about, "seconds": round(seconds, 3)}))


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


def measure_config(config: StudyConfig) -> MeasureConfig:
    """How the study's runs are measured."""
    names = tuple(
        name for set_name, _, name in (metric.partition("/") for metric in config.metrics) if set_name != ABILITY_SET
    )
    return dataclasses.replace(config.measure, metrics=tuple(dict.fromkeys(names)))


def check_metrics(config: StudyConfig) -> None:
    """Raises UserError if a metric is unknown, or needs a package that is not installed: before work, not after."""
    from jaxinterp.metrics.held_out import TEXT_LOSS
    from jaxinterp.metrics.measure import check_installed
    from jaxinterp.metrics.registry import METRICS
    from jaxinterp.metrics.results import ABILITY

    for metric in config.metrics:
        set_name, _, name = metric.partition("/")
        METRICS[name]  # which says which there are
        if set_name == ABILITY_SET and name not in ABILITY:
            raise unknown(f"metric of the set {ABILITY_SET}", name, ABILITY)
        if name == TEXT_LOSS and not _has_text(config):
            raise UserError(f"{metric} needs text that is held out, and the study's runs have none; give data.text")
    check_installed(measure_config(config).metrics)


def _has_text(config: StudyConfig) -> bool:
    """Whether some run of a study may have text; runs that have none lack its loss."""
    fields = (field for factor in config.factors for level in factor.values for field in factor.changes(level))
    return bool(config.base.data.text) or "data.text" in fields
