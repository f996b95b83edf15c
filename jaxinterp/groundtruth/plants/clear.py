"""Plants that the notion "a fact's neurons" fits without a catch."""

import itertools

import numpy as np

from jaxinterp.groundtruth.circuit import Circuit, Concepts, Neuron
from jaxinterp.groundtruth.neurons import LOGIT, answers, both, carriers, fires, random_layers
from jaxinterp.groundtruth.registry import plant


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
