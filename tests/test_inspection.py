"""One prompt under the microscope, against the slow readout."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config, tiny_params

from jaxinterp.facts.encoding import encode_texts
from jaxinterp.inspection import inspect_answer
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.tokenizers import train_tokenizer
from jaxinterp.readout import FullForwardReadout, Rows

L, F, K = 2, 6, 3
PROMPT, ANSWER = "a b c", "d e"


@pytest.fixture(scope="module")
def model():
    tokenizer = train_tokenizer(["a b c d e f"])
    config = tiny_config(n_layers=L, d_mlp=F, d_vocab=tokenizer.n_tokens, n_ctx=8, ffn="relu")
    return LanguageModel(config, tiny_params(config, 2), tokenizer, {})


@pytest.fixture(scope="module")
def slow(model):
    """The answer's probability when gates [L, F] are put on both of its tokens."""
    queries = encode_texts([(PROMPT, ANSWER, "")], model.tokenizer)
    start = int(queries.answer_start_N[0])
    place = start + np.arange(2)
    rows = Rows(jnp.zeros(2, int), jnp.asarray(place - 1), jnp.asarray(queries.tokens_NT[0, place]))
    readout = FullForwardReadout(model.config, model.params, jnp.asarray(queries.tokens_NT), rows)

    def probability(gates_LF):
        gates_LRF = np.repeat(np.asarray(gates_LF, np.float32)[:, None], 2, axis=1)
        return float(np.asarray(readout(jnp.asarray(gates_LRF))).prod())

    return probability


def scores_of(token):
    scores_LF = np.zeros((L, F))
    for neuron in token["neurons"]:
        scores_LF[neuron["layer"], neuron["neuron"]] = neuron["score"]
    return scores_LF


def strongest(scores_LF, k):
    mask = np.zeros(L * F)
    mask[np.argsort(-scores_LF.ravel(), kind="stable")[:k]] = 1
    return mask.reshape(L, F)


def test_the_neurons_of_an_answer_are_those_of_its_summed_scores(model, slow):
    found = inspect_answer(model, PROMPT, ANSWER, k=K, rule="midpoint")
    everything = inspect_answer(model, PROMPT, ANSWER, k=L * F - 1, rule="midpoint")
    each = [scores_of(token) for token in everything["tokens"]]
    own = strongest(sum(each), K)
    assert found["probability"] == pytest.approx(slow(np.ones((L, F))), rel=1e-4)
    assert found["suppressed"] == pytest.approx(slow(1 - own), rel=1e-4)
    assert found["amplified"] == pytest.approx(slow(1 + own), rel=1e-4)
    # The tokens' own neurons are others, and are what their tables show.
    for token, scores_LF in zip(found["tokens"], each, strict=True):
        mask = strongest(scores_LF, K)
        assert (mask != own).any() and slow(1 - mask) != pytest.approx(found["suppressed"], rel=1e-2)
        np.testing.assert_array_equal(scores_of(token) != 0, mask > 0)


def test_random_neurons_are_active_ones_of_the_same_layers(model, slow):
    everything = inspect_answer(model, PROMPT, ANSWER, k=L * F - 1, rule="midpoint")
    own = strongest(sum(scores_of(token) for token in everything["tokens"]), K)
    first = everything["tokens"][0]["neurons"]
    active = np.zeros((L, F), bool)
    for neuron in first:
        active[neuron["layer"], neuron["neuron"]] = neuron["activation"] > 0
    possible = []
    for chosen in np.ndindex(*(2,) * (L * F)):
        mask = np.array(chosen).reshape(L, F)
        if (mask.sum(1) == own.sum(1)).all() and (mask <= active).all():
            possible.append(slow(1 - mask))
    assert 1 < len(possible)
    print(len(possible), active, own)
    for seed in range(5):
        value = inspect_answer(model, PROMPT, ANSWER, k=K, rule="midpoint", seed=seed)["random"]
        assert min(abs(value - one) / one for one in possible) < 1e-4
