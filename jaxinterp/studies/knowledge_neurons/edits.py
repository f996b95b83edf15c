"""What edits do to the answers: every set of neurons switched off and doubled, for every query."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from jaxtyping import Key as RandomKey

from jaxinterp.attribution.answers import Answers
from jaxinterp.attribution.edits import active_neurons, amplify, random_masks, suppress
from jaxinterp.attribution.readout import Readout
from jaxinterp.base.progress import progress
from jaxinterp.facts.batches import QueryBatch
from jaxinterp.facts.controls import KINDS
from jaxinterp.metrics.batching import by_length, columns_of, query_batches, readout_of
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.studies.knowledge_neurons.config import KnowledgeNeuronsConfig
from jaxinterp.studies.knowledge_neurons.queries import Asked, rows_of
from jaxinterp.studies.knowledge_neurons.sets import NONE, Key, Selection, controls, lent

# Whose neurons are switched off and doubled -> the columns of P then: a fact's own, those of other facts, random ones.
SOURCES = {
    "own": ("suppressed", "amplified"),
    **{kind: (f"control_{kind}", f"amplified_{kind}") for kind in KINDS},
    "random": ("random", "amplified_random"),
}
Columns = Mapping[str, Float[np.ndarray, " N"]]  # "probability", untouched, and those of `SOURCES`


def edited(
    model: LanguageModel, asked: Asked, selections: Mapping[Key, Selection], config: KnowledgeNeuronsConfig
) -> dict[Key, Columns]:
    """P of every answer with the neurons of each selection, of other facts of every kind, and random ones edited.

    An answer of several tokens is read token by token, each with its own set. Random neurons are as many of each layer
    as every set has there, out of those active where the token is read. A column is NaN where a protocol does not cover
    the query, or covers no other fact of the kind.
    """
    queries = asked.queries
    first_N = np.cumsum(queries.answer_length_N) - queries.answer_length_N
    n_tokens = int(queries.answer_length_N.sum())
    covered = {protocol: own.covered_N for (protocol, _), own in selections.items()}
    control = {protocol: controls(queries, covered_N, config.seed) for protocol, covered_N in covered.items()}
    width = max(own.neurons_AW.shape[1] for own in selections.values())  # one shape for all
    neurons_JXAW = np.full((len(selections), 1 + len(KINDS), n_tokens, width), NONE, np.int32)
    for neurons_XAW, ((protocol, _), own) in zip(neurons_JXAW, selections.items(), strict=True):
        others = [lent(queries, own.neurons_AW, control_N) for control_N in control[protocol]]
        neurons_XAW[..., : own.neurons_AW.shape[1]] = [own.neurons_AW, *others]
    random_key = jax.random.key(config.seed)
    key_A = jax.vmap(lambda token: jax.random.fold_in(random_key, token))(jnp.arange(n_tokens))

    def step(_: int, batch: QueryBatch, taken: np.ndarray) -> dict[str, Array]:
        answer_R = batch.answers.answer_R
        step_R = np.arange(len(answer_R)) - np.searchsorted(answer_R, answer_R)
        token_R = np.minimum(first_N[taken[answer_R]] + step_R, n_tokens - 1)
        readout = readout_of(model.model, batch)
        p_N, p_JSEN = _edited(readout, batch.answers, neurons_JXAW[:, :, token_R], key_A[token_R])
        return {"untouched": p_N, **{str(i): edited_N for i, edited_N in enumerate(p_JSEN.reshape(-1, len(p_N)))}}

    n_done = 0
    batches = query_batches(queries, rows_of(queries, config.rows), 0, by_length(model.config, queries))
    with progress("edit", len(queries)) as report:

        def advance(n: int) -> None:
            nonlocal n_done
            n_done += n
            report(n_done, "queries")

        columns = columns_of(batches, len(queries), step, advance)
    names = [name for names in SOURCES.values() for name in names]
    found = {}
    for j, key in enumerate(selections):
        known_SN = [covered[key[0]], *(control[key[0]] >= 0), covered[key[0]]]
        found[key] = {"probability": columns["untouched"]}
        for i, name in enumerate(names):
            found[key][name] = np.where(known_SN[i // 2], columns[str(j * len(names) + i)], np.nan)
    return found


@jax.jit
def _edited(
    readout: Readout, answers: Answers, neurons_JXRW: Int[Array, "J X R W"], key_R: RandomKey[Array, " R"]
) -> tuple[Float[Array, " N"], Float[Array, "J S E N"]]:
    """P of answers: untouched, and under both edits of every source's neurons.

    Args:
      readout, answers: of a batch.
      neurons_JXRW: of J selections at most W neurons per row: its own ones first, then those of other facts.
      key_R: of each row's random neurons.
    """
    n_layers, n_rows, d_mlp = readout.shape
    active_LRF = active_neurons(readout.neurons_LRF)

    def mask(neurons_RW: Array) -> Array:
        mask = jnp.zeros((n_rows, n_layers * d_mlp), active_LRF.dtype)
        mask = mask.at[jnp.arange(n_rows)[:, None], neurons_RW].set(1.0, mode="drop")  # `NONE` is no neuron
        return mask.reshape(n_rows, n_layers, d_mlp).transpose(1, 0, 2)

    def both(mask_LRF: Array) -> Array:
        return jnp.stack([answers.probability(readout(*edit(mask_LRF))) for edit in (suppress, amplify)])

    def of_selection(selection: tuple[Array, Array]) -> Array:
        neurons_XRW, number = selection
        mask_XLRF = jax.vmap(mask)(neurons_XRW)
        own_key_R = jax.vmap(jax.random.fold_in, (0, None))(key_R, number)
        at_random = random_masks(own_key_R, mask_XLRF[0], active_LRF)
        return jax.lax.map(both, jnp.concatenate([mask_XLRF, at_random[None]]))

    # One after the other: together they would hold many times the memory, and take no less time on a CPU.
    return answers.probability(readout.untouched()), jax.lax.map(
        of_selection, (neurons_JXRW, jnp.arange(len(neurons_JXRW)))
    )
