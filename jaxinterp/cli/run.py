"""Parsing a command line and running its command, mistakes and interruptions included; imports no JAX."""

import errno
import inspect
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Union

import tyro

from jaxinterp.base import processes
from jaxinterp.base.errors import UserError
from jaxinterp.base.home import home
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.base.plugins import VARIABLE, check_plugins
from jaxinterp.cli.options import ANYWHERE, Commands, Defaults, closed, configured, opened, taken


def keep_compiled() -> None:
    """Lets JAX, which is yet to be imported, keep what it compiles for the next start; the environment goes first."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(home() / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        # Devices that are threads: a collective holds one until all devices are there. With few threads,
        # collectives that two devices began in another order wait for one another for ever.
        os.environ.setdefault("NPROC", "64")
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


def _forget_output() -> None:
    """Sends what is still to be written nowhere: the interpreter would try once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(who: str, message: str) -> int:
    print(f"error: {who}{message}", file=processes.loud(), flush=True)
    if who:
        os._exit(2)  # the end that JAX has for one of several processes waits for the others
    return 2


def run(command: Callable[[], None]) -> int:
    """Runs a command; a user's mistake or a full disk becomes one line on stderr and status 2, an interruption status
    130, a reader of the output that has gone, as `head` does, status 141.
    """
    who = ""
    try:
        if (of := processes.asked()) is not None:
            who = f"process {of[0]} of {of[1]}: "
        command()
        sys.stdout.flush()
    except UserError as error:
        return _failed(who, str(error))
    except BrokenPipeError:
        _forget_output()
        return 141
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _forget_output()
        return _failed(who, f"cannot write {error.filename or 'the output'}: {error.strerror}; make room")
    except Exception as error:
        if not (who and processes.is_loss(error)):
            raise
        return _failed(who, processes.LOST)
    except KeyboardInterrupt as stop:
        print(f"interrupted: {stop}" if str(stop) else "interrupted", file=sys.stderr)
        return 130
    return 0


def experiment(
    commands: Commands,
    arguments: Sequence[str] | None = None,
    prog: str | None = None,
    saved: Callable[[object], Defaults | None] = lambda parsed: None,
) -> None:
    """Entry point of a script: parses a config dataclass, or one of several subcommands, and runs it.

    Mistakes in the arguments are told by tyro, with status 2. See `jaxinterp.cli.options` for what any command takes.

    Args:
      commands: the dataclass, or dataclasses by the names of subcommands.
      arguments: of the command line; None is `sys.argv`.
      prog: the name that help shows.
      saved: of what was parsed, the defaults with which the line is parsed once more; None to take what was parsed.
    """
    escape_output()
    keep_compiled()

    def parsed_and_run() -> None:
        if (status := processes.watched()) is not None:
            sys.exit(status)
        given = taken(sys.argv[1:] if arguments is None else arguments)
        with_files = configured(commands, given) if given.files else None
        parsed = _parsed(commands, with_files, given.arguments, prog)
        if (defaults := saved(parsed)) is not None:
            if with_files is not None:
                raise UserError("a run that is continued has its own config; leave --config out")
            parsed = _parsed(commands, defaults, given.arguments, prog)
        if os.environ.get(VARIABLE):
            check_plugins()
        check_numbers(parsed)  # options of the command itself, beside those of its configs
        if processes.asked() is not None:
            if not getattr(parsed, "of_processes", False):
                raise UserError("this command runs in one process, which may have many devices; start one")
            processes.start()
            processes.quiet()
        parsed()

    sys.exit(run(parsed_and_run))


def _parsed(commands: Commands, defaults: Defaults | None, arguments: Sequence[str], prog: str | None) -> Any:
    """The command of a line; options that it does not give are the defaults, if there are any of its own."""
    begun = {} if defaults is None else {"default": opened(defaults)}
    options = {"args": list(arguments), "prog": prog, "config": (tyro.conf.OmitSubcommandPrefixes,)}
    if isinstance(commands, Mapping):
        kinds = [
            Annotated[kind, tyro.conf.subcommand(own, **(begun if defaults and own == defaults.name else {}))]
            for own, kind in commands.items()
        ]
        parsed = tyro.cli(Union[tuple(kinds)], description=ANYWHERE, **options)  # noqa: UP007
    else:
        description = f"{inspect.getdoc(commands)}\n\n{ANYWHERE}"
        parsed = tyro.cli(commands, description=description, **begun, **options)
    return parsed if defaults is None else closed(parsed, defaults)
