"""Ways for neurons to carry facts, by name; here those that the notion "a fact's neurons" fits without a catch.

A plant is a function (concepts, rng) -> circuit. `misleading.py` has more of them.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from jaxinterp.base.registry import Registry
from jaxinterp.groundtruth.circuit import N_LAYERS, Circuit, Concepts, Neuron, Planted, assembled
from jaxinterp.groundtruth.table import fact_table

Build = Callable[[Concepts, np.random.Generator], Circuit]

LOGIT = 6.5  # of an answer; the other tokens have about 0, so that P is about 0.97


@dataclasses.dataclass(frozen=True)
class Plant:
    """A way for neurons to carry facts."""

    name: str
    title: str  # for people
    provokes: str  # what a method has to get right, in a few words
    build: Build


_PLANTS: Registry[Plant] = Registry("plant")


def plant(name: str, *, title: str, provokes: str) -> Callable[[Build], Build]:
    """Registers a function (concepts, rng) -> circuit; its docstring says how the facts are carried."""

    def register(build: Build) -> Build:
        _PLANTS.add(name, Plant(name, title, provokes, build))
        return build

    return register


def get_plant(name: str) -> Plant:
    """The plant of that name; UserError if it is unknown."""
    return _PLANTS[name]


def plant_names() -> tuple[str, ...]:
    """All names, in the order of registration."""
    return _PLANTS.names()


def planted(name: str, seed: int) -> Planted:
    """The named plant with a fact table, rotation, places and weak neurons of its own.

    All plants with the same softcap have the same config, so that what is compiled for one serves for the others.

    Raises:
      UserError: if the name is unknown.
    """
    build = get_plant(name).build
    table = fact_table(seed)
    rng = np.random.default_rng([seed, *name.encode()])
    return assembled(table, build(Concepts(table), rng), rng)


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


@plant("one", title="one neuron a fact", provokes="nothing: a method that fails here is broken")
def _one(concepts: Concepts, rng: np.random.Generator) -> Circuit:
    """One neuron a fact, which writes its answer."""
    return Circuit(carriers(concepts, 1, LOGIT, rng))


@plant("several", title="three neurons a fact", provokes="each of them matters in part")
def _several(concepts: Concepts, rng: np.random.Generator) -> Circuit:
    """Three neurons a fact, which write a third of the logit each."""
    return Circuit(carriers(concepts, 3, LOGIT / 3, rng))


@plant("superposed", title="fewer neurons than facts", provokes="a neuron serves several facts")
def _superposed(concepts: Concepts, rng: np.random.Generator) -> Circuit:
    """Four neurons for the six facts of a relation: a fact is two of them that are on, and no two facts share both.

    A neuron writes the answers of all its three facts, so that one alone leaves them undecided.
    """
    table = concepts.table
    pairs = list(itertools.combinations(range(4), 2))
    groups = list(itertools.product(range(table.n_relations), range(4)))
    neurons = []
    for (relation, member), layer in zip(groups, random_layers(len(groups), rng), strict=True):
        of_relation = np.flatnonzero(table.relation_N == relation).tolist()
        facts = [n for n in of_relation if member in pairs[table.subject_N[n]]]
        reads = both(concepts, table.subject_N[facts].tolist(), relation)
        writes = sum(answers(concepts, n, LOGIT) for n in facts)
        neurons.append(Neuron(layer, **reads, writes_C=writes, facts=facts))
    return Circuit(neurons)


@plant("decoy", title="a louder neuron that does nothing", provokes="activation is no effect")
def _decoy(concepts: Concepts, rng: np.random.Generator) -> Circuit:
    """One neuron a fact, and one three times as active that writes where nothing reads."""
    nowhere = concepts.vector(concepts.spare, 0)
    decoys = [
        Neuron(layer, **fires(concepts, n, 3.0), writes_C=nowhere)
        for n, layer in enumerate(random_layers(len(concepts.table), rng))
    ]
    return Circuit([*carriers(concepts, 1, LOGIT, rng), *decoys])
