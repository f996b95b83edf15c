"""Plants that tell whether a measure of specificity can be trusted: relation switches, fact neurons, and neither.

All three answer the same grid of facts (`grid.py`), with about the same probability. With a fact's neurons off the
answer is gone in the first two; only in the second are those neurons the fact's own. The third is what they are
compared with: many weak neurons carry all facts together.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxinterp.base.errors import UserError
from jaxinterp.base.registry import Registry
from jaxinterp.groundtruth.circuit import N_LAYERS, Circuit, Concepts, Neuron, Planted, assembled, weak_reads
from jaxinterp.groundtruth.plants import answers, fires, random_layers
from jaxinterp.groundtruth.table import FactTable

# Of an answer, above answers that nothing speaks for: P is about 0.96 among 96 answers.
LOGIT = 8.0
# Of the subject's own token in the model of relation switches, which repeats the subject where no bank is on: between
# the LOGIT that the right answer has without its bank and the 2 · LOGIT that it has with it.
REPEAT = 1.5 * LOGIT
BANK = (4, 8)  # fewest and most neurons of a relation's bank
OWN = (1, 4)  # fewest and most neurons of a fact
GRID_D_MLP = 256  # neurons a layer
# Of the weak neurons beside banks and fact neurons, a quarter of other plants'. Measures switch off or edit a fixed
# number of neurons, more than a fact here has: what fills it up is to be next to silent, so that the truth is clear.
QUIET = 0.1

Build = Callable[[Concepts, np.random.Generator, int], Circuit]


class GridPlant(NamedTuple):
    """A way to carry a grid of facts: (concepts, rng, neurons a layer) -> circuit."""

    title: str  # for people
    build: Build


_PLANTS: Registry[GridPlant] = Registry("plant of a grid")


def _plant(name: str, title: str) -> Callable[[Build], Build]:
    def register(build: Build) -> Build:
        _PLANTS.add(name, GridPlant(title, build))
        return build

    return register


def grid_plant_names() -> tuple[str, ...]:
    """All names, in the order of registration."""
    return _PLANTS.names()


def get_grid_plant(name: str) -> GridPlant:
    """The plant of that name; UserError if it is unknown."""
    return _PLANTS[name]


def grid_planted(name: str, table: FactTable, seed: int, *, d_mlp: int = GRID_D_MLP) -> Planted:
    """The named plant of a table; rotation, places, numbers, shares and weak neurons are the seed's.

    All plants of a table have the same config, so that what is compiled for one serves for the others.

    Args:
      name: one of `grid_plant_names()`.
      table: the facts; no two may share an answer, see `jaxinterp.groundtruth.grid.grid_table`.
      seed: of everything that is drawn.
      d_mlp: neurons a layer.
    Raises:
      UserError: if the name is unknown, two facts share an answer, or a layer has more neurons than places.
    """
    if len(set(table.answer_N.tolist())) < len(table):
        raise UserError("two facts of the table share an answer; plants of a grid need a table of `grid_table`")
    rng = np.random.default_rng([seed, *name.encode()])
    return assembled(table, get_grid_plant(name).build(Concepts(table), rng, d_mlp), rng, d_mlp=d_mlp, noise_read=QUIET)


@_plant("plain", "plain: all neurons carry all facts")
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


@_plant("switches", "relation switches")
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


@_plant("fact_neurons", "fact neurons")
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
