"""Windows in rows: each token that is looked at stands once, sees what it sees in its window, and stems are shared."""

import numpy as np
import pytest
from small import WORDS, masked_model, small_model

from jaxinterp.memories import rows as rows_module
from jaxinterp.memories.contexts import contexts_of
from jaxinterp.memories.corpus import corpus_of, counted
from jaxinterp.memories.rows import NONE, batches_of, rows_of
from jaxinterp.memories.triggers import top_triggers


def texts(n=60, seed=0):
    """Some of them equal, most of them with a beginning that others have."""
    rng = np.random.default_rng(seed)
    begins = [" ".join(rng.choice(WORDS.split(), length)) for length in (1, 2, 3, 4)]
    return [f"{begins[rng.integers(4)]} {' '.join(rng.choice(WORDS.split(), rng.integers(0, 4)))}" for _ in range(n)]


@pytest.fixture(params=["causal", "masked"])
def model(request, float64):
    return small_model() if request.param == "causal" else masked_model()


@pytest.fixture(params=[8, 13, 128])
def width(request, monkeypatch):
    monkeypatch.setattr(rows_module, "WIDTH", request.param)
    return request.param


@pytest.mark.parametrize("once", [True, False])
def test_every_token_sees_its_window(model, width, once):
    corpus = corpus_of(model, texts())
    causal = model.config.attention == "causal"
    looked_at_NT = contexts_of(model, corpus).first_NT if once else counted(corpus, model.tokenizer)
    found = []
    for rows in rows_of(corpus, looked_at_NT, causal=causal):
        position_RW, seen_RWW = rows.packing(causal=causal)
        for row, place in zip(*np.nonzero(rows.number_RW != NONE), strict=True):
            window, position = divmod(int(rows.number_RW[row, place]), corpus.tokens_NT.shape[1])
            seen = np.flatnonzero(seen_RWW[row, place])
            in_order = seen[np.argsort(position_RW[row, seen])]
            stop = position + 1 if causal else corpus.length_N[window]
            assert position_RW[row, place] == position and place in seen
            assert position_RW[row, in_order].tolist() == list(range(stop))
            assert rows.tokens_RW[row, in_order].tolist() == corpus.tokens_NT[window, :stop].tolist()
            found.append((window, position))
    assert len(found) == len(set(found)) > 50
    assert set(found) == set(zip(*(of.tolist() for of in np.nonzero(looked_at_NT)), strict=True))


def test_what_windows_begin_with_stands_once():
    model = small_model()
    corpus = corpus_of(model, ["a b c d", "e", "a b c e", "a b f", "a b c d"])
    n_prefix = len(model.tokenizer.prefix)
    (rows,) = rows_of(corpus, contexts_of(model, corpus).first_NT, causal=True)
    assert rows.tokens_RW.shape == (1, 128)
    assert (rows.before_RW >= 0).sum() + 1 == n_prefix + 4 + 1 + 1 + 1  # a b c d, e, e, f; the first has none before it
    (rows,) = rows_of(corpus, counted(corpus, model.tokenizer), causal=True)
    assert (rows.number_RW != NONE).sum() == 4 + 1 + 4 + 3 + 4


def test_the_same_triggers_in_rows_of_any_width(model, width):
    corpus = corpus_of(model, texts())
    first_NT = contexts_of(model, corpus).first_NT
    found = top_triggers(model, corpus, 600, among_NT=first_NT, tokens=40)
    shapes = {rows.tokens_RW.shape[1] for rows, _ in batches_of(rows_of(corpus, first_NT, causal=True), 40)}
    assert shapes == {width}
    values = {}
    for window, (ids, length) in enumerate(zip(corpus.tokens_NT, corpus.length_N, strict=True)):
        inside = slice(len(model.tokenizer.prefix), int(length) - len(model.tokenizer.suffix))
        run = model.run(model.tokenizer.text(ids[inside].tolist()), capture="mlp_post")
        for position in np.flatnonzero(first_NT[window]).tolist():
            values[window, position] = np.asarray(run.activations["mlp_post"])[:, 0, position]
    n_contexts = int(first_NT.sum())
    assert (found.window_LFK[..., n_contexts:] == -1).all() and n_contexts > 50
    for layer, neuron in np.ndindex(found.activation_LFK.shape[:2]):
        places = (of[layer, neuron, :n_contexts].tolist() for of in (found.window_LFK, found.position_LFK))
        expected = [values[place][layer, neuron] for place in zip(*places, strict=True)]
        np.testing.assert_allclose(found.activation_LFK[layer, neuron, :n_contexts], expected, rtol=1e-9, atol=1e-12)
        every = sorted((value[layer, neuron] for value in values.values()), reverse=True)
        np.testing.assert_allclose(expected, every, rtol=1e-9, atol=1e-12)
