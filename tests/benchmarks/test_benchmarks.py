"""The benchmarks' harness with a fake clock, and the scripts without the peers they compare with."""

import dataclasses
import json
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.cli import run as cli

FOLDER = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(FOLDER))

import harness
from harness import Arm, Ratio, Runs, alternating

PEERED = ("attribution_peers", "meta_step", "train_step")
SCRIPTS = (*PEERED, "startup", "one_program", "memory", "checkpoints")
PEERS = ("torch", "captum", "knowledge_neurons")


class Clock:
    """Stands still but for what arms take."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def arm(self, name, *seconds, **fields):
        """Takes these seconds in turn."""
        taken = iter(seconds)

        def run():
            self.log.append(name)
            self.now += next(taken)

        return Arm(run, **fields)

    def time(self, arms, runs, warm_up=1):
        clocks = {"clock": lambda: self.now, "cpu_clock": lambda: self.now / 2}
        return alternating(arms, runs, warm_up=warm_up, pause=lambda _: self.log.append("pause"), **clocks)


@dataclasses.dataclass(frozen=True)
class Config:
    out: Path
    runs: int = 3
    quick: bool = False


def test_arms_run_in_turn_and_warm_up_is_not_timed():
    clock = Clock()
    arms = {"a": clock.arm("a", 100, 1, 2, 4), "b": clock.arm("b", 200, 10, 10, 60, units=10)}
    assert clock.time(arms, 3) == {"a": Runs([1, 2, 4], [0.5, 1, 2]), "b": Runs([1, 1, 6], [0.5, 0.5, 3])}
    assert clock.log == ["pause", "a", "pause", "b"] * 4


def test_nothing_to_run_is_an_error():
    with pytest.raises(UserError, match="at least 1 run and 1 arm, got 0 and 1"):
        alternating({"a": Arm(lambda: None)}, 0)
    with pytest.raises(UserError, match="got 5 and 0"):
        alternating({}, 5)


def test_ratios_are_those_of_a_round():
    arms = {"a": Arm(lambda: None, flops=6.0), "b": Arm(lambda: None, flops=4.0), "c": Arm(lambda: None)}
    # The machine is ten times slower in the second round, which the ratio does not see.
    measured = {"a": Runs([3.0, 20.0, 1.0], [1.0] * 3), "b": Runs([1.0, 10.0, 1.0], [4.0] * 3)}
    found = harness.compared(Ratio("a", "b", "at_least", 2.5), arms, measured)
    assert (found["median"], found["min"], found["max"], found["met"]) == (2.0, 1.0, 3.0, False)
    assert harness.compared(Ratio("a", "b", "at_most", 2.0), arms, measured)["met"] is True
    assert harness.compared(Ratio("a", "b", of="cpu_seconds"), arms, measured)["median"] == 0.25
    assert harness.compared(Ratio("a", "b", "at_most", 1.5, of="flops"), arms, measured)["met"] is True
    alone = harness.compared(Ratio("a", None, "at_most", 2.0), arms, measured)
    assert (alone["median"], alone["max"], alone["met"]) == (3.0, 20.0, False)
    uncounted = harness.compared(Ratio("a", "c", "at_most", 1.5, of="flops"), arms, measured)
    assert "median" not in uncounted and "met" not in uncounted


@pytest.mark.parametrize("quick", [False, True])
def test_table_and_file_have_the_figures(quick, tmp_path, monkeypatch, capsys):
    clock = Clock()
    arms = {"slow": clock.arm("slow", *[8.0] * 3, compile_s=2.5, flops=3e9), "fast": clock.arm("fast", *[2.0] * 3)}
    monkeypatch.setattr(harness, "alternating", lambda arms, runs, warm_up: clock.time(arms, runs, warm_up))
    ratios = [Ratio("slow", "fast", "at_least", 5.0), Ratio("slow", "fast", of="flops")]
    checks = {"same": harness.close([1.0], [1.0], tolerance=1e-6)}
    config = Config(tmp_path / "new", runs=2, quick=quick)
    harness.benchmark("made", config, arms, ratios, config.out, runs=2, checks=checks, notes=["A note."])
    printed = capsys.readouterr().out
    assert ("MISSED" in printed) is not quick
    for text in ("slow / fast", "not counted", "check: same", "A note.", "2.5", "made.json"):
        assert text in printed
    stored = json.loads((config.out / "made.json").read_text())
    assert stored["arms"]["slow"]["seconds"] == {"median": 8, "min": 8, "max": 8, "runs": [8, 8]}
    assert stored["arms"]["slow"]["flops"] == 3e9
    assert stored["ratios"][0]["median"] == 4
    assert stored["ratios"][0].get("met") is (None if quick else False)
    assert stored["config"]["out"] == str(config.out)
    assert stored["checks"]["same"]["difference"] == 0
    assert {"jax", "jaxlib"} <= stored["provenance"]["packages"].keys() and stored["provenance"]["device"]


def test_arms_that_disagree_are_not_timed():
    assert harness.close(np.array([1.0, 2.0]), np.array([1.0, 2.1]), tolerance=0.1)["difference"] == pytest.approx(
        0.1 / 2.1
    )
    for found in ([1.0, 2.1], [1.0, np.nan], [1.0]):
        with pytest.raises(UserError, match="the arms disagree"):
            harness.close(found, [1.0, 2.0], tolerance=0.01)


def test_flops_of_loops_are_counted_at_every_turn():
    def function(x, weights):
        return jax.lax.scan(lambda carry, weight: (carry @ weight, None), x, weights)[0]

    names = ("scan", "map", "cond", "switch")
    before = [getattr(jax.lax, name) for name in names]
    arguments = jnp.ones((4, 8)), jnp.ones((5, 8, 8))
    assert harness.unrolled_flops(lambda *args: function(*args), *arguments) == 5 * 2 * 4 * 8 * 8
    assert [getattr(jax.lax, name) for name in names] == before
    program, seconds = harness.compiled(lambda *args: function(*args), *arguments)
    assert float(program(*arguments)[0, 0]) == 8.0**5 and seconds > 0


def test_the_made_up_batch_has_a_control_of_every_kind():
    from training_arms import batch

    made = batch(11, 4, 8)
    assert made.answers.control_XR.shape == made.answers.control_weight_XN.shape == (3, 4)
    for control_R in made.answers.control_XR:
        assert sorted(control_R.tolist()) == [0, 1, 2, 3] and (control_R != jnp.arange(4)).all()
    assert made.answers.control_weight_XN.all()


class NoPeers:
    """An import finder that has not heard of the peers."""

    def find_spec(self, name, path=None, target=None):
        if name in PEERS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture
def run_script(monkeypatch, capsys):
    """Runs a script with arguments, as if the peers were not installed: status, output, errors."""
    monkeypatch.setattr(cli, "keep_compiled", lambda: None)
    for name in PEERS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoPeers(), *sys.meta_path])

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_needs_no_peers(name, run_script):
    code, out, _ = run_script(name, "--help")
    assert code in (None, 0)
    assert "--out" in out and "--quick" in out and "--runs" in out


@pytest.mark.parametrize("name", PEERED)
def test_missing_peers_are_told_in_one_line(name, run_script, tmp_path):
    code, _, err = run_script(name, "--quick", "--out", str(tmp_path))
    assert code == 2
    assert err == "error: torch is missing; pip install -e .[peers]\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("attribution_peers", "--model", "gpt2", "--points", "15"), "points must be a multiple of 10, got 15"),
        (("attribution_peers", "--padded", "8"), "padded must be at least tokens (12), got 8"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, message, run_script):
    code, _, err = run_script(*arguments)
    assert code == 2
    assert message in err


def test_a_script_runs_on_its_own(tmp_path):
    command = [sys.executable, str(FOLDER / "startup.py"), "--quick", "--runs", "1", "--out", str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    stored = json.loads((tmp_path / "startup.json").read_text())
    # An import of the package does not import JAX.
    assert stored["arms"]["import jaxinterp"]["seconds"]["median"] < stored["arms"]["import jax"]["seconds"]["median"]
