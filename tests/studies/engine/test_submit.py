"""Workers as jobs: what submitit is given, and what is said where it, the study or Slurm is missing."""

import contextlib
import sys
import types

import pytest
from study_stubs import study

from jaxinterp.base.errors import UserError
from jaxinterp.studies.engine import storage
from jaxinterp.studies.engine.submit import JOBS, submit

pytest.importorskip("optuna")


@pytest.fixture
def folder(tmp_path):
    storage.begin(study(), tmp_path / "s")
    return tmp_path / "s"


@pytest.fixture
def seen(monkeypatch):
    """A submitit that notes what it is given."""
    seen: dict = {"jobs": []}

    class Executor:
        def __init__(self, **of):
            seen.update(of)

        def update_parameters(self, **of):
            seen.update(of)

        def batch(self):
            seen["batches"] = seen.get("batches", 0) + 1
            return contextlib.nullcontext()

        def submit(self, words):
            if seen.get("slurm_partition") == "none":
                raise RuntimeError("no such partition\nmore")
            seen["jobs"].append(words)
            return types.SimpleNamespace(job_id=f"7_{len(seen['jobs'])}")

    helpers = types.SimpleNamespace(CommandFunction=lambda words: words)
    monkeypatch.setitem(sys.modules, "submitit", types.SimpleNamespace(AutoExecutor=Executor, helpers=helpers))
    return seen


def test_workers_are_one_array_of_jobs(folder, seen):
    assert submit(folder, workers=3, hours=1.5, gpus=1, partition="gpu") == ["7_1", "7_2", "7_3"]
    assert (seen["timeout_min"], seen["gpus_per_node"], seen["slurm_partition"], seen["batches"]) == (90, 1, "gpu", 1)
    assert seen["folder"] == folder / JOBS and seen["cluster"] == "slurm"
    assert {tuple(words[-3:]) for words in seen["jobs"]} == {("study", "work", str(folder))}


def test_what_is_missing_is_one_line(folder, seen, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="holds no study"):
        submit(tmp_path / "nowhere", workers=1, hours=1.0)
    with pytest.raises(UserError, match="workers must be at least 1 and hours above 0, got 0 and 1"):
        submit(folder, workers=0, hours=1.0)
    with pytest.raises(UserError, match=r"Slurm took no job: no such partition$"):
        submit(folder, workers=1, hours=1.0, partition="none")
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match="jobs of Slurm need submitit: pip install"):
        submit(folder, workers=1, hours=1.0)
