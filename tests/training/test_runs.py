"""Runs in folders, as `jaxinterp runs` and `jaxinterp doctor` show them."""

import json
import shutil

import jax
import jax.numpy as jnp
import pytest

from jaxinterp.base.doctor import examined
from jaxinterp.base.errors import UserError
from jaxinterp.base.lines import sealed
from jaxinterp.base.owner import owned
from jaxinterp.base.run_folder import claim
from jaxinterp.cli.main import main
from jaxinterp.models.loading.pinned import pin
from jaxinterp.training.checkpoint import Checkpoints
from jaxinterp.training.config import OptimiserConfig
from jaxinterp.training.runs import runs_in
from jaxinterp.training.state import first_state, optimiser


@pytest.fixture
def folder(tmp_path):
    """A run of ten steps with checkpoints of three of them, and no model yet."""
    folder = tmp_path / "all" / "mine"
    claim({"steps": 10}, folder, resume=False)
    (folder / "metrics.jsonl").write_text("".join(sealed({"step": step}) + "\n" for step in range(1, 8)))
    checkpoints = Checkpoints(folder / "checkpoints", keep=3)
    for step in (3, 5, 7):
        params = {"w_in": jnp.arange(5000.0) * step}
        # With the optimiser's named tuples, of which orbax makes dictionaries.
        checkpoints.save(step, first_state(params, optimiser(OptimiserConfig(), 10), jax.random.key(step)))
    checkpoints.close()
    return folder


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def said(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    told = capsys.readouterr()
    return stop.value.code, told.out, told.err


def test_runs_are_found_and_told_apart(folder, capsys):
    (run,) = runs_in(folder.parent)
    assert (run.steps, run.done, run.state, run.config) == ([3, 5, 7], 7, "to be continued", {"steps": 10})
    code, out, _ = said(["runs", "list", str(folder.parent)], capsys)
    assert code == 0 and "to be continued" in out and "3, 5, 7" in out and run.begun in out
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    assert run.state == "to be continued"  # the model of a run that was prolonged
    with (folder / "metrics.jsonl").open("a") as log:
        log.write(sealed({"step": 10}) + "\n")
    assert run.state == "done"
    code, out, _ = said(["runs", "show", str(folder)], capsys)
    assert code == 0 and "done, step 10, checkpoints 3, 5, 7" in out and json.loads(out[out.index("{") :])["packages"]
    assert said(["runs", "show", str(folder.parent)], capsys)[::2] == (
        2,
        f"error: {folder.parent} holds no run; `jaxinterp runs list` has them\n",
    )
    with pytest.raises(UserError, match="is no folder"):
        runs_in(folder / "absent")


def test_every_file_of_a_run_is_verified(folder, capsys):
    shutil.copytree(folder, folder.parent / "other")
    code, out, _ = said(["runs", "verify", str(folder.parent)], capsys)
    assert code == 0 and out.splitlines() == [f"{folder}: intact", f"{folder.parent / 'other'}: intact"]
    (folder / "model").mkdir()
    (folder / "model" / "frame.json").write_text("{}  ")
    (folder / "model" / "config.json").write_text("{}")
    pin(folder / "model")
    arrays = [path for path in (folder / "checkpoints" / "5").rglob("*") if path.is_file()]
    for path in (folder / "config.json", folder / "metrics.jsonl", folder / "model" / "frame.json"):
        flip(path)
    flip(max(arrays, key=lambda path: path.stat().st_size))
    (folder / "checkpoints" / "9").mkdir()
    code, out, err = said(["runs", "verify", str(folder.parent)], capsys)
    assert code == 2 and "1 of the runs are damaged" in err
    line = out.splitlines()[0]
    for words in (
        *("config.json", "metrics.jsonl: 1 lines are not what was written", "the checkpoint of step 5:"),
        *("the checkpoint of step 9: it is not complete", "frame.json is damaged"),
    ):
        assert words in line, words
    assert "step 3:" not in line and "step 7:" not in line


def test_pruning_leaves_the_newest(folder, capsys):
    (folder / "checkpoints" / "damaged-2").mkdir()
    code, out, _ = said(["runs", "prune", str(folder.parent), "--keep", "2"], capsys)
    assert code == 0 and "MB freed" in out
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["5", "7"]
    assert said(["runs", "prune", str(folder.parent), "--keep", "0"], capsys)[0] == 2
    flip(max((folder / "checkpoints" / "7" / "state").rglob("*"), key=lambda path: path.stat().st_size))
    assert said(["runs", "prune", str(folder.parent)], capsys)[0] == 0
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["5", "7"]  # 5 is the newest whole one
    with owned(folder):  # by this process, which may go on with it
        assert runs_in(folder)[0].state == "to be continued"


def test_the_doctor_looks_at_everything(tmp_path, capsys):
    found = {finding.what: finding for finding in examined(tmp_path)}
    # How full this machine's disk is decides no test.
    assert all(finding.good for finding in found.values() if not finding.what.startswith("folder"))
    assert "GFLOP/s" in found["matmul on 0"].found and "devices" in found["all-reduce"].found
    (tmp_path / "file").write_text("")
    code, out, err = said(["doctor", "--folder", str(tmp_path / "file" / "runs")], capsys)
    assert code == 2 and "BAD" in out and "not fit: folder of runs" in err
