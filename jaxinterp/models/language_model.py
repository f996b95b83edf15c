"""A model in memory: what it is, its parameters, its tokenizer, where it is from."""

import dataclasses
from collections.abc import Mapping

from jaxinterp.models.config import ModelConfig
from jaxinterp.models.tokenizers import TextTokenizer


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """Everything that is needed to run a model."""

    config: ModelConfig
    params: Mapping
    tokenizer: TextTokenizer
    provenance: Mapping  # how it came about: the training config, revision, versions; or the file it is from
