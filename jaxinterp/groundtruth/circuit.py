"""From neurons written down as data to a transformer: which neuron carries which fact is known by construction."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.base.errors import UserError
from jaxinterp.groundtruth.blank import IDENTITY_NORM, blank_params, on_device
from jaxinterp.groundtruth.table import FactTable
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.model import Model
from jaxinterp.models.readout import LanguageModelReadout, Rows, lm_readout

N_LAYERS, D_MLP = 3, 64
N_CTX = 5  # start, subject, relation, answer, full stop
# Of neurons that are there to be told from the others: their largest weights. They reach activations of ±1 at most (the
# true neurons have 1) and change a logit by ±0.1 at most, which is enough for no two scores to be equal.
NOISE_READ, NOISE_WRITE = 0.4, 0.1


@dataclasses.dataclass(frozen=True)
class Concepts:
    """Orthogonal directions of the residual stream by what they mean, as slices of its C = D coordinates.

    The coordinates are those before a random rotation, so that no concept is a coordinate of the model's.
    """

    table: FactTable

    @property
    def subject(self) -> slice:
        """Of the token, a coordinate a subject."""
        return slice(0, self.table.n_subjects)

    @property
    def told(self) -> slice:
        """Subject in the prompt, which attention of the first layer copies to where the answer is read."""
        return slice(self.subject.stop, self.subject.stop + self.table.n_subjects)

    @property
    def relation(self) -> slice:
        """Of the token, a coordinate a relation."""
        return slice(self.told.stop, self.told.stop + self.table.n_relations)

    @property
    def answer(self) -> slice:
        """The answers' logits."""
        return slice(self.relation.stop, self.relation.stop + self.table.n_answers)

    @property
    def relay(self) -> slice:
        """For neurons to tell later ones of a fact."""
        return slice(self.answer.stop, self.answer.stop + len(self.table))

    @property
    def spare(self) -> slice:
        """What nothing reads."""
        return slice(self.relay.stop, self.n)

    @property
    def n(self) -> int:
        """All coordinates: C = D."""
        return self.relay.stop + 8

    def vector(self, part: slice, index: int, length: float = 1.0) -> Float[np.ndarray, " C"]:
        """`length` in coordinate `index` of a part."""
        return length * np.eye(self.n)[part][index]


class Neuron(NamedTuple):
    """relu(⟨reads, x⟩ + bias) · writes, in the coordinates of `Concepts`."""

    layer: int
    reads_C: Float[np.ndarray, " C"]
    bias: float
    writes_C: Float[np.ndarray, " C"]
    facts: Sequence[int] = ()  # that it carries
    stands_in: Sequence[int] = ()  # facts that it would carry if the neurons that do were off


class Circuit(NamedTuple):
    """Neurons, the softcap of the logits (None: none), and what the logits have from elsewhere."""

    neurons: Sequence[Neuron]
    softcap: float | None = None
    # What the unembedding of each token reads besides the answer's own direction: logits that no neuron writes, such as
    # those that attention gives to all answers of the subject in the prompt. None: nothing.
    direct_VC: Float[np.ndarray, "V C"] | None = None


@flax.struct.dataclass
class Planted:
    """A model together with the neurons that carry each of its facts. A row is a fact's prompt."""

    model: Model
    tokens_RT: Int[Array, "R T"]
    rows: Rows
    mask_LRF: Float[Array, "L R F"]  # 1 where a neuron carries the row's fact, else 0
    # 1 where a neuron is silent as long as the carriers work and takes over when they are off: no part of the truth
    # about the untouched model, but what has to be off as well for the answer to go.
    stand_in_LRF: Float[Array, "L R F"]

    def readout(self) -> LanguageModelReadout:
        """P of every fact's answer."""
        return lm_readout(self.model, self.tokens_RT, self.rows)[1]


