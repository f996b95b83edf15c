"""What a study has so far: its state, and the results of its runs."""

import collections
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json
from jaxinterp.base.lines import CHECK
from jaxinterp.base.owner import is_owned
from jaxinterp.report.shown import Part
from jaxinterp.studies.engine.run import RESULT, Result, folder_of, read_result
from jaxinterp.studies.engine.storage import ALIVE, VERSION, Attached, attach
from jaxinterp.studies.engine.trials import folder_of as trial_folder
from jaxinterp.studies.engine.work import DONE, RUNS, WHY, seconds_of

STATES = ("done", "failed", "running", "left behind", "waiting")


class Status(NamedTuple):
    """How far a study is."""

    counts: dict[str, int]  # of `STATES`
    seconds: float  # of runs that are done
    code: str  # the version of the code that it was begun with
    workers: Sequence[str]  # host:process of those that hold a trial
    failed: Mapping[str, int]  # why trials failed -> how many did for that
    devices: Mapping[str, int]  # kind of device -> how many runs were computed on it; without those that failed


def status_of(attached: Attached) -> Status:
    """The study's state, from its storage, the locks of its trials and the records of its runs."""
    from optuna.trial import TrialState

    names = {TrialState.COMPLETE: "done", TrialState.FAIL: "failed", TrialState.WAITING: "waiting"}
    counts: collections.Counter = collections.Counter(dict.fromkeys(STATES, 0))
    failed: collections.Counter = collections.Counter()
    seconds, workers = 0.0, []
    for trial in attached.trials():
        state = names.get(trial.state, "running")
        if state == "running" and not is_owned(trial_folder(attached, trial)):
            state = "left behind"
        elif state == "running" and ALIVE in trial.user_attrs:
            workers.append(trial.user_attrs[ALIVE][0])
        if why := trial.user_attrs.get(DONE, {}).get(WHY, ""):
            failed[why] += 1
        elif state == "failed" and DONE in trial.user_attrs:
            state = "done"  # Optuna knows no trial without a number, but a run may give none of what is optimised
        counts[state] += 1
        seconds += seconds_of(trial)
    code = attached.study.user_attrs.get(VERSION, "")
    return Status(dict(counts), seconds, code, sorted(workers), failed, _devices(attached))


def _devices(attached: Attached) -> Mapping[str, int]:
    keys = {key for trial in attached.trials() for key in trial.user_attrs.get(DONE, {RUNS: {}})[RUNS]}
    found: collections.Counter = collections.Counter()
    for key in keys:
        with contextlib.suppress(UserError):  # a record that is missing or damaged is told where results are read
            found[read_json(folder_of(attached.folder, key) / RESULT).get("device", "")] += 1
    return {name: n for name, n in sorted(found.items()) if name}


def told(status: Status) -> list[str]:
    """What a reader of a study has to know of its runs: why trials failed, and whether devices are of several kinds."""
    lines = [f"{n} {'trial' if n == 1 else 'trials'} failed: {why}" for why, n in status.failed.items()]
    if len(status.devices) > 1:
        counts = ", ".join(f"{n} on {name}" for name, n in status.devices.items())
        lines.append(f"Runs were computed on {len(status.devices)} kinds of devices, whose numbers differ: {counts}")
    return lines


def status_parts(folder: Path) -> list[Part]:
    """The state of the study in a folder, as the command prints it."""
    attached = attach(folder)
    status = status_of(attached)
    table = Table("trials", *STATES, title=attached.config.name)
    table.add_row(str(sum(status.counts.values())), *(str(status.counts[state]) for state in STATES))
    n_runs = status.counts["done"] + status.counts["failed"]
    words = f"{status.seconds:.0f} s of runs" + (f", {status.seconds / n_runs:.1f} s a trial" if n_runs else "")
    parts: list[Part] = [table, f"code {status.code}   {words}"]
    parts += [f"workers: {', '.join(status.workers)}"] if status.workers else []
    parts += told(status)
    if status.counts["left behind"]:
        parts.append("left behind: begun by a worker that is gone; the next free worker goes on from its checkpoint")
    return parts


def results_of(attached: Attached) -> list[Result]:
    """The results of all trials that are done, each checked against its own digest and the one in the storage.

    Raises:
      UserError: naming the first that was tampered with.
    """
    found: dict[str, Result] = {}
    for trial in attached.trials():
        for key, check in trial.user_attrs.get(DONE, {RUNS: {}})[RUNS].items():
            if not trial.state.is_finished() or key in found:
                continue
            out = folder_of(attached.folder, key)
            found[key] = read_result(out)
            if found[key].record[CHECK] != check:
                raise UserError(
                    f"{out} was tampered with: its record is not what trial {trial.number} entered into the storage"
                )
    return list(found.values())
