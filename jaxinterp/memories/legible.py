"""Whether a fact's knowledge neurons are memories that can be read: do their values say the answer?

Knowledge neurons are those of highest attribution (Dai et al. 2021), values are read as in Geva et al. 2021. The
objective's term `value_agreement` trains for it.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.attribution.answers import Answers
from jaxinterp.attribution.registry import METHODS, Scores
from jaxinterp.attribution.selection import check_k
from jaxinterp.base.progress import progress
from jaxinterp.facts.batches import batches_of_all
from jaxinterp.facts.encoding import EncodedQueries, encode_texts
from jaxinterp.facts.facts import FactSet
from jaxinterp.memories.figure_table import FigureTable, Row, Sample, rows_of
from jaxinterp.memories.lens import LENSES, Lens
from jaxinterp.memories.values import VALUES, layer_values, read_values
from jaxinterp.metrics.recall import recalled
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.readout import lm_readout

TRIED = 10  # facts for each that is looked at, until enough are known
ROWS = 16  # tokens of answers that are attributed at once


class KnowledgeNeurons(NamedTuple):
    """The k neurons of each of N facts, those of highest score first."""

    layer_NK: Int[np.ndarray, "N K"]
    neuron_NK: Int[np.ndarray, "N K"]
    score_NK: Float[np.ndarray, "N K"]
    token_N: Int[np.ndarray, " N"]  # the answer's first


def knowledge_neurons(
    model: Model, queries: EncodedQueries, k: int = 8, method: str = "integrated_gradients", *, seed: int = 0
) -> KnowledgeNeurons:
    """The neurons with the highest scores for each query's answer, where it is read; summed over its tokens.

    Args:
      model: the model.
      queries: facts, each with a prompt.
      k: neurons of each, out of all layers.
      method: a name out of `jaxinterp.attribution.registry.METHODS`.
      seed: of the order of batches, and of methods that draw.
    Raises:
      UserError: if k or the method does not exist, or an answer is longer than `ROWS` tokens.
    """
    check_k(k, model.config.n_neurons)
    scores = METHODS[method].scores
    score_NK, number_NK = np.zeros((len(queries), k)), np.zeros((len(queries), k), int)
    done = 0
    with progress("knowledge neurons, facts", len(queries)) as report:
        for batch, index in batches_of_all(queries, n_rows=ROWS, seed=seed):
            key = jax.random.fold_in(jax.random.key(seed), done)
            best = _best(model, (batch.tokens_BT, batch.rows, batch.length_B), batch.answers, key, scores, k)
            score_NK[index], number_NK[index] = (np.asarray(x)[: len(index)] for x in best)
            done += len(index)
            report(done, "")
    layer_NK, neuron_NK = np.divmod(number_NK, model.config.d_mlp)
    token_N = queries.tokens_NT[np.arange(len(queries)), queries.answer_start_N]
    return KnowledgeNeurons(layer_NK, neuron_NK, score_NK, token_N)


def known_queries(model: LanguageModel, facts: FactSet, n: int, seed: int = 0) -> EncodedQueries | None:
    """At most n facts, drawn by the seed, that the model answers after the first prompt of their relation.

    Returns:
      None if it knows none of those that are tried, `TRIED` for each.
    """
    asked = facts.answer_last() if model.config.attention == "causal" else facts
    drawn = np.random.default_rng([seed, *b"legible"]).permutation(len(asked))[: TRIED * n]
    texts = [asked.text(int(fact), 0) for fact in drawn]
    queries = encode_texts(texts, model.tokenizer, n_ctx=model.config.n_ctx, dropped={})
    known_N = recalled(model.model, queries)["correct"] == 1
    return queries[np.flatnonzero(known_N)[:n]] if known_N.any() else None


def legible_facts(
    model: Model, neurons: KnowledgeNeurons, lenses: Sequence[Lens], *, seed: int = 0, level: float = 0.95
) -> FigureTable:
    """The figures "fact_…" by every lens, with the controls of `jaxinterp.memories.figure_table.FIGURES`.

    Args:
      model: the model.
      neurons: of its facts, each of which counts once; facts are taken for independent.
      lenses: how values are read.
      seed: of the controls.
      level: of the intervals.
    """
    rows: list[Row] = []
    order_N = np.random.default_rng([seed, 7]).permutation(len(neurons.token_N))
    moved_N = np.empty_like(order_N)
    moved_N[order_N] = np.roll(order_N, 1)  # no fact keeps its own answer
    with progress("values of knowledge neurons", len(lenses) * len(VALUES)) as report:
        for number, lens in enumerate(lenses):
            for place, kind in enumerate(VALUES):
                token_N = neurons.token_N[moved_N] if kind == "shuffled" else neurons.token_N
                figures = _figures(model, lens, "random" if kind == "random" else "own", neurons, token_N, seed)
                about = {"lens": lens.name, "values": kind, "level": level}
                units = neurons.layer_NK[:, 0], np.arange(len(token_N))
                for name, value_N in figures.items():
                    rows += rows_of(name, Sample(value_N, *units), **about)
                report(number * len(VALUES) + place + 1, "")
    definitions = {lens.name: LENSES[lens.name].definition for lens in lenses if lens.name in LENSES.names()}
    about = {"facts": len(neurons.token_N), "k": neurons.layer_NK.shape[1], "seed": seed, "level": level}
    return FigureTable(rows, definitions, about)


def _figures(
    model: Model, lens: Lens, kind: str, neurons: KnowledgeNeurons, token_N: np.ndarray, seed: int
) -> dict[str, Float[np.ndarray, " N"]]:
    """Each fact's, with the tokens as their answers."""
    top_NK, rank_NK = (np.zeros(neurons.layer_NK.shape, int) for _ in range(2))
    token_NK = np.broadcast_to(token_N[:, None], top_NK.shape)
    for layer in np.unique(neurons.layer_NK).tolist():
        of = neurons.layer_NK == layer
        value_MD = layer_values(model, layer, kind, seed)[neurons.neuron_NK[of]]
        read = read_values(model, lens, layer, value_MD, token_NK[of][:, None])
        top_NK[of], rank_NK[of] = read.top_N, np.asarray(read.rank_NK)[:, 0]
    same_NK, mass_NK = top_NK == token_NK, neurons.score_NK.clip(0)
    with np.errstate(invalid="ignore"):  # no neuron has a positive score: the fact does not count
        legible_N = (same_NK * mass_NK).sum(1) / mass_NK.sum(1)
    figures = {"fact_top": same_NK[:, 0], "fact_mass": legible_N, "fact_any": same_NK.any(1)}
    return {name: value.astype(float) for name, value in figures.items()} | {"fact_rank": np.log(rank_NK[:, 0])}


@functools.partial(jax.jit, static_argnames=("scores", "k"))
def _best(
    model: Model, read: tuple, answers: Answers, key: Array, scores: Scores, k: int
) -> tuple[Float[Array, "N k"], Int[Array, "N k"]]:
    """The k highest scores of each answer, and numbers of their neurons over all layers."""
    _, readout = lm_readout(model, *read)
    of_first_LNF = answers.scores(scores(readout, key))[:, answers.first_row_N]
    return tuple(jax.lax.top_k(of_first_LNF.transpose(1, 0, 2).reshape(answers.n, -1), k))
