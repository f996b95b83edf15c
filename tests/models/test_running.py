"""Running a language model on texts, and continuing them, against full forwards of the same tokens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import ARCHITECTURES, UNPUBLISHED, tiny_config, tiny_params

import jaxinterp as ji
from jaxinterp.attribution.edits import NeuronEdit
from jaxinterp.base.errors import UserError
from jaxinterp.models.edit import changes_of
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.tokenizer_training import train_tokenizer
from jaxinterp.models.transformer import forward

L, F, N_CTX = 2, 8, 8
WORDS = "a b c d e f"


@pytest.fixture(scope="module")
def model():
    tokenizer = train_tokenizer([WORDS])
    config = tiny_config(n_layers=L, d_mlp=F, d_vocab=tokenizer.n_tokens, n_ctx=N_CTX)
    return LanguageModel(Model(config, tiny_params(config, 18)), tokenizer, {})


def slow_next(model, tokens, edit=None, changes=None):
    """Logits after the last of the tokens, on a sequence of just these."""
    last = None if edit is None else jnp.array([len(tokens) - 1])
    result = forward(model.model, jnp.array([tokens]), edit=changes or edit, query_B=last)
    return np.asarray(result.logits_BTV)[0, -1]


def slow_text(model, prompt, next_logits, most=N_CTX):
    """Greedy, from a full forward for each token."""
    tokens, words = list(model.tokens(prompt)), []
    while len(tokens) < N_CTX and len(words) < most:
        token = int(next_logits(tokens).argmax())
        if token in model.tokenizer.special:
            break
        tokens.append(token)
        words.append(model.tokenizer.token(token))
    return words


def test_tokens_have_the_frame_and_show_their_positions(model):
    tokens = model.tokens("a b")
    assert list(tokens) == [*model.tokenizer.prefix, *model.tokenizer.encode("a b")] and len(tokens) == 3
    assert repr(tokens) == "Tokens(0: '<bos>', 1: 'a', 2: 'b')"


def test_a_frame_that_a_text_spells_out_is_not_put_around_it_again(model):
    framed = dataclasses.replace(model.tokenizer, suffix=model.tokenizer.prefix)
    model = dataclasses.replace(model, tokenizer=framed)
    assert model.tokens("a").texts == ("<bos>", "a", "<bos>")
    for text in ("<bos> a <bos>", "<bos> a", "a <bos>"):
        assert model.tokens(text, control_tokens=True).texts == ("<bos>", "a", "<bos>"), text


@pytest.mark.parametrize("edited", [False, True])
def test_text_is_generated_token_by_token(model, edited):
    # With this edit at every position other tokens come.
    shift = jnp.asarray(np.random.default_rng(18).normal(size=(L, 1, F)) * 2, jnp.float32)
    edit = NeuronEdit(jnp.full((L, 1, F), 0.3), shift) if edited else None
    expected = slow_text(model, "a b", lambda tokens: slow_next(model, tokens, edit))
    assert len(expected) > 2
    assert model.generate("a b", edit=edit).split() == expected
    assert model.generate("a b", 2, edit).split() == expected[:2]
    assert model.generate("a b", 0) == ""
    together = model.generate(["a b", "c", "f e d a b c"], edit=edit)
    assert together == [model.generate(prompt, edit=edit) for prompt in ("a b", "c", "f e d a b c")]
    assert len(set(together)) == 3


@pytest.mark.parametrize("place", ["resid_post", "mlp_post", "attn_z", "attn_k", "embed"])
def test_text_is_generated_under_edits_at_old_and_new_positions(model, place):
    # Weights of twice the size, and of a seed whose texts are not of one word.
    params = jax.tree.map(lambda x: 2 * x, tiny_params(model.config, 25))
    model = LanguageModel(Model(model.config, params), model.tokenizer, {})
    size = {"mlp_post": F, "attn_z": model.config.d_head, "attn_k": model.config.d_head}.get(place, 8)
    add, layer = 3 * np.random.default_rng(3).normal(size=size), None if place == "embed" else 1
    texts = {model.generate("a b")}
    for position in (None, 1, -1, 4, [0, 3]):

        def next_logits(tokens, position=position):
            # Positions are the prompt's, whatever has come since; those that are yet to come change nothing.
            here = [n + 3 if n < 0 else n for n in np.atleast_1d(() if position is None else position).tolist()]
            here = [n for n in here if n < len(tokens)]
            if position is not None and not here:
                return slow_next(model, tokens)
            own = ji.Edit(place, layer=layer, position=here or None, add=add)
            length = np.array([len(tokens)])
            return slow_next(model, tokens, changes=changes_of(own, model.config, length, len(tokens)))

        text = model.generate("a b", edit=ji.Edit(place, layer=layer, position=position, add=add))
        assert text.split() == slow_text(model, "a b", next_logits)
        texts.add(text)
    assert len(texts) >= 4


@pytest.mark.parametrize("name", ["llama", "gpt", "olmo", "units", "experts"])
def test_decoding_is_the_forward_of_other_architectures(name):
    tokenizer = train_tokenizer([WORDS])
    config = tiny_config(n_layers=2, d_vocab=tokenizer.n_tokens, n_ctx=N_CTX, **{**ARCHITECTURES, **UNPUBLISHED}[name])
    other = LanguageModel(Model(config, tiny_params(config, 4)), tokenizer, {})
    for prompt in ("a", "b c d", "e f a b"):
        assert other.generate(prompt).split() == slow_text(other, prompt, lambda tokens: slow_next(other, tokens))


def test_text_is_drawn_from_the_distribution(model):
    tokens = list(model.tokens("a b"))
    logits = slow_next(model, tokens).astype(float) / 0.7
    p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    sampler = ji.Sampler(temperature=0.7)
    drawn = [model.generate("a b", 1, sampler=sampler, seed=seed) for seed in range(300)]
    assert drawn[:5] == [model.generate("a b", 1, sampler=sampler, seed=seed) for seed in range(5)]
    for token in set(range(len(p))) - model.tokenizer.special:
        share = np.mean([text.strip() == model.tokenizer.token(token) for text in drawn])
        assert abs(share - p[token]) < 5 * np.sqrt(p[token] * (1 - p[token]) / 300) + 1e-3
    # A text's draw is its own, whatever else is in the batch.
    assert model.generate(["a b", "c"], sampler=sampler)[0] == model.generate("a b", sampler=sampler)


def test_what_a_sampler_draws_from():
    logits = jnp.log(jnp.array([[0.1, 0.4, 0.2, 0.3]]))

    def kept(**how):
        return np.flatnonzero(np.isfinite(ji.Sampler(temperature=1.0, **how).cut(logits)[0])).tolist()

    assert kept() == [0, 1, 2, 3] and kept(top_k=2) == [1, 3] and kept(top_k=9) == [0, 1, 2, 3]
    assert kept(top_p=0.39) == [1] and kept(top_p=0.41) == [1, 3] and kept(top_p=0.75) == [1, 2, 3]
    # At a temperature of 2 probabilities go as square roots: .197, .393, .278 and .341 of 1.21.
    cut = ji.Sampler(temperature=2.0, top_p=0.5).cut(logits)[0]
    assert np.flatnonzero(np.isfinite(cut)).tolist() == [1, 3]
    assert int(ji.Sampler(temperature=1e-3).next(logits, jax.random.key(0))[0]) == 1
    for wrong, message in (
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"temperature": float("nan")}, "temperature must be at least 0"),
        ({"top_k": -1}, "top_k must be at least 0"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\]"),
    ):
        with pytest.raises(UserError, match=message):
            ji.Sampler(**wrong)


def test_what_cannot_be_generated(model):
    with pytest.raises(UserError, match=r"have shape \[2, 2, 8\]; give one row: \[2, 1, 8\]"):
        model.generate("a b", edit=ji.suppress(jnp.zeros((L, 2, F))))
    with pytest.raises(UserError, match="does not know 'z'"):
        model.generate("a z")
    with pytest.raises(UserError, match="a prompt has 8 tokens; give 1 to 7"):
        model.generate("a b c d e f a")
    with pytest.raises(UserError, match="at least 0, got -1"):
        model.generate("a b", -1)
    with pytest.raises(UserError, match="spells out '<bos>'"):
        model.generate("a <bos>")
    with pytest.raises(UserError, match="patterns cannot be edited while a text is generated"):
        model.generate("a b", edit=ji.Edit("attn_pattern", source=0, scale=0))
    with pytest.raises(UserError, match="position 99 of an edit is out of range: text 0 has 3 tokens"):
        model.generate("a b", edit=ji.Edit("mlp_post", position=99, scale=0))


def test_a_run_has_what_single_texts_give(model):
    found = model.run(["a b c", "d"], capture=("mlp_post", "resid_post", "embed"))
    assert [tokens.texts for tokens in found.tokens] == [("<bos>", "a", "b", "c"), ("<bos>", "d")]
    assert found.length_B.tolist() == [4, 2] and found.activations["embed"].shape == (2, 4, 8)
    assert "mlp_post [2, 2, 4, 8]" in repr(found) and "\n" not in repr(found)
    for row, text in enumerate(("a b c", "d")):
        n, alone = found.length_B[row], model.run(text, capture=("mlp_post",))
        np.testing.assert_allclose(found.logits_BTV[row, :n], alone.logits_BTV[0], atol=1e-5)
        np.testing.assert_allclose(
            found.activations["mlp_post"][:, row, :n], alone.activations["mlp_post"][:, 0], atol=1e-5
        )
        np.testing.assert_allclose(found.log_probabilities()[row], alone.log_probabilities(-1)[0], atol=1e-5)
        np.testing.assert_allclose(found.log_probabilities(0)[row], alone.log_probabilities(0)[0], atol=1e-5)
    with pytest.raises(UserError, match="unknown place 'neurons'"):
        model.run("a", capture=("neurons",))
    with pytest.raises(UserError, match="at least one"):
        model.run([])
    with pytest.raises(UserError, match="a text has 9 tokens, above the model's context of 8"):
        model.run("a b c d e f a b")


def test_the_most_probable_tokens(model):
    logits = slow_next(model, list(model.tokens("a b")))
    p = np.exp(logits) / np.exp(logits).sum()
    best = np.argsort(-p)[:3]
    found = model.top("a b", 3)
    assert [token for token, _ in found] == [model.tokenizer.token(int(id)) for id in best]
    np.testing.assert_allclose([value for _, value in found], p[best], atol=1e-6)
    several = model.top(["a b", "c"], 3)
    assert len(several) == 2
    for same in (several[0], model.top("a b c", 3, position=2), model.top("a b c", 3, position=-2)):
        assert [token for token, _ in same] == [token for token, _ in found]
        np.testing.assert_allclose([value for _, value in same], [value for _, value in found], atol=1e-6)
    edit = NeuronEdit(jnp.zeros((L, 1, F)))
    edited = slow_next(model, list(model.tokens("a b")), edit)
    assert model.top("a b", 1, edit)[0][1] == pytest.approx(np.exp(edited).max() / np.exp(edited).sum(), abs=1e-6)
    # The same in words: the neurons of the last position are set to 0.
    in_words = model.top("a b", 4, ji.Edit("mlp_post", position=-1, scale=0))
    for (token, value), (same, expected) in zip(in_words, model.top("a b", 4, edit), strict=True):
        assert token == same and value == pytest.approx(expected, abs=1e-6)
    for position in (3, -4):
        with pytest.raises(UserError, match=f"position {position} is out of range: text 0 has 3 tokens"):
            model.top("a b", position=position)
    with pytest.raises(UserError, match="n must be at least 1"):
        model.top("a b", 0)
