"""Plants on which one way to attribute or another is led astray, each for a reason that real networks have too."""

import numpy as np

from jaxinterp.groundtruth.circuit import Circuit, Concepts, Neuron
from jaxinterp.groundtruth.neurons import LOGIT, answers, carriers, fires, random_layers
from jaxinterp.groundtruth.registry import plant

# Of logits, with neurons that write ten times as much: one copy alone reaches it as well as two do.
SOFTCAP = LOGIT
LOUD = 10 * SOFTCAP


def _facts(concepts: Concepts, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Every fact with a layer."""
    return list(enumerate(random_layers(len(concepts.table), rng)))


@plant("saturated", title="saturated logit", provokes="no slope at the untouched model")
def _saturated(concepts: Concepts, rng: np.random.Generator) -> Circuit:
    """One neuron a fact that writes ten times what the logits' softcap lets through."""
    return Circuit(carriers(concepts, 1, LOUD, rng), SOFTCAP)


@plant("redundant", title="two copies in a layer", provokes="one alone can be missed")
def _redundant(concepts: Concepts, rng: np.random.Generator) -> Circuit:
    """Two neurons a fact in the same layer, each of which saturates the logit alone."""
    copies = [
        Neuron(layer, **fires(concepts, n), writes_C=answers(concepts, n, LOUD), facts=(n,))
        for n, layer in _facts(concepts, rng)
        for _ in range(2)
    ]
    return Circuit(copies, SOFTCAP)


@plant("redundant_layers", title="two copies in two layers", provokes="one layer alone can be missed")
def _redundant_layers(concepts: Concepts, rng: np.random.Generator) -> Circuit:
    """Two neurons a fact in different layers, each of which saturates the logit alone."""
    copies = [
        Neuron((layer + i) % 3, **fires(concepts, n), writes_C=answers(concepts, n, LOUD), facts=(n,))
        for n, layer in _facts(concepts, rng)
        for i in range(2)
    ]
    return Circuit(copies, SOFTCAP)


@plant("backup", title="a later layer stands in", provokes="missed alone, the neuron is replaced")
def _backup(concepts: Concepts, rng: np.random.Generator) -> Circuit:
    """One neuron a fact in the first layer, which silences another one in a later layer that would write the same."""
    neurons = []
    for n, layer in _facts(concepts, rng):
        silence = concepts.vector(concepts.relay, n)
        writes = answers(concepts, n, LOGIT)
        neurons.append(Neuron(0, **fires(concepts, n), writes_C=writes + silence, facts=(n,)))
        late = fires(concepts, n)
        late["reads_C"] = late["reads_C"] - 2 * silence
        neurons.append(Neuron(1 + layer % 2, **late, writes_C=writes, stands_in=(n,)))
    return Circuit(neurons)


@plant("relay", title="a neuron that tells another one", provokes="an effect through a later neuron")
def _relay(concepts: Concepts, rng: np.random.Generator) -> Circuit:
    """Two neurons a fact: one in the first layer knows it, a later one that reads the first alone writes the answer."""
    neurons = []
    for n, layer in _facts(concepts, rng):
        told = concepts.vector(concepts.relay, n)
        neurons.append(Neuron(0, **fires(concepts, n), writes_C=told, facts=(n,)))
        neurons.append(Neuron(1 + layer % 2, told, 0.0, answers(concepts, n, LOGIT), facts=(n,)))
    return Circuit(neurons)


@plant("erased", title="an answer that is erased again", provokes="what is written is not what arrives")
def _erased(concepts: Concepts, rng: np.random.Generator) -> Circuit:
    """One neuron a fact in the last layer; one in the first writes twice its logit, which the second layer takes away.

    The second layer has a neuron an answer that reads the answer's logit and writes its negative.
    """
    loud, height = 2 * LOGIT, 0.5
    neurons = []
    for n in range(len(concepts.table)):
        neurons.append(Neuron(0, **fires(concepts, n, height), writes_C=answers(concepts, n, loud / height)))
        neurons.append(Neuron(2, **fires(concepts, n), writes_C=answers(concepts, n, LOGIT), facts=(n,)))
    for answer in range(concepts.table.n_answers):
        logit = concepts.vector(concepts.answer, answer)
        neurons.append(Neuron(1, height / loud * logit, 0.0, -loud / height * logit))
    return Circuit(neurons)