def assembled(
    table: FactTable,
    circuit: Circuit,
    rng: np.random.Generator,
    *,
    d_mlp: int = D_MLP,
    noise_read: float = NOISE_READ,
) -> Planted:
    """The transformer of a circuit.

    Neurons stand at random places of their layers; all other places hold weak random neurons, which read subject and
    relation and write a little into every answer. Norms are the identity and attention is uniform: a head of the first
    layer adds up what subjects it sees.

    Args:
      table: the facts.
      circuit: what carries them.
      rng: consumed: rotation, places, weak neurons.
      d_mlp: neurons a layer.
      noise_read: largest weight with which weak neurons read; their activations reach twice as much.
    Raises:
      UserError: if a layer has more neurons than places.
    """
    concepts = Concepts(table)
    config = ModelConfig(
        d_vocab=table.d_vocab,
        n_ctx=N_CTX,
        n_layers=N_LAYERS,
        d_model=concepts.n,
        d_mlp=d_mlp,
        n_heads=1,
        n_kv_heads=1,
        d_head=table.n_subjects,
        ffn="relu",
        tied=False,
        logit_softcap=circuit.softcap,
        **IDENTITY_NORM,
    )
    rotation_CD = np.linalg.qr(rng.standard_normal((concepts.n, concepts.n)))[0]
    params = blank_params(config)
    # The start has no direction: its embedding is zero.
    params["embedding"][1 : 1 + table.n_subjects] = rotation_CD[concepts.subject]
    params["embedding"][1 + table.n_subjects : table.first_answer] = rotation_CD[concepts.relation]
    params["unembedding"][table.first_answer :] = rotation_CD[concepts.answer]
    if circuit.direct_VC is not None:
        params["unembedding"] += (circuit.direct_VC @ rotation_CD).astype(np.float32)
    layers = params["layers"]
    # The query is the third position: uniform attention gives each a third.
    layers["w_v"][0, :, 0] = 3 * rotation_CD[concepts.subject].T
    layers["w_o"][0, 0] = rotation_CD[concepts.told]

    shape = (N_LAYERS, len(table), d_mlp)
    mask, stand_in = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for layer in range(N_LAYERS):
        own = [neuron for neuron in circuit.neurons if neuron.layer == layer]
        if len(own) > d_mlp:
            raise UserError(f"layer {layer} of a circuit has {len(own)} neurons; a layer has room for {d_mlp}")
        own += [_weak(concepts, layer, rng, noise_read) for _ in range(d_mlp - len(own))]
        places = rng.permutation(d_mlp)
        for place, neuron in zip(places.tolist(), own, strict=True):
            layers["w_in"][layer, :, place] = neuron.reads_C @ rotation_CD
            layers["b_in"][layer, place] = neuron.bias
            layers["w_out"][layer, place] = neuron.writes_C @ rotation_CD
            mask[layer, list(neuron.facts), place] = 1
            stand_in[layer, list(neuron.stands_in), place] = 1
    tokens = jnp.asarray(table.sentences()[:, :3])
    return Planted(Model(config, on_device(params)), tokens, table.rows(), jnp.asarray(mask), jnp.asarray(stand_in))


def weak_reads(concepts: Concepts, rng: np.random.Generator, most: float = NOISE_READ) -> Float[np.ndarray, " C"]:
    """What a weak neuron reads: a little of every subject and relation, weights of ±`most`; consumes `rng`."""
    reads = np.zeros(concepts.n)
    for part in (concepts.told, concepts.relation):
        reads[part] = rng.uniform(-most, most, len(reads[part]))
    return reads


def _weak(concepts: Concepts, layer: int, rng: np.random.Generator, noise_read: float) -> Neuron:
    reads, writes = weak_reads(concepts, rng, noise_read), np.zeros(concepts.n)
    writes[concepts.answer] = rng.uniform(-NOISE_WRITE, NOISE_WRITE, len(writes[concepts.answer]))
    writes[concepts.spare] = rng.standard_normal(len(writes[concepts.spare]))
    return Neuron(layer, reads, 0.0, writes)
