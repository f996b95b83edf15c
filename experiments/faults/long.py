"""Whether a long run grows: its memory, open files, threads, memory maps and folder, and the time of its steps.

A tiny language model is trained for many steps by `jaxinterp train`, with checkpoints and evaluations, in a process
that is watched from outside. The second fifth of the steps is compared with the last one. Linux alone: it reads /proc.
"""

import dataclasses
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tiny_command import count_lines, environment, train_command

from jaxinterp.base.errors import UserError
from jaxinterp.base.progress import progress
from jaxinterp.cli.run import experiment

GROWTH = 0.02  # at most, of all that is bounded
MORE = {"resident": 0, "open_files": 1, "threads": 1, "maps": 1, "files": 1}  # what is bounded -> what may come on top


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a process holds at one time."""

    seconds: float  # since its start
    step: int  # the last that it logged
    resident: int  # bytes
    open_files: int
    threads: int
    maps: int  # of memory
    cpu_seconds: float
    files: int  # in the run's folder
    bytes: int  # of them


@dataclasses.dataclass(frozen=True)
class Long:
    """Train for many steps and watch what the process holds."""

    steps: int = 20000
    log_every: int = 10  # steps
    checkpoint_every: int = 200  # steps
    evaluate_every: int = 2000  # steps
    sample_every: float = 0.5  # seconds
    out: Path = Path("checkpoints/faults/long.json")  # file of figures and samples

    def __post_init__(self) -> None:
        every = (self.checkpoint_every, self.evaluate_every, self.steps)
        if self.log_every < 1 or any(n < 1 or n % self.log_every for n in every):
            raise UserError("steps, checkpoint_every and evaluate_every must be multiples of log_every, all at least 1")

    def __call__(self) -> None:
        """Runs the experiment."""
        from jaxinterp.base.files import write_json
        from jaxinterp.base.provenance import provenance

        options = ("--steps", self.steps, "--log-every", self.log_every, "--checkpoint-every", self.checkpoint_every)
        options += ("--evaluate-every", self.evaluate_every)
        with tempfile.TemporaryDirectory() as scratch, progress("steps", self.steps) as report:
            out = Path(scratch) / "run"
            samples, ended = self._watched(out, train_command(out, *options), report)
            faults = [ended] if ended else []
            faults += log_faults(out / "metrics.jsonl", self.steps, self.log_every)
            logs = sum(path.stat().st_size for path in out.glob("*.jsonl"))
        table = compared(samples, self.steps)
        faults += grown(table)
        config = dataclasses.asdict(self) | {"out": str(self.out)}
        found = {"faults": faults, "table": table, "bytes_of_logs": logs, "config": config}
        more = {"samples": [dataclasses.astuple(sample) for sample in samples], "provenance": provenance()}
        write_json(self.out, found | more)
        for name, (early, late) in table.items():
            print(f"{name}: {early:.4g} in the second fifth of the steps, {late:.4g} in the last ({late / early:.3f})")
        print(f"{self.steps} steps, {len(samples)} samples, {len(faults)} faults {faults or ''}; numbers: {self.out}")

    def _watched(
        self, out: Path, command: Sequence[str], report: Callable[[int, str], None]
    ) -> tuple[list[Sample], str]:
        """Samples until the process ends, and what was wrong with its end."""
        start, samples = time.monotonic(), []
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=said)
            try:
                while process.poll() is None:
                    time.sleep(self.sample_every)
                    step = self.log_every * count_lines(out / "metrics.jsonl")
                    if step and (sample := _sample(process.pid, out, time.monotonic() - start, step)):
                        samples.append(sample)
                        report(step, f"{sample.resident / 1e6:.0f} MB")
            finally:
                process.kill()
            said.seek(0)
            text = said.read().strip()
        wrong = process.wait() != 0 or "Traceback" in text
        return samples, f"status {process.returncode}: {text[-150:]}" if wrong else ""


def _sample(process: int, out: Path, seconds: float, step: int) -> Sample | None:
    """None if the process has just ended."""
    of = Path(f"/proc/{process}")
    try:
        lines = dict(line.split(":", 1) for line in (of / "status").read_text(encoding="ascii").splitlines())
        if "VmRSS" not in lines:
            return None
        ticks = (of / "stat").read_text(encoding="ascii").rpartition(")")[2].split()[11:13]
        maps = (of / "maps").read_bytes().count(b"\n")
        open_files = len(list((of / "fd").iterdir()))
    except (FileNotFoundError, ProcessLookupError):
        return None
    # Checkpoints are deleted all the while, which os.walk passes over.
    paths = [os.path.join(folder, name) for folder, _, names in os.walk(out) for name in names]
    sizes = [size for path in paths if (size := _size(path)) is not None]
    cpu = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    resident = 1024 * int(lines["VmRSS"].split()[0])
    return Sample(seconds, step, resident, open_files, int(lines["Threads"]), maps, cpu, len(sizes), sum(sizes))


def _size(path: str) -> int | None:
    """Bytes of a file; None of one that has just been deleted."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return None


def compared(samples: Sequence[Sample], steps: int) -> dict[str, tuple[float, float]]:
    """Figures of the second and of the last fifth of the steps: medians, for checkpoints come and go, and times.

    Raises:
      UserError: if there are too few samples of one of them.
    """
    fifths = [[sample for sample in samples if of * steps < 5 * sample.step <= (of + 1) * steps] for of in (1, 4)]
    if min(map(len, fifths)) < 2:
        raise UserError("a fifth of the steps has fewer than 2 samples; use more steps, or a smaller sample_every")
    table = {}
    for name in (*MORE, "bytes"):
        table[name] = tuple(statistics.median(getattr(sample, name) for sample in of) for of in fifths)
    for name in ("seconds", "cpu_seconds"):
        table[f"{name}_a_step"] = tuple(
            (getattr(of[-1], name) - getattr(of[0], name)) / max(1, of[-1].step - of[0].step) for of in fifths
        )
    return table


def grown(table: dict[str, tuple[float, float]]) -> list[str]:
    """What may not grow from the second to the last fifth of a run, and has."""
    return [
        f"{name} grew from {table[name][0]:g} to {table[name][1]:g}"
        for name, more in MORE.items()
        if table[name][1] > (1 + GROWTH) * table[name][0] + more
    ]


def log_faults(path: Path, steps: int, log_every: int) -> list[str]:
    """What is wrong with a log in which every so many steps have one line, with its digest."""
    from jaxinterp.base.lines import CHECK, whole_lines

    good, broken = whole_lines(path)
    wrong = [f"line {number} of {path.name} is not what was written" for number, _ in broken]
    wrong += [f"line {number} of {path.name} has no digest" for number, line, _ in good if CHECK.encode() not in line]
    found, expected = [value["step"] for _, _, value in good], list(range(log_every, steps + 1, log_every))
    if found != expected:
        wrong.append(
            f"{path.name} has {len(found)} lines, not one for each of the {len(expected)} steps that are logged"
        )
    return wrong


if __name__ == "__main__":
    experiment(Long)
