"""At which steps of a run its metrics are measured, and which checkpoints it keeps for that; imports no JAX."""

import dataclasses

from jaxinterp.base.errors import UserError
from jaxinterp.training.config import TrainConfig


def keeping(run: TrainConfig, along: int) -> TrainConfig:
    """The run, with the checkpoints that `measured_steps` needs. They are at least as dense as the config has them.

    Raises:
      UserError: if the run has fewer steps than that, or keeps checkpoints of its own.
    """
    if along == 1:
        return run
    if along > run.steps:
        raise UserError(f"along is {along}, but a run has {run.steps} steps; use at most as many")
    if run.keep_every:
        raise UserError(
            f"along = {along} decides which checkpoints are kept; leave keep_every out, got {run.keep_every}"
        )
    between = run.steps // along
    checkpoints = -(-between // run.checkpoint_every)  # between two measured steps
    every = between // checkpoints
    return dataclasses.replace(run, checkpoint_every=every, keep_every=every * checkpoints)


def measured_steps(run: TrainConfig, along: int) -> list[int]:
    """The measured steps of a run by `keeping`: `along` of them, as evenly spaced as checkpoints are, and the last."""
    return [*(run.keep_every * n for n in range(1, along)), run.steps]
