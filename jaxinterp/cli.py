"""The command line `jaxinterp`. JAX is imported by the commands, not here, so that `--help` answers at once."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from jaxinterp.errors import UserError
from jaxinterp.training.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a language model on facts, plainly or to be suppressable."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    out: Path = Path("checkpoints/run")  # folder of the run
    resume: bool = False  # continue the run in that folder from its newest checkpoint

    def __call__(self) -> None:
        """Runs the command."""
        from jaxinterp.training.data import training_data
        from jaxinterp.training.loop import train

        train(self.config, training_data(self.config.data), self.out, resume=self.resume)
        print(f"model: {self.out / 'model'}   metrics: {self.out / 'metrics.jsonl'}")


def run(command: Callable[[], None]) -> int:
    """Runs a command; a user's mistake becomes one line on stderr and status 2, an interruption status 130."""
    try:
        command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"interrupted: {stop}" if str(stop) else "interrupted", file=sys.stderr)
        return 130
    return 0


def experiment(command: type[Callable[[], None]]) -> None:
    """Entry point of an experiment script: parses a config dataclass and runs it."""
    sys.exit(run(tyro.cli(command)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    commands = Annotated[Train, tyro.conf.subcommand("train")]
    sys.exit(run(tyro.cli(commands, args=arguments, prog="jaxinterp")))
