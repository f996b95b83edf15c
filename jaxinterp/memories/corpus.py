"""Texts in windows of tokens, as memories are looked for in them."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from jaxinterp.base.errors import UserError
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.tokenizers import TextTokenizer
from jaxinterp.models.windows import padded, windows_of


class Corpus(NamedTuple):
    """N windows of at most T tokens; a long text is several windows."""

    tokens_NT: Int[np.ndarray, "N T"]  # padded on the right; with the tokens that the model expects around a text
    length_N: Int[np.ndarray, " N"]
    text_N: Int[np.ndarray, " N"]  # number of the text that a window is from
    first_N: Int[np.ndarray, " N"]  # token of that text with which it begins, those around it not counted


def corpus_of(model: LanguageModel, texts: Iterable[str], width: int | None = None) -> Corpus:
    """The windows of texts, one text after the other.

    Args:
      model: whose tokenizer and context.
      texts: any; those without a token are numbered, and have no window.
      width: most tokens of a window, those around a text included; None is the model's context. What stands before a
        window is not seen by its tokens, so that short windows are read faster and with less context.
    Raises:
      UserError: if no text has a token, a text cannot be encoded, or the width is above the context or leaves no room.
    """
    n_ctx = model.config.n_ctx
    width = n_ctx if width is None else width
    if not 1 <= width <= n_ctx:
        raise UserError(f"windows must have 1 to {n_ctx} tokens, the model's context, got {width}")
    room = width - len(model.tokenizer.prefix) - len(model.tokenizer.suffix)
    windows, text_N, first_N = [], [], []
    for number, text in enumerate(texts):
        own = windows_of(model.tokenizer, text, width)
        windows += [np.array(window, np.int32) for window in own]  # an eighth of a list's memory
        text_N += [number] * len(own)
        first_N += range(0, room * len(own), room)
    if not windows:
        raise UserError("there is no text to look for memories in; give at least one with a token")
    tokens_NT, length_N = padded(windows, max(map(len, windows)), model.tokenizer.pad)
    return Corpus(tokens_NT, length_N, np.array(text_N, np.int64), np.array(first_N, np.int64))


def counted(corpus: Corpus, tokenizer: TextTokenizer) -> Bool[np.ndarray, "N T"]:
    """Which positions are tokens of the texts: neither padding nor what the model expects around a text."""
    position_1T = np.arange(corpus.tokens_NT.shape[1])[None]
    last_N1 = corpus.length_N[:, None] - len(tokenizer.suffix)
    return (position_1T >= len(tokenizer.prefix)) & (position_1T < last_N1)
