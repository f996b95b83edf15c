"""What edits do to the answers: every set of neurons switched off and doubled, for every query."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt

from jaxinterp.attribution.edits import active_neurons, amplify, random_masks, suppress
from jaxinterp.base.progress import progress
from jaxinterp.facts.batches import QueryBatch
from jaxinterp.facts.controls import KINDS
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.readout import lm_readout
from jaxinterp.studies.knowledge_neurons.config import KnowledgeNeuronsConfig
from jaxinterp.studies.knowledge_neurons.queries import Asked
from jaxinterp.studies.knowledge_neurons.records import Record, batch_of, planned
from jaxinterp.studies.knowledge_neurons.scores import METHODS
from jaxinterp.studies.knowledge_neurons.sets import (
    Selection,
    by_the_paper,
    fixed_number,
    of_partners,
    partners,
    random_seeds,
)

PROTOCOLS = ("paper", "fixed_k")
SOURCES = ("own", *KINDS, "random")  # whose neurons: the fact's own, those of other facts by kind, random ones
MEMORY = 1e9  # bytes, about, of the logits of a batch
Key = tuple[str, str]  # (protocol, method)


@dataclasses.dataclass(frozen=True)
class Edited:
    """The answers' probabilities under every edit.

    NaN where a protocol does not cover a query, or covers no other fact of the kind that it could be compared with.
    """

    probability_N: Float[np.ndarray, " N"]  # untouched
    suppressed: Mapping[tuple[str, str, str], Float[np.ndarray, " N"]]  # (protocol, method, source): neurons × 0
    amplified: Mapping[tuple[str, str, str], Float[np.ndarray, " N"]]  # neurons × 2


def select(asked: Asked, record: Record, config: KnowledgeNeuronsConfig) -> dict[Key, Selection]:
    """Each protocol's neurons by each method."""
    return {
        **{("paper", method): by_the_paper(asked, record, method) for method in METHODS},
        **{("fixed_k", method): fixed_number(asked, record, method, config.k) for method in METHODS},
    }


def edit(
    model: LanguageModel, asked: Asked, selections: Mapping[Key, Selection], config: KnowledgeNeuronsConfig
) -> Edited:
    """Switches off and doubles the neurons of every selection, of other facts of every kind, and random ones.

    An answer of several tokens is read token by token, each with its own set; its probability is the product. Random
    neurons are as many of each layer as every set has there, out of those active where the token is read.
    """
    queries = asked.queries
    partner, seeds = partners(asked, config.seed), random_seeds(asked, config.seed)
    sets = {key: [own, *(of_partners(asked, own, partner[kind]) for kind in KINDS)] for key, own in selections.items()}
    # The widest set gives all batches one shape.
    width = max(1, *(len(neurons) for own in selections.values() for tokens in own.sets for neurons in tokens))
    most, longest = int(queries.answer_length_N.max()), queries.tokens_NT.shape[1]
    rows = max(most, int(np.clip(MEMORY / (4 * longest * model.config.d_vocab), 1, 64)))
    step = _edit_step(model.config)
    untouched_N = np.full(len(queries), np.nan)
    edited_JXEN = np.full((len(sets), len(SOURCES), 2, len(queries)), np.nan)
    with progress("edit", len(queries)) as report:
        for taken in planned(queries, rows):
            batch = batch_of(queries, taken, rows)
            neurons_JXRW = np.full((len(sets), 1 + len(KINDS), rows, width), model.config.n_neurons)
            seed_R = np.zeros(rows, np.uint32)
            seed_R[: int(queries.answer_length_N[taken].sum())] = np.concatenate([seeds[query] for query in taken])
            for neurons_XRW, several in zip(neurons_JXRW, sets.values(), strict=True):
                for neurons_RW, one in zip(neurons_XRW, several, strict=True):
                    tokens = [neurons for query in taken for neurons in one.sets[query]]
                    for row, neurons in enumerate(tokens):
                        neurons_RW[row, : len(neurons)] = neurons
            untouched_R, edited_JXER = jax.device_get(step(model.params, batch, neurons_JXRW, seed_R))
            for answer, query in enumerate(taken):
                own = np.flatnonzero((batch.answers.answer_R == answer) & (batch.answers.weight_R > 0))
                untouched_N[query] = untouched_R[own].prod(dtype=np.float64)
                edited_JXEN[..., query] = edited_JXER[..., own].prod(-1, dtype=np.float64)
            report(int(taken[-1]) + 1, "queries")
    suppressed, amplified = {}, {}
    for key, edited_XEN in zip(sets, edited_JXEN, strict=True):
        for source, one, (off_N, doubled_N) in zip(SOURCES, [*sets[key], selections[key]], edited_XEN, strict=True):
            suppressed[*key, source] = np.where(one.covered_N, off_N, np.nan)
            amplified[*key, source] = np.where(one.covered_N, doubled_N, np.nan)
    return Edited(untouched_N, suppressed, amplified)


@functools.lru_cache(maxsize=8)
def _edit_step(config: ModelConfig) -> Callable:
    @jax.jit
    def step(
        params: Mapping, batch: QueryBatch, neurons_JXRW: Int[Array, "J X R W"], seed_R: UInt[Array, " R"]
    ) -> tuple[Array, Array]:
        """P at the rows: untouched, [R], and under both edits of every source's neurons, [J, X + 1, 2, R].

        Args:
          params, batch: of the model, of the queries.
          neurons_JXRW: of J selections at most W neurons a row: its own ones first, then those of other facts.
          seed_R: of each row's random neurons.
        """
        rows = batch.rows
        _, readout = lm_readout(Model(config, params), batch.tokens_BT, rows, batch.length_B)
        active_LRF = active_neurons(readout.neurons_LRF)
        n_rows = batch.rows.target_R.shape[0]

        def mask(neurons_RW: Array) -> Array:
            # Places beyond a set's end hold the number L·F, which is no neuron and is dropped.
            mask = jnp.zeros((n_rows, config.n_neurons), readout.neurons_LRF.dtype)
            mask = mask.at[jnp.arange(n_rows)[:, None], neurons_RW].set(1.0, mode="drop")
            return mask.reshape(n_rows, config.n_layers, config.d_mlp).transpose(1, 0, 2)

        def both(mask_LRF: Array) -> Array:
            return jnp.stack([readout(*suppress(mask_LRF)), readout(*amplify(mask_LRF))])

        def of_selection(neurons_XRW: Array) -> Array:
            mask_XLRF = jax.vmap(mask)(neurons_XRW)
            at_random = random_neurons(seed_R, mask_XLRF[0], active_LRF)
            return jax.lax.map(both, jnp.concatenate([mask_XLRF, at_random[None]]))

        # One after the other: together they would hold many times the memory, and take no less time on a CPU.
        return readout.untouched(), jax.lax.map(of_selection, neurons_JXRW)

    return step


def random_neurons(
    seed_R: UInt[Array, " R"], mask_LRF: Float[Array, "L R F"], active_LRF: Float[Array, "L R F"]
) -> Float[Array, "L R F"]:
    """`suppression.random_masks` with a seed for each row."""
    return random_masks(jax.vmap(jax.random.key)(seed_R), mask_LRF, active_LRF)
