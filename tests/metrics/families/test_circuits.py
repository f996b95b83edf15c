"""The smallest circuits of answers: against slow runs, by hand, and where there are none."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from knowing import knowing
from tiny import fast_readout, slow_readout, tiny_batch, tiny_config, tiny_params
from two_edges import one_neuron_circuit

from jaxinterp.attribution.answers import whole_rows
from jaxinterp.attribution.quadrature import quadrature
from jaxinterp.facts.encoding import encode
from jaxinterp.metrics.columns import GROUPS, MeasuredSet
from jaxinterp.metrics.examples import LanguageExamples
from jaxinterp.metrics.families import circuit_edges
from jaxinterp.metrics.families.circuit_edges import edges_needed
from jaxinterp.metrics.families.circuit_neurons import mean_over_rows, neurons_needed, without_neurons
from jaxinterp.metrics.recall import recalled
from jaxinterp.models.edges import outputs


@pytest.fixture(scope="module")
def one():
    """Every third query of a small model, of which it knows some."""
    model, facts = knowing()
    facts = facts.answer_last()
    queries = encode(facts, facts.queries(), model.tokenizer, n_ctx=model.config.n_ctx)
    examples = LanguageExamples(model.model, queries)[np.arange(0, len(queries), 3)]
    return MeasuredSet(examples, examples, 2, quadrature("midpoint", 3), 8, 0)


def test_neurons_of_answers_against_full_forwards(float64):
    config, rng = tiny_config(n_layers=2, dtype="float64"), np.random.default_rng(1)
    params, batch = jax.tree.map(lambda leaf: 1.5 * leaf, tiny_params(config)), tiny_batch()
    readout, slow = fast_readout(config, params, batch), jax.jit(slow_readout(config, params, batch).__call__)
    scores, mean = rng.standard_normal(readout.shape), 4 * rng.standard_normal((2, 6))
    found = np.asarray(neurons_needed(readout, batch.answers, jnp.asarray(scores), jnp.asarray(mean)))
    answer_R, weight_R = np.asarray(batch.answers.answer_R), np.asarray(batch.answers.weight_R) > 0
    for answer in range(6):
        rows = np.flatnonzero(weight_R & (answer_R == answer))
        order, kept = np.argsort(-scores[:, rows].sum(1).ravel()), []
        for number in (0, 1, 2, 4, 8, 12):
            gate = np.zeros(12)
            gate[order[:number]] = 1
            gates = np.broadcast_to(gate.reshape(2, 1, 6), readout.shape)
            kept.append(np.prod(np.asarray(slow(jnp.asarray(gates), jnp.asarray((1 - gates) * mean[:, None])))[rows]))
        at = next(place for place, p in enumerate(kept) if p >= 0.8 * kept[-1])
        numbers = [0, 1, 2, 4, 8, 12]
        expected = float(numbers[at])
        if at > 1:
            way = (0.8 * kept[-1] - kept[at - 1]) / (kept[at] - kept[at - 1])
            expected = numbers[at - 1] * (numbers[at] / numbers[at - 1]) ** way
        np.testing.assert_allclose(found[answer], expected, rtol=1e-8)
    assert len(set(found[:6].round(3))) > 2


def test_edges_of_a_circuit_by_hand(float64):
    readout = one_neuron_circuit()
    mean = jax.tree.map(lambda x: x.mean(-2), outputs(readout))
    found = edges_needed(readout, whole_rows(2), jnp.ones(readout.shape), mean)
    whole, none = (np.exp(x) / (np.exp(x) + np.exp(15) + 2) for x in (20, 10))
    # Two edges; the answer of the other row is there without any.
    np.testing.assert_allclose(found.number, [2 ** ((0.8 * whole - none) / (whole - none)), 0], rtol=1e-6)
    assert not found.is_bound.any()
    np.testing.assert_array_equal(without_neurons(readout, whole_rows(2), mean.neurons_LRF), [False, True])


def test_edges_that_are_not_enough_are_a_bound(float64):
    readout = one_neuron_circuit()
    mean = jax.tree.map(lambda x: x.mean(-2), outputs(readout))
    # The neuron of the circuit is not among those that are looked at.
    without = jnp.ones(readout.shape).at[0, :, 0].set(-1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(circuit_edges, "NEURONS", 2)
        found = edges_needed.__wrapped__(readout, whole_rows(2), without, mean)
    np.testing.assert_array_equal(found.is_bound, [True, False])
    assert found.number[0] == 14  # 5 from the embedding, 4 and 1 from attention, 2 from each neuron of layer 0


def test_only_known_answers_have_circuits(one):
    known = recalled(one.examples.model, one.examples.queries)["correct"] > 0
    assert 0 < known.sum() < len(known)
    neurons, edges = GROUPS["circuit_neurons"].columns(one), GROUPS["circuit_edges"].columns(one)
    assert set(neurons) | set(edges) == {
        "circuit_neurons",
        "circuit_share",
        "neuron_free",
        "circuit_edges",
        "edges_beyond",
    }
    np.testing.assert_array_equal(np.isfinite(neurons["neuron_free"]), known)
    needs_some = neurons["neuron_free"] == 0
    assert needs_some.any()
    for name in ("circuit_neurons", "circuit_share"):
        np.testing.assert_array_equal(np.isfinite(neurons[name]), needs_some)
    for name in ("circuit_edges", "edges_beyond"):
        np.testing.assert_array_equal(np.isfinite(edges[name]), needs_some)
    for values in (neurons["circuit_neurons"], edges["circuit_edges"]):
        assert (values[needs_some] > 0).all() and len(set(values[needs_some].tolist())) > 3
    np.testing.assert_allclose(neurons["circuit_share"], neurons["circuit_neurons"] / 12)


def test_an_answer_that_attention_alone_gives_has_no_circuit(one):
    params = dict(one.examples.model.params)
    params["layers"] = {**params["layers"], "w_out": 0 * params["layers"]["w_out"]}
    examples = LanguageExamples(one.examples.model.replace(params=params), one.examples.queries)
    measured = dataclasses.replace(one, examples=examples, pool=examples)
    known = recalled(examples.model, examples.queries)["correct"] > 0
    found = GROUPS["circuit_neurons"].columns(measured) | GROUPS["circuit_edges"].columns(measured)
    assert known.any()
    np.testing.assert_array_equal(found["neuron_free"], np.where(known, 1, np.nan))
    for name in ("circuit_neurons", "circuit_share", "circuit_edges", "edges_beyond"):
        assert np.isnan(found[name]).all()


def test_means_are_over_all_rows(one):
    found = mean_over_rows(one, lambda readout: readout.neurons_LRF)
    rows = []
    for batch, _ in one.examples.batches(len(one.examples) * 4, 0):
        readout = one.examples.readout(batch)
        rows.append(np.asarray(readout.neurons_LRF)[:, np.asarray(batch.answers.weight_R) > 0])
    np.testing.assert_allclose(found, np.concatenate(rows, 1).mean(1), rtol=1e-4, atol=1e-6)


def test_a_model_that_is_no_sum_of_parts_has_no_edges(one):
    config = dataclasses.replace(one.examples.model.config, parallel=True)
    other = LanguageExamples(one.examples.model.replace(config=config), one.examples.queries)
    found = GROUPS["circuit_edges"].columns(dataclasses.replace(one, examples=other, pool=other))
    assert np.isnan(found["circuit_edges"]).all()
