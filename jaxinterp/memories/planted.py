"""Triggers whose pattern is known, to grade labels: planted memories, and neurons without a pattern."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jaxinterp.memories.contexts import Contexts, Feature
from jaxinterp.memories.labels import Label, Labeller
from jaxinterp.memories.triggers import K

FEWEST_CONTEXTS = 5  # that have a value that is planted


class Plant(NamedTuple):
    """A neuron's triggers, and what they were made to have in common; "" is nothing."""

    kind: str
    value: str
    context_K: Int[np.ndarray, " K"]


class Grade(NamedTuple):
    """How many plants of a kind got their label."""

    n: int
    right: int
    unlabelled: int
    wrong: Sequence[tuple[str, Label]]  # what was planted, and what was said


def plants(
    contexts: Contexts, kind: str, n: int, rng: np.random.Generator, *, noise: float = 0.0, k: int = K
) -> Iterator[Plant]:
    """Memories whose key fires on one value of a kind and, by a share of `noise`, on anything else.

    A memory's k triggers are k (1 − noise), rounded, drawn from the contexts with the value, or all of them if there
    are fewer; the others are drawn from all other contexts. Values are drawn from `plantable`.

    Args:
      contexts: of the corpus.
      kind: of a feature; "" draws all triggers from all contexts.
      n: plants.
      rng: consumed.
      noise: 0 … 1, below 1.
      k: triggers.
    """
    features = [feature for feature in contexts.features if feature.kind == kind]
    values = [plantable(contexts, feature, noise=noise, k=k) for feature in features]
    for _ in range(n):
        if not kind:
            yield Plant("", "", rng.choice(contexts.n, min(k, contexts.n), replace=False))
            continue
        feature, value = features[0], int(rng.choice(values[0]))
        has_C = feature.value_C == value
        own, others = np.flatnonzero(has_C), np.flatnonzero(~has_C)
        n_own, n_others = _sizes(len(own), len(others), noise, k)
        drawn = [rng.choice(own, n_own, replace=False), rng.choice(others, n_others, replace=False)]
        yield Plant(kind, feature.name(value), np.concatenate(drawn))


def plantable(contexts: Contexts, feature: Feature, *, noise: float = 0.0, k: int = K) -> Int[np.ndarray, " values"]:
    """The values of a feature that a plant can have: those of at least five contexts that a label may name.

    What so many contexts have that no k triggers with the noise would be significantly many has no label, and should
    have none. In a corpus half of which is about languages, 20 triggers of 25 about languages say nothing.
    """
    labeller, (of, place) = Labeller(contexts), np.unique(feature.n_contexts, return_inverse=True)
    sizes = [_sizes(m, contexts.n - m, noise, k) for m in of.tolist()]
    own, others = np.array(sizes, np.int64).reshape(-1, 2).T
    fits = (of >= FEWEST_CONTEXTS) & (labeller.significance(own, of, own + others) <= labeller.level)
    return np.flatnonzero(fits[place])


def _sizes(m: int, n_others: int, noise: float, k: int) -> tuple[int, int]:
    """Triggers of a plant with and without its value, that m contexts have and the others have not."""
    n_own = min(m, round(k * (1 - noise)))
    return n_own, min(n_others, round(n_own * noise / (1 - noise)))


def grade(contexts: Contexts, planted: Sequence[Plant]) -> Grade:
    """Whether each plant got its label, or one that stands in `Label.same`: nearly the same contexts have it."""
    labeller, right, unlabelled, wrong = Labeller(contexts), 0, 0, []
    for plant in planted:
        label = labeller.label(plant.context_K)
        said = set() if label is None else {(label.kind, label.value), *label.same}
        if (plant.kind, plant.value) in said or (label is None and not plant.kind):
            right += 1
        elif label is None:
            unlabelled += 1
        else:
            wrong.append((f"{plant.kind}: {plant.value}", label))
    return Grade(len(planted), right, unlabelled, wrong)
