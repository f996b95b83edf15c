"""Texts in windows of tokens, as memories are looked for in them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Corpus(NamedTuple):
    """N windows of at most T tokens; a long text is several windows."""

    tokens_NT: Int[np.ndarray, "N T"]  # padded on the right; with the tokens that the model expects around a text
    length_N: Int[np.ndarray, " N"]
    text_N: Int[np.ndarray, " N"]  # number of the text that a window is from
    first_N: Int[np.ndarray, " N"]  # token of that text with which it begins, those around it not counted
