"""The README's commands and code, run as they stand there (with fewer steps and queries, into another folder)."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.cli import main as cli
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.models.sources.catalogue import entry, models_folder

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
FETCHED = ROOT / models_folder() / "smollm2-135m" / "model.gguf"
COMMANDS = [line for kind, block in BLOCKS if not kind for line in block.strip().splitlines()]


def test_make_targets_exist():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    wanted = [command.split()[1] for command in COMMANDS if command.startswith("make ")]
    assert {"quickstart", "test"} <= set(wanted) <= set(targets)


def test_commands(tmp_path, monkeypatch, capsys):
    from jaxinterp.training import loop

    small = MeasureConfig(queries=8, ability_queries=8, ablation_queries=0, rows=8, replicates=10)
    monkeypatch.setattr(loop, "EVALUATION", small)
    monkeypatch.chdir(ROOT)
    seen = set()
    for command in COMMANDS:
        program, *words = shlex.split(command)
        if program == "make":
            continue
        if program == ".venv/bin/python":
            check_experiment(words, capsys)
            continue
        assert program == ".venv/bin/jaxinterp"
        if words[:2] == ["models", "fetch"]:
            assert entry(words[2]).name == words[2]
            continue
        if "smollm2-135m" in words and not FETCHED.exists():
            words += ["--help"]  # without its 90 MB the command line alone can be checked
        if words[0] == "train":
            words[words.index("--out") + 1] = str(tmp_path / "run")
            words += ["--steps", "3"]
        if words[0] == "measure":
            for option in ("--queries", "--ability-queries"):
                if option in words:
                    words[words.index(option) + 1] = "16"
                else:
                    words += [option, "16"]
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        assert stop.value.code == 0, capsys.readouterr().err
        seen.add(words[0])
    assert seen == {"attribute", "measure", "train", "facts", "metrics"}


def check_experiment(words, capsys):
    """Experiments take minutes: that the command line is accepted must do here."""
    result = subprocess.run([sys.executable, *words, "--help"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0 and "--out" in result.stdout, result.stderr
    options = [word for word in words if word.startswith("--")]
    assert options and all(option in result.stdout for option in options)


def test_python_example():
    (code,) = [block for kind, block in BLOCKS if kind == "python"]
    weights = jax.random.uniform(jax.random.key(0), (2, 3, 16))
    names = {
        "my_probability": lambda gates: (weights * gates).sum((0, 2)) / weights.sum((0, 2)),
        **dict(zip(("n_layers", "n_rows", "n_neurons"), weights.shape, strict=True)),
    }
    exec(code, names)
    # The probability is linear: attributions are exact, and the neurons with the largest weights go.
    np.testing.assert_allclose(names["attribution"].scores_LRF, weights / weights.sum((0, 2), keepdims=True), rtol=1e-5)
    best = jnp.sort(weights.transpose(1, 0, 2).reshape(3, -1), axis=-1)[:, -8:].sum(-1)
    np.testing.assert_allclose(names["left"], 1 - best / weights.sum((0, 2)), rtol=1e-5)
