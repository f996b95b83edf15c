"""What is added to a parameter of one layer: some of its rows, or a matrix of low rank.

Sums are computed here in float64, element by element and in a fixed order, and rounded once: the same change gives the
same bits on every machine.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

BITS = {2: np.uint16, 4: np.uint32, 8: np.uint64}  # of a number, by its bytes


class Rows(NamedTuple):
    """Vectors that are added to K rows of a matrix."""

    parameter: str  # dotted path, as "layers.w_out"
    layer: int
    row_K: Int[np.ndarray, " K"]  # each at most once
    delta_KD: Float[np.ndarray, "K D"]


class LowRank(NamedTuple):
    """left · right, which is added to a whole matrix."""

    parameter: str
    layer: int
    left_FN: Float[np.ndarray, "F N"]
    right_ND: Float[np.ndarray, "N D"]


Delta = Rows | LowRank


class Exceptions(NamedTuple):
    """Elements of a matrix before a change, where subtracting what was added would not give them back."""

    index_E: Int[np.ndarray, " E"]  # into the rows that changed, in C order
    bits_E: Shaped[np.ndarray, " E"]  # the numbers' bits, as unsigned integers


def added(old_FD: Float[np.ndarray, "F D"], delta: Delta) -> tuple[Float[np.ndarray, "F D"], Exceptions]:
    """The matrix after a change, and what has to be kept so that `removed` gives the old one back, bit for bit.

    W' = W + Δ is rounded to W's type, and W' − Δ rounds to W again unless the rounding of W' was coarser than W: where
    |W'| is in a higher power of two. These few elements are kept.
    """
    rows, change = _rows(delta, len(old_FD)), _dense(delta)
    before = old_FD[rows]
    after = (before.astype(np.float64) + change).astype(old_FD.dtype)
    lost = np.flatnonzero(_bits(_less(after, change)) != _bits(before))
    new_FD = old_FD.copy()
    new_FD[rows] = after
    return new_FD, Exceptions(lost, _bits(before).ravel()[lost])


def removed(new_FD: Float[np.ndarray, "F D"], delta: Delta, exceptions: Exceptions) -> Float[np.ndarray, "F D"]:
    """The matrix before a change, from the one after it."""
    rows = _rows(delta, len(new_FD))
    before = _less(new_FD[rows], _dense(delta))
    _bits(before).reshape(-1)[exceptions.index_E] = exceptions.bits_E
    old_FD = new_FD.copy()
    old_FD[rows] = before
    return old_FD


def _less(after: np.ndarray, change: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray((after.astype(np.float64) - change).astype(after.dtype))


def _bits(values: np.ndarray) -> np.ndarray:
    return values.view(BITS[values.dtype.itemsize])


def _rows(delta: Delta, n_rows: int) -> np.ndarray:
    return delta.row_K if isinstance(delta, Rows) else np.arange(n_rows)


def _dense(delta: Delta) -> Float[np.ndarray, "K D"]:
    if isinstance(delta, Rows):
        return delta.delta_KD.astype(np.float64)
    # Not by a matrix product, whose order of sums is the library's.
    total = np.zeros((delta.left_FN.shape[0], delta.right_ND.shape[1]))
    for left_F, right_D in zip(delta.left_FN.T.astype(np.float64), delta.right_ND.astype(np.float64), strict=True):
        total += left_F[:, None] * right_D[None]
    return total
