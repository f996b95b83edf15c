"""One prompt under the microscope: what is done to which neurons, against the slow readout."""

import dataclasses
import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from full_forward import FullForwardReadout
from jaxtyping import TypeCheckError
from tiny import tiny_config, tiny_params
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from jaxinterp.api.attribute import attribute
from jaxinterp.api.measured import measure
from jaxinterp.attribution.adaptive import per_layer_attribution
from jaxinterp.attribution.edits import suppress
from jaxinterp.attribution.quadrature import integral
from jaxinterp.base.errors import UserError
from jaxinterp.facts.encoding import encode_texts
from jaxinterp.facts.facts import Text
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.readout import Rows, read
from jaxinterp.models.tokenizer_training import train_tokenizer
from jaxinterp.models.tokenizers import Chat, TextTokenizer, byte_alphabet

L, F, K = 2, 8, 3
PROMPT, ANSWER = "a b c", " d e"  # an answer of two tokens


@pytest.fixture(scope="module")
def model():
    tokenizer = train_tokenizer(["a b c d e f"])
    config = tiny_config(n_layers=L, d_mlp=F, d_vocab=tokenizer.n_tokens, n_ctx=8, ffn="relu")
    # Of this seed the k-th score stands well apart from the next one, for the answer and for both tokens.
    return LanguageModel(Model(config, tiny_params(config, 10)), tokenizer, {})


@pytest.fixture(scope="module")
def asked(model):
    """Tokens of the text, and where its answer is read."""
    queries = encode_texts([Text(PROMPT, ANSWER, "")], model.tokenizer)
    place = int(queries.answer_start_N[0]) + np.arange(2)
    tokens_BT = queries.tokens_NT
    return tokens_BT, Rows(np.zeros(2, np.int32), (place - 1).astype(np.int32), tokens_BT[0, place])


@pytest.fixture(scope="module")
def readout(model, asked):
    return read(model.model, *asked)[0]


@pytest.fixture(scope="module")
def scores(readout):
    """[L, token, F]."""
    return np.asarray(per_layer_attribution(readout, integral("midpoint", 20, 0.01)).scores_LRF)


@pytest.fixture(scope="module")
def probability(model, asked):
    """Of the answer, or of one of its tokens, when gates [L, F] are put on both of its tokens."""
    tokens_BT, rows = jax.tree.map(jnp.asarray, asked)

    @jax.jit
    def slow(params, gates_LF):
        gates_LRF = jnp.broadcast_to(gates_LF[:, None], (L, 2, F))
        return FullForwardReadout(Model(model.config, params), tokens_BT, rows)(gates_LRF)

    def p(gates_LF, token=None):
        found = np.asarray(slow(model.params, jnp.asarray(gates_LF, jnp.float32)))
        return float(found.prod() if token is None else found[token])

    return p


def strongest(scores_LF, k):
    mask = np.zeros(L * F)
    mask[np.argsort(-scores_LF.ravel(), kind="stable")[:k]] = 1
    return mask.reshape(L, F)


def test_the_neurons_of_an_answer_are_those_of_its_summed_scores(model, scores, probability):
    found = attribute(model, PROMPT, ANSWER, k=K, rule="midpoint")
    own = strongest(scores.sum(1), K)
    np.testing.assert_array_equal(found.mask(), np.stack([own, own], axis=1))
    np.testing.assert_allclose(found.scores_LRF, scores, rtol=1e-5, atol=1e-8)
    assert found.probability == pytest.approx(probability(np.ones((L, F))), rel=1e-4)
    assert found.suppressed() == pytest.approx(probability(1 - own), rel=1e-4)
    assert found.amplified() == pytest.approx(probability(1 + own), rel=1e-4)
    assert found.suppressed(K + 2) == pytest.approx(probability(1 - strongest(scores.sum(1), K + 2)), rel=1e-4)
    assert {(neuron.layer, neuron.neuron) for neuron in found.neurons()} == set(zip(*np.nonzero(own), strict=True))
    # A token has neurons of its own, which are others.
    for token, scores_LF in enumerate(scores.transpose(1, 0, 2)):
        shown = np.zeros((L, F))
        for neuron in found.neurons(token=token):
            shown[neuron.layer, neuron.neuron] = 1
            alone = np.ones((L, F))
            alone[neuron.layer, neuron.neuron] = 0
            assert neuron.alone == pytest.approx(probability(alone, token), rel=1e-4)
        np.testing.assert_array_equal(shown, strongest(scores_LF, K))
        assert (shown != own).any()
        assert abs(probability(1 - shown) / found.suppressed() - 1) > 1e-2
    for neuron in found.neurons():
        alone = np.ones((L, F))
        alone[neuron.layer, neuron.neuron] = 0
        assert neuron.alone == pytest.approx(probability(alone), rel=1e-4)
    with pytest.raises(UserError, match="k must be at least 1"):
        found.suppressed(0)


