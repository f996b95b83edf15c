"""Options that any command takes: files of options, plug-ins, writers."""

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.base.writers import VARIABLE
from jaxinterp.cli import run
from jaxinterp.cli.main import COMMANDS, Attribute, Train
from jaxinterp.cli.options import configured, taken
from jaxinterp.studies.audit.config import AuditConfig
from jaxinterp.studies.audit.meta_gradient import STUDY
from jaxinterp.training.config import TrainConfig


def parsed(commands, *words):
    given = taken(words)
    return run._parsed(commands, configured(commands, given), given.arguments, None)


def written(folder, text, name="options.yaml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


OPTIONS = """
steps: 20
out: runs/a
data: {domains: [elements]}
objective:
  weights: {suppression: 0.3, control: "0@0,1@9"}
optimiser: {learning-rate: 1e-3}
"""


def test_a_file_has_a_commands_options(tmp_path):
    found = parsed(COMMANDS, "train", "--config", written(tmp_path, OPTIONS))
    assert isinstance(found, Train) and str(found.out) == "runs/a"
    config = found.config
    assert (config.steps, config.data.domains, config.optimiser.learning_rate) == (20, ("elements",), 1e-3)
    assert config.objective.weights == {"suppression": "0.3", "control": "0@0,1@9"}
    default = TrainConfig()
    same = {"steps": 20, "data": config.data, "optimiser": config.optimiser, "objective": config.objective}
    assert config == dataclasses.replace(default, **same)
    assert config.data == dataclasses.replace(default.data, domains=("elements",))


def test_the_file_that_the_documentation_shows(tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "start.md").read_text(encoding="utf-8")
    (content,) = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    config = parsed(COMMANDS, "train", "--config", written(tmp_path, content), "--steps", "500").config
    assert (config.steps, config.data.domains, config.objective.start) == (500, ("countries", "elements"), 0.9)
    assert config.objective.weights == {"suppression": "0@0,0.3@300", "control": "0@0,0.9@300"}


def test_the_command_line_and_later_files_come_first(tmp_path):
    files = ["--config", written(tmp_path, OPTIONS), "--config", written(tmp_path, "steps: 30", "b.yml")]
    found = parsed(COMMANDS, "train", *files, "--objective.weights", "control", "2", "--optimiser.beta1", "0.8")
    assert (found.config.steps, found.config.objective.weights) == (30, {"control": "2"})
    assert (found.config.optimiser.beta1, found.config.optimiser.learning_rate) == (0.8, 1e-3)


def test_a_runs_config_is_such_a_file(tmp_path):
    own = dataclasses.replace(TrainConfig(), steps=700, batch_size=8)
    content = json.dumps({"config": dataclasses.asdict(own), "revision": "abc"})
    assert parsed(COMMANDS, "train", f"--config={written(tmp_path, content, 'config.json')}").config == own


def test_options_that_a_command_needs(tmp_path):
    path = written(tmp_path, "prompt: The capital of France is\nanswer: ' Paris'\ntolerance: 0.1\nk: 3")
    found = parsed(COMMANDS, "attribute", "--config", path)
    assert isinstance(found, Attribute)
    assert (found.prompt, found.answer, found.k, found.integral.tolerance) == (
        *("The capital of France is", " Paris"),
        *(3, 0.1),
    )
    with pytest.raises(SystemExit):
        parsed(COMMANDS, "attribute", "--config", written(tmp_path, "k: 3"))


def test_an_experiments_own_defaults_stay(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Study:
        """A study."""

        config: AuditConfig = STUDY

    found = parsed(Study, "--config", written(tmp_path, "config: {seeds: 3}"))
    assert found.config == dataclasses.replace(STUDY, seeds=3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("step: 3", "unknown option 'step'"),
        ("objective: {lambda: 3}", r"options.yaml: objective: there is no option 'lambda'"),
        ("steps: many", "options.yaml: steps: int was expected, got 'many'"),
        ("steps: 0", "options.yaml: steps must be at least 1"),
        ("- 3", "must hold options and their values"),
        ("a: [", "options.yaml, line 1: not YAML"),
        ("[" * 5_000, "options.yaml: not YAML: its values lie too deep in one another"),
        ("a: &x [1, 1]\nb: &y [*x, *x]", r"options.yaml, line 2: not YAML: aliases, as \*name, are not read"),
        ("steps: 1\nbatch-size: 2\nsteps: 3", "options.yaml, line 1: not YAML: an option stands twice"),
        (f"steps: {'9' * 5_000}", "options.yaml: not YAML: Exceeds the limit"),
        (f"optimiser: {{learning-rate: {'9' * 400}}}", "optimiser: learning_rate: float was expected, got a whole"),
        ("a: !!python/object/apply:os.system ['true']", "not YAML: could not determine a constructor"),
    ],
)
def test_what_is_no_file_of_options(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        parsed(COMMANDS, "train", "--config", written(tmp_path, content))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config"], "--config needs a file"),
        (["train", "--config", "--steps", "3"], "--config needs a file"),
        (["train", "--config", "absent.yaml"], "cannot read absent.yaml: No such file"),
        (["--config", "absent.yaml"], "--config comes after a command: one of train"),
        (["models", "list", "--config", "absent.yaml"], "`models` takes no --config"),
        (["--import"], "--import needs the name of a module"),
        (["train", "--log", "paper"], "unknown writer 'paper'"),
    ],
)
def test_what_is_not_given_well(words, message, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(UserError, match=message):
        parsed(COMMANDS, *words)


def test_a_run_that_goes_on_takes_no_file(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"config": dataclasses.asdict(TrainConfig())}))
    words = ["train", "--resume", "--out", str(tmp_path), "--config", written(tmp_path, "steps: 3")]
    with pytest.raises(SystemExit) as stop:
        from jaxinterp.cli.main import main

        main(words)
    assert stop.value.code == 2 and "has its own config; leave --config out" in capsys.readouterr().err


def test_options_are_taken_from_anywhere(monkeypatch):
    monkeypatch.setenv("JAXINTERP_IMPORT", "first")
    monkeypatch.setenv(VARIABLE, "")
    given = taken(["--import", "a", "measure", "--import=b.c", "--k", "3", "--log", "tensorboard", "--import", "a"])
    assert given.arguments == ["measure", "--k", "3"] and not given.files
    assert os.environ["JAXINTERP_IMPORT"] == "first,a,b.c" and os.environ[VARIABLE] == "tensorboard"
