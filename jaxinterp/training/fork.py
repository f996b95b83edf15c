"""Runs that share their first steps: train those once, and go on from there with different objectives."""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import new_folder, read_json
from jaxinterp.base.lines import whole_lines
from jaxinterp.base.run_folder import claim, difference, truncate
from jaxinterp.base.schedule import parse_schedule
from jaxinterp.training.config import TrainConfig
from jaxinterp.training.driver import EVALUATIONS, METRICS


def branch(config: TrainConfig, trunk: Path, step: int, out: Path) -> None:
    """Makes `out` a run that goes on from a step of another, up to which the two would be alike.

    Args:
      config: of the new run; like the trunk's but for how many checkpoints are kept, and for an objective of the same
        `start` whose weights are 0 up to the step.
      trunk: folder of the other run, with a checkpoint of that step.
      step: where they part.
      out: folder, which must not exist; it appears whole or not at all, to be continued with `resume`.
    Raises:
      UserError: if the runs differ before the step, or the trunk has no such checkpoint.
    """
    if out.exists():
        raise UserError(f"{out} exists already; choose another folder")
    begun = _kept(trunk)
    if step not in begun:
        raise UserError(f"{trunk} has no checkpoint of step {step} to go on from")
    plain, other = dataclasses.asdict(config), read_json(trunk / "config.json").get("config", {})
    if found := difference(_common(plain), _common(other)):
        name, here, there = found
        raise UserError(f"{trunk} is a run of another config: {name} is {there!r} there and {here!r} here")
    for where, objective in {"here": plain["objective"], "there": other["objective"]}.items():
        for name, text in objective["weights"].items():
            if begun[step] > _alike(text, config.objective.start):
                raise UserError(f"the weight of {name} is not 0 up to step {step} {where}: {text!r}")
    with new_folder(out) as folder:
        claim(plain, folder, resume=False, data=read_json(trunk / "config.json").get("data"))
        shutil.copyfile(trunk / METRICS, folder / METRICS)
        truncate(folder / METRICS, step)
        if (trunk / EVALUATIONS).exists():
            shutil.copyfile(trunk / EVALUATIONS, folder / EVALUATIONS)
            truncate(folder / EVALUATIONS, step)
        shutil.copytree(trunk / "checkpoints" / str(step), folder / "checkpoints" / str(step))


def common_step(config: TrainConfig, trunk: Path) -> int:
    """The last step before the end that has a checkpoint in the trunk and up to which the two runs are alike; 0 if
    there is none. When an objective begins depends on the data, so the trunk's metrics say it.
    """
    plain, other = dataclasses.asdict(config), read_json(trunk / "config.json").get("config", {})
    if difference(_common(plain), _common(other)):
        return 0
    texts = [*config.objective.weights.values(), *other["objective"]["weights"].values()]
    most = min((_alike(text, config.objective.start) for text in texts), default=np.inf)
    return max((step for step, begun in _kept(trunk).items() if step < config.steps and begun <= most), default=0)


def _common(config: Mapping) -> dict:
    """A config without what two runs may differ in: before an objective begins, nothing reads the text rows either."""
    start = config.get("objective", {}).get("start")
    free = ("keep_checkpoints", "keep_every", "keep_best", "text_rows")
    return {**config, "objective": {"start": start}, **dict.fromkeys(free)}


def _kept(trunk: Path) -> dict[int, int]:
    """The checkpoints of a run: step -> steps since its objective began."""
    kept = (
        line for _, _, line in whole_lines(trunk / METRICS)[0] if (trunk / "checkpoints" / str(line["step"])).is_dir()
    )
    return {line["step"]: int(line["begun"]) for line in kept}


def _alike(text: str, start: float) -> float:
    """The most steps that an objective can have begun ago so that a weight was 0 in all of them."""
    schedule = parse_schedule(text)
    nonzero = np.flatnonzero(np.asarray(schedule.values))
    if not len(nonzero):
        return np.inf
    # The last place of the schedule that is 0; a step is done at the place of the steps before it.
    last = -np.inf if nonzero[0] == 0 else schedule.steps[nonzero[0] - 1]
    # The step that reaches `start` has none of the weights yet, whatever the schedule says.
    return max(float(np.floor(last)) + 1, 1.0 if start else 0.0)
