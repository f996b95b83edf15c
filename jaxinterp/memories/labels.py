"""What the triggers of a neuron have in common, found without a person: tokens, or what facts are about."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Float, Int

from jaxinterp.base.errors import UserError
from jaxinterp.memories.contexts import Contexts, Feature
from jaxinterp.memories.triggers import Triggers

SHARE = 0.5  # of its triggers that a label explains, at least
LEVEL = 0.01  # most neurons whose triggers have nothing in common, and get a label all the same
SAME = 0.95  # of the contexts that either of two labels has, and both have, for them to be one
FEWEST = 3  # triggers that share what a label says, as in Geva et al. 2021


Numbers = int | Int[np.ndarray, " values"]


class Label(NamedTuple):
    """What triggers share, against how often it is to be expected."""

    kind: str  # "last token", "last 2 tokens", "last 3 tokens", "relation", "domain", "answer" or "subject"
    value: str
    share: float  # of the neuron's distinct triggers, 0 … 1
    base: float  # of all distinct contexts of the corpus, 0 … 1
    n: int  # distinct triggers
    p: float  # that so many of n random contexts have it, times the number of labels that there are; 0 … 1
    same: tuple[tuple[str, str], ...] = ()  # other kinds and values whose contexts are the same but for a twentieth


class Labeller:
    """Labels sets of contexts of one corpus.

    Among C distinct contexts, of which m have a value, x of n triggers have it. A label has to be significant: the
    hypergeometric P(X ≥ x), times the number of values that more than one context has (Bonferroni), is at most `level`;
    and x / n is at least `share`, x at least 3. Of those that are, the shortest description of the triggers wins,

        log(values of its kind) − x log(x / n / m) − (n − x) log((1 − x / n) / (C − m)),

    which names the value, and then each trigger among those with or without it. So a narrow label that fits all
    triggers comes before a wide one, and a wide one before a narrow one that leaves triggers out. A few triggers cannot
    tell labels apart that nearly the same contexts have: then the one whose kind has fewest values is named, and the
    others, |A ∩ B| ≥ 0.95 |A ∪ B|, stand in `same`.
    """

    def __init__(self, contexts: Contexts, *, share: float = SHARE, level: float = LEVEL) -> None:
        for name, number in (("share", share), ("level", level)):
            if not 0 < number < 1:
                raise UserError(f"the {name} of labels must be above 0 and below 1, got {number}")
        self.level = level
        self._contexts, self._share = contexts, share
        self._n_labels = sum(int((feature.n_contexts > 1).sum()) for feature in contexts.features)

    def significance(self, x: Numbers, m: Numbers, n: Numbers) -> np.float64 | Float[np.ndarray, " values"]:
        """P that x of n random contexts or more have a value that m contexts have, times the number of labels."""
        return self._n_labels * scipy.stats.hypergeom.sf(x - 1, self._contexts.n, m, n)

    def label(self, context_n: Int[np.ndarray, " n"]) -> Label | None:
        """The label of the contexts with these numbers, each counted once; None if nothing explains them."""
        context_n = np.unique(context_n[context_n >= 0])
        n, n_all = len(context_n), self._contexts.n
        candidates = []
        for order, (kind, value, x) in enumerate(self._shared(context_n)):
            feature = self._contexts.features[kind]
            m, n_values = int(feature.n_contexts[value]), int((feature.n_contexts > 0).sum())
            candidates.append((_description(x, n, m, n_all, n_values), order, feature, value, x, m))
        for _, _, feature, value, x, m in sorted(candidates, key=lambda candidate: candidate[:2]):
            p = float(self.significance(x, m, n))
            if p <= self.level:
                same = tuple(self._same(feature, value))
                return Label(feature.kind, feature.name(value), x / n, m / n_all, n, p, same)
        return None

    def _shared(self, context_n: np.ndarray) -> Iterator[tuple[int, int, int]]:
        """Kinds and values that enough contexts have, and how many."""
        least = max(FEWEST, self._share * len(context_n))
        for kind, feature in enumerate(self._contexts.features):
            value_n = feature.value_C[context_n]
            values, counts = np.unique(value_n[value_n >= 0], return_counts=True)
            for value, x in zip(values.tolist(), counts.tolist(), strict=True):
                if x >= least and feature.n_contexts[value] > 1:
                    yield kind, value, x

    def _same(self, feature: Feature, value: int) -> Iterator[tuple[str, str]]:
        own = np.flatnonzero(feature.value_C == value)
        for other in self._contexts.features:
            of_own = other.value_C[own]
            if other is feature or not (of_own >= 0).any():
                continue
            counts = np.bincount(of_own[of_own >= 0])
            most = int(counts.argmax())
            n_either = len(own) + int(other.n_contexts[most]) - int(counts[most])
            if counts[most] >= SAME * n_either:
                yield other.kind, other.name(most)


def trigger_contexts(triggers: Triggers, contexts: Contexts) -> Int[np.ndarray, "L F K"]:
    """The number of each trigger's context, −1 where there is no trigger."""
    number_LFK = contexts.context_NT[triggers.window_LFK, triggers.position_LFK]
    return np.where(triggers.window_LFK >= 0, number_LFK, -1)


def labels(
    triggers: Triggers, contexts: Contexts, *, share: float = SHARE, level: float = LEVEL
) -> list[list[Label | None]]:
    """The label of every neuron, by layer; None where its triggers have nothing in common.

    Triggers whose activation is not above 0 are left out: a neuron that is silent is not triggered. Triggers of equal
    contexts count once; `top_triggers` of `Contexts.first_NT` alone has none.
    """
    labeller = Labeller(contexts, share=share, level=level)
    context_LFK = np.where(triggers.activation_LFK > 0, trigger_contexts(triggers, contexts), -1)
    return [[labeller.label(context_K) for context_K in context_FK] for context_FK in context_LFK]


def shares(of: Sequence[Sequence[Label | None]]) -> list[dict[str, float]]:
    """For each layer, the share of neurons with a label of each kind; "" is none."""
    found = []
    for layer in of:
        kinds = [label.kind if label else "" for label in layer]
        found.append({kind: kinds.count(kind) / len(kinds) for kind in dict.fromkeys(kinds)})
    return found


def _description(x: int, n: int, m: int, n_all: int, n_values: int) -> float:
    """Nats; see `Labeller`."""
    nats = math.log(n_values) - x * math.log(x / n / m)
    return nats if x == n else nats - (n - x) * math.log((1 - x / n) / (n_all - m))
