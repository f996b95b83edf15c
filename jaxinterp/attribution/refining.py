"""The rule of Dai et al. 2021 for a fact's knowledge neurons: strong in a prompt, and recurring over prompts.

Host-side numpy: the numbers of prompts and of neurons differ from fact to fact.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxinterp.base.errors import UserError

THRESHOLD = 0.2  # of a prompt's highest score over all layers; their code stores scores from 0.1, which 0.2 implies
ACTIVATION_THRESHOLD = 0.5  # the same for the baseline whose score is the activation itself
SHARE = 0.7  # of a fact's prompts in which a neuron must be strong
AT_LEAST = 3  # prompts, whatever the share
MEAN_COUNT = (2.0, 5.0)  # the mean number of neurons a fact of a relation that the share is tuned for
STEP, MOST_STEPS = 0.05, 6  # of that tuning


class Recurring(NamedTuple):
    """Knowledge neurons of a relation's facts, and the share of prompts that tuning arrived at."""

    masks_NLF: Bool[np.ndarray, "N L F"]
    share: float


def strong_neurons(scores_PLF: Float[np.ndarray, "P L F"], threshold: float = THRESHOLD) -> Bool[np.ndarray, "P L F"]:
    """Per prompt, the neurons whose score is at least `threshold` times the highest one over all layers.

    A prompt without a positive score has none.
    """
    highest = scores_PLF.max((1, 2), keepdims=True)
    return (scores_PLF >= threshold * highest) & (highest > 0)


def recurring_neurons(
    strong_PLF: Bool[np.ndarray, "P L F"], share: float = SHARE, at_least: int = AT_LEAST
) -> Bool[np.ndarray, "L F"]:
    """The neurons that are strong in at least max(share · P, at_least) of a fact's P prompts.

    A fact with fewer than `at_least` prompts has none.
    """
    # A share like 0.7 of 10 prompts is 7, not 7.000000000000001.
    needed = max(share * len(strong_PLF) - 1e-9, at_least)
    return strong_PLF.sum(0) >= needed


def relation_neurons(
    scores: Sequence[Float[np.ndarray, "_ L F"]],
    *,
    threshold: float = THRESHOLD,
    share: float = SHARE,
    at_least: int = AT_LEAST,
    mean_count: tuple[float, float] = MEAN_COUNT,
) -> Recurring:
    """Knowledge neurons of every fact of one relation, with the relation's share tuned.

    The share moves by 0.05, down if the facts have too few neurons on average and up if they have too many, at most 6
    times, until the mean is in `mean_count`; Dai et al. 2021, appendix and code.

    Args:
      scores: an array [prompts, L, F] for each fact.
      threshold, share, at_least: see `strong_neurons` and `recurring_neurons`.
      mean_count: lowest and highest mean number of neurons a fact.
    Raises:
      UserError: if there are no facts.
    """
    if not scores:
        raise UserError("the recurrence rule needs at least one fact, got none")
    strong = [strong_neurons(fact, threshold) for fact in scores]

    def masks(share: float) -> np.ndarray:
        return np.stack([recurring_neurons(fact, share, at_least) for fact in strong])

    found = masks(share)
    for _ in range(MOST_STEPS):
        mean = found.sum((1, 2)).mean()
        if mean_count[0] <= mean <= mean_count[1]:
            break
        share += STEP if mean > mean_count[1] else -STEP
        found = masks(share)
    return Recurring(found, round(share, 10))
