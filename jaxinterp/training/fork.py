"""Runs that share their first steps: train those once, and go on from there with different objectives."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import new_folder, read_json
from jaxinterp.base.run_folder import claim, difference
from jaxinterp.base.schedule import parse_schedule
from jaxinterp.training.config import TrainConfig


def branch(config: TrainConfig, trunk: Path, step: int, out: Path) -> None:
    """Makes `out` a run that goes on from a step of another, up to which the two would be alike.

    Args:
      config: of the new run; like the trunk's but for an objective whose weights are 0 up to the step.
      trunk: folder of the other run, with a checkpoint of that step.
      step: where they part.
      out: folder, which must not exist; it appears whole or not at all, to be continued with `resume`.
    Raises:
      UserError: if the runs differ before the step, or the trunk has no such checkpoint.
    """
    if out.exists():
        raise UserError(f"{out} exists already; choose another folder")
    checkpoint = trunk / "checkpoints" / str(step)
    if not checkpoint.is_dir():
        raise UserError(f"{trunk} has no checkpoint of step {step} to go on from")
    plain, other = dataclasses.asdict(config), read_json(trunk / "config.json").get("config", {})
    if found := difference({**plain, "objective": None}, {**other, "objective": None}):
        name, here, there = found
        raise UserError(f"{trunk} is a run of another config: {name} is {there!r} there and {here!r} here")
    weights = {"here": plain["objective"]["weights"], "there": other["objective"]["weights"]}
    for where, texts in weights.items():
        for name, text in texts.items():
            if _starts(text) < step - 1:
                raise UserError(f"the weight of {name} is not 0 up to step {step} {where}: {text!r}")
    with new_folder(out) as folder:
        claim(plain, folder, resume=False)
        shutil.copytree(checkpoint, folder / "checkpoints" / str(step))


def common_step(config: TrainConfig, trunk: TrainConfig) -> int:
    """The last step that has a checkpoint in the trunk and up to which the two runs are alike; 0 if there is none."""
    plain, other = dataclasses.asdict(config), dataclasses.asdict(trunk)
    if difference({**plain, "objective": None}, json.loads(json.dumps({**other, "objective": None}))):
        return 0
    texts = [*config.objective.weights.values(), *trunk.objective.weights.values()]
    last = min([*map(_starts, texts), config.steps - 1])
    kept = config.steps - config.steps % config.checkpoint_every - config.checkpoint_every * config.keep_checkpoints
    step = int(max(last, 0) // config.checkpoint_every * config.checkpoint_every)
    return step if step > kept else 0


def _starts(text: str) -> float:
    """The last step up to which a schedule is 0."""
    schedule = parse_schedule(text)
    nonzero = np.flatnonzero(np.asarray(schedule.values))
    if not len(nonzero):
        return np.inf
    return -np.inf if nonzero[0] == 0 else float(schedule.steps[nonzero[0] - 1])
