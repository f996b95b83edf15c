"""What edits do to the answers: every set of neurons switched off and doubled, for every query."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.facts.encoding import QueryBatch
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.progress import progress
from jaxinterp.readout import Rows, lm_readout
from jaxinterp.studies.knowledge_neuron_config import KnowledgeNeuronsConfig
from jaxinterp.studies.knowledge_neuron_queries import Asked
from jaxinterp.studies.knowledge_neuron_records import Record, batch_of, planned
from jaxinterp.studies.knowledge_neuron_scores import METHODS
from jaxinterp.studies.knowledge_neuron_sets import (
    Selection,
    at_random,
    by_the_paper,
    fixed_number,
    of_partners,
    partners,
)
from jaxinterp.suppression import amplify, suppress

PROTOCOLS = ("paper", "fixed_k")
SOURCES = ("own", "other", "random")  # whose neurons: the fact's own, another fact's, random ones
MEMORY = 1e9  # bytes, about, of the logits of a batch
Key = tuple[str, str]  # (protocol, method)


@dataclasses.dataclass(frozen=True)
class Edited:
    """The answers' probabilities under every edit; NaN where a protocol does not cover a query."""

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
    """Switches off and doubles the neurons of every selection, of other facts, and random ones.

    An answer of several tokens is read token by token, each with its own set; its probability is the product.
    """
    queries = asked.queries
    partner = partners(asked, config.seed)
    sources: dict[tuple[str, str, str], Selection] = {}
    for (protocol, method), own in selections.items():
        sources[protocol, method, "own"] = own
        sources[protocol, method, "other"] = of_partners(asked, own, partner)
        sources[protocol, method, "random"] = at_random(asked, own, model.config.d_mlp, config.seed)
    # The widest set gives all batches one shape.
    width = max(1, *(len(neurons) for one in sources.values() for tokens in one.sets for neurons in tokens))
    most, longest = int(queries.answer_length_N.max()), queries.tokens_NT.shape[1]
    rows = max(most, int(np.clip(MEMORY / (4 * longest * model.config.d_vocab), 1, 64)))
    step = _edit_step(model.config)
    untouched_N = np.full(len(queries), np.nan)
    edited_EXN = np.full((2, len(sources), len(queries)), np.nan)
    with progress("edit", len(queries)) as report:
        for taken in planned(queries, rows):
            batch = batch_of(queries, taken, rows)
            neurons_XRW = np.full((len(sources), rows, width), model.config.n_neurons)
            for place, one in enumerate(sources.values()):
                tokens = [neurons for query in taken for neurons in one.sets[query]]
                for row, neurons in enumerate(tokens):
                    neurons_XRW[place, row, : len(neurons)] = neurons
            untouched_R, edited_XER = jax.device_get(step(model.params, batch, neurons_XRW))
            for answer, query in enumerate(taken):
                own = np.flatnonzero((batch.answer_R == answer) & (batch.weight_R > 0))
                untouched_N[query] = untouched_R[own].prod(dtype=np.float64)
                edited_EXN[:, :, query] = edited_XER[:, :, own].prod(-1, dtype=np.float64).T
            report(int(taken[-1]) + 1, "queries")
    for place, one in enumerate(sources.values()):
        edited_EXN[:, place, ~one.covered_N] = np.nan
    suppressed, amplified = (dict(zip(sources, edited_XN, strict=True)) for edited_XN in edited_EXN)
    return Edited(untouched_N, suppressed, amplified)


@functools.lru_cache(maxsize=8)
def _edit_step(config: ModelConfig) -> Callable:
    @jax.jit
    def step(params: Mapping, batch: QueryBatch, neurons_XRW: Int[Array, "X R W"]) -> tuple[Array, Array]:
        rows = Rows(batch.sequence_R, batch.position_R, batch.target_R)
        _, readout = lm_readout(config, params, batch.tokens_BT, rows, batch.length_B)
        n_rows = batch.target_R.shape[0]

        def both(neurons_RW: Array) -> Array:
            # Places beyond a set's end hold the number L·F, which is no neuron and is dropped.
            mask = jnp.zeros((n_rows, config.n_neurons), readout.neurons_LRF.dtype)
            mask = mask.at[jnp.arange(n_rows)[:, None], neurons_RW].set(1.0, mode="drop")
            mask_LRF = mask.reshape(n_rows, config.n_layers, config.d_mlp).transpose(1, 0, 2)
            return jnp.stack([readout(*suppress(mask_LRF)), readout(*amplify(mask_LRF))])

        # One after the other: together they would hold twelve times the memory, and take no less time on a CPU.
        return readout.untouched(), jax.lax.map(both, neurons_XRW)

    return step
