"""Parsing a command line and running its command, mistakes and interruptions included; imports no JAX."""

import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import tyro

from jaxinterp.base.errors import UserError
from jaxinterp.base.numbers_given import check_numbers


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


def experiment(command: object, arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Entry point of a script: parses a config dataclass, or one of several subcommands, and runs it.

    Mistakes in the arguments are told by tyro, with status 2.
    """
    escape_output()
    keep_compiled()

    def parsed_and_run() -> None:
        parsed = tyro.cli(command, args=arguments, prog=prog, config=(tyro.conf.OmitSubcommandPrefixes,))
        check_numbers(parsed)  # options of the command itself, beside those of its configs
        parsed()

    sys.exit(run(parsed_and_run))
