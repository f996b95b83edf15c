"""Triggers whose pattern is known, to grade labels: planted memories, and neurons without a pattern."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jaxinterp.memories.contexts import Contexts
from jaxinterp.memories.labels import Label, Labeller
from jaxinterp.memories.triggers import K


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
    are fewer; the others are drawn from all other contexts. Values are drawn from those that at least five contexts
    have; those that all contexts have are left out.

    Args:
      contexts: of the corpus.
      kind: of a feature; "" draws all triggers from all contexts.
      n: plants.
      rng: consumed.
      noise: 0 … 1, below 1.
      k: triggers.
    """
    for _ in range(n):
        if not kind:
            yield Plant("", "", rng.choice(contexts.n, min(k, contexts.n), replace=False))
            continue
        feature = next(feature for feature in contexts.features if feature.kind == kind)
        value = int(rng.choice(np.flatnonzero((feature.n_contexts >= 5) & (feature.n_contexts < contexts.n))))
        has_C = feature.value_C == value
        own, others = np.flatnonzero(has_C), np.flatnonzero(~has_C)
        n_own = min(len(own), round(k * (1 - noise)))
        n_others = min(len(others), round(n_own * noise / (1 - noise)))
        drawn = [rng.choice(own, n_own, replace=False), rng.choice(others, n_others, replace=False)]
        yield Plant(kind, feature.name(value), np.concatenate(drawn))


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
