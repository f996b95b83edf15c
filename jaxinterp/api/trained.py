"""Training a model of one's own in one call."""

import dataclasses
from pathlib import Path

from jaxinterp.models.language_model import LanguageModel
from jaxinterp.training.config import TrainConfig
from jaxinterp.training.data import training_data
from jaxinterp.training.loop import train as trained


def train(
    config: TrainConfig | None = None, *, out: str | Path = "checkpoints/run", resume: bool = False, **fields: object
) -> LanguageModel:
    """Trains a language model on facts, plainly or to be suppressable; the run stays in a folder.

    Args:
      config: see `jaxinterp.training.config.TrainConfig`; None is its defaults.
      out: folder of the run.
      resume: whether to continue the run in that folder from its newest checkpoint.
      fields: fields of the config that differ from it, such as steps=100.
    Raises:
      UserError: if a field's value is out of range, or `out` cannot be written or holds another run.
    """
    config = dataclasses.replace(config or TrainConfig(), **fields)
    return trained(config, training_data(config.data), Path(out), resume=resume)
