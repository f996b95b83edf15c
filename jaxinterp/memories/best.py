"""The highest values of every neuron so far, in bounded memory."""

import numpy as np
from jaxtyping import Float, Int


class Best:
    """The K highest values of each neuron among all that were added, and their tokens, numbered in reading order."""

    def __init__(self, n_layers: int, d_mlp: int, k: int) -> None:
        self.value_LFK = np.full((n_layers, d_mlp, k), -np.inf, np.float32)
        self.token_LFK = np.full((n_layers, d_mlp, k), -1, np.int64)

    def add(self, value_LRF: Float[np.ndarray, "L R F"], token_R: Int[np.ndarray, " R"]) -> None:
        """Merges the values of R tokens, none of which was there before."""
        if value_LRF.dtype != self.value_LFK.dtype:
            self.value_LFK = self.value_LFK.astype(value_LRF.dtype)
        for kept_FK, token_FK, value_RF in zip(self.value_LFK, self.token_LFK, value_LRF, strict=True):
            _merge(kept_FK, token_FK, value_RF, token_R)


def _merge(kept_FK: np.ndarray, token_FK: np.ndarray, value_RF: np.ndarray, token_R: np.ndarray) -> None:
    """Puts what is above the lowest that a neuron has into its place; values and tokens are changed in place."""
    n_tokens, k = len(value_RF), kept_FK.shape[1]
    if not n_tokens:
        return
    floor_F, last_F = kept_FK[:, -1], token_FK[:, -1]
    if n_tokens > k and np.isneginf(floor_F).any():
        lowest_F = np.partition(value_RF, n_tokens - k, axis=0)[n_tokens - k]
        floor_F = np.maximum(floor_F, np.nextafter(lowest_F, -np.inf))  # the k-th itself, and its equals, pass
    most_F = value_RF.max(0)
    # Of equals, an earlier token takes a later one's place: a silent neuron has nothing but equals.
    hot_F = np.flatnonzero((most_F > floor_F) | ((most_F == floor_F) & (token_R.min() < last_F)))
    if not len(hot_F):
        return
    among_HR = value_RF[:, hot_F].T
    passes_HR = among_HR > floor_F[hot_F, None]
    passes_HR |= (among_HR == floor_F[hot_F, None]) & (token_R[None] < last_F[hot_F, None])
    column, row = np.nonzero(passes_HR)
    neuron = np.concatenate([np.repeat(np.arange(len(hot_F)), k), column])
    value = np.concatenate([kept_FK[hot_F].ravel(), among_HR[column, row]])
    token = np.concatenate([token_FK[hot_F].ravel(), token_R[row]])
    order = np.lexsort((token, -value, neuron))
    first_H = np.searchsorted(neuron[order], np.arange(len(hot_F)))
    chosen_HK = order[first_H[:, None] + np.arange(k)[None]]
    kept_FK[hot_F], token_FK[hot_F] = value[chosen_HK], token[chosen_HK]
