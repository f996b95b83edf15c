"""The tokens on which each neuron is most active: its triggers (Geva et al. 2021)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Triggers(NamedTuple):
    """The K tokens of a corpus with the highest activation of each neuron, the highest first.

    A neuron of layer L and number F is what W_out multiplies ("mlp_post"). Where a corpus has fewer tokens, activations
    are −inf and places −1. Of equal activations, the earlier token counts more.
    """

    activation_LFK: Float[np.ndarray, "L F K"]
    window_LFK: Int[np.ndarray, "L F K"]  # of the corpus
    position_LFK: Int[np.ndarray, "L F K"]  # of the token in its window, whose neurons these are
