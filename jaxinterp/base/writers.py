"""Writers of a run's records beside its files, for TensorBoard and Weights & Biases; each is an extra.

`--log tensorboard` on a command line, or JAXINTERP_LOG (with commas between names), which a command's workers see too.
"""

import contextlib
import importlib.util
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.base.files import write_text

VARIABLE = "JAXINTERP_LOG"
Lines = Sequence[Mapping]  # records with "step"; numbers are values, texts name whose they are, None is no value
Write = Callable[[int, Mapping[str, float]], None]


@contextlib.contextmanager
def _tensorboard(out: Path, config: Mapping | None, done: int) -> Iterator[Write]:
    """Event files in the run's folder tensorboard; `tensorboard --logdir` shows them."""
    from tensorboardX import SummaryWriter

    with SummaryWriter(logdir=str(out / "tensorboard"), purge_step=done + 1) as events:

        def write(step: int, values: Mapping[str, float]) -> None:
            for name, value in values.items():
                events.add_scalar(name, value, step)

        yield write


@contextlib.contextmanager
def _wandb(out: Path, config: Mapping | None, done: int) -> Iterator[Write]:
    """A run of the project WANDB_PROJECT, else jaxinterp; it goes on when the folder's run does, whose file has its id.

    W&B keeps what it has of steps that are done again.
    """
    import wandb

    as_json = json.dumps(config or {}, sort_keys=True, default=str)
    place = out / "wandb_id.txt"
    if not place.exists():
        write_text(place, secrets.token_hex(8))
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "jaxinterp"),
        name=out.name,
        id=place.read_text(encoding="utf-8").strip(),
        resume="allow",
        config=json.loads(as_json),
        dir=str(out),
    )
    with run:
        yield lambda step, values: run.log(dict(values), step=step)


# Name -> the package that it needs, and how it is opened: (run's folder, its config, steps done before).
WRITERS: dict[str, tuple[str, Callable]] = {"tensorboard": ("tensorboardX", _tensorboard), "wandb": ("wandb", _wandb)}


def asked_writers() -> tuple[str, ...]:
    """The writers that are asked for.

    Raises:
      UserError: if one is unknown, or its package is not installed.
    """
    names = tuple(dict.fromkeys(name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()))
    for name in names:
        if name not in WRITERS:
            raise unknown("writer", name, WRITERS)
        if importlib.util.find_spec(WRITERS[name][0]) is None:
            raise UserError(f"the writer {name!r} needs {WRITERS[name][0]}: pip install jaxinterp[{name}]")
    return names


@contextlib.contextmanager
def writing(out: Path, config: Mapping | None, done: int) -> Iterator[Callable[[Lines], None]]:
    """Yields a function that hands records to the writers that are asked for.

    Args:
      out: the run's folder.
      config: what decides the run, if that is known.
      done: steps done before.
    """
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(WRITERS[name][1](out, config, done)) for name in asked_writers()]

        def write(lines: Lines) -> None:
            for line in lines:
                values = numbers_of(line)
                for writer in writers:
                    writer(line["step"], values)

        yield write


def numbers_of(line: Mapping) -> dict[str, float]:
    """A record's numbers by name, its texts before them, and what they stand in: {"member": "a", "loss": 1} gives
    {"a/loss": 1.0}, and {"sets": {"facts": {"recall": {"value": 1, "low": 0}}}} gives {"sets/facts/recall": 1.0}.
    """
    texts = [value for value in line.values() if isinstance(value, str)]
    found: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, Mapping):
            inside = {"": value["value"]} if isinstance(value.get("value"), int | float) else numbers_of(value)
            found |= {"/".join(filter(None, [*texts, name, own])): float(number) for own, number in inside.items()}
        elif name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
            found["/".join([*texts, name])] = float(value)
    return found
