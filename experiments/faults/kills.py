"""What becomes of runs that are killed (SIGKILL) at moments that nobody chose, several times each, and then continued.

A tiny model is trained by `jaxinterp train`, once undisturbed, and then in one folder after another with kills in
between. A kill waits for something to begin (a checkpoint, an evaluation, the writing of the model) or for nothing, and
then for a random time. Where it hit is read from the folder afterwards. Every run goes on to its end: its weights and
logs must be those of the undisturbed one, byte for byte, its checkpoints whole, and nothing else may lie in its folder.
"""

import collections
import dataclasses
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tiny_command import count_lines, entries, environment, train_command

from jaxinterp.base.errors import UserError
from jaxinterp.base.progress import progress
from jaxinterp.cli.run import experiment

SAME = ("model/model.safetensors", "metrics.jsonl", "evaluations.jsonl")  # byte for byte
POLL_S = 0.001
# Folders that are there while something is written or deleted
PARTIAL = {
    "checkpoint": "checkpoints/*.orbax-checkpoint-tmp*",
    "deletion": "checkpoints/deleted-*",
    "model": ".model-*",
}
# What a kill waits for -> the mean of the random time after it, in seconds
AIMS = {"checkpoint": 0.03, "evaluation": 0.5, "model": 0.003}
DRAWN = (None, "checkpoint", "checkpoint", "checkpoint", "evaluation")  # for a kill that is not its run's last


class Ended(NamedTuple):
    """One process of a run."""

    status: int  # -9 was killed
    place: str  # what it was doing; "" if it ended by itself
    said: str  # on standard error