def test_top_tokens_are_those_of_the_slow_model(model, asked, readout):
    found = attribute(model, PROMPT, ANSWER, k=K, rule="midpoint", points=1)
    tokens_BT, rows = jax.tree.map(jnp.asarray, asked)
    for gates_LRF in (jnp.ones((L, 2, F)), 1 - found.mask()):
        expected = {}
        for token in range(model.config.d_vocab):
            aimed = rows._replace(target_R=jnp.full(2, token))
            expected[model.tokenizer.token(token)] = FullForwardReadout(model.model, tokens_BT, aimed)(gates_LRF)
        edit = None if gates_LRF.all() else suppress(found.mask())
        for row in range(2):
            shown = found.top_tokens(len(expected), edit, token=row)
            assert [p for _, p in shown] == sorted((p for _, p in shown), reverse=True)
            assert sum(p for _, p in shown) == pytest.approx(1, rel=1e-5)
            for token, p in shown:
                assert p == pytest.approx(float(expected[token][row]), rel=1e-4)


def test_random_neurons_are_active_ones_of_the_same_layers(model, readout, scores, probability):
    n_own = strongest(scores.sum(1), K).sum(1).astype(int)
    active_LF = np.asarray(readout.neurons_LRF)[:, 0] > 0  # where the first token is read
    assert (active_LF.sum(1) > n_own).all() and (active_LF.sum(1) < F).all()
    sets = [itertools.combinations(np.flatnonzero(active), n) for active, n in zip(active_LF, n_own, strict=True)]
    possible = []
    for chosen in itertools.product(*sets):
        mask = np.zeros((L, F))
        for layer, neurons in enumerate(chosen):
            mask[layer, list(neurons)] = 1
        possible.append(probability(1 - mask))
    seen = set()
    for seed in range(6):
        value = attribute(model, PROMPT, ANSWER, k=K, rule="midpoint", seed=seed).random()
        nearest = int(np.argmin(np.abs(np.array(possible) - value)))
        assert value == pytest.approx(possible[nearest], rel=1e-4)
        seen.add(nearest)
    assert len(seen) > 1


def test_it_shows_itself(model):
    found = attribute(model, PROMPT, ANSWER, k=K, rule="midpoint", points=1)
    assert repr(found).count("\n") == 0 and f"P = {found.probability:.4f}" in repr(found)
    best = found.neurons(token=1)[0]
    for text in (str(found), found._repr_html_()):
        assert f"own neurons off {found.suppressed():.4f}" in text and f"{best.score:.4f}" in text
    before, after = (found.top_tokens(5, edit, token=1) for edit in (None, suppress(found.mask())))
    says = found.to_json()["tokens"][1]["says"]
    assert [[(of["token"], of["probability"]) for of in says[name]] for name in ("untouched", "suppressed")] == [
        before,
        after,
    ]
    for words, tokens in (("the model says", before), ("own neurons off, it says", after)):
        assert f"{words} {', '.join(f'{token} {p:.1%}' for token, p in tokens)}" in str(found)
    assert "<bos>" in str(found) and "<bos>" not in found._repr_html_() and "&lt;bos&gt;" in found._repr_html_()
    bars, probabilities = found.chart(5).to_dict()["hconcat"]
    assert [row["score"] for row in bars["data"]["values"]] == [neuron.score for neuron in found.neurons(5)]
    values = [row["P"] for row in probabilities["data"]["values"]]
    assert values == [found.probability, found.suppressed(5), found.amplified(5), found.random(5)]


def test_shares_are_of_positive_scores(model, scores):
    found = attribute(model, PROMPT, ANSWER, k=L * F - 1, rule="midpoint")
    for token, scores_LF in enumerate(scores.transpose(1, 0, 2)):
        assert scores_LF.min() < 0 < scores_LF.max()
        shares = [neuron.share for neuron in found.neurons(token=token)]
        for neuron in found.neurons(token=token):
            assert (neuron.share is None) == (neuron.score <= 0)
        assert sum(share for share in shares if share is not None) == pytest.approx(1)


