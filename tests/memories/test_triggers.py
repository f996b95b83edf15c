"""Streaming triggers against all activations kept and sorted, and what is refused."""

import dataclasses
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import WORDS, masked_model, small_model

from jaxinterp.base.errors import UserError
from jaxinterp.memories import kept as kept_module
from jaxinterp.memories.best import Best, highest
from jaxinterp.memories.corpus import corpus_of, counted
from jaxinterp.memories.triggers import top_triggers

# Of 0 to 19 words, some of them equal, in windows of 8 tokens.
TEXTS = [" ".join(random.Random(number // 2).choices(WORDS.split(), k=number % 20)) for number in range(60)]


def reference(model, corpus, k):
    """All activations of all tokens, window by window, sorted by value and then by place."""
    tokenizer, found = model.tokenizer, []
    for window, (ids, length) in enumerate(zip(corpus.tokens_NT, corpus.length_N, strict=True)):
        ids = ids[:length].tolist()
        first, last = len(tokenizer.prefix), length - len(tokenizer.suffix)
        run = model.run(tokenizer.text(ids[first:last]), capture="mlp_post")
        assert run.tokens[0].ids == tuple(ids)
        values_LTF = np.asarray(run.activations["mlp_post"])[:, 0]
        found += [(window, position, values_LTF[:, position]) for position in range(first, last)]
    value_NLF = np.stack([value for _, _, value in found])
    order_LFK = np.argsort(-value_NLF, axis=0, kind="stable")[:k].transpose(1, 2, 0)
    window, position = (np.array([one[part] for one in found])[order_LFK] for part in (0, 1))
    return np.take_along_axis(value_NLF.transpose(1, 2, 0), order_LFK, 2), window, position


def assert_same(found, expected, **tolerance):
    np.testing.assert_allclose(found.activation_LFK, expected[0], **tolerance)
    np.testing.assert_array_equal(found.window_LFK, expected[1])
    np.testing.assert_array_equal(found.position_LFK, expected[2])


@pytest.mark.parametrize("name", ["gpt", "llama", "relu"])
@pytest.mark.parametrize(("k", "tokens"), [(3, 40), (25, 1), (600, 100)])
def test_against_all_activations_sorted(name, k, tokens, float64):
    model = small_model(name)
    corpus = corpus_of(model, TEXTS)
    n_tokens = int(counted(corpus, model.tokenizer).sum())
    assert n_tokens == sum(len(text.split()) for text in TEXTS) > 500
    found = top_triggers(model, corpus, k, tokens=tokens)
    value, window, position = reference(model, corpus, k)
    if k > n_tokens:
        assert (found.activation_LFK[..., n_tokens:] == -np.inf).all()
        assert (found.window_LFK[..., n_tokens:] == -1).all() and (found.position_LFK[..., n_tokens:] == -1).all()
        found = type(found)(*(array[..., :n_tokens] for array in found))
    # Equal windows give equal values, in the same program; texts run one by one need not to the last bit.
    np.testing.assert_allclose(found.activation_LFK, value, rtol=1e-12, atol=1e-14)
    tied = np.isclose(value, np.roll(value, 1, -1), rtol=1e-9, atol=1e-12)
    tied |= np.roll(tied, -1, -1)
    tied[..., -1] = True  # with what comes next
    assert (~tied).any()
    np.testing.assert_array_equal(found.window_LFK[~tied], window[~tied])
    np.testing.assert_array_equal(found.position_LFK[~tied], position[~tied])


def test_of_equal_activations_the_earlier_token_comes_first():
    rng = np.random.default_rng(0)
    value_LRF = rng.integers(0, 4, (2, 400, 7)).astype(np.float32)
    value_LRF[1, :, 3] = 0.0  # a dead neuron
    for parts in ([400], [1, 2, 97, 300], [200, 200], [10] * 40):
        best, in_turn = Best(2, 7, 9), np.split(np.arange(400), np.cumsum(parts)[:-1])
        for index in rng.permutation(len(parts)).tolist():  # tokens are not read in their order
            own = value_LRF[:, in_turn[index]]
            best.add(own, highest(own), in_turn[index])
        order = np.argsort(-value_LRF, axis=1, kind="stable")[:, :9].transpose(0, 2, 1)
        np.testing.assert_array_equal(best.token_LFK, order)
        assert best.token_LFK[1, 3].tolist() == list(range(9))
        np.testing.assert_array_equal(best.value_LFK, np.take_along_axis(value_LRF.transpose(0, 2, 1), order, 2))


def test_tokens_around_a_text_and_padding_are_not_counted():
    model = masked_model()
    texts = ["a b c", "d", "e f a b c d", "b b b b b b b"]
    corpus = corpus_of(model, texts)
    assert corpus.length_N.tolist() == [5, 3, 8, 8, 3] and corpus.text_N.tolist() == [0, 1, 2, 3, 3]
    assert corpus.first_N.tolist() == [0, 0, 0, 0, 6]
    found = top_triggers(model, corpus, 17, tokens=20)
    assert_same(found, reference(model, corpus, 17), rtol=1e-5, atol=1e-6)
    places = set(zip(found.window_LFK.ravel().tolist(), found.position_LFK.ravel().tolist(), strict=True))
    assert places == set(zip(*(of.tolist() for of in np.nonzero(counted(corpus, model.tokenizer))), strict=True))


def test_a_scan_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    model, file = small_model(), tmp_path / "scan"
    corpus = corpus_of(model, TEXTS)
    whole = top_triggers(model, corpus, 4, tokens=40)
    monkeypatch.setattr(kept_module, "SECONDS", 0.0)
    write, n_written = kept_module.Kept.write, []

    def stop_after_three(self, best, n_batches, done):
        write(self, best, n_batches, done=done)
        n_written.append(n_batches)
        if len(n_written) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(kept_module.Kept, "write", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        top_triggers(model, corpus, 4, tokens=40, kept=file)
    for other, match in (
        ((small_model(seed=4), corpus, 4), "model"),
        ((model, corpus, 5), "k"),
    ):
        with pytest.raises(UserError, match=f"of a scan with another {match}; delete it"):
            top_triggers(*other, tokens=40, kept=file)
    with pytest.raises(UserError, match="of a scan with another corpus"):
        top_triggers(model, corpus_of(model, TEXTS[1:]), 4, tokens=40, kept=file)
    begun = []

    def count(self, best, n_batches, done):
        begun.append(n_batches)
        write(self, best, n_batches, done=done)

    monkeypatch.setattr(kept_module.Kept, "write", count)
    found = top_triggers(model, corpus, 4, tokens=40, kept=file)
    n_batches = len(begun)
    assert begun[0] == n_written[-1] + 1
    again = top_triggers(model, corpus, 4, tokens=40, kept=file)  # it is done, and read
    assert len(begun) == n_batches
    for one, other, third in zip(found, whole, again, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(third, other)


def test_long_texts_in_batches():
    model = small_model()
    text = " ".join(WORDS.split() * 4)
    room = 5 - len(model.tokenizer.prefix) - len(model.tokenizer.suffix)
    corpus = corpus_of(model, iter(["", text]), width=5)
    assert corpus.first_N.tolist() == list(range(0, 24, room)) and set(corpus.text_N.tolist()) == {1}
    start = len(model.tokenizer.prefix)
    ids = [id for row, length in zip(corpus.tokens_NT, corpus.length_N, strict=True) for id in row[start:length]]
    assert ids == model.tokenizer.encode(text)


def test_mistakes():
    model = small_model()
    corpus = corpus_of(model, ["a b"])
    for arguments, match in (
        (([],), "there is no text to look for memories in"),
        ((["", ""],), "there is no text"),
        ((["a zebra"],), "does not know 'zebra' in 'a zebra'"),
        ((["a"], 9), "windows must have 1 to 8 tokens"),
        ((["a"], 0), "windows must have 1 to 8 tokens"),
    ):
        with pytest.raises(UserError, match=match):
            corpus_of(model, *arguments)
    with pytest.raises(UserError, match="a window of 2 tokens has no room for text beside the 2 around it"):
        corpus_of(masked_model(), ["a"], 2)
    with pytest.raises(UserError, match="k of a scan for triggers must be at least 1"):
        top_triggers(model, corpus, 0)
    with pytest.raises(UserError, match="tokens of a scan for triggers must be at least 1"):
        top_triggers(model, corpus, tokens=0)
    with pytest.raises(UserError, match="it is of another model"):
        top_triggers(model, corpus._replace(tokens_NT=corpus.tokens_NT + 1000))
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), model.params["layers"]["w_in"])
    params = {**model.params, "layers": {**model.params["layers"], "w_in": broken}}
    with pytest.raises(UserError, match="not all finite"):
        top_triggers(dataclasses.replace(model, model=model.model.replace(params=params)), corpus)
