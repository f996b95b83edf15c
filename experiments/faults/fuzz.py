"""What every reader makes of broken files: thousands for each, made of small real ones and out of nothing.

A broken file may be read, if it still says something; or it is refused by a `UserError` of one line, at most 300
characters, without control characters. All else is a defect: another exception, a file that takes longer or more memory
than `SECONDS` and `GIGABYTES`, a process that dies. Each reader has a process of its own, whose memory is limited.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import io
import multiprocessing
import resource
import signal
import tempfile
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
from mutations import broken
from readers import Reader, laid_out, readers

from jaxinterp.cli.run import experiment

LONGEST = 300  # characters of a message
SECONDS = 5  # of a processor
GIGABYTES = 2  # of addresses, beside what the whole files need
GOOD = ("read", "refused in one line")


@dataclasses.dataclass(frozen=True)
class Fuzz:
    """Give every reader broken files and count what happens."""

    examples: int = 2000  # of each reader
    seed: int = 0
    only: str = ""  # a part of the readers' names; empty is all
    out: Path = Path("checkpoints/faults/fuzz.json")  # file of counts

    def __call__(self) -> None:
        """Runs the experiment."""
        from jaxinterp.base.files import write_json

        found = {}
        for name in readers():
            if self.only not in name:
                continue
            with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                try:
                    counts, told, slowest = pool.submit(_fuzzed, name, self.examples, self.seed).result()
                except concurrent.futures.process.BrokenProcessPool:
                    counts, told, slowest = {"the process died": 1}, ["the process died"], 0.0
            found[name] = {**counts, "slowest, s": round(slowest, 2)}
            outcomes = ", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items()))
            print(f"{name}: {outcomes}; slowest {slowest:.2f} s", flush=True)
            for line in told:
                print(f"  {line}")
        write_json(self.out, found)
        print(f"numbers: {self.out}")


def _fuzzed(name: str, examples: int, seed: int) -> tuple[dict[str, int], list[str], float]:
    """Counts of outcomes, the first defects of each kind, and the longest time of an example."""
    reader = readers()[name]()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "files"
        for files in reader.cases:  # what is imported and compiled once
            laid_out(files, folder)
            reader.opened(folder)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = used + GIGABYTES * 2**30
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        counts: collections.Counter = collections.Counter()
        told: dict[str, str] = {}
        slowest = 0.0

        def look(files: dict) -> None:
            nonlocal slowest
            laid_out(files, folder)
            begun = time.process_time()
            outcome, words = outcome_of(reader.opened, folder, SECONDS)
            slowest = max(slowest, time.process_time() - begun)
            counts[outcome] += 1
            if outcome not in GOOD:
                told.setdefault(words.partition(":")[0] + outcome, f"{outcome}: {words[:400]!r}")

        each_example(reader, look, examples, seed)
    return dict(counts), list(told.values())[:20], slowest


def each_example(reader: Reader, look: Callable[[dict], None], examples: int, seed: int = 0) -> None:
    """Calls `look` with the files of every example, the same ones for the same seed."""

    @st.composite
    def damaged(draw: st.DrawFn) -> dict:
        files = reader.cases[draw(st.integers(0, len(reader.cases) - 1))]
        name = draw(st.sampled_from([name for name in reader.damaged if name in files]))
        return {**files, name: draw(broken(name, files[name]))}

    settings = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(hypothesis.Phase.generate,),
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.seed(seed)(settings(hypothesis.given(damaged())(look)))()


class _Slow(BaseException):
    """What the alarm raises; no reader catches it."""


def outcome_of(opened: Callable[[Path], object], folder: Path, seconds: int = 0) -> tuple[str, str]:
    """What becomes of files, one of `GOOD` or a defect, and the words of the error; 0 seconds are no limit."""
    from jaxinterp.base.errors import UserError

    def late(*_: object) -> None:
        raise _Slow

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        with contextlib.redirect_stderr(io.StringIO()) as told:
            opened(folder)
        text = told.getvalue().replace(str(folder), "FILES")
        return ("control characters printed" if _commands(text.replace("\n", "")) else "read"), text
    except UserError as error:
        text = str(error).replace(str(folder), "FILES")
        if "\n" in text or _commands(text):
            return "several lines or control characters", text
        return ("refused in one line" if len(text) <= LONGEST else f"over {LONGEST} characters"), text
    except MemoryError as error:
        return f"over {GIGABYTES} GB", f"MemoryError: {error}"
    except _Slow:
        return f"over {SECONDS} s", "slow"
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error} {_where(error)}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _where(error: BaseException) -> str:
    """The line of the package at which an exception passed last."""
    place, frame = "", error.__traceback__
    while frame is not None:
        if "/jaxinterp/" in frame.tb_frame.f_code.co_filename:
            place = f"{frame.tb_frame.f_code.co_filename.rpartition('/jaxinterp/')[2]}:{frame.tb_lineno}"
        frame = frame.tb_next
    return place


def _commands(text: str) -> bool:
    return any(unicodedata.category(character) in ("Cc", "Cs") for character in text)


if __name__ == "__main__":
    experiment(Fuzz)
