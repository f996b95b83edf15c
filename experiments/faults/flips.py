"""What becomes of a model, a run's checkpoints, its log and its config when their files are damaged on the disk.

Flips bits, cuts files and deletes them, one fault at a time, in copies of a tiny run, and opens each copy. Every
outcome is one of: an error of one line; the same contents as before; an older checkpoint, or fewer lines of a log, and
a line that says so; or, which must not be, other contents in silence, or a traceback.
"""

import collections
import contextlib
import dataclasses
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxinterp.cli.run import experiment

LONGEST = 300  # characters of a message
WRONG = ("silent", "traceback", "long message")


@dataclasses.dataclass(frozen=True)
class Flips:
    """Damage files of a run and see what is said."""

    flips: int = 250  # bits, in each of four kinds of files
    cuts: int = 50  # files that are cut or deleted, of each kind
    seed: int = 0
    out: Path = Path("checkpoints/faults/flips.json")  # file of counts

    def __call__(self) -> None:
        """Runs the experiment."""
        from jaxinterp.base.files import write_json
        from jaxinterp.base.progress import progress

        rng = np.random.default_rng(self.seed)
        found = {}
        with tempfile.TemporaryDirectory() as scratch:
            run = _made(Path(scratch) / "run")
            shutil.copytree(run, Path(scratch) / "before")
            shutil.rmtree(Path(scratch) / "before" / "checkpoints" / "4")
            _State.earlier = _checkpoint(Path(scratch) / "before")
            with progress("faults", 4 * (self.flips + self.cuts)) as report:
                for number, (name, (part, opened)) in enumerate(_kinds().items()):
                    counts: collections.Counter = collections.Counter()
                    whole = opened(run)
                    for trial in range(self.flips + self.cuts):
                        copy = Path(scratch) / "copy"
                        shutil.copytree(run, copy)
                        fault = _flip if trial < self.flips else _cut
                        what = fault(copy / part, rng)
                        outcome, said = _outcome(opened, copy, whole)
                        counts[outcome] += 1
                        if outcome in WRONG:
                            print(f"{name}: {what}: {outcome}: {said}")
                        shutil.rmtree(copy)
                        report(number * (self.flips + self.cuts) + trial + 1, name)
                    found[name] = dict(counts)
        write_json(self.out, found)
        for name, counts in found.items():
            print(f"{name}: {', '.join(f'{n} {outcome}' for outcome, n in sorted(counts.items()))}")
        print(f"numbers: {self.out}")


def _made(out: Path) -> Path:
    """A tiny run with two checkpoints and its model."""
    from jaxinterp.facts.facts import Fact, FactSet, Relation
    from jaxinterp.facts.splits import SplitConfig
    from jaxinterp.training.config import DataConfig, TrainConfig
    from jaxinterp.training.data import data_of_facts
    from jaxinterp.training.loop import train

    prompts = ("the {name} of {{subject}} is", "{{subject}} has the {name}")
    relations = tuple(Relation(name, tuple(p.format(name=name) for p in prompts), domain="x") for name in "abcd")
    facts = tuple(Fact(name, f"s{n}", f"{name}{n % 4}") for name in "abcd" for n in range(12))
    split = SplitConfig(n_unseen_relations=1)
    model = {"d_model": "16", "n_layers": "1", "n_heads": "2", "n_kv_heads": "2", "d_mlp": "16"}
    every = {"log_every": 1, "evaluate_every": 0, "checkpoint_every": 2}
    config = TrainConfig(steps=4, data=DataConfig(split=split), model=model, batch_size=8, **every)
    train(config, data_of_facts(FactSet(relations, facts), config.data), out)
    return out


def _kinds() -> dict[str, tuple[str, Callable[[Path], object]]]:
    return {
        "model": ("model", _model),
        "checkpoints": ("checkpoints", _checkpoint),
        "log": ("metrics.jsonl", _log),
        "config": ("config.json", _config),
    }


def _model(run: Path) -> object:
    from jaxinterp.models.loading.bundle import load_model

    model = load_model(run / "model")
    return model.config, model.digest(), model.tokenizer.backend.to_str(), dict(model.provenance)


