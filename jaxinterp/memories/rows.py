"""Windows in rows of tokens, in which what a causal model reads the same way in several windows stands once."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from jaxinterp.memories.corpus import Corpus
from jaxinterp.models.attention import Packing

WIDTH = 128  # of a row; a longer window has a row of its own
NONE = np.iinfo(np.int64).max  # number of what is no token that is looked at: after all others


class Rows(NamedTuple):
    """R rows of W tokens. What a token sees are the tokens before it in its text, and those need not be neighbours.

    Windows that begin with the same tokens share them, as the branches of a tree share a stem.
    """

    tokens_RW: Int[np.ndarray, "R W"]
    position_RW: Int[np.ndarray, "R W"]  # of each in its window
    before_RW: Int[np.ndarray, "R W"]  # where in the row the one before it is; −1: a window's first, and padding
    number_RW: Int[np.ndarray, "R W"]  # of the token that is looked at here: window · T + position; or NONE

    def packing(self, *, causal: bool) -> Packing:
        """What the model is told of them. A causal model's tokens see their stem, the others' their whole window."""
        n_rows, width = self.before_RW.shape
        seen_RWW, row_R = np.zeros((n_rows, width, width), bool), np.arange(n_rows)
        for place in range(width):  # what is before a token has a place before it
            seen_RWW[:, place] = seen_RWW[row_R, self.before_RW[:, place]]  # −1 is the last, which sees nothing yet
            seen_RWW[:, place, place] = True
        return Packing(self.position_RW, seen_RWW if causal else seen_RWW | seen_RWW.transpose(0, 2, 1))

    def filled(self, n_rows: int) -> "Rows":
        """As many rows, the further ones of padding."""
        fill = (0, 0, -1, NONE)
        further = ((0, n_rows - len(self.tokens_RW)), (0, 0))
        return Rows(*(np.pad(of, further, constant_values=value) for of, value in zip(self, fill, strict=True)))


def rows_of(corpus: Corpus, looked_at_NT: Bool[np.ndarray, "N T"], *, causal: bool) -> list[Rows]:
    """All windows of a corpus in rows, one entry for each width of rows; the rows of one are in a random order.

    Each token that is looked at has a place of its own, so that equal contexts have as many as are looked at.
    """
    widest = corpus.tokens_NT.shape[1]
    step = max(8, -(-widest // 64) * 8)
    width_N = np.maximum(WIDTH, np.minimum(widest, -(-corpus.length_N // step) * step))
    return [
        _packed(corpus, looked_at_NT, np.flatnonzero(width_N == width), width, share=causal)
        for width in np.unique(width_N).tolist()
    ]


def _packed(corpus: Corpus, looked_at_NT: np.ndarray, window_N: np.ndarray, width: int, *, share: bool) -> Rows:
    """Rows of one width of some windows."""
    if share:  # windows that begin alike become neighbours
        order = sorted(range(len(window_N)), key=lambda n: corpus.tokens_NT[window_N[n]].astype(">i4").tobytes())
        window_N = window_N[order]
    rows, n_tokens = [_Row(width)], corpus.tokens_NT.shape[1]
    for window in window_N.tolist():
        looked_at = np.flatnonzero(looked_at_NT[window])
        if len(looked_at):
            # A causal model's activations do not depend on what comes after the last one that is looked at.
            length = looked_at[-1] + 1 if share else corpus.length_N[window]
            ids, looked_at = (of[window, :length] for of in (corpus.tokens_NT, looked_at_NT))
            if not rows[-1].add(ids, looked_at, window * n_tokens, share=share):
                rows.append(_Row(width))
                rows[-1].add(ids, looked_at, window * n_tokens, share=share)
    # In an order of their tokens, neurons would meet their triggers one after the other, each higher than the last.
    order = np.random.default_rng(0).permutation(len(rows))
    return Rows(*(np.stack(of)[order] for of in zip(*(row.arrays for row in rows), strict=True)))


class _Row:
    """A row that is being filled: the last window that was added is the stem of the next."""

    def __init__(self, width: int) -> None:
        empty = Rows(*(np.zeros((0, width), dtype) for dtype in (np.int32, np.int32, np.int32, np.int64)))
        self.arrays = Rows(*(of[0] for of in empty.filled(1)))
        self._used, self._ids, self._place = 0, np.zeros(0, np.int32), np.zeros(0, np.int32)

    def add(self, ids: np.ndarray, looked_at: np.ndarray, first: int, *, share: bool) -> bool:
        """Adds a window, whose first token has a number; False, and nothing is added, if there is no room."""
        n_stem = 0
        if share:
            both = min(len(ids), len(self._ids))
            differs = np.flatnonzero(ids[:both] != self._ids[:both])
            n_stem = int(differs[0]) if len(differs) else both
        tokens, position, before, number = self.arrays
        stem = self._place[:n_stem]
        own = np.flatnonzero(looked_at[:n_stem])
        again = own[number[stem[own]] != NONE]  # somebody else's place
        n_new = len(again) + len(ids) - n_stem
        if self._used + n_new > len(tokens):
            return False
        place = np.concatenate([stem, self._used + len(again) + np.arange(len(ids) - n_stem)]).astype(np.int32)
        at = np.concatenate([again, np.arange(n_stem, len(ids))])  # positions of what is new, in its order
        new = slice(self._used, self._used + n_new)
        tokens[new], position[new] = ids[at], at
        before[new] = np.where(at > 0, place[at - 1], -1)
        number[new] = np.where(looked_at[at], first + at, NONE)
        number[stem[np.setdiff1d(own, again)]] = first + np.setdiff1d(own, again)
        self._used, self._ids, self._place = self._used + n_new, ids, place
        return True


def batches_of(parts: list[Rows], tokens: int) -> Iterator[tuple[Rows, int]]:
    """Batches of about so many tokens, one row at least, and how many rows a full one of that width has."""
    for rows in parts:
        n_rows, width = rows.tokens_RW.shape
        n_batch = max(1, tokens // width)
        for first in range(0, n_rows, n_batch):
            yield Rows(*(of[first : first + n_batch] for of in rows)), n_batch
