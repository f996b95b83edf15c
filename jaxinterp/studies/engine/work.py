"""A worker: takes trials until there are none, and waits for those of others, whose work it takes up if they die."""

import contextlib
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from jaxinterp.base.errors import UserError
from jaxinterp.base.lines import CHECK
from jaxinterp.base.owner import is_owned
from jaxinterp.base.records import saying_how_to_go_on
from jaxinterp.studies.engine.config import StudyConfig
from jaxinterp.studies.engine.points import check_points
from jaxinterp.studies.engine.programs import make_room
from jaxinterp.studies.engine.run import Result, Runner, check_metrics, done, folder_of, key_of
from jaxinterp.studies.engine.storage import Attached, attach, begin, telling
from jaxinterp.studies.engine.together import GroupRunner, done_together, group_of, trained_together
from jaxinterp.studies.engine.trained import trained
from jaxinterp.studies.engine.trials import Trials
from jaxinterp.studies.engine.version import code_version

if TYPE_CHECKING:
    import optuna

DONE = "done"  # attribute of a trial that is done: what follows
# Key of each of its runs -> digest of its record; seconds of all of them; why the first that failed did
RUNS, SECONDS, WHY = "runs", "seconds", "why"
Found = TypeVar("Found")


def run_study(
    config: StudyConfig, folder: Path, runner: Runner = trained, together: GroupRunner = trained_together
) -> int:
    """Begins a study, or goes on with it, and works until it is done; others may work on it at the same time.

    Args:
      config: the study.
      folder: its folder, which all workers see.
      runner: what makes a run.
      together: what makes the runs of a point, if the study is `vmapped`.
    Returns:
      How many trials this worker finished.
    Raises:
      UserError: if the study cannot be, or the folder or the storage holds another one.
    """
    check_metrics(config)
    check_points(config)
    begin(config, folder)
    return work(folder, runner, together)


def work(folder: Path, runner: Runner = trained, together: GroupRunner = trained_together) -> int:
    """Works on a study that was begun until no trial is left; see `run_study`."""
    attached = attach(folder, same_code=True)
    trials, n_done = Trials(attached), 0
    with saying_how_to_go_on(folder):
        while trials.unfinished():
            if _out_of_hours(attached):
                print(f"the budget of {attached.config.budget.hours:g} hours is used; no trial is begun", flush=True)
                break
            if (trial := trials.taken()) is None:
                time.sleep(min(attached.config.heartbeat, 1.0))
                continue
            n_done += _worked_on(trials, trial, runner, together)
            make_room()
    return n_done


def _worked_on(trials: Trials, trial: "optuna.trial.FrozenTrial", runner: Runner, together: GroupRunner) -> bool:
    """Whether this worker finished the trial."""
    attached = trials.attached
    with trials.held(trial) as is_mine:
        if not is_mine:
            return False
        point, seeds = trials.point_of(trial)
        config, folder = attached.config, attached.folder
        if config.vmapped:
            group = group_of(config, folder, point)
            results = _once(config, group, functools.partial(done_together, config, folder, point, together))
        else:
            results = {}
            for seed in seeds:
                out = folder_of(folder, key_of(config, point, seed, code_version()))
                results[seed] = _once(config, out, functools.partial(done, config, folder, point, seed, runner))
        _tell(attached, trial, results)
    return True


def _once(config: StudyConfig, out: Path, computed: Callable[[], Found]) -> Found:
    """What is computed in a folder; two trials of a search may ask for the same, and the second waits for the first."""
    while True:
        with contextlib.suppress(UserError) if is_owned(out) else contextlib.nullcontext():
            return computed()
        time.sleep(min(config.heartbeat, 1.0))


def _tell(attached: Attached, trial: "optuna.trial.FrozenTrial", results: dict[int, Result]) -> None:
    """Enters what a trial gave: the means over its seeds of what is optimised, and which records they stand in."""
    from optuna.trial import TrialState

    config, storage, number = attached.config, attached.storage, trial._trial_id
    metrics = tuple(config.optimise or config.front or config.metrics[:1])
    why = next((result.failed for result in results.values() if result.failed), "")
    values = [] if why else [sum(of.values[m] for of in results.values()) / len(results) for m in metrics]
    good = bool(values) and all(map(math.isfinite, values))
    with telling(config):
        records = {of.record["key"]: of.record[CHECK] for of in results.values()}
        seconds = sum(of.seconds for of in results.values())
        storage.set_trial_user_attr(number, DONE, {RUNS: records, SECONDS: seconds, WHY: why})
        if good:
            storage.set_trial_state_values(number, TrialState.COMPLETE, values)
        else:
            storage.set_trial_state_values(number, TrialState.FAIL)


def _out_of_hours(attached: Attached) -> bool:
    hours = attached.config.budget.hours
    return bool(hours) and sum(map(seconds_of, attached.trials())) / 3600 >= hours


def seconds_of(trial: "optuna.trial.FrozenTrial") -> float:
    """What the runs of a trial took; 0 if it is not done."""
    return trial.user_attrs.get(DONE, {SECONDS: 0.0})[SECONDS]
