"""Runs along chosen edges against slow ones, and circuits that are known by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import ARCHITECTURES, UNPUBLISHED, fast_readout, tiny_batch, tiny_config, tiny_params
from two_edges import one_neuron_circuit

from jaxinterp.models.edges import EdgeGraph, Outputs, has_edges, outputs
from jaxinterp.models.model import Model
from jaxinterp.models.places import Change
from jaxinterp.models.transformer import forward, unembed

L, F, D = 2, 6, 8
PRE_NORM = ("gpt", "llama", "relu")


@pytest.fixture(autouse=True)
def _precise():
    with jax.enable_x64(True):
        yield


def graph_of(name="gpt", n_chosen=L * F, **changes):
    """Neurons in an order of their own for each row, and means that are no row's."""
    config = tiny_config(**{"n_layers": L, "dtype": "float64", **ARCHITECTURES[name], **changes})
    params, batch = jax.tree.map(lambda leaf: 1.5 * leaf, tiny_params(config)), tiny_batch()
    readout = fast_readout(config, params, batch)
    n_rows, rng = readout.shape[1], np.random.default_rng(4)
    chosen = np.stack([rng.permutation(L * F)[:n_chosen] for _ in range(n_rows)])
    mean = Outputs(*(0.5 * rng.standard_normal(shape) for shape in ((D,), (L, D), (L, F))))
    return EdgeGraph(readout, jnp.asarray(chosen), Outputs(*map(jnp.asarray, mean))), batch


@pytest.mark.parametrize("name", PRE_NORM)
def test_with_all_edges_it_is_the_untouched_model(name):
    graph, _ = graph_of(name)
    found = graph.log_probability(graph.allowed().astype(float))
    np.testing.assert_allclose(np.exp(found), graph.readout.untouched(), rtol=1e-10)


def slow_log_p(graph, batch, weight_RIO, row):
    """One row, part by part in the order of computation, each with a residual stream of its own."""
    layers = jax.tree.map(np.asarray, graph.readout.model.params["layers"])
    sequence, at = int(batch.rows.sequence_R[row]), int(batch.rows.position_R[row])
    tokens = jnp.asarray(batch.tokens_BT[sequence : sequence + 1])
    mean, weight = jax.tree.map(np.asarray, graph.mean), np.asarray(weight_RIO[row])
    chosen = np.asarray(graph.chosen_RC[row])
    C = len(chosen)
    b_out = layers.get("b_out", np.zeros((L, D)))
    places = [(-1, "embed", 0)]
    for layer in range(L):
        places.append((2 * layer, "attn", layer))
        places += [(2 * layer + 1, "neuron", c) for c in range(C) if chosen[c] // F == layer]
    means = {("embed", 0): mean.embed_RD}
    for c in range(C):
        layer, neuron = divmod(chosen[c], F)
        means["neuron", c] = mean.neurons_LRF[layer, neuron] * layers["w_out"][layer, neuron]
    for layer in range(L):
        means["attn", layer] = mean.attn_LRD[layer]
    outs, row_of = {}, {"embed": 0, "attn": 1, "neuron": 1 + L}
    column_of = {"attn": 0, "neuron": L, "logits": L + C}

    def read(kind, number, time):
        total = np.zeros(D)
        for before, sender, n in places:
            if before < time:
                kept = weight[column_of[kind] + number, row_of[sender] + n]
                total += kept * outs[sender, n] + (1 - kept) * means[sender, n]
        for layer in range(L):  # what no chosen neuron writes
            if 2 * layer + 1 < time:
                rest = [f for f in range(F) if layer * F + f not in chosen]
                total += b_out[layer] + mean.neurons_LRF[layer, rest] @ layers["w_out"][layer, rest]
        return total

    def captured(place, layer, value):
        """What a layer's part gives if it reads `value` at the row's position, by a whole forward."""
        shift = np.zeros((L, 1, tokens.shape[1], D))
        shift[layer, 0, at] = value
        gate = np.ones((L, 1, tokens.shape[1], 1))
        gate[layer, 0, at] = 0
        where = {"attn_out": "resid_pre", "mlp_pre": "resid_mid", "mlp_post": "resid_mid"}[place]
        changes = {where: Change(jnp.asarray(gate), jnp.asarray(shift))}
        found = forward(graph.readout.model, tokens, edit=changes, capture=(place,)).activations[place]
        return np.asarray(found[layer, 0, at])

    embedded = forward(graph.readout.model, tokens, capture=("embed",)).activations["embed"]
    for time, kind, number in places:
        if kind == "embed":
            outs[kind, number] = np.asarray(embedded)[0, at]
        elif kind == "attn":
            outs[kind, number] = captured("attn_out", number, read(kind, number, time))
        else:
            layer, neuron = divmod(chosen[number], F)
            value = captured("mlp_post", layer, read(kind, number, time))[neuron]
            outs[kind, number] = value * layers["w_out"][layer, neuron]
    logits = unembed(graph.readout.model, jnp.asarray(read("logits", 0, 2 * L)[None]))
    return float(jax.nn.log_softmax(logits)[0, int(batch.rows.target_R[row])])


@pytest.mark.parametrize("name", PRE_NORM)
def test_along_any_edges_it_is_the_slow_run(name):
    graph, batch = graph_of(name, n_chosen=7)
    allowed = np.asarray(graph.allowed())
    weight = allowed * (np.random.default_rng(0).uniform(size=allowed.shape) < 0.6)
    found = np.asarray(graph.log_probability(jnp.asarray(weight, float)))
    for row in (0, 4):
        np.testing.assert_allclose(found[row], slow_log_p(graph, batch, weight, row), rtol=1e-9)


def test_without_edges_all_rows_are_one():
    graph, _ = graph_of(n_chosen=7)
    found = graph.log_probability(jnp.zeros(graph.allowed().shape))
    config, params, mean = graph.readout.model.config, graph.readout.model.params, graph.mean
    written = jnp.einsum("lf,lfd->d", mean.neurons_LRF, params["layers"]["w_out"]) + params["layers"]["b_out"].sum(0)
    resid = mean.embed_RD + mean.attn_LRD.sum(0) + written
    log_p = jax.nn.log_softmax(unembed(Model(config, params), resid[None]))[0]
    np.testing.assert_allclose(found, log_p[graph.readout.rows.target_R], rtol=1e-10)


def test_edges_go_forward():
    graph, _ = graph_of(n_chosen=3)
    graph = graph.replace(chosen_RC=jnp.asarray([[0, 7, 1]] * graph.readout.shape[1]))  # layers 0, 1, 0
    expected = [  # from the embedding, attention of both layers, neurons
        [1, 0, 0, 0, 0, 0],  # to attention of layer 0
        [1, 1, 0, 1, 0, 1],  # and of layer 1
        [1, 1, 0, 0, 0, 0],  # to neurons
        [1, 1, 1, 1, 0, 1],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1],  # to the logits
    ]
    np.testing.assert_array_equal(graph.allowed()[0], expected)


