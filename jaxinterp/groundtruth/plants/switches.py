"""Plants that tell whether a measure of specificity can be trusted: relation switches, fact neurons, and neither.

All three answer the same grid of facts (`jaxinterp.groundtruth.grid`), with about the same probability. With a fact's
neurons off the answer is gone in the first two; only in the second are those neurons the fact's own. The third is what
they are compared with: many weak neurons carry all facts together.
"""

import numpy as np

from jaxinterp.groundtruth.circuit import N_LAYERS, Circuit, Concepts, Neuron, weak_reads
from jaxinterp.groundtruth.neurons import answers, fires, random_layers
from jaxinterp.groundtruth.registry import grid_plant

# Of an answer, above answers that nothing speaks for: P is about 0.96 among 96 answers.
LOGIT = 8.0
# Of the subject's own token in the model of relation switches, which repeats the subject where no bank is on: between
# the LOGIT that the right answer has without its bank and the 2 · LOGIT that it has with it.
REPEAT = 1.5 * LOGIT
BANK = (4, 8)  # fewest and most neurons of a relation's bank
OWN = (1, 4)  # fewest and most neurons of a fact


@grid_plant("plain", title="plain: all neurons carry all facts")
def _plain(concepts: Concepts, rng: np.random.Generator, d_mlp: int) -> Circuit:
    """Weak neurons alone, which read a little of everything; what they write is the least that gives every answer its
    logit: W = A⁺ · LOGIT · 1, with the activations A of each fact's prompt and the answers' one-hot rows 1.
    """
    table, n_neurons = concepts.table, N_LAYERS * d_mlp
    reads_UC = np.stack([weak_reads(concepts, rng) for _ in range(n_neurons)])
    told_UN = reads_UC[:, concepts.told][:, table.subject_N]
    active_NU = np.maximum(told_UN + reads_UC[:, concepts.relation][:, table.relation_N], 0).T
    logits_NA = LOGIT * np.eye(table.n_answers)[table.answer_N]
    writes_UC = np.zeros((n_neurons, concepts.n))
    writes_UC[:, concepts.answer] = np.linalg.pinv(active_NU) @ logits_NA
    return Circuit(
        [
            Neuron(unit // d_mlp, reads_UC[unit], 0.0, writes_UC[unit], np.flatnonzero(active_NU[:, unit]).tolist())
            for unit in range(n_neurons)
        ]
    )


@grid_plant("switches", title="relation switches")
def _switches(concepts: Concepts, rng: np.random.Generator, d_mlp: int) -> Circuit:
    """A bank of neurons a relation, and nothing for facts. Attention writes LOGIT into all answers of the subject and
    REPEAT into the subject's own token; the relation's bank, which looks at no subject, adds LOGIT to all answers of
    the relation. So the bank decides whether the model answers, and no neuron knows which answer is right.
    """
    table = concepts.table
    direct_VC = np.zeros((table.d_vocab, concepts.n))
    for fact, subject in enumerate(table.subject_N.tolist()):
        direct_VC[table.first_answer + table.answer_N[fact]] = concepts.vector(concepts.told, subject, LOGIT)
        direct_VC[1 + subject] = concepts.vector(concepts.told, subject, REPEAT)
    neurons = []
    for relation in range(table.n_relations):
        facts = np.flatnonzero(table.relation_N == relation).tolist()
        share_U = rng.uniform(0.5, 1.5, rng.integers(BANK[0], BANK[1] + 1))
        of_all = sum(answers(concepts, fact, LOGIT) for fact in facts)
        for share, layer in zip(share_U / share_U.sum(), random_layers(len(share_U), rng), strict=True):
            reads = concepts.vector(concepts.relation, relation)
            neurons.append(Neuron(layer, reads, 0.0, share * of_all, facts))
    return Circuit(neurons, direct_VC=direct_VC)


@grid_plant("fact_neurons", title="fact neurons")
def _fact_neurons(concepts: Concepts, rng: np.random.Generator, d_mlp: int) -> Circuit:
    """One to four neurons a fact, in any layers, which are active for it alone and share its LOGIT among them."""
    number_N = rng.integers(OWN[0], OWN[1] + 1, len(concepts.table))
    facts = np.repeat(np.arange(len(concepts.table)), number_N).tolist()
    return Circuit(
        [
            Neuron(layer, **fires(concepts, n), writes_C=answers(concepts, n, LOGIT / number_N[n]), facts=(n,))
            for n, layer in zip(facts, random_layers(len(facts), rng), strict=True)
        ]
    )
