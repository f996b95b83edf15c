"""Progress with an estimate of the time left, on standard error: a bar on a terminal, a line now and then elsewhere."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Report = Callable[[int, str], None]  # (units done so far, a few words)
SECONDS_BETWEEN_LINES = 10.0
SECONDS_BEFORE_A_LINE = 3.0


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Says on standard error what takes a while and cannot say how far it is, such as compiling.

    A terminal shows the seconds, and nothing is left there in the end; elsewhere it is one line, if it takes longer
    than `SECONDS_BEFORE_A_LINE`.
    """
    console = Console(stderr=True)
    if console.is_terminal and not console.is_dumb_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            bar.add_task(escape(what), total=None)
            yield
        return
    line = threading.Timer(SECONDS_BEFORE_A_LINE, lambda: print(f"{what} …", file=sys.stderr, flush=True))
    line.daemon = True
    line.start()
    try:
        yield
    finally:
        line.cancel()


@contextlib.contextmanager
def progress(title: str, total: int, *, done: int = 0) -> Iterator[Report]:
    """Yields a function that is told how much is done.

    The first units are left out of the estimate, since programs are compiled during them; before any others are done it
    is not known.

    Args:
      title: what is going on.
      total: units in all.
      done: units done before, which do not count for the estimate.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[words]}"),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=total, completed=done, words="")
            yield lambda now, words="": bar.update(task, completed=now, words=words)
        return
    print(f"{title}: {done}/{total}", file=sys.stderr, flush=True)
    start = last = time.monotonic()
    compiled: tuple[float, int] | None = None  # when the first units were done, and how many

    def report(now: int, words: str = "") -> None:
        nonlocal last, compiled
        clock = time.monotonic()
        if compiled is None and now > done:
            compiled = clock, now
        if clock - last < SECONDS_BETWEEN_LINES and now < total:
            return
        last = clock
        left = "0 s left" if now >= total else "time left not known yet"
        if compiled is not None and compiled[1] < now < total:
            left = f"{(clock - compiled[0]) / (now - compiled[1]) * (total - now):.0f} s left"
        print(f"{title}: {now}/{total}, {clock - start:.0f} s, {left}  {words}", file=sys.stderr, flush=True)

    yield report
