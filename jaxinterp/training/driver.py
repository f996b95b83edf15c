"""The one driver of training: everything around a step that touches files, clocks, signals and the terminal."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import jax
from jax.sharding import NamedSharding, PartitionSpec
from jax.stages import Wrapped

from jaxinterp.base.errors import UserError
from jaxinterp.base.lines import sealed, whole_lines
from jaxinterp.base.owner import owned
from jaxinterp.base.prefetch import prefetched
from jaxinterp.base.processes import any_of, is_first, several, together
from jaxinterp.base.progress import progress
from jaxinterp.base.run_folder import check_resumable, claim, interruptible, truncate
from jaxinterp.base.writers import asked_writers, writing
from jaxinterp.models.mesh import on_mesh, seeing
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.objectives.loss import Metrics
from jaxinterp.training.checkpoint import Checkpoints
from jaxinterp.training.planner import planned_step

# In a run's folder; the last has the steps whose numbers were not finite
METRICS, EVALUATIONS, NON_FINITE = "metrics.jsonl", "evaluations.jsonl", "non_finite.jsonl"
SHOWN = {
    "loss": ("loss", ".3f"),
    "text_kl": ("text KL", ".4f"),
    "probability": ("P", ".0%"),
    "suppressability": ("S", ".0%"),
    "control_drop": ("C", ".0%"),
}

State = TypeVar("State")
Inputs = TypeVar("Inputs")


class NotFinite(UserError):
    """A run's numbers stopped being finite."""


@dataclasses.dataclass(frozen=True)
class Cadence:
    """How many steps a run has, and after how many of them something is done; 0 is never."""

    steps: int
    checkpoint: int  # the last step is always saved
    log: int = 1  # a step that is saved or evaluated is logged, too
    evaluate: int = 0  # if at all, then after the last step as well
    keep: int = 1  # newest checkpoints kept
    keep_every: int = 0  # steps; checkpoints of multiples of it are kept, too

    def due(self, every: int, done: int) -> bool:
        """Whether what is done every so many steps is done after `done` steps."""
        return every > 0 and (done % every == 0 or done == self.steps)


class Places(NamedTuple):
    """Where the arrays of a job lie, if it has more devices than one: trees of shardings for a state and for inputs."""

    state: Callable[[Any], Any]
    inputs: Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Job(Generic[State, Inputs]):
    """A run as data. The state is any pytree of arrays and keys.

    Lines are dictionaries for JSON, with "step" (steps done); those of metrics are shown by `SHOWN`.
    """

    config: Mapping | None  # decides the run, and is claimed with its folder; None if the caller has claimed that
    start: Callable[..., State]  # `given` -> the state before the first step
    inputs: Callable[[int], Inputs]  # of a step, from its number alone: so a resumed run sees what it would have seen
    # The jitted step (state, inputs, number) -> (state, metrics), of the objective with its memory mode decided; it
    # donates the state, and leaves it as it was where it is not finite or `number` is not the state's next
    step: Callable[[ObjectiveConfig], Wrapped]
    objective: ObjectiveConfig
    cadence: Cadence
    # (state, metrics of the steps since the last lines, steps done) -> lines of metrics.jsonl; raises NotFinite
    lines: Callable[[State, Sequence[Metrics], int], list[dict]]
    evaluate: Callable[[State, int], list[dict]] | None = None  # (state, steps done) -> lines of evaluations.jsonl
    grows: Sequence[str] = ()  # fields of the config that may be larger when a run is continued
    data: Mapping[str, str] = dataclasses.field(default_factory=dict)  # what it reads -> its digest
    # A line of evaluations.jsonl -> how good the state is: each such state is saved, and the best one kept
    goodness: Callable[[Mapping], float] | None = None
    given: tuple = ()  # arrays that `start` takes
    # What is left to be written of the last state, while the folder is still held; all processes call it
    finish: Callable[[State], None] = lambda state: None
    places: Places | None = None  # None is the default device


def run(job: Job[State, Any], out: Path, *, resume: bool = False, title: str = "train") -> State:
    """Runs a job to its end; what it leaves behind stands in `out`.

    `config.json` (config and provenance), `metrics.jsonl`, `evaluations.jsonl` and `checkpoints/`; writers that are
    asked for (`jaxinterp.base.writers`) have the same records. Ctrl-C and SIGTERM save a checkpoint first.

    Args:
      job: the run.
      out: the run's folder.
      resume: continue from the newest checkpoint in `out`; the result is that of an uninterrupted run, bit for bit.
      title: of the progress bar.
    Returns:
      The last state.
    Raises:
      UserError: if `out` cannot be written or another process holds it, holds a run already (without `resume`), or
        another run (with it), is deleted while the run goes on, or if a step does not fit into memory.
      NotFinite: if the numbers stop being finite.
      KeyboardInterrupt: after Ctrl-C or SIGTERM.
    """
    job.step(job.objective)  # its mistakes are told before the folder is claimed
    asked_writers()
    if resume and job.config is not None:
        check_resumable(out)
    # The first process writes; the others have nothing to hold.
    with owned(out) if is_first() else contextlib.nullcontext(lambda: None) as still_there:
        if job.config is not None and is_first():
            claim(job.config, out, resume, grows=job.grows, data=job.data)
        together("claimed")
        state = _run(job, out, resume, title, still_there)
        job.finish(state)
    return state


