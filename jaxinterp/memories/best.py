"""The highest values of every neuron so far, in bounded memory."""

from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Float, Int

GROUP = 16  # rows, of which the highest value is looked at first: hardly any of the others is in a later batch

Values = TypeVar("Values", np.ndarray, jax.Array)


def highest(value_LRF: Values) -> Values:
    """The highest value of each neuron in each group of `GROUP` rows, the last of which may be smaller: [L, G, F]."""
    n_layers, n_rows, d_mlp = value_LRF.shape
    whole = n_rows - n_rows % GROUP
    found = value_LRF[:, :whole].reshape(n_layers, -1, GROUP, d_mlp).max(2)
    if whole == n_rows:
        return found
    rest = value_LRF[:, whole:].max(1, keepdims=True)
    joined = np.concatenate if isinstance(value_LRF, np.ndarray) else jax.numpy.concatenate
    return joined([found, rest], 1)


class Best:
    """The K highest values of each neuron among all that were added, and their tokens, numbered in reading order."""

    def __init__(self, n_layers: int, d_mlp: int, k: int) -> None:
        self.value_LFK = np.full((n_layers, d_mlp, k), -np.inf, np.float32)
        self.token_LFK = np.full((n_layers, d_mlp, k), -1, np.int64)

    def add(
        self,
        value_LRF: Float[np.ndarray, "L R F"],
        highest_LGF: Float[np.ndarray, "L G F"],
        token_R: Int[np.ndarray, " R"],
    ) -> None:
        """Merges the values of R tokens, none of which was there before; a value of −inf is none.

        Args:
          value_LRF: of all neurons.
          highest_LGF: `highest` of these.
          token_R: numbers of the tokens.
        """
        if value_LRF.dtype != self.value_LFK.dtype:
            self.value_LFK = self.value_LFK.astype(value_LRF.dtype)
        for layer in zip(self.value_LFK, self.token_LFK, value_LRF, highest_LGF, strict=True):
            _merge(*layer, token_R)


def _merge(
    kept_FK: np.ndarray, token_FK: np.ndarray, value_RF: np.ndarray, highest_GF: np.ndarray, token_R: np.ndarray
) -> None:
    """Puts what is above the lowest that a neuron has into its place; values and tokens are changed in place."""
    n_rows, k = len(value_RF), kept_FK.shape[1]
    if not n_rows:
        return
    floor_F, last_F = kept_FK[:, -1], token_FK[:, -1]
    if n_rows > k and np.isneginf(floor_F).any():
        lowest_F = np.partition(value_RF, n_rows - k, axis=0)[n_rows - k]
        floor_F = np.maximum(floor_F, np.nextafter(lowest_F, -np.inf))  # the k-th itself, and its equals, pass
    # Of equals, an earlier token takes a later one's place: a silent neuron has nothing but equals.
    first_G = np.minimum.reduceat(token_R, np.arange(0, n_rows, GROUP))
    group, hot = np.nonzero((highest_GF > floor_F) | ((highest_GF == floor_F) & (first_G[:, None] < last_F)))
    if not len(hot):
        return
    row_HS = group[:, None] * GROUP + np.arange(GROUP)
    there_HS = row_HS < n_rows
    row_HS = np.minimum(row_HS, n_rows - 1)
    value_HS, floor_H1 = value_RF[row_HS, hot[:, None]], floor_F[hot, None]
    passes_HS = (value_HS > floor_H1) | ((value_HS == floor_H1) & (token_R[row_HS] < last_F[hot, None]))
    at = np.nonzero(passes_HS & there_HS)
    if not len(at[0]):
        return
    changed_C, own = np.unique(hot[at[0]], return_inverse=True)
    neuron = np.concatenate([np.repeat(np.arange(len(changed_C)), k), own])
    value = np.concatenate([kept_FK[changed_C].ravel(), value_HS[at]])
    token = np.concatenate([token_FK[changed_C].ravel(), token_R[row_HS[at]]])
    order = np.lexsort((token, -value, neuron))
    first_C = np.searchsorted(neuron[order], np.arange(len(changed_C)))
    chosen_CK = order[first_C[:, None] + np.arange(k)[None]]
    kept_FK[changed_C], token_FK[changed_C] = value[chosen_CK], token[chosen_CK]
