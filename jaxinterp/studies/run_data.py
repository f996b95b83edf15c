"""What the models of one data config are trained and measured on, made once for all of them."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from jaxinterp.base.errors import UserError
from jaxinterp.facts.encoding import EncodedQueries, encode
from jaxinterp.facts.leakage import clean
from jaxinterp.training.config import DataConfig
from jaxinterp.training.data import TrainingData, limited_facts, training_data


class RunData(NamedTuple):
    """Facts, and the sets of queries that are measured."""

    training: TrainingData
    sets: Mapping[str, EncodedQueries]  # by name, of the split's sets
    ability: EncodedQueries  # the training sentences
    clean: Mapping[str, Mapping[str, Bool[np.ndarray, " N"]]]  # by set; see `jaxinterp.facts.leakage.clean`


@functools.lru_cache(maxsize=2)
def run_data(config: DataConfig, set_names: tuple[str, ...], limit: int = 0) -> RunData:
    """The data of a config; those of the last two are kept.

    Args:
      config: facts, tokenizer and split.
      set_names: of the split's sets, those that are measured.
      limit: only queries of facts that data of this limit have as well are in the sets; 0: all.
    Raises:
      UserError: as `training_data`, or if a set has no such facts.
    """
    data = training_data(config)
    few = frozenset(limited_facts(dataclasses.replace(config, limit=limit)).facts) if limit else None

    def encoded(queries: np.ndarray) -> EncodedQueries:
        return encode(data.facts, queries, data.tokenizer, n_ctx=data.n_positions)

    sets, unseen = {}, {}
    for name in set_names:
        queries, marks = getattr(data.split, name), clean(data.facts, data.split, name)
        if few is not None:
            kept_N = np.array([data.facts.facts[index] in few for index in queries[:, 0].tolist()], bool)
            if not kept_N.any():
                raise UserError(f"no fact of data.limit {limit} is in the set {name}; raise the limit that is measured")
            queries, marks = queries[kept_N], {kind: marked_N[kept_N] for kind, marked_N in marks.items()}
        sets[name], unseen[name] = encoded(queries), marks
    return RunData(data, sets, encoded(data.split.training), unseen)
