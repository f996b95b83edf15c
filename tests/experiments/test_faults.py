"""The scripts that kill runs and watch long ones, on a stand-in for training that is quick to start."""

import dataclasses
import importlib
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.base.lines import sealed

sys.path.append(str(Path(__file__).parents[2] / "experiments" / "faults"))
kills, long = importlib.import_module("kills"), importlib.import_module("long")

# Writes what a run of four steps writes. All but the undisturbed run wait for a kill: when they are started first while
# a checkpoint is written, and then while the model is. The last word is what it does wrong after that.
STAND_IN = """
import pathlib, shutil, sys, time
out, fault = pathlib.Path(sys.argv[1]), sys.argv[2]
starts = out.parent / f"{out.name}.starts"
starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
start = len(starts.read_text()) if out.name != "whole" else 3
checkpoints, log = out / "checkpoints", out / "metrics.jsonl"
checkpoints.mkdir(parents=True, exist_ok=True)
(out / "config.json").write_text("{}")
for left in [*checkpoints.glob("*.orbax-checkpoint-tmp"), *(out.glob(".model-*") if fault != "leftovers" else ())]:
    shutil.rmtree(left)
done = max([int(path.name) for path in checkpoints.iterdir()], default=0)
(out / ".partial").write_text("".join(log.read_text().splitlines(True)[:done]) if log.exists() else "")
(out / ".partial").replace(log)
for step in range(done + 1, 5):
    with log.open("a") as file:
        file.write(f"{'other' if fault == 'other numbers' and out.name != 'whole' else 'line'} {step}\\n")
    if step % 2 == 0:
        partial = checkpoints / f"{step}.orbax-checkpoint-tmp"
        partial.mkdir()
        time.sleep(5 if start == 1 else 0)
        partial.rename(checkpoints / str(step))
(out / "evaluations.jsonl").write_text("evaluation\\n")
partial = out / f".model-{start}"
partial.mkdir()
(partial / "model.safetensors").write_text("weights")
time.sleep(5 if start == 2 else 0)
if fault == "traceback" and out.name != "whole":
    raise ValueError("fault")
partial.rename(out / "model")
"""


@pytest.fixture
def killed(tmp_path, monkeypatch, capsys):
    """Runs the script with two kills of a stand-in that makes a mistake: its figures, and its last printed line."""

    def run(fault):
        (tmp_path / "stand_in.py").write_text(STAND_IN)
        command = [sys.executable, "-S", str(tmp_path / "stand_in.py")]
        monkeypatch.setattr(kills, "train_command", lambda out, *_: [*command, str(out), fault])
        monkeypatch.setattr(kills, "DRAWN", ("checkpoint",))
        monkeypatch.setattr("jaxinterp.training.checkpoint.damage_of", lambda folder, step: "")
        out = tmp_path / "faults" / "kills.json"
        kills.Kills(kills=2, a_run=2, steps=4, evaluate_every=4, out=out)()
        return json.loads(out.read_text()), capsys.readouterr().out

    return run


def test_kills_are_counted_by_where_they_hit(killed, tmp_path):
    found, printed = killed("")
    assert found["kills"] == {"checkpoint": 1, "model": 1}
    assert (found["runs"], found["identical"], found["faults"]) == (1, 1, [])
    assert "2 kills (1 at checkpoint, 1 at model) of 1 runs; 1 runs are the undisturbed one" in printed
    assert [path.name for path in (tmp_path / "faults").iterdir()] == ["kills.json"]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("other numbers", "metrics.jsonl differs"),
        ("leftovers", ".model-2 is left over"),
        ("traceback", "traceback ['ValueError: fault']"),
    ],
)
def test_what_a_killed_run_does_wrong_is_told_and_kept(killed, tmp_path, fault, told):
    found, printed = killed(fault)
    assert f"run 0: {told}" in found["faults"] and told in printed
    assert found["identical"] == (fault == "leftovers")
    assert (tmp_path / "faults" / "kills-run0" / "metrics.jsonl").exists()


