"""The commands and Python examples of the README and of docs/, run as they stand there.

Commands take fewer steps and queries, and write into another folder; experiments take minutes, so that only their
options are checked. The Python blocks of a page run in order, in one namespace, in a folder that has the checkpoints. A
text block right below one is what it prints. Blocks marked `py` take minutes, and are not run.
"""

import ast
import contextlib
import gc
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.base.registry import Registry
from jaxinterp.cli.main import main
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.models.sources.catalogue import entry, models_folder

ROOT = Path(__file__).parent.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
FETCHED = models_folder() / "smollm2-135m-instruct-q4" / "model.gguf"
EXAMPLE = "example"  # the module that examples stand in
SMALL = MeasureConfig(queries=8, ability_queries=8, ablation_queries=0, rows=8, replicates=10)

# Command -> its words, in the order of the pages.
PROGRAMS = {
    line: shlex.split(line, comments=True)
    for text in PAGES.values()
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
}
# Page -> its Python blocks, each with what it prints ("" if the page does not say).
EXAMPLES = {
    page: found
    for page, text in PAGES.items()
    if (found := re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", text, re.DOTALL | re.MULTILINE))
}


def test_every_command_is_one_that_is_tested():
    assert {words[0] for words in PROGRAMS.values()} <= {"make", "jaxinterp", "python", "source"}
    assert {
        "attribute",
        "edit",
        "measure",
        "neuron",
        "report",
        "train",
        "facts",
        "metrics",
        "models",
        "plan",
        "runs",
    } == {words[1] for words in PROGRAMS.values() if words[0] == "jaxinterp"}


def test_make_targets_exist():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    wanted = {words[1] for words in PROGRAMS.values() if words[0] == "make"}
    assert {"quickstart", "test", "docs"} <= wanted <= set(targets)


def test_readme_is_short():
    assert len(PAGES["README.md"].split()) <= 900


@pytest.mark.parametrize(
    "command", [line for line, words in PROGRAMS.items() if words[0] == "jaxinterp" and words[1] != "train"]
)
def test_command(command, tmp_path, monkeypatch, capsys):
    words = PROGRAMS[command][1:]
    if words[:2] == ["models", "fetch"]:
        assert entry(words[2]).name == words[2]
        return
    if "smollm2-135m-instruct-q4" in words and not FETCHED.exists():
        words += ["--help"]  # without its 90 MB the command line alone can be checked
    if words[0] in ("measure", "report"):
        for option in ("--queries", "--ability-queries"):
            if option in words:
                words[words.index(option) + 1] = "16"
            else:
                words += [option, "16"]
        if "--json" in words:
            words[words.index("--json") + 1] = str(tmp_path / "numbers.json")
    if words[0] == "report" or ("smollm2-135m-instruct-q4" in words and words[0] == "measure"):
        words += ["--metrics", "suppressability", "control_drop"]  # all of them are measured by other commands
    if words[0] == "report":
        words.remove("reference-suppressable")  # pages of two are tested in test_report
        words[words.index("--out") + 1] = str(tmp_path / "report.html")
    if words[:2] == ["models", "export"]:
        words[-1] = str(tmp_path / "exported")
    monkeypatch.chdir(ROOT)
    assert_runs(words, capsys)


def test_training_commands(tmp_path, monkeypatch, capsys):
    """In the order of the pages, into one folder: a later command resumes what an earlier one did."""
    from jaxinterp.training import loop

    monkeypatch.setattr(loop, "EVALUATION", SMALL)
    monkeypatch.chdir(ROOT)
    commands = [words[1:] for words in PROGRAMS.values() if words[:2] == ["jaxinterp", "train"]]
    assert any("--resume" in words for words in commands)
    for words in commands:
        words[words.index("--out") + 1] = str(tmp_path / "run")
        assert_runs([*words, "--steps", "3"], capsys)


def assert_runs(words: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 0, capsys.readouterr().err


@pytest.mark.parametrize("command", [command for command, words in PROGRAMS.items() if words[0] == "python"])
def test_script(command):
    """Experiments and benchmarks take minutes: that the command line is accepted must do here."""
    words = PROGRAMS[command][1:]
    result = subprocess.run([sys.executable, *words, "--help"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    assert all(word in result.stdout for word in words if word.startswith("--")), command


@pytest.fixture
def registries():
    """What an example registers is gone after it."""
    yield
    for registry in gc.get_objects():
        if type(registry) is Registry:  # not isinstance, which wakes lazy objects of other libraries up
            for name in [name for name, module in registry._module.items() if module == EXAMPLE]:
                del registry.registered[name], registry._module[name]


def run(code: str, names: dict) -> str:
    """What a block prints, and the value of its last line as a notebook would show it."""
    *statements, last = ast.parse(code).body
    shown = isinstance(last, ast.Expr)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(statements if shown else [*statements, last], []), "example", "exec"), names)
        if shown and (value := eval(compile(ast.Expression(last.value), "example", "eval"), names)) is not None:
            print(value)
    return printed.getvalue()


NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"


def assert_alike(printed: str, shown: str) -> None:
    """The same words, and numbers that differ by no more than machines do."""
    assert re.sub(NUMBER, "#", printed).split() == re.sub(NUMBER, "#", shown).split()
    numbers = [[float(number) for number in re.findall(NUMBER, text)] for text in (printed, shown)]
    np.testing.assert_allclose(*numbers, rtol=0.05, atol=2e-3)


@pytest.mark.parametrize("page", EXAMPLES)
def test_examples(page, tmp_path, monkeypatch, registries):
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": EXAMPLE}
    for code, shown in EXAMPLES[page]:
        printed = run(code, names)
        if shown:
            assert_alike(printed, shown)
    if page == "docs/recipes/a_readout_of_your_own.md":
        check_linear(names)


def check_linear(names: dict) -> None:
    """The probability is linear: attributions are exact, and the neurons with the largest weights go."""
    weights = names["weight_LRF"]
    np.testing.assert_allclose(names["attribution"].scores_LRF, weights / weights.sum((0, 2), keepdims=True), rtol=1e-5)
    best = jnp.sort(weights.transpose(1, 0, 2).reshape(weights.shape[1], -1), axis=-1)[:, -8:].sum(-1)
    np.testing.assert_allclose(names["left"], 1 - best / weights.sum((0, 2)), rtol=1e-5)