def test_what_was_read_is_told(model):
    found = attribute(model, PROMPT, ANSWER, k=K, rule="midpoint", points=1)
    assert (
        found.to_json()["read"] == {"tokens": ["<bos>", "a", "b", "c", "d", "e"], "answer": [4, 6]}
        and found.notes == ()
    )
    with pytest.raises(UserError, match="does not know 'cd' in 'a b cd e'"):
        attribute(model, "a b c", "d e", k=K)
    with pytest.raises(UserError, match="spells out '<bos>'"):
        attribute(model, "a <bos>", " d", k=K)


def test_notes_on_how_a_text_was_read():
    backend = Tokenizer(
        models.BPE({piece: id for id, piece in enumerate([*sorted(byte_alphabet()), "ab"])}, [("a", "b")])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<end>"])
    template = "{% for message in messages %}<end>{{ message['content'] }}<end>{% endfor %}:"
    tokenizer = TextTokenizer(backend, (), (), 257, None, chat=Chat(template, {"eos_token": "<end>"}))
    config = tiny_config(n_layers=L, d_mlp=F, d_vocab=tokenizer.n_tokens, n_ctx=16)
    talking = LanguageModel(Model(config, tiny_params(config)), tokenizer, {})
    silent = LanguageModel(Model(config, talking.params), dataclasses.replace(tokenizer, chat=None), {})

    def asked(model, *text, **more):
        found = attribute(model, *text, k=1, rule="midpoint", points=1, **more)
        return list(found.tokens), list(found.notes)

    assert asked(silent, "x", " y") == (["x", " ", "y"], [])
    tokens, notes = asked(silent, "x", "y")
    assert tokens == ["x", "y"] and len(notes) == 1 and "no space between 'x' and 'y'" in notes[0]
    tokens, notes = asked(silent, "(a", "b")
    assert tokens == ["(", "a", "b"] and "one after the other" in notes[1]
    tokens, notes = asked(talking, "x", " y")
    assert len(notes) == 1 and "--chat" in notes[0]
    tokens, notes = asked(talking, "x", "y", chat=True)
    assert (tokens, notes) == (["<end>", "x", "<end>", ":", "y"], [])
    with pytest.raises(UserError, match="has no chat template"):
        asked(silent, "x", "y", chat=True)
    with pytest.raises(UserError, match="the message spells out '<end>'"):
        asked(talking, "x<end>", "y", chat=True)
    tokens, _ = asked(talking, "x<end>", "y", control_tokens=True)
    assert tokens == ["x", "<end>", "y"]
    broken = dataclasses.replace(tokenizer, chat=Chat("{{ 1 / 0 }}", {}))
    with pytest.raises(UserError, match="chat template cannot be rendered: division by zero"):
        asked(dataclasses.replace(silent, tokenizer=broken), "x", "y", chat=True)


def test_mistakes_are_told(model):
    attributed = attribute(model, PROMPT, ANSWER, k=K)
    with pytest.raises(UserError, match="unknown field of the measurement 'query'; known: ability_queries"):
        measure(model, query=3)
    with pytest.raises((UserError, TypeCheckError), match=r"edit must be an edit of neurons|parameter 'edit'"):
        attributed.top_tokens(2, edit=attributed.mask(2))
    for call in (attributed.top_tokens, attributed.neurons):
        with pytest.raises(UserError, match="token 2 is out of range: the answer has 2"):
            call(token=2)
    with pytest.raises(UserError, match=r"the edit's arrays must have the shape"):
        attributed.top_tokens(2, edit=suppress(attributed.mask(2)[:, :1]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("ji.measure('checkpoints/x')", "give a language model (ji.load_model) or ji.ReadoutExamples, not str"),
        ("MeasureConfig(metrics='gini')", "measure.metrics must be several names, such as ('gini',)"),
        ("ObjectiveConfig(weights={'l1': 0.1})", "the weight of l1 must be text"),
    ],
)
def test_values_of_another_type_are_told(call, message):
    """In a process of its own: here the check of types would come first."""
    names = ("metrics.config import MeasureConfig", "objectives.config import ObjectiveConfig")
    code = "import jaxinterp as ji\n" + "".join(f"from jaxinterp.{name}\n" for name in names) + call
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr
    assert message in told and "UserError" in told
