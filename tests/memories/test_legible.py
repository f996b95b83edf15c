"""Knowledge neurons whose values say the answer: against single facts, and where values are made to say it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import arrays_of, tiny_config, tiny_params, tiny_queries

from jaxinterp.attribution.registry import METHODS
from jaxinterp.base.errors import UserError
from jaxinterp.facts.batches import query_batch
from jaxinterp.memories.legible import KnowledgeNeurons, knowledge_neurons, legible_facts
from jaxinterp.memories.lens import Lens
from jaxinterp.models.model import Model
from jaxinterp.models.readout import lm_readout

CONFIG = tiny_config(n_layers=2)
MODEL = Model(CONFIG, tiny_params(CONFIG))
RAW = (Lens("raw", normed=False),)


def test_neurons_are_those_of_each_fact_by_itself():
    queries = tiny_queries(14)
    found = knowledge_neurons(MODEL, queries, 3, "gradient_x_activation")
    scores = METHODS["gradient_x_activation"].scores
    scored = jax.jit(lambda *arrays: scores(lm_readout(MODEL, *arrays)[1], jax.random.key(0)))
    for fact in (1, 6, 13):
        one = queries[np.array([fact])]
        batch, _ = query_batch(one, n_sequences=1, n_rows=2, answered=[0], rng=np.random.default_rng(0), n_controls=0)
        of_one = np.asarray(batch.answers.scores(scored(*arrays_of(batch))))[:, 0].ravel()
        best = np.argsort(-of_one)[:3]
        np.testing.assert_array_equal(found.layer_NK[fact] * 6 + found.neuron_NK[fact], best)
        np.testing.assert_allclose(found.score_NK[fact], of_one[best], rtol=1e-4, atol=1e-6)
        assert found.token_N[fact] == batch.rows.target_R[0]
    with pytest.raises(UserError, match=r"k must be at least 1 and below .* \(12\)"):
        knowledge_neurons(MODEL, queries, 12)


def test_figures_by_hand():
    # Coordinate d says token d alone, and neuron f of layer l writes coordinate f (or 7 − f in layer 1).
    w_out = np.stack([np.eye(8)[:6], np.eye(8)[::-1][:6]]).astype(np.float32)
    embedding = jnp.asarray(np.eye(11)[:, :8], jnp.float32)
    params = {**MODEL.params, "embedding": embedding, "layers": {**MODEL.params["layers"], "w_out": w_out}}
    layer = np.array([[0, 1], [1, 0], [0, 0], [0, 0]])
    neuron = np.array([[3, 0], [5, 2], [1, 4], [1, 2]])  # they say 3 and 7, 2 and 2, 1 and 4, 1 and 2
    score = np.array([[3.0, 1.0], [1.0, 1.0], [0.6, 0.2], [-1.0, -2.0]])
    neurons = KnowledgeNeurons(layer, neuron, score, np.array([3, 2, 4, 5]))
    table = legible_facts(Model(CONFIG, params), neurons, RAW)
    assert table.value("fact_top", lens="raw").value == pytest.approx(2 / 4)
    assert table.value("fact_any", lens="raw").value == pytest.approx(3 / 4)
    assert table.value("fact_mass", lens="raw").value == pytest.approx((3 / 4 + 1 + 0.2 / 0.8) / 3)
    # The answer's rank where another token has the only 1: 2, shared by all others.
    assert table.value("fact_rank", lens="raw").value == pytest.approx(4 ** (1 / 4))
    assert table.value("fact_top", lens="raw", by="layer", at=0).value == pytest.approx(1 / 3)
    assert table.value("fact_top", lens="raw").n == 4
    assert table.value("fact_mass", lens="raw").n == 3
    # Another fact's answer is none of these neurons' tokens, but for one that happens to be.
    assert table.value("fact_top", lens="raw", values="shuffled").value < 1 / 2
    assert table.value("fact_top", lens="raw", values="random").n == 4
