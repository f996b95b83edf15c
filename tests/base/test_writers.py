"""Records beside a run's files: TensorBoard's event files, read back, and the calls that W&B gets."""

import contextlib
import sys
import types

import pytest

from jaxinterp.base import writers
from jaxinterp.base.errors import UserError
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training import driver

LINES = [{"step": 1, "loss": 2.0, "S": None}, {"step": 2, "loss": 1.5, "S": 0.25}]


def test_event_files_hold_the_records(tmp_path, monkeypatch):
    loader = pytest.importorskip("tensorboardX.event_file_writer")
    assert loader
    monkeypatch.setenv(writers.VARIABLE, "tensorboard")
    with writers.writing(tmp_path, {"steps": 2}, 0) as write:
        write(LINES)
    assert events(tmp_path / "tensorboard") == [(1, "loss", 2.0), (2, "loss", 1.5), (2, "S", 0.25)]


def events(folder):
    """(step, name, value) of event files: records of a length, its checksum, a message and its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.iterdir()
    content, found = path.read_bytes(), []
    while content:
        length = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + length])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        content = content[16 + length :]
    return found


def test_wandb_is_told_the_same_and_goes_on_as_the_same_run(tmp_path, monkeypatch):
    calls = []

    class Run(contextlib.nullcontext):
        def log(self, values, step):
            calls.append((step, values))

    def init(**options):
        calls.append(options)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, __spec__=object()))
    monkeypatch.setenv(writers.VARIABLE, "wandb")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    for name, config in (("run", {"steps": 2}), ("run", {"steps": 3}), ("other", {"steps": 2})):
        with writers.writing(tmp_path / name, config, 0) as write:
            write(LINES)
    first, again, other = calls[::3]
    assert first["project"] == "mine" and first["name"] == "run" and first["config"] == {"steps": 2}
    assert first["id"] == again["id"] != other["id"] and first["resume"] == "allow"
    assert calls[1:3] == [(1, {"loss": 2.0}), (2, {"loss": 1.5, "S": 0.25})]


def test_texts_name_whose_numbers_they_are():
    line = {"step": 3, "member": "a", "set": "unseen", "S": 0.5, "n": 3, "finite": True, "C": None}
    assert writers.numbers_of(line) == {"a/unseen/S": 0.5, "a/unseen/n": 3.0}
    recall = {"value": 0.25, "low": 0.0, "high": 1.0, "n": 9}
    evaluation = {"step": 3, "sets": {"unseen_facts": {"recall": recall, "S": {**recall, "value": None}}}}
    assert writers.numbers_of(evaluation)["sets/unseen_facts/recall"] == 0.25


@pytest.mark.parametrize(
    ("asked", "message"),
    [("tensorbord", "unknown writer 'tensorbord'"), ("absent", r"needs not_there: pip install jaxinterp\[absent\]")],
)
def test_what_cannot_be_written_is_told_before_the_run(tmp_path, monkeypatch, asked, message):
    monkeypatch.setitem(writers.WRITERS, "absent", ("not_there", None))
    monkeypatch.setenv(writers.VARIABLE, asked)
    nothing = lambda *_: None  # noqa: E731
    objective, cadence = ObjectiveConfig(), driver.Cadence(steps=1, checkpoint=1)
    job = driver.Job({"steps": 1}, nothing, nothing, nothing, objective, cadence, nothing)
    with pytest.raises(UserError, match=message):
        driver.run(job, tmp_path / "run")
    assert not (tmp_path / "run").exists()