def _run(job: Job[State, Any], out: Path, resume: bool, title: str, still_there: Callable[[], None]) -> State:
    cadence, first = job.cadence, is_first()
    kept = functools.partial(_kept, job.goodness, out)
    with contextlib.closing(Checkpoints(out / "checkpoints", cadence.keep, cadence.keep_every, kept)) as checkpoints:
        done, state = 0, _started(job)
        if resume and (checkpoints.steps() or checkpoints.damaged()):
            done, state = checkpoints.restore(state)
        if first:
            for name in (METRICS, EVALUATIONS) if job.evaluate else (METRICS,):
                truncate(out / name, done, complete=name == METRICS)
            if (out / NON_FINITE).exists():
                truncate(out / NON_FINITE, done)
        together("begun")
        steps = range(done, cadence.steps)
        with (
            progress(title, cadence.steps, done=done) if first else contextlib.nullcontext(lambda *_: None) as report,
            writing(out, job.config, done) if first else contextlib.nullcontext(lambda _: None) as log,
            interruptible() as interrupted,
            contextlib.closing(prefetched(lambda number: _placed(job, job.inputs(number)), steps)) as inputs,
        ):
            pending, planned = [], None
            for number, batch in enumerate(inputs, done):
                if planned is None:
                    planned = planned_step(_step_of(job, state), job.objective, (state, batch, number))
                    report(number, planned.describe())
                    together("compiled")
                state, metrics = planned.step(state, batch, number)
                pending.append(metrics)
                done = number + 1
                evaluate = job.evaluate is not None and cadence.due(cadence.evaluate, done)
                save = cadence.due(cadence.checkpoint, done) or (evaluate and job.goodness is not None)
                # Several processes stop at the same step: they ask one another where they wait in any case.
                stop = interrupted.is_set() if not several() else False
                if stop or save or evaluate or cadence.due(cadence.log, done):
                    still_there()
                    stop = any_of(interrupted.is_set())
                    try:
                        lines = job.lines(state, pending, done)
                    except NotFinite as error:
                        raise NotFinite(f"{error}; {checkpoints.describe()}") from None
                    pending = []
                    if first:
                        append(out / METRICS, lines)
                    log(lines)
                    report(done, _words(lines))
                # Before the checkpoint, so that a run resumed from it has all evaluations up to it.
                if evaluate:
                    lines = job.evaluate(state, done)
                    if first:
                        append(out / EVALUATIONS, lines)
                    log(lines)
                    together("evaluated")
                if save or stop:
                    checkpoints.save(done, state)
                if stop:
                    checkpoints.wait()
                    raise KeyboardInterrupt(
                        f"stopped at step {done}; start again with the same folder to go on (jaxinterp train: with "
                        "--resume)"
                    )
    return state


def _started(job: Job[State, Any]) -> State:
    """The state before the first step; on several devices each part is made where it lies."""
    if job.places is None:
        return job.start(*job.given)
    return jax.jit(job.start, out_shardings=job.places.state(jax.eval_shape(job.start, *job.given)))(*job.given)


def _kept(goodness: Callable[[Mapping], float] | None, out: Path, steps: Sequence[int]) -> set[int]:
    """Of these checkpoints the best, and those from which steps that were not finite can be computed again."""
    bad = [line["step"] - 1 for _, _, line in whole_lines(out / NON_FINITE)[0]]
    kept = {max((step for step in steps if step <= at), default=-1) for at in bad} & set(steps)
    if goodness is not None:
        good = {line["step"]: goodness(line) for _, _, line in whole_lines(out / EVALUATIONS)[0]}
        there = {step: good[step] for step in steps if math.isfinite(good.get(step, math.nan))}
        kept |= {max(there, key=there.__getitem__)} if there else set()
    return kept


def _placed(job: Job[Any, Any], inputs: Any) -> Any:
    return jax.device_put(inputs) if job.places is None else on_mesh(inputs, job.places.inputs(inputs))


def _step_of(job: Job[State, Any], state: State) -> Callable[[ObjectiveConfig], Wrapped]:
    """The job's step; on several devices one whose new state lies as the old one does."""
    if job.places is None:
        return job.step
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    mesh = jax.tree.leaves(shardings)[0].mesh
    everywhere = NamedSharding(mesh, PartitionSpec())  # for the metrics

    def made(objective: ObjectiveConfig) -> Wrapped:
        return jax.jit(seeing(mesh, job.step(objective)), donate_argnums=0, out_shardings=(shardings, everywhere))

    return made


def append(path: Path, lines: Sequence[Mapping]) -> None:
    """Adds lines to a log, each with its digest; UserError if it cannot be written."""
    try:
        with path.open("a", encoding="utf-8") as log:
            log.writelines(sealed(line, strict=False) + "\n" for line in lines)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; what was saved before is whole") from None


def plain_line(metrics: Mapping) -> dict[str, float | None]:
    """A step's metrics for a line of JSON, which has no NaN; without "finite"."""
    values = {name: float(value) for name, value in metrics.items() if name != "finite"}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _words(lines: Sequence[Mapping]) -> str:
    """What lines of one step say in short: values, or their range; "finite" is false for what stands still."""
    moving = [line for line in lines if line.get("finite", True)]
    words = []
    for name, (title, form) in SHOWN.items():
        if values := [line[name] for line in moving if line.get(name) is not None]:
            words.append(f"{title} " + " … ".join(dict.fromkeys(format(f(values), form) for f in (min, max))))
    if len(moving) < len(lines):
        words.append(f"{len(lines) - len(moving)} of {len(lines)} stand still")
    return "  ".join(words)