def test_scores_are_means_of_finite_differences():
    graph, _ = graph_of("relu", n_chosen=5)
    run, scores, step = jax.jit(graph.log_probability), np.asarray(graph.scores()), 1e-5
    allowed = np.asarray(graph.allowed(), float)
    assert not scores[allowed == 0].any()
    for i, o in ((5, 2), (1, 0), (7, 6)):
        moved = np.zeros_like(allowed)
        moved[:, i, o] = step
        alphas = [0.1, 0.3, 0.5, 0.7, 0.9]
        slopes = [(run(alpha * allowed + moved) - run(alpha * allowed - moved)) / (2 * step) for alpha in alphas]
        np.testing.assert_allclose(scores[:, i, o], np.mean(slopes, 0) * allowed[:, i, o], rtol=1e-5, atol=1e-9)


def test_what_senders_give_adds_up():
    graph, batch = graph_of()
    found, layers = outputs(graph.readout), graph.readout.layers
    written = jnp.einsum("lrf,lfd->rd", found.neurons_LRF, layers["w_out"]) + layers["b_out"].sum(0)[None]
    whole = forward(graph.readout.model, jnp.asarray(batch.tokens_BT)).resid_final_BTD
    expected = whole[batch.rows.sequence_R, batch.rows.position_R]
    np.testing.assert_allclose(found.embed_RD + found.attn_LRD.sum(0) + written, expected, rtol=1e-9)


@pytest.mark.parametrize(("name", "there"), [("gpt", 1), ("llama", 1), ("neox", 0), ("gemma", 0), ("bert", 0)])
def test_which_models_have_edges(name, there):
    assert has_edges(tiny_config(**ARCHITECTURES[name])) == bool(there)
    assert not has_edges(tiny_config(**{**ARCHITECTURES[name], "ffn": "solu", "head": "linear"}))


@pytest.mark.parametrize("name", UNPUBLISHED)
def test_neurons_that_others_multiply_have_none(name):
    assert not has_edges(tiny_config(**UNPUBLISHED[name]))
    assert not has_edges(tiny_config(experts=2)) and not has_edges(tiny_config(depth_gates=True))


def test_a_circuit_of_two_edges():
    readout = one_neuron_circuit()
    mean = jax.tree.map(lambda x: x.mean(-2), outputs(readout))
    graph = EdgeGraph(readout, jnp.asarray([[0, 1, 2, 3, 4, 5]] * 2), mean)
    scores = np.asarray(graph.scores())[0]
    # From the embedding to the neuron, and from there to the logits.
    found = set(zip(*(axis.tolist() for axis in np.nonzero(np.abs(scores) > 1e-9)), strict=True))
    assert found == {(2, 0), (8, 3)} and (scores >= 0).all()
    # Logits of 10 and 15 with means, which each edge alone does not change, and of 20 and 15.
    log_p = lambda right, other: right - np.log(np.exp(right) + np.exp(other) + 2)  # noqa: E731
    for kept, expected in (((), (10, 15)), ([(2, 0)], (10, 15)), ([(8, 3)], (10, 15)), (found, (20, 15))):
        weight = np.zeros(graph.allowed().shape)
        for edge in kept:
            weight[:, *edge] = 1
        np.testing.assert_allclose(graph.log_probability(jnp.asarray(weight))[0], log_p(*expected), rtol=1e-9)
