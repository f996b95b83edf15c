"""A language model in memory: the model, its tokenizer, where it is from."""

import dataclasses
from collections.abc import Mapping

from jaxinterp.models.config import ModelConfig
from jaxinterp.models.model import Model
from jaxinterp.models.parameters import n_params
from jaxinterp.models.tokenizers import TextTokenizer


@dataclasses.dataclass(frozen=True, repr=False)
class LanguageModel:
    """Everything that is needed to run a model on text."""

    model: Model
    tokenizer: TextTokenizer
    provenance: Mapping  # how it came about: the training config, revision, versions; or the file it is from

    @property
    def config(self) -> ModelConfig:
        """The model's."""
        return self.model.config

    @property
    def params(self) -> Mapping:
        """The model's."""
        return self.model.params

    def __repr__(self) -> str:
        config = self.config
        return (
            f"LanguageModel({config.attention}, {n_params(config) / 1e6:.3g}M parameters, {config.n_layers} layers of "
            f"{config.d_mlp} neurons, {config.d_vocab} tokens, {config.dtype})"
        )
