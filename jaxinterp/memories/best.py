"""The highest values of every neuron so far, in bounded memory."""

import numpy as np
from jaxtyping import Float, Int


class Best:
    """The K highest values of each neuron among all that were added, and their tokens, numbered in reading order."""

    def __init__(self, n_layers: int, d_mlp: int, k: int) -> None:
        self.value_LFK = np.full((n_layers, d_mlp, k), -np.inf, np.float32)
        self.token_LFK = np.full((n_layers, d_mlp, k), -1, np.int64)

    def add(self, value_LRF: Float[np.ndarray, "L R F"], token_R: Int[np.ndarray, " R"]) -> None:
        """Merges the values of R tokens, which all come after those before, in their order."""
        if value_LRF.dtype != self.value_LFK.dtype:
            self.value_LFK = self.value_LFK.astype(value_LRF.dtype)
        for layer, value_RF in enumerate(value_LRF):
            self._add(layer, value_RF, token_R)

    def _add(self, layer: int, value_RF: np.ndarray, token_R: np.ndarray) -> None:
        kept_FK, token_FK = self.value_LFK[layer], self.token_LFK[layer]
        n_tokens, k = len(value_RF), kept_FK.shape[1]
        # A later token takes a place from an equal one never, so that it has to be above the lowest.
        floor_F = kept_FK[:, -1]
        if n_tokens > k and np.isneginf(floor_F).any():
            lowest_F = np.partition(value_RF, n_tokens - k, axis=0)[n_tokens - k]
            floor_F = np.maximum(floor_F, np.nextafter(lowest_F, -np.inf))  # the k-th itself, and its equals, pass
        hot_F = np.flatnonzero(value_RF.max(0, initial=-np.inf) > floor_F)
        if not len(hot_F):
            return
        among_RH = value_RF[:, hot_F]
        column, row = np.nonzero((among_RH > floor_F[hot_F]).T)
        neuron = np.concatenate([np.repeat(np.arange(len(hot_F)), k), column])
        value = np.concatenate([kept_FK[hot_F].ravel(), among_RH[row, column]])
        token = np.concatenate([token_FK[hot_F].ravel(), token_R[row]])
        # What was kept comes first, and both parts are in the order of tokens where values are equal.
        order = np.lexsort((-value, neuron))
        first_H = np.searchsorted(neuron[order], np.arange(len(hot_F)))
        chosen_HK = order[first_H[:, None] + np.arange(k)[None]]
        kept_FK[hot_F], token_FK[hot_F] = value[chosen_HK], token[chosen_HK]
