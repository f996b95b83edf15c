"""The command that trains the tiny model of the fault scripts."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

MODEL = {"n_layers": "1", "d_model": "16", "d_mlp": "16", "n_heads": "2", "n_kv_heads": "1", "d_head": "8"}
RELATIONS = ("capital", "currency", "calling_code", "demonym")
UNSEEN = RELATIONS[1:3]


def train_command(out: Path, *options: str | int) -> list[str]:
    """`jaxinterp train` of a model of one layer on a few relations into `out`, with more options."""
    words = [str(Path(sys.executable).with_name("jaxinterp")), "train", "--out", str(out), "--preset", "0.5m"]
    words += ["--model", *(word for pair in MODEL.items() for word in pair), "--batch-size", "8", "--rows", "4"]
    words += ["--data.relations", *RELATIONS, "--data.split.unseen-relations", *UNSEEN]
    return [*words, *map(str, options)]


def environment() -> dict[str, str]:
    """This process's environment, in which a start finds all that an earlier one compiled."""
    return {**os.environ, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def count_lines(path: Path) -> int:
    """Whole lines of a file that may not be there."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def entries(folder: Path, depth: int = 2) -> set[str]:
    """The names of what is in a folder and, to a depth, in its folders."""
    paths: Sequence[Path] = sorted(folder.iterdir()) if folder.is_dir() else ()
    below = {f"{path.name}/{name}" for path in paths if depth > 1 for name in entries(path, depth - 1)}
    return {path.name for path in paths} | below
