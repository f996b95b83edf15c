"""Texts of any length as windows of tokens that a model can read."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from jaxinterp.base.errors import UserError
from jaxinterp.models.tokenizers import TextTokenizer


def windows_of(tokenizer: TextTokenizer, text: str, width: int) -> list[list[int]]:
    """A text cut into windows of at most `width` tokens, each with the tokens that the model expects around a text.

    Returns:
      A list of ids for each window; none for a text without tokens.
    Raises:
      UserError: if the text cannot be encoded, or a window has no room for a token of it.
    """
    ids = tokenizer.encode(text)
    if tokenizer.unk is not None and tokenizer.unk in ids:
        raise UserError(f"the tokenizer does not know {tokenizer.unknown_word(text)!r} in {text[:60]!r}; leave it out")
    room = width - len(tokenizer.prefix) - len(tokenizer.suffix)
    if room < 1:
        raise UserError(f"a window of {width} tokens has no room for text beside the {width - room} around it")
    parts = [ids[start : start + room] for start in range(0, len(ids), room)]
    return [[*tokenizer.prefix, *part, *tokenizer.suffix] for part in parts]


def padded(
    windows: Sequence[Sequence[int] | np.ndarray], width: int, pad: int, n_windows: int | None = None
) -> tuple[Int[np.ndarray, "B T"], Int[np.ndarray, " B"]]:
    """Windows as an array, filled up on the right, and their lengths.

    Args:
      windows: of at most `width` tokens each.
      width: T.
      pad: the token that fills.
      n_windows: B, if there are to be more of them, of padding alone: their length is 0.
    """
    n_windows = len(windows) if n_windows is None else n_windows
    length_B = np.array([len(window) for window in windows] + [0] * (n_windows - len(windows)), np.int64)
    tokens_BT = np.full((n_windows, width), pad, np.int32)
    for row, window in zip(tokens_BT, windows, strict=False):
        row[: len(window)] = window
    return tokens_BT, length_B