def test_where_a_process_died_is_read_from_its_folder(tmp_path):
    log, evaluations = tmp_path / "metrics.jsonl", tmp_path / "evaluations.jsonl"
    log.write_text("1\n2\n3\n")  # of a process before it, which died at a checkpoint
    for name in ("2", "4.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    watch = kills.Watch(tmp_path, steps=8, evaluate_every=4)
    assert watch.place() == "start"
    (tmp_path / "new").write_text("1\n2\n")
    (tmp_path / "new").replace(log)
    assert watch.place() == "start" and watch.new_lines() == 0
    log.write_text("1\n2\n3\n")
    assert watch.place() == "steps" and watch.new_lines() == 1 and not watch.reached("checkpoint", 1)
    log.write_text("1\n2\n3\n4\n")
    assert watch.place() == "evaluation" and watch.reached("evaluation", 9)
    evaluations.write_text("4\n")
    assert watch.place() == "steps"
    (tmp_path / "checkpoints" / "6.orbax-checkpoint-tmp").mkdir()
    assert watch.place() == "checkpoint" and watch.reached("checkpoint", 2) and not watch.reached("checkpoint", 3)
    (tmp_path / "checkpoints" / "6.orbax-checkpoint-tmp").rmdir()
    log.write_text("\n" * 8)
    evaluations.write_text("4\n8\n")
    assert watch.place() == "end"
    (tmp_path / ".model-x").mkdir()
    assert watch.place() == "model"


def test_a_process_that_ends_by_itself_must_say_nothing_of_damage():
    assert kills.faults_of(kills.Ended(0, "", "train: 8/8\n")) == []
    assert kills.faults_of(kills.Ended(-signal.SIGKILL, "steps", "")) == []
    assert kills.faults_of(kills.Ended(2, "", "error: x\n")) == ["status 2 ['error: x']"]
    damage = "the checkpoint of step 3 is damaged: it is not complete"
    assert kills.faults_of(kills.Ended(0, "", damage)) == [damage]


def sample(step, **changes):
    fixed = {"resident": 100, "open_files": 9, "threads": 3, "maps": 7, "files": 20, "bytes": 1000}
    return long.Sample(**{"seconds": step / 10, "step": step, "cpu_seconds": step / 20, **fixed, **changes})


def test_the_second_fifth_is_compared_with_the_last():
    steps = (*range(22, 41, 2), *range(82, 101, 2))
    table = long.compared([sample(0, resident=1, threads=99), *(sample(step) for step in steps)], 100)
    assert table["resident"] == (100, 100) and table["threads"] == (3, 3)
    assert table["seconds_a_step"] == pytest.approx((0.1, 0.1))
    assert table["cpu_seconds_a_step"] == pytest.approx((0.05, 0.05))
    assert long.grown(table) == []
    more = {
        "resident": 103,
        "threads": 5,
        "files": 21,
        "bytes": 9000,
    }  # logs may grow, and one file may be there or not
    late = [sample(step, **more) if step > 80 else sample(step) for step in steps]
    told = ["resident grew from 100 to 103", "threads grew from 3 to 5"]
    assert long.grown(long.compared(late, 100)) == told
    with pytest.raises(UserError, match="fewer than 2 samples"):
        long.compared([sample(30), sample(31), sample(99)], 100)


def test_every_logged_step_has_one_line_with_its_digest(tmp_path):
    path, lines = tmp_path / "metrics.jsonl", [sealed({"step": step, "loss": 1.5}) + "\n" for step in range(2, 9, 2)]
    path.write_text("".join(lines))
    assert long.log_faults(path, 8, 2) == []
    path.write_text("".join([*lines, lines[-1]]))
    assert long.log_faults(path, 8, 2) == [
        "metrics.jsonl has 5 lines, not one for each of the 4 steps that are logged",
    ]
    path.write_text("".join(lines).replace('"step": 4, "loss": 1.5', '"step": 4, "loss": 2.5'))
    assert "line 2 of metrics.jsonl is not what was written" in long.log_faults(path, 8, 2)
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(2, 9, 2)))
    assert len(long.log_faults(path, 8, 2)) == 4


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="Linux alone has /proc")
@pytest.mark.parametrize("status", [0, 3])
def test_a_process_is_watched_until_its_end(tmp_path, status):
    """The process goes on when it has been looked at."""
    code = (
        "import pathlib, sys, time; out = pathlib.Path(sys.argv[1]); out.mkdir(); seen = out.parent / 'seen'\n"
        "(out / 'metrics.jsonl').write_text('1\\n2\\n')\n"
        "while not seen.exists(): time.sleep(0.005)\n"
        f"sys.exit({status})"
    )
    config = long.Long(steps=100, log_every=10, checkpoint_every=10, evaluate_every=10, sample_every=0.005)
    command = [sys.executable, "-S", "-c", code, str(tmp_path / "run")]
    samples, ended = config._watched(tmp_path / "run", command, lambda *_: (tmp_path / "seen").touch())
    assert ended == ("" if status == 0 else "status 3: ")
    found = dataclasses.asdict(samples[0])
    assert (found["step"], found["files"], found["bytes"], found["threads"]) == (20, 1, 4, 1)
    assert found["resident"] > os.sysconf("SC_PAGE_SIZE") and found["maps"] > 5 and found["open_files"] >= 3


@pytest.mark.parametrize("change", [{"kills": 0}, {"a_run": 0}])
def test_kills_needs_numbers_above_zero(change):
    with pytest.raises(UserError, match="must be at least 1"):
        kills.Kills(**change)


@pytest.mark.parametrize("change", [{"log_every": 7}, {"checkpoint_every": 5}, {"log_every": 0}])
def test_what_is_done_seldom_is_logged_too(change):
    with pytest.raises(UserError, match="must be multiples of log_every"):
        long.Long(**change)