def _checkpoint(run: Path) -> object:
    import jax

    from jaxinterp.training.checkpoint import Checkpoints

    with contextlib.closing(Checkpoints(run / "checkpoints", 2)) as checkpoints:
        return checkpoints.restore(_State.like(run)) if checkpoints.steps() else jax.numpy.zeros(0)


class _State:
    """The structure of a run's state, read once, and its state of the checkpoint before the last."""

    kept = None
    earlier: object = None

    @classmethod
    def like(cls, run: Path) -> object:
        if cls.kept is None:
            from jaxinterp.models.loading.bundle import load_model
            from jaxinterp.training.config import TrainConfig
            from jaxinterp.training.state import initial_state

            config = TrainConfig()
            cls.kept = initial_state(load_model(run / "model").config, config.optimiser, 4, 0)
        return cls.kept


def _log(run: Path) -> object:
    from jaxinterp.base.lines import whole_lines
    from jaxinterp.base.run_folder import truncate

    truncate(run / "metrics.jsonl", 4, complete=True)
    return [value for _, _, value in whole_lines(run / "metrics.jsonl")[0]]


def _config(run: Path) -> object:
    from jaxinterp.base.files import read_json
    from jaxinterp.base.run_folder import claim

    kept = read_json(run / "config.json")
    claim(kept.get("config", {}), run, resume=True)
    return kept


def _flip(part: Path, rng: np.random.Generator) -> str:
    """Flips one bit, of all bytes alike or, every other time, of a file that is drawn first."""
    files = [file for file in _files(part) if file.stat().st_size]
    sizes = np.array([file.stat().st_size for file in files])
    weights = sizes / sizes.sum() if rng.integers(2) else np.full(len(files), 1 / len(files))
    file = files[rng.choice(len(files), p=weights)]
    content = bytearray(file.read_bytes())
    place, bit = int(rng.integers(len(content))), int(rng.integers(8))
    content[place] ^= 1 << bit
    file.write_bytes(content)
    return f"bit {bit} of byte {place} of {file.relative_to(part.parent)}"


def _cut(part: Path, rng: np.random.Generator) -> str:
    files = _files(part)
    file = files[rng.integers(len(files))]
    if rng.integers(2) and part.is_dir():
        file.unlink()
        return f"{file.relative_to(part.parent)} deleted"
    content = file.read_bytes()
    left = int(rng.integers(len(content) + 1))
    file.write_bytes(content[:left])
    return f"{file.relative_to(part.parent)} cut to {left} bytes"


def _files(part: Path) -> list[Path]:
    return [part] if part.is_file() else sorted(path for path in part.rglob("*") if path.is_file())


def _outcome(opened: Callable[[Path], object], copy: Path, whole: object) -> tuple[str, str]:
    from jaxinterp.base.errors import UserError

    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            found = opened(copy)
    except UserError as error:
        text = str(error).replace(str(copy), "RUN")
        return ("long message" if len(text) > LONGEST or "\n" in text else "error of one line"), text
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"
    if _same(found, whole):
        return "same contents", ""
    if any(words in told.getvalue() for words in ("is damaged", "is not what was written", "lines are missing")):
        right = all(line in whole for line in found) if isinstance(whole, list) else _same(found, _State.earlier)
        return ("an earlier state, and a line says so" if right else "silent"), str(found)[:200]
    if isinstance(whole, list) and found == whole[:-1]:  # the last line was being written
        return "last line cut off", ""
    return "silent", json.dumps(str(found))[:200]


def _same(one: object, other: object) -> bool:
    import jax

    leaves = [jax.tree.leaves(value) for value in (one, other)]
    if len(leaves[0]) != len(leaves[1]):
        return False
    return all(_equal(a, b) for a, b in zip(*leaves, strict=True))


def _equal(a: object, b: object) -> bool:
    import jax
    import jax.numpy as jnp

    if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    return bool(np.array_equal(a, b)) if isinstance(a, jax.Array | np.ndarray) else a == b


if __name__ == "__main__":
    experiment(Flips)
