"""`jaxinterp runs list|show|verify|prune`: runs on the command line."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import tyro

from jaxinterp.base.errors import UserError

FOLDER = Path("checkpoints")


@dataclasses.dataclass(frozen=True)
class ListRuns:
    """List the runs in a folder and below it."""

    folder: Annotated[Path, tyro.conf.Positional] = FOLDER

    def __call__(self) -> None:
        """Runs the command."""
        from rich.table import Column, Table

        from jaxinterp.base.tables import print_table
        from jaxinterp.training.runs import runs_in

        table = Table(Column("run", overflow="fold"), "state", "step", "of", "begun", "checkpoints", "MB")
        runs = runs_in(self.folder)
        for run in runs:
            kept = ", ".join(map(str, run.steps)) + (f" and {len(run.damaged)} damaged" if run.damaged else "")
            size = f"{run.size() / 1e6:.1f}"
            name = str(run.folder)
            table.add_row(
                name, run.state, str(run.done), "–" if run.last is None else str(run.last), run.begun, kept, size
            )
        print_table(table)
        if not runs:
            print(f"no runs in {self.folder}")


@dataclasses.dataclass(frozen=True)
class ShowRun:
    """Print what a run's folder says of it: its config and where it comes from."""

    folder: Annotated[Path, tyro.conf.Positional]

    def __call__(self) -> None:
        """Runs the command."""
        from jaxinterp.base.files import read_json

        run = _run(self.folder)
        print(f"{run.folder}: {run.state}, step {run.done}, checkpoints {', '.join(map(str, run.steps)) or 'none'}")
        print(json.dumps(read_json(run.folder / "config.json"), indent=1, ensure_ascii=False))


@dataclasses.dataclass(frozen=True)
class VerifyRuns:
    """Check every file of runs against the digests that were written with it; status 2 if one is damaged."""

    folder: Annotated[Path, tyro.conf.Positional] = FOLDER

    def __call__(self) -> None:
        """Runs the command."""
        from jaxinterp.training.runs import runs_in

        bad = 0
        for run in runs_in(self.folder):
            faults = run.faults()
            bad += bool(faults)
            print(f"{run.folder}: {'; '.join(faults) or 'intact'}", flush=True)
        if bad:
            raise UserError(f"{bad} of the runs are damaged")


@dataclasses.dataclass(frozen=True)
class PruneRuns:
    """Delete checkpoints that are not needed to continue: all but the newest, and those that are damaged."""

    folder: Annotated[Path, tyro.conf.Positional]
    keep: int = 1  # newest checkpoints of each run that stay

    def __call__(self) -> None:
        """Runs the command."""
        from jaxinterp.training.runs import runs_in

        if self.keep < 1:
            raise UserError(f"keep must be at least 1, got {self.keep}; delete the folder to have nothing left")
        for run in runs_in(self.folder):
            if run.state == "running":
                print(f"{run.folder}: is running, and left alone")
            elif freed := run.prune(self.keep):
                print(f"{run.folder}: {freed / 1e6:.1f} MB freed")


Command = (
    Annotated[ListRuns, tyro.conf.subcommand("list")]
    | Annotated[ShowRun, tyro.conf.subcommand("show")]
    | Annotated[VerifyRuns, tyro.conf.subcommand("verify")]
    | Annotated[PruneRuns, tyro.conf.subcommand("prune")]
)


@dataclasses.dataclass(frozen=True)
class Runs:
    """Runs in folders: list them, show one, check them, free space."""

    command: Annotated[Command, tyro.conf.arg(name="")]

    def __call__(self) -> None:
        """Runs the command."""
        self.command()


def _run(folder: Path):
    from jaxinterp.training.runs import runs_in

    found = [run for run in runs_in(folder) if run.folder == folder]
    if not found:
        raise UserError(f"{folder} holds no run; `jaxinterp runs list` has them")
    return found[0]
