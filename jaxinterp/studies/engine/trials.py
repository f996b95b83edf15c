"""How a worker takes trials: those that wait, and those of workers that died; and the sign of life it gives.

A worker holds the lock of its trial's folder, and writes a sign of life to the storage now and then. A trial that runs
is a dead worker's if its lock is free and its sign of life has stood still for `GRACE` of the beats, by the clock of
the worker that looks. The lock tells at once who is alive on one machine; the signs also hold on file systems without
locks, and tell across machines.
"""

import contextlib
import os
import platform
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jaxinterp.base.errors import UserError
from jaxinterp.base.owner import is_owned, owned
from jaxinterp.studies.engine.config import Factor, Point, StudyConfig
from jaxinterp.studies.engine.storage import ALIVE, POINT, SEED, Attached, telling

if TYPE_CHECKING:
    import optuna

GRACE = 3  # beats without a sign of life


class Trials:
    """The trials of a study, for one worker that takes one after another."""

    def __init__(self, attached: Attached) -> None:
        self.attached = attached
        self._signs: dict[int, tuple[object, float]] = {}  # trial -> its last sign, and when it was first seen here

    def taken(self) -> "optuna.trial.FrozenTrial | None":
        """A trial that waited, or whose worker died, and is now this worker's; None if there is none now."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        storage = self.attached.storage
        trials = self.attached.trials()
        with telling(self.attached.config):
            for trial in trials:
                if trial.state == TrialState.WAITING:
                    with contextlib.suppress(UpdateFinishedTrialError):
                        if storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                            return storage.get_trial(trial._trial_id)
        return next((trial for trial in trials if trial.state == TrialState.RUNNING and self._is_dead(trial)), None)

    def unfinished(self) -> bool:
        """Whether a trial waits or runs."""
        return any(not trial.state.is_finished() for trial in self.attached.trials())

    def _is_dead(self, trial: "optuna.trial.FrozenTrial") -> bool:
        sign, now = trial.user_attrs.get(ALIVE), time.monotonic()
        seen, since = self._signs.setdefault(trial.number, (sign, now))
        if seen != sign:
            self._signs[trial.number] = (sign, now)
            return False
        still = now - since > GRACE * self.attached.config.heartbeat
        return still and not is_owned(folder_of(self.attached, trial))

    @contextlib.contextmanager
    def held(self, trial: "optuna.trial.FrozenTrial") -> Iterator[bool]:
        """Holds a trial and gives signs of life for it; False if another worker has it, or has finished it."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(owned(folder_of(self.attached, trial)))
            except UserError:
                if not is_owned(folder_of(self.attached, trial)):
                    raise
                yield False
                return
            with telling(self.attached.config):
                finished = self.attached.storage.get_trial(trial._trial_id).state.is_finished()
            if finished:
                yield False
                return
            stack.enter_context(_beating(self.attached, trial))
            yield True

    def point_of(self, trial: "optuna.trial.FrozenTrial") -> tuple[Point, tuple[int, ...]]:
        """The point of a trial and its seeds; that of a search is chosen now, unless it was before."""
        config = self.attached.config
        if not config.searches:
            return trial.user_attrs[POINT], config.seeds if config.vmapped else (trial.user_attrs[SEED],)
        import optuna

        with telling(config):
            self.attached.study.sampler = sampler_of(config, trial.number)
            choosing = optuna.trial.Trial(self.attached.study, trial._trial_id)
            point = suggested(config, choosing)
            choosing.set_user_attr(POINT, point)
        return point, config.seeds


def folder_of(attached: Attached, trial: "optuna.trial.FrozenTrial") -> Path:
    """The folder of a trial, whose lock its worker holds."""
    return attached.folder / "trials" / f"{trial.number:05d}"


def suggested(config: StudyConfig, trial: "optuna.trial.Trial") -> Point:
    """The point that the sampler of a search chooses for a trial."""
    return {factor.name: _suggested(trial, factor) for factor in config.factors}


def _suggested(trial: "optuna.trial.Trial", factor: Factor) -> object:
    if factor.values:
        return trial.suggest_categorical(factor.name, factor.values)
    if factor.whole:
        return trial.suggest_int(factor.name, int(factor.low), int(factor.high), log=factor.log)
    return trial.suggest_float(factor.name, factor.low, factor.high, log=factor.log)


def sampler_of(config: StudyConfig, number: int) -> "optuna.samplers.BaseSampler":
    """That of one trial of a search, whose draws depend on its number, so that no two workers draw the same."""
    import warnings

    import optuna

    seed = (config.design_seed * 1_000_003 + number) % 2**32
    if config.design == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if config.design == "nsga2":
        # Generations of about a tenth of the trials: of 50, Optuna's own, few studies see a second one.
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, config.budget.trials // 10))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant_liar, without which workers choose alike, is called experimental
        # A fifth of the trials by chance: of ten, Optuna's own, few studies see much more.
        by_chance = min(10, max(4, config.budget.trials // 5))
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=by_chance)


@contextlib.contextmanager
def _beating(attached: Attached, trial: "optuna.trial.FrozenTrial") -> Iterator[None]:
    stop = threading.Event()
    who = f"{platform.node()}:{os.getpid()}"

    def beat(count: int) -> None:
        attached.storage.set_trial_user_attr(trial._trial_id, ALIVE, [who, count])

    def beats() -> None:
        count = 1
        while not stop.wait(attached.config.heartbeat):
            # A storage that is down for a moment is the main thread's to tell, when it needs it.
            with contextlib.suppress(Exception):
                beat(count)
            count += 1

    with telling(attached.config):
        beat(0)
    thread = threading.Thread(target=beats, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
