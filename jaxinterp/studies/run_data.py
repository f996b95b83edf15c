"""What the models of one data config are trained and measured on, made once for all of them."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from jaxinterp.facts.encoding import EncodedQueries, encode
from jaxinterp.facts.leakage import clean
from jaxinterp.training.config import DataConfig
from jaxinterp.training.data import TrainingData, training_data


class RunData(NamedTuple):
    """Facts, and the sets of queries that are measured."""

    training: TrainingData
    sets: Mapping[str, EncodedQueries]  # by name, of the split's sets
    ability: EncodedQueries  # the training sentences
    clean: Mapping[str, Mapping[str, Bool[np.ndarray, " N"]]]  # by set; see `jaxinterp.facts.leakage.clean`


@functools.lru_cache(maxsize=2)
def run_data(config: DataConfig, set_names: tuple[str, ...]) -> RunData:
    """The data of a config; those of the last two are kept.

    Args:
      config: facts, tokenizer and split.
      set_names: of the split's sets, those that are measured.
    Raises:
      UserError: as `training_data`.
    """
    data = training_data(config)

    def encoded(queries: np.ndarray) -> EncodedQueries:
        return encode(data.facts, queries, data.tokenizer, n_ctx=data.n_positions)

    sets = {name: encoded(getattr(data.split, name)) for name in set_names}
    unseen = {name: clean(data.facts, data.split, name) for name in set_names}
    return RunData(data, sets, encoded(data.split.training), unseen)
