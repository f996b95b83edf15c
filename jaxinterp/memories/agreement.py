"""Keys against values: does a value say what comes after the text that activates its key (Geva et al. 2021, § 4.2)?"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxinterp.memories.corpus import Corpus
from jaxinterp.memories.triggers import Triggers
from jaxinterp.memories.values import ValuesRead


class NextTokens(NamedTuple):
    """The tokens after the triggers of every neuron."""

    token_LFK: Int[np.ndarray, "L F K"]  # −1 where the window ends with the trigger
    live_LF: Bool[np.ndarray, "L F"]  # whether the neuron is ever active, above 0, and a token comes after its first


def next_tokens(corpus: Corpus, triggers: Triggers) -> NextTokens:
    """What comes after each trigger; a trigger that ends its window has no next token, and no others take its place."""
    window_LFK, position_LFK = np.asarray(triggers.window_LFK), np.asarray(triggers.position_LFK)
    length_N, after_LFK = np.asarray(corpus.length_N), position_LFK + 1
    there_LFK = (position_LFK >= 0) & (after_LFK < length_N[window_LFK])
    token_LFK = np.asarray(corpus.tokens_NT)[window_LFK, np.where(there_LFK, after_LFK, 0)]
    live_LF = there_LFK[..., 0] & (np.asarray(triggers.activation_LFK)[..., 0] > 0)
    return NextTokens(np.where(there_LFK, token_LFK, -1), live_LF)


def agreement_of_layer(layer: int, following: NextTokens, read: ValuesRead) -> dict[str, Float[np.ndarray, " F"]]:
    """The figures of each neuron; NaN for neurons that are not live.

    Args:
      layer: the layer.
      following: of the neurons' triggers.
      read: its values, with the rank of the token after the first trigger (K = 1; of any token where there is none).
    """
    token_FK, live_F = following.token_LFK[layer], following.live_LF[layer]
    same_FK = np.asarray(read.top_N)[:, None] == token_FK
    there_F = np.maximum((token_FK >= 0).sum(1), 1)
    figures = {
        "agreement": same_FK[:, 0],
        "agreement_any": same_FK.any(1),
        "agreement_share": same_FK.sum(1) / there_F,
        "next_rank": np.log(np.asarray(read.rank_NK)[:, 0]),
        "promotes": np.asarray(read.highest_z_N) > -np.asarray(read.lowest_z_N),
    }
    return {name: np.where(live_F, value_F.astype(float), np.nan) for name, value_F in figures.items()}


def by_confidence(confidence_N: Float[np.ndarray, " N"], n_bins: int) -> Int[np.ndarray, " N"]:
    """The bin of each value, of `n_bins` that hold as many each: 0 the least confident, `n_bins` − 1 the most."""
    order_N = np.argsort(np.argsort(confidence_N, kind="stable"), kind="stable")
    return order_N * n_bins // max(len(confidence_N), 1)
