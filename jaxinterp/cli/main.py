"""The command line `jaxinterp`. JAX is imported by the commands, not here, so that `--help` answers at once."""

import contextlib
import dataclasses
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxinterp.base.errors import UserError
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.cli.metrics import Metrics
from jaxinterp.cli.models import Models
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.training.config import TrainConfig

REFERENCE = "checkpoints/reference/suppressable"


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


@dataclasses.dataclass(frozen=True)
class Measure:
    """Measure a model: one of ours on the four sets of facts it was trained with, any model on any facts."""

    config: Annotated[MeasureConfig, tyro.conf.arg(name="")]
    model: str = REFERENCE  # folder of a model, a .gguf file, a name from `jaxinterp models list`, or org/name of a hub
    facts: str | None = None  # world, world:DOMAINS, a ParaRel or LAMA folder, a CounterFact .json, a .jsonl or .csv
    json: Path | None = None  # file to write all numbers to, as results.json has them

    def __call__(self) -> None:
        """Runs the command."""
        from jaxinterp.base.files import writable_folder, write_json
        from jaxinterp.studies.suppressability.measurement import measured_model

        if self.json is not None:
            writable_folder(self.json.parent)
            if self.json.is_dir():
                raise UserError(f"cannot write to {self.json}: it is a folder; give the name of a file")
        results = measured_model(self.model, self.facts, self.config)
        if self.json is not None:
            write_json(self.json, results)
            print(f"numbers: {self.json}")


@dataclasses.dataclass(frozen=True)
class Attribute:
    """Show the neurons that carry one answer, and what switching them off or doubling them does."""

    # Text that ends just before the answer; for a masked model, text with its mask, "[MASK]", in its place. It is read
    # as it stands
    prompt: str
    answer: str  # what should follow, as it stands: " Paris" with its space after "The capital of France is"
    model: str = REFERENCE  # folder of a model, a .gguf file, a name from `jaxinterp models list`, or org/name of a hub
    k: int = 8  # neurons of the answer, and of each of its tokens, out of all layers
    rule: Literal["left", "right", "midpoint", "gauss_legendre", "adaptive"] = "adaptive"  # of the integral
    points: int = 20  # of the rule; adaptive takes as many as each layer needs
    tolerance: float = 0.01  # of adaptive: largest completeness residual of a layer, as a share of P on its path
    path: Literal["per_layer", "joint"] = "per_layer"  # of integrated gradients
    chat: bool = False  # the prompt is a message to a model that converses, put into its own chat template
    special_tokens: bool = False  # control tokens that prompt and answer spell out, as "<|im_end|>", are meant
    json: bool = False  # print JSON for programs

    def __call__(self) -> None:
        """Runs the command."""
        from jaxinterp.api.attribute import attribute
        from jaxinterp.base.progress import print_table
        from jaxinterp.models.loading.bundle import load_model

        attributed = attribute(
            load_model(self.model),
            self.prompt,
            self.answer,
            k=self.k,
            rule=self.rule,
            points=self.points,
            tolerance=self.tolerance,
            path=self.path,
            chat=self.chat,
            control_tokens=self.special_tokens,
        )
        if self.json:
            print(json.dumps(attributed.to_json(), indent=1, ensure_ascii=False))
        else:
            print_table(attributed)


@dataclasses.dataclass(frozen=True)
class Facts:
    """Print relations and facts, and what was dropped on the way."""

    facts: str = "world"  # world, world:DOMAINS, a ParaRel or LAMA folder, a CounterFact .json, a .jsonl or .csv

    def __call__(self) -> None:
        """Runs the command."""
        from jaxinterp.facts.source import load_facts
        from jaxinterp.facts.worldfacts import describe

        print(describe(load_facts(self.facts)))


def keep_compiled() -> None:
    """Lets JAX, which is yet to be imported, keep what it compiles for the next start; the environment goes first."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxinterp" / "compiled"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


def escape_output() -> None:
    """Has characters that the terminal, pipe or file of the output cannot hold written as escapes, such as \\u2212.

    Output that is redirected is ASCII or a code page in some places, notably on Windows, and no name of a fact or of a
    file should end a command that has run for an hour.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


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


def experiment(command: type, arguments: Sequence[str] | None = None) -> None:
    """Entry point of an experiment script: parses a config dataclass and runs it."""
    escape_output()
    keep_compiled()
    sys.exit(run(lambda: _parsed(command, arguments)()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `jaxinterp`."""
    escape_output()
    keep_compiled()
    commands = (
        Annotated[Train, tyro.conf.subcommand("train")]
        | Annotated[Measure, tyro.conf.subcommand("measure")]
        | Annotated[Attribute, tyro.conf.subcommand("attribute")]
        | Annotated[Facts, tyro.conf.subcommand("facts")]
        | Annotated[Models, tyro.conf.subcommand("models")]
        | Annotated[Metrics, tyro.conf.subcommand("metrics")]
    )
    sys.exit(run(lambda: _parsed(commands, arguments, prog="jaxinterp")()))


def _parsed(command: object, arguments: Sequence[str] | None, prog: str | None = None) -> Callable[[], None]:
    """The command that the arguments ask for. What tyro says of a mistake becomes a UserError."""
    boxed = io.StringIO()
    try:
        with contextlib.redirect_stderr(boxed):
            parsed = tyro.cli(command, args=arguments, prog=prog, config=(tyro.conf.OmitSubcommandPrefixes,))
    except SystemExit as stop:
        if stop.code in (None, 0):
            raise
        raise UserError(_unboxed(boxed.getvalue())) from None
    check_numbers(parsed)  # options of the command itself, beside those of its configs
    return parsed


def _unboxed(text: str) -> str:
    """The first paragraph of one of tyro's boxes, in one line."""
    # The title stands in the frame or, where the terminal has no box characters, in a paragraph of its own.
    framed = "╭" in text
    lines = [line.strip("│ ") for line in text.splitlines() if not line.startswith(("╭", "╰"))]
    paragraphs = [[]]
    for line in lines:
        if line and not line.strip("─-"):
            paragraphs.append([])
        elif line:
            paragraphs[-1].append(line)
    message = " ".join(paragraphs[0] if framed or not paragraphs[1:] else paragraphs[1]).rstrip(".")
    return f"{message}; --help lists what is accepted"
