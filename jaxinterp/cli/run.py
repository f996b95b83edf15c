"""Parsing a command line and running its command, mistakes and interruptions included; imports no JAX."""

import io
import os
import sys
from collections.abc import Callable, Sequence

import tyro

from jaxinterp.base.errors import UserError
from jaxinterp.base.home import home
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.base.plugins import VARIABLE, add_imports, check_plugins


def keep_compiled() -> None:
    """Lets JAX, which is yet to be imported, keep what it compiles for the next start; the environment goes first."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(home() / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    # XLA's own lines on standard error, such as alarms that a program takes long to compile.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def escape_output() -> None:
    """Has characters that the terminal, pipe or file of the output cannot hold written as escapes, such as \\u2212.

    Output that is redirected is ASCII or a code page in some places, notably on Windows, and no name of a fact or of a
    file should end a command that has run for an hour.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def imports_taken(arguments: Sequence[str]) -> list[str]:
    """The arguments without `--import MODULE`, which any command takes, any number of times; see `base.plugins`."""
    left, names = [], []
    words = iter(arguments)
    for word in words:
        if word == "--import":
            names.append(next(words, ""))
        elif word.startswith("--import="):
            names.append(word.removeprefix("--import="))
        else:
            left.append(word)
    if "" in names:
        print("error: --import needs the name of a module", file=sys.stderr)
        sys.exit(2)
    add_imports(names)
    return left


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


def experiment(
    command: object,
    arguments: Sequence[str] | None = None,
    prog: str | None = None,
    once_more: Callable[[object, Callable[[object], object]], object] = lambda parsed, parse: parsed,
) -> None:
    """Entry point of a script: parses a config dataclass, or one of several subcommands, and runs it.

    Mistakes in the arguments are told by tyro, with status 2.

    Args:
      command: the dataclass, or a union of them.
      arguments: of the command line; None is `sys.argv`.
      prog: the name that help shows.
      once_more: what was parsed, and a function that parses the same arguments by another command (with other defaults)
        -> the command that is run.
    """
    escape_output()
    keep_compiled()
    arguments = imports_taken(sys.argv[1:] if arguments is None else arguments)

    def parsed_and_run() -> None:
        def parse(command: object) -> object:
            return tyro.cli(command, args=arguments, prog=prog, config=(tyro.conf.OmitSubcommandPrefixes,))

        parsed = once_more(parse(command), parse)
        if os.environ.get(VARIABLE):
            check_plugins()
        check_numbers(parsed)  # options of the command itself, beside those of its configs
        parsed()

    sys.exit(run(parsed_and_run))
