"""A language model in memory: the model, its tokenizer, where it is from, and what it does with texts."""

import dataclasses
import weakref
from collections.abc import Mapping, Sequence
from typing import overload

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from jaxinterp.base.digests import array_digest, arrays_digest
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.decoding import GREEDY, Sampler
from jaxinterp.models.model import Model
from jaxinterp.models.parameters import n_params
from jaxinterp.models.run import Run, Tokens
from jaxinterp.models.running import Edits, generated, run_texts, tokens_of, top_tokens
from jaxinterp.models.tokenizers import TextTokenizer

# By identity, with the array itself to know it by.
_DIGESTS: dict[int, tuple[weakref.ref, str]] = {}


def _digest(array: jax.Array | np.ndarray) -> str:
    """`array_digest`; arrays of JAX never change, so that those seen before need not be read again."""
    if not isinstance(array, jax.Array):
        return array_digest(np.asarray(array))
    known, digest = _DIGESTS.get(id(array), (None, ""))
    if known is None or known() is not array:
        digest, name = array_digest(np.asarray(array)), id(array)
        _DIGESTS[name] = weakref.ref(array, lambda _: _DIGESTS.pop(name, None)), digest
    return digest


@dataclasses.dataclass(frozen=True, repr=False)
class LanguageModel:
    """Everything that is needed to run a model on text.

    Texts are read as they stand, with the tokens that the model expects before and after them. In all methods
    `control_tokens` says whether names of control tokens in a text, as "[MASK]" or "<|im_end|>", mean those tokens;
    otherwise they are refused. An `edit` is a `jaxinterp.models.edit.Edit` or several, at any place and position; or
    arrays of neurons, such as `suppress(attributed.mask())` of an answer of one token, which act at the position that
    is read: the last one, or a masked model's first mask. Programs are compiled once for each shape.
    """

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

    def digest(self) -> str:
        """SHA-256 over names, types, shapes and values of all parameters."""
        named = sorted(flatten_dict(self.params).items())
        return arrays_digest(((".".join(path), value) for path, value in named), _digest)

    def tokens(self, text: str, *, control_tokens: bool = False) -> Tokens:
        """How the model reads a text: its tokens by position, the frame included.

        Raises:
          UserError: if the text cannot be encoded or does not fit the context.
        """
        return tokens_of(self.model, self.tokenizer, text, control_tokens)

    def run(
        self,
        texts: str | Sequence[str],
        *,
        capture: str | Sequence[str] = (),
        edit: Edits = None,
        control_tokens: bool = False,
    ) -> Run:
        """Runs the model on a batch of texts, padded on the right to the longest.

        Args:
          texts: one text or several.
          capture: names of places, or one name, out of `jaxinterp.models.places.PLACES`; "mlp_post" are the neurons.
            Values are those after the edit.
          edit: what is changed on the way; None is the untouched model.
        Raises:
          UserError: if there is no text, a text cannot be encoded or does not fit the context, a name is unknown, or
            the edit does not fit the model or the texts.
        """
        places = (capture,) if isinstance(capture, str) else capture
        return run_texts(self.model, self.tokenizer, texts, places, edit, control_tokens)

    @overload
    def top(self, texts: str, n: int = 5, edit: Edits = None, **rest: object) -> list[tuple[str, float]]: ...
    @overload
    def top(self, texts: Sequence[str], n: int = 5, edit: Edits = None, **rest: object) -> list[list]: ...
    def top(
        self,
        texts: str | Sequence[str],
        n: int = 5,
        edit: Edits = None,
        *,
        position: int | None = None,
        control_tokens: bool = False,
    ) -> list:
        """The n most probable tokens where texts are read, with their probabilities; a list of lists for several texts.

        Args:
          texts: one text or several; to a masked model with "[MASK]", and `control_tokens=True`.
          n: how many.
          edit: as in `run`.
          position: after which token the next one is asked for; negative numbers count from the text's end. None: the
            last, or a masked model's first mask token.
        Raises:
          UserError: as `run`, or if a position is out of range.
        """
        found = top_tokens(self.model, self.tokenizer, texts, n, edit, position, control_tokens)
        return found[0] if isinstance(texts, str) else found

    @overload
    def generate(self, prompts: str, n_tokens: int = 20, edit: Edits = None, **rest: object) -> str: ...
    @overload
    def generate(self, prompts: Sequence[str], n_tokens: int = 20, edit: Edits = None, **rest: object) -> list[str]: ...
    def generate(
        self,
        prompts: str | Sequence[str],
        n_tokens: int = 20,
        edit: Edits = None,
        *,
        sampler: Sampler = GREEDY,
        seed: int = 0,
        control_tokens: bool = False,
    ) -> str | list[str]:
        """The texts with which a causal model continues prompts, without the prompts.

        A text ends after `n_tokens` tokens, before a control token (such as the one for the end of a text), or where
        the context is full. Keys and values are kept, so that a token costs one position.

        Args:
          prompts: one or several.
          n_tokens: most tokens to add.
          edit: as in `run`. An `Edit` without positions acts at all, old and new; positions are counted from the
            prompt's start, negative ones from its end. Arrays of neurons act where a next token is read and nowhere
            else: what is before it is read by the untouched model, as in `attribute`.
          sampler: how the next token is chosen; the most probable one unless told otherwise.
          seed: of the draws.
        Raises:
          UserError: if the model is not causal, a prompt cannot be encoded or fills the context, or as `run`.
        """
        found = generated(self.model, self.tokenizer, prompts, n_tokens, edit, sampler, seed, control_tokens)
        return found[0] if isinstance(prompts, str) else found

    def __repr__(self) -> str:
        config = self.config
        return (
            f"LanguageModel({config.attention}, {n_params(config) / 1e6:.3g}M parameters, {config.n_layers} layers of "
            f"{config.d_mlp} neurons, {config.d_vocab} tokens, {config.dtype})"
        )
