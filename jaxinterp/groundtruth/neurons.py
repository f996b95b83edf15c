"""What the neurons of plants have in common: what they read, and what they write."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxinterp.groundtruth.circuit import N_LAYERS, Concepts, Neuron

LOGIT = 6.5  # of an answer; the other tokens have about 0, so that P is about 0.97


def both(concepts: Concepts, subjects: Sequence[int], relation: int, height: float = 1.0) -> dict:
    """What a neuron reads, and its bias: `height` for one of the subjects and the relation, below 0 for all others."""
    told = sum(concepts.vector(concepts.told, subject) for subject in subjects)
    # height · (2 · matches − 3): as much above 0 where both match as below where one does.
    return {"reads_C": 2 * height * (told + concepts.vector(concepts.relation, relation)), "bias": -3 * height}


def fires(concepts: Concepts, fact: int, height: float = 1.0) -> dict:
    """What a neuron reads, and its bias, for an activation of `height` for the fact and of 0 for all others."""
    table = concepts.table
    return both(concepts, [int(table.subject_N[fact])], int(table.relation_N[fact]), height)


def answers(concepts: Concepts, fact: int, logit: float) -> Float[np.ndarray, " C"]:
    """What adds `logit` to the fact's answer."""
    return concepts.vector(concepts.answer, int(concepts.table.answer_N[fact]), logit)


def random_layers(n: int, rng: np.random.Generator) -> list[int]:
    """A layer for each of n neurons, as many in one layer as in another."""
    return rng.permutation(np.arange(n) % N_LAYERS).tolist()


def carriers(concepts: Concepts, copies: int, logit: float, rng: np.random.Generator) -> list[Neuron]:
    """`copies` neurons a fact, in any layers, that each add `logit` to its answer."""
    facts = np.repeat(np.arange(len(concepts.table)), copies).tolist()
    return [
        Neuron(layer, **fires(concepts, n), writes_C=answers(concepts, n, logit), facts=(n,))
        for n, layer in zip(facts, random_layers(len(facts), rng), strict=True)
    ]
