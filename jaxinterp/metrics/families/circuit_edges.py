"""How few edges between parts of the model keep an answer while all others carry means."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxinterp.attribution.adaptive import per_layer_attribution
from jaxinterp.attribution.answers import Answers
from jaxinterp.facts.batches import QueryBatch
from jaxinterp.metrics.columns import MeasuredSet, set_group
from jaxinterp.metrics.crossing import doubled, smallest_number
from jaxinterp.metrics.families.circuit_neurons import ENOUGH, known_answers, mean_over_rows, without_neurons
from jaxinterp.metrics.registry import Mean, Values, metric
from jaxinterp.metrics.sampling import sample
from jaxinterp.models.edges import EdgeGraph, Outputs, has_edges, outputs
from jaxinterp.models.readout import LanguageModelReadout

NEURONS = 128  # of highest score, whose edges are looked at; all if there are fewer
QUERIES = 48  # known answers of a set, whose edges are looked at; all if there are fewer
ROWS = 16  # answer tokens at once: a row has a number for each edge


class EdgesNeeded(NamedTuple):
    """How many edges an answer's circuit has."""

    number: Float[Array, " N"]
    is_bound: Bool[Array, " N"]  # all edges that are looked at keep less than is enough; the number is theirs


@set_group(
    "circuit_edges",
    gives={"circuit_edges": (12.0, 3000.0), "edges_beyond": (0.02, 0.02)},
    cost="attributions",
    text=True,
)
def _circuit_edges(measured: MeasuredSet) -> dict[str, Float[np.ndarray, " N"]]:
    """How many edges keep `ENOUGH` of P, of at most `QUERIES` answers that are known, and whether that is a bound; NaN
    for all others, for answers that need no neurons (see `circuit_neurons`), and for models that are no sum of parts,
    one after the other (see `has_edges`).
    """
    number, beyond = np.full(len(measured.examples), np.nan), np.full(len(measured.examples), np.nan)
    known = known_answers(measured) if has_edges(measured.examples.model.config) else np.zeros(0, int)
    if len(known):
        known = known[sample(measured.examples[known], QUERIES, measured.seed)]
        examples = measured.examples[known]
        rows = max(ROWS, int(examples.answer_length_N.max()))
        asked = dataclasses.replace(measured, examples=examples, rows=min(rows, measured.rows))
        mean = mean_over_rows(measured, outputs)

        def step(batch: QueryBatch, taken: np.ndarray) -> Mapping[str, Array]:
            readout = asked.examples.readout(batch)
            scores_LRF = per_layer_attribution(readout, asked.integral).scores_LRF
            needed = edges_needed(readout, batch.answers, scores_LRF, mean)
            free_N = without_neurons(readout, batch.answers, mean.neurons_LRF)
            return {"number": needed.number, "beyond": needed.is_bound.astype(float), "free": free_N.astype(float)}

        found = asked.each_batch(step)
        for column, name in ((number, "number"), (beyond, "beyond")):
            column[known] = np.where(found["free"] > 0, np.nan, found[name])
    return {"circuit_edges": number, "edges_beyond": beyond}


@jax.jit
def edges_needed(
    readout: LanguageModelReadout, answers: Answers, scores_LRF: Float[Array, "L R F"], mean: Outputs
) -> EdgesNeeded:
    """The smallest number of edges, those of highest |score| of each answer first, that keep `ENOUGH` of its P while
    all others carry means; see `smallest_number`.

    Edges are those among the `NEURONS` neurons of highest attribution, attention of each layer, the embedding and the
    logits; all other neurons are at their means. Where all of these edges together keep less, their number is a bound
    from below.
    """
    n_layers, n_rows, n_neurons = scores_LRF.shape
    scores_RU = answers.scores(scores_LRF).transpose(1, 0, 2).reshape(n_rows, n_layers * n_neurons)
    graph = EdgeGraph(readout, jax.lax.top_k(scores_RU, min(NEURONS, n_layers * n_neurons))[1], mean)
    allowed_RIO, answer_R = graph.allowed(), jnp.asarray(answers.answer_R)
    shape = allowed_RIO.shape[1:]
    allowed_RE = allowed_RIO.reshape(n_rows, -1)
    # All rows of an answer have the same neurons, and so the same edges.
    size_RE = jnp.abs(answers.sum(graph.scores().reshape(n_rows, -1)))[answer_R]
    score_RE = jnp.where(allowed_RE, size_RE, -jnp.inf)
    rank_RE = jnp.argsort(jnp.argsort(-score_RE, axis=1), axis=1)
    total_N = jax.ops.segment_max(allowed_RE.sum(1), answer_R, answers.n)

    def kept(number: Array) -> Float[Array, " N"]:
        weight_RE = (allowed_RE & (rank_RE < number)).astype(mean.embed_RD.dtype)
        return answers.probability(jnp.exp(graph.log_probability(weight_RE.reshape(n_rows, *shape))))

    number_G = jnp.asarray(doubled(shape[0] * shape[1]))
    kept_GN = jax.lax.map(kept, number_G)
    numbers_GN = jnp.minimum(number_G[:, None], total_N[None]).astype(kept_GN.dtype)
    enough_N = ENOUGH * answers.probability(readout.untouched())
    return EdgesNeeded(smallest_number(numbers_GN, kept_GN, enough_N), (kept_GN < enough_N[None]).all(0))


@metric(
    "circuit_edges",
    needs=("circuit_edges",),
    title="Edges of the circuit",
    unit="edges",
    range=(0.0, np.inf),
    better="lower",
    source="Syed et al. 2023; Hanna et al. 2024, edge attribution patching with integrated gradients",
)
def circuit_edges(mean: Mean) -> Values:
    """Smallest number of edges with which a known answer keeps 80 % of its probability while all other edges carry the
    mean over answers of what their sender gives; where an answer is read, between embedding, attention of each layer,
    the 128 neurons of highest attribution score, and logits. Those of strongest edge attribution come first. If all
    of them together keep less, it is their number. A mean over those of at most 48 answers that the untouched model
    knows which need neurons: answers that keep 80 % with all neurons at their means are left out.
    """
    return mean("circuit_edges")


@metric(
    "edges_beyond",
    needs=("edges_beyond",),
    title="Circuits beyond the edges",
    unit="%",
    range=(0.0, 1.0),
    better="lower",
    source="Syed et al. 2023; Hanna et al. 2024, edge attribution patching with integrated gradients",
)
def edges_beyond(mean: Mean) -> Values:
    """Share of the answers whose circuits are counted in edges for which all edges between embedding, attention of each
    layer, the 128 neurons of highest attribution score and logits together keep less than 80 % of P. Their number
    of edges is a bound from below.
    """
    return mean("edges_beyond")
