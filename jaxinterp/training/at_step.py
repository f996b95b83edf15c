"""The model that a run had after some of its steps."""

import contextlib
from pathlib import Path

from jaxinterp.base.errors import UserError
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.training.checkpoint import Checkpoints
from jaxinterp.training.config import TrainConfig
from jaxinterp.training.data import TrainingData
from jaxinterp.training.loop import model_config, run_provenance
from jaxinterp.training.state import initial_state


def model_at(config: TrainConfig, data: TrainingData, out: Path, step: int) -> LanguageModel:
    """The model in the checkpoint of a step.

    Args:
      config: of the run.
      data: what it was trained on.
      out: its folder.
      step: steps done; one whose checkpoint is kept, see `TrainConfig.keep_every`.
    Raises:
      UserError: if the checkpoint is not there, or damaged.
    """
    model = model_config(config, data)
    like = initial_state(model, config.optimiser, config.steps, config.seed)
    folder = out / "checkpoints"
    with contextlib.closing(Checkpoints(folder, config.keep_checkpoints, config.keep_every)) as checkpoints:
        if step not in checkpoints.steps():
            raise UserError(f"no whole checkpoint of step {step} in {folder}; delete {out} to train the run anew")
        done, state = checkpoints.restore(like, last=step)
    if done != step:
        raise UserError(f"the checkpoint of step {step} in {folder} is damaged; delete {out} to train the run anew")
    return LanguageModel(Model(model, state.params), data.tokenizer, run_provenance(config, data, state))
