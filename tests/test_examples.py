"""Every example runs from start to end, at the size that `--fast` gives it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SECONDS = 900  # an example that hangs fails


def run(script: Path, folder: Path) -> subprocess.CompletedProcess:
    """A script with `--fast`, run in a folder of its own."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(script), "--fast"]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=SECONDS)


def test_there_are_examples():
    assert [path.stem for path in EXAMPLES] == ["vision_readout"]


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
def test_an_example_runs(script, tmp_path):
    ran = run(script, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip(), "an example says what it found"