@dataclasses.dataclass(frozen=True)
class Kills:
    """Kill and continue training runs, and compare what they leave with an undisturbed run."""

    kills: int = 100
    a_run: int = 8  # kills; the last of them waits for the model
    steps: int = 40
    checkpoint_every: int = 2  # steps
    evaluate_every: int = 20  # steps
    seed: int = 0  # of what is waited for, and how long; where that hits is the machine's chance
    out: Path = Path("checkpoints/faults/kills.json")  # file of counts; folders of runs that differ are kept beside it

    def __post_init__(self) -> None:
        if min(self.kills, self.a_run, self.steps, self.checkpoint_every, self.evaluate_every) < 1:
            raise UserError("kills, a_run, steps, checkpoint_every and evaluate_every must be at least 1")

    def __call__(self) -> None:
        """Runs the experiment."""
        from jaxinterp.base.files import write_json
        from jaxinterp.base.provenance import provenance

        start = time.monotonic()
        config = dataclasses.asdict(self) | {"out": str(self.out)}
        with tempfile.TemporaryDirectory() as scratch, progress("kills", self.kills) as report:
            for found in self._found(Path(scratch), report):  # the file holds what is known when a run has ended
                more = {"seconds": round(time.monotonic() - start), "config": config, "provenance": provenance()}
                write_json(self.out, found | more)
        places = ", ".join(f"{n} at {place}" for place, n in sorted(found["kills"].items()))
        print(
            f"{sum(found['kills'].values())} kills ({places}) of {found['runs']} runs; {found['identical']} runs are "
            f"the undisturbed one, byte for byte; {len(found['faults'])} faults; numbers: {self.out}"
        )

    def _found(self, scratch: Path, report: Callable[[int, str], None]) -> Iterator[dict]:
        """The figures after each run."""
        rng = np.random.default_rng(self.seed)
        whole, places = scratch / "whole", collections.Counter()
        self._ended(whole, None, None, 0.0)  # compiles
        shutil.rmtree(whole)
        begun = time.monotonic()
        if (first := self._ended(whole, None, None, 0.0)).status:
            raise UserError(f"the undisturbed run ended with status {first.status}: {first.said[-150:]!r}")
        longest = time.monotonic() - begun
        n_runs, identical, kills, faults = 0, 0, 0, []
        while kills < self.kills:
            if n_runs > 2 * self.kills:
                raise UserError(f"only {kills} kills hit in {n_runs} runs: they end before; use more steps")
            out = scratch / f"run{n_runs}"
            of_run = []
            for ended in self._killed(out, min(self.a_run, self.kills - kills), longest, rng):
                of_run.append(ended)
                if ended.status == -signal.SIGKILL:
                    places[ended.place] += 1
                    kills += 1
                    report(kills, ended.place)
            wrong = [*(fault for ended in of_run for fault in faults_of(ended)), *differences(whole, out)]
            faults += [f"run {n_runs}: {fault}" for fault in wrong]
            identical += all((whole / name).read_bytes() == _bytes(out / name) for name in SAME)
            if wrong:
                print(f"run {n_runs}: " + "; ".join(wrong))
                kept = self.out.parent / f"kills-run{n_runs}"
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(out, kept)
            shutil.rmtree(out)
            n_runs += 1
            yield {"kills": dict(places), "runs": n_runs, "identical": identical, "faults": faults}

    def _killed(self, out: Path, kills: int, longest: float, rng: np.random.Generator) -> Iterator[Ended]:
        """The processes of a run, the last of which is not killed."""
        for kill in range(kills):
            aim = "model" if kill == kills - 1 else DRAWN[rng.integers(len(DRAWN))]
            delay = rng.exponential(AIMS[aim]) if aim in AIMS else rng.uniform(0, longest)
            lines = int(rng.integers(1, max(2, self.steps // self.a_run)))
            ended = self._ended(out, aim, lines, delay)
            yield ended
            if ended.status != -signal.SIGKILL:
                return
        yield self._ended(out, None, None, 0.0)

    def _ended(self, out: Path, aim: str | None, lines: int | None, delay: float) -> Ended:
        """Starts or continues a run, and kills it where it is told to: if `lines` is None, never."""
        options = ("--steps", self.steps, "--log-every", 1, "--checkpoint-every", self.checkpoint_every)
        options += ("--evaluate-every", self.evaluate_every, "--objective.weights", "suppression", 1, "control", 1)
        options += ("--objective.points", 1, *(["--resume"] if (out / "config.json").exists() else []))
        watch = Watch(out, self.steps, self.evaluate_every)
        with tempfile.TemporaryFile("w+") as said:
            command = train_command(out, *options)
            process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=said)
            due = None
            try:
                while lines is not None and process.poll() is None:
                    if due is None and watch.reached(aim, lines):
                        due = time.monotonic() + delay
                    if due is not None and time.monotonic() >= due:
                        process.kill()
                        break
                    time.sleep(POLL_S)
                status = process.wait()
            finally:
                process.kill()
            said.seek(0)
            return Ended(status, watch.place() if status == -signal.SIGKILL else "", said.read())


class Watch:
    """What a process does to its run's folder, which may have leftovers of those before it."""

    def __init__(self, out: Path, steps: int, evaluate_every: int):
        self.out, self.steps, self.evaluate_every = out, steps, evaluate_every
        self._before = self._partial()
        self._log_before = self._log()
        names = [path.name for path in out.glob("checkpoints/*")]
        self._kept = max((int(name) for name in names if name.isdigit()), default=0)  # lines, of the newest checkpoint

    def new_lines(self) -> int:
        """Lines that this process has logged; -1 until it has put another file in the place of the log."""
        began = self._log() not in (None, self._log_before)
        return count_lines(self.out / "metrics.jsonl") - self._kept if began else -1

    def reached(self, aim: str | None, lines: int) -> bool:
        """Whether what a kill waits for has begun."""
        if aim not in AIMS:
            return True
        if aim == "checkpoint":
            return bool(self._new("checkpoint")) and self.new_lines() >= lines
        return self.place() == aim

    def place(self) -> str:
        """What is being done, or was when the process died."""
        logged, evaluated = (count_lines(self.out / f"{name}.jsonl") for name in ("metrics", "evaluations"))
        if self._new("model"):
            return "model"
        if self.new_lines() < 0:  # until then it deletes what dead processes left
            return "start"
        if self._new("checkpoint"):
            return "checkpoint"
        if self._new("deletion"):
            return "deletion"
        if not self.new_lines() and logged < self.steps:
            return "start"
        if evaluated < self._evaluations(logged):
            return "evaluation"
        return "steps" if logged < self.steps else "end"

    def _evaluations(self, steps: int) -> int:
        """How many there are after so many steps: at multiples, and after the last step."""
        return steps // self.evaluate_every + (steps == self.steps and steps % self.evaluate_every > 0)

    def _new(self, what: str) -> set[tuple]:
        return {name for name in self._partial() - self._before if name[0] == what}

    def _partial(self) -> set[tuple]:
        """Folders that are being written, and told apart from those of dead processes by their time."""
        found = set()
        for what, pattern in PARTIAL.items():
            for path in self.out.glob(pattern):
                try:
                    found.add((what, path.name, path.stat().st_ctime_ns))
                except FileNotFoundError:  # it has just been moved to its place
                    continue
        return found

    def _log(self) -> int | None:
        path = self.out / "metrics.jsonl"
        return path.stat().st_ino if path.exists() else None


def faults_of(ended: Ended) -> list[str]:
    """What is wrong with how a process ended: tracebacks, and other ends than the last step or a kill."""
    last = ended.said.strip().splitlines()[-1:]
    wrong = [f"traceback {last}"] if "Traceback" in ended.said else []
    wrong += [line for line in ended.said.splitlines() if "is damaged" in line or "not what was written" in line]
    return wrong if ended.status in (0, -signal.SIGKILL) else [*wrong, f"status {ended.status} {last}"]


def differences(whole: Path, out: Path) -> list[str]:
    """In what a finished run is not the undisturbed one: contents, checkpoints that are not whole, leftovers."""
    from jaxinterp.training.checkpoint import damage_of

    wrong = [f"{name} differs" for name in SAME if (whole / name).read_bytes() != _bytes(out / name)]
    for name in sorted(entries(whole) ^ entries(out)):
        wrong.append(f"{name} is {'missing' if name in entries(whole) else 'left over'}")
    for path in sorted((out / "checkpoints").glob("*")):
        if path.name.isdigit() and (damage := damage_of(out / "checkpoints", int(path.name))):
            wrong.append(f"checkpoint {path.name}: {damage}")
    return wrong


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


if __name__ == "__main__":
    experiment(Kills)
