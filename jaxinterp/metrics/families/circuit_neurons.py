"""How few neurons keep an answer while all others are at their means."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxinterp.attribution.adaptive import per_layer_attribution
from jaxinterp.attribution.answers import Answers
from jaxinterp.attribution.edits import set_to
from jaxinterp.attribution.readout import Readout
from jaxinterp.attribution.selection import ranked
from jaxinterp.facts.batches import QueryBatch
from jaxinterp.metrics.columns import MeasuredSet, set_group
from jaxinterp.metrics.crossing import doubled, smallest_number
from jaxinterp.metrics.recall import recalled
from jaxinterp.metrics.registry import Mean, Values, metric

ENOUGH = 0.8  # of an answer's P: what a circuit keeps
SOURCE = "after Wang et al. 2023, faithfulness of a circuit under mean ablation"


@set_group(
    "circuit_neurons",
    gives={"circuit_neurons": (6.0, 400.0), "circuit_share": (0.004, 0.3), "neuron_free": (0.02, 0.02)},
    cost="attributions",
    text=True,
)
def _circuit_neurons(measured: MeasuredSet) -> dict[str, Float[np.ndarray, " N"]]:
    """How many neurons keep `ENOUGH` of P, and which share of all that is, NaN for answers that need none; and which
    those are. NaN where the answer is not known.

    An answer that attention alone gives has a circuit of no neurons. It would make a model whose facts have left its
    FFNs look like one whose facts are in few neurons.
    """
    known = known_answers(measured)
    number, free = np.full(len(measured.examples), np.nan), np.full(len(measured.examples), np.nan)
    if len(known):
        asked = dataclasses.replace(measured, examples=measured.examples[known])
        mean_LF = mean_over_rows(measured, lambda readout: readout.neurons_LRF)

        def step(batch: QueryBatch, taken: np.ndarray) -> Mapping[str, Array]:
            readout = asked.examples.readout(batch)
            scores_LRF = per_layer_attribution(readout, asked.integral).scores_LRF
            return {"number": neurons_needed(readout, batch.answers, scores_LRF, mean_LF)}

        found = asked.each_batch(step)["number"]
        number[known], free[known] = np.where(found > 0, found, np.nan), found == 0
    return {"circuit_neurons": number, "circuit_share": number / measured.examples.n_neurons, "neuron_free": free}


def known_answers(measured: MeasuredSet) -> Int[np.ndarray, " n"]:
    """Which of the set's queries the model answers correctly."""
    examples = measured.examples
    return np.flatnonzero(recalled(examples.model, examples.queries, rows=measured.rows)["correct"] > 0)


def mean_over_rows(measured: MeasuredSet, values: Callable[[Any], Any]) -> Any:
    """The mean over the rows of all of the set's answers of what `values` gives for a readout: arrays [..., R, X]."""
    sums, n_rows = [], 0.0

    def step(batch: QueryBatch, taken: np.ndarray) -> dict:
        nonlocal n_rows
        weight_R = jnp.asarray(batch.answers.weight_R)
        found = values(measured.examples.readout(batch))
        sums.append(jax.tree.map(lambda x: jnp.einsum("...rx,r->...x", x, weight_R.astype(x.dtype)), found))
        n_rows += float(weight_R.sum())
        return {}

    measured.each_batch(step)
    return jax.tree.map(lambda *parts: sum(parts) / n_rows, *sums)


@jax.jit
def neurons_needed(
    readout: Readout, answers: Answers, scores_LRF: Float[Array, "L R F"], mean_LF: Float[Array, "L F"]
) -> Float[Array, " N"]:
    """The smallest number of neurons, those of highest score of each answer first, that keep `ENOUGH` of its P while
    all others are at the means; see `smallest_number`. At most all, which keep the whole.
    """
    n_layers, _, n_neurons = scores_LRF.shape
    rank_LRF = ranked(answers.scores(scores_LRF), n_layers * n_neurons - 1)
    mean_LRF = jnp.broadcast_to(mean_LF[:, None], scores_LRF.shape)
    number_G = jnp.asarray(doubled(n_layers * n_neurons))

    def kept(number: Array) -> Float[Array, " N"]:
        others_LRF = (rank_LRF >= number).astype(mean_LRF.dtype)
        return answers.probability(readout(*set_to(others_LRF, mean_LRF)))

    kept_GN = jax.lax.map(kept, number_G)
    numbers_GN = jnp.broadcast_to(number_G[:, None], kept_GN.shape).astype(kept_GN.dtype)
    return smallest_number(numbers_GN, kept_GN, ENOUGH * answers.probability(readout.untouched()))


@jax.jit
def without_neurons(readout: Readout, answers: Answers, mean_LF: Float[Array, "L F"]) -> Bool[Array, " N"]:
    """Whether an answer keeps `ENOUGH` of its P while all neurons are at the means."""
    ones_LRF = jnp.ones_like(readout.neurons_LRF)
    kept_N = answers.probability(readout(*set_to(ones_LRF, mean_LF[:, None] * ones_LRF)))
    return kept_N >= ENOUGH * answers.probability(readout.untouched())


@metric(
    "circuit_neurons",
    needs=("circuit_neurons",),
    title="Neurons of the circuit",
    unit="neurons",
    range=(0.0, np.inf),
    better="lower",
    source=SOURCE,
)
def circuit_neurons(mean: Mean) -> Values:
    """Smallest number of neurons, those of highest attribution score first, with which a known answer keeps 80 % of its
    probability while all other neurons are at their mean over answers; between 1, 2, 4 … neurons and all of them, by
    the logarithm. A mean over the answers that the untouched model knows and that need neurons: those that keep 80 %
    with all neurons at their means are left out, see "Answers without neurons".
    """
    return mean("circuit_neurons")


@metric(
    "circuit_share",
    needs=("circuit_share",),
    title="Share of neurons in the circuit",
    unit="%",
    range=(0.0, 1.0),
    better="lower",
    source=SOURCE,
)
def circuit_share(mean: Mean) -> Values:
    """Share of all neurons that is needed, those of highest attribution score first, for a known answer to keep 80 % of
    its probability while all other neurons are at their mean over answers; a mean over the answers that the untouched
    model knows, without those that keep 80 % with all neurons at their means.
    """
    return mean("circuit_share")


@metric(
    "neuron_free",
    needs=("neuron_free",),
    title="Answers without neurons",
    unit="%",
    range=(0.0, 1.0),
    better="lower",
    source=SOURCE,
)
def neuron_free(mean: Mean) -> Values:
    """Share of the answers that the untouched model knows which keep 80 % of their probability while all neurons, where
    the answer is read, are at their mean over answers: attention alone gives them, and they have no circuit of neurons.
    """
    return mean("neuron_free")
