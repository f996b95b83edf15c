"""Live: texts go on as transformers' do, and patching is what TransformerLens calls so, on PyTorch's GPT-2."""

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
import reference
import torch

import jaxinterp as ji
from jaxinterp.models.decoding import GREEDY, continued
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.loading.load import pretrained_parameters
from jaxinterp.models.model import Model
from jaxinterp.models.tokenizer_training import train_tokenizer

CAUSAL = [name for name, config in published.CASES.items() if config["model_type"] not in reference.MASKED]
N_TOKENS = 5


def loaded(folder, config, dtype):
    published.write_checkpoint(folder, config, reference.file_shapes(config))
    return Model(*pretrained_parameters(folder, dtype=dtype)[:2])


@pytest.mark.parametrize("name", CAUSAL)
def test_greedy_texts(name, float64, tmp_path):
    config = published.CASES[name]
    model, peer = loaded(tmp_path, config, "float64"), reference.build(config, "float64")
    tokens, lengths = np.asarray(published.tokens(model.config.d_vocab)), np.asarray(published.LENGTHS)
    room = np.pad(tokens, ((0, 0), (0, N_TOKENS)))
    none = np.zeros(model.config.d_vocab, bool)
    found, ends = continued(model, room, lengths, none, jax.random.key(0), n_tokens=N_TOKENS, sampler=GREEDY)
    assert np.asarray(ends).tolist() == (lengths + N_TOKENS).tolist()
    for row, length, prompt in zip(np.asarray(found), lengths, tokens, strict=True):
        ids = torch.from_numpy(prompt[:length])[None].long()
        # Token by token from whole forwards, and by transformers' own loop with its cache.
        with reference.arithmetic("float64"), torch.no_grad():
            for _ in range(N_TOKENS):
                ids = torch.cat([ids, peer(ids).logits[:, -1:].argmax(-1)], 1)
            own = peer.generate(
                torch.from_numpy(prompt[:length])[None].long(),
                max_new_tokens=N_TOKENS,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        assert row[: length + N_TOKENS].tolist() == ids[0].tolist() == own[0].tolist()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """GPT-2 with words, here and in PyTorch."""
    tokenizer = train_tokenizer(["a b c d e f"])
    config = published.CASES["gpt2"] | {"vocab_size": tokenizer.n_tokens}
    model = loaded(tmp_path_factory.mktemp("gpt2"), config, "float32")
    return LanguageModel(model, tokenizer, {}), reference.build(config, "float32")


PLACES = {
    "resid_pre": lambda block: block,
    "attn_out": lambda block: block.attn,
    "mlp_out": lambda block: block.mlp,
    "attn_z": lambda block: block.attn.c_proj,
}


def hooked(peer, ids, place, layer, change):
    """Logits after the last token, while `change` is applied to what stands at a place of a layer."""
    module = PLACES[place](peer.transformer.h[layer])

    def before(_, args):
        return (change(args[0]), *args[1:])

    def after(_, args, output):
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    if place in ("resid_pre", "attn_z"):
        handle = module.register_forward_pre_hook(before)
    else:
        handle = module.register_forward_hook(after)
    try:
        with torch.no_grad():
            return peer(ids).logits[0, -1]
    finally:
        handle.remove()


@pytest.mark.parametrize("place", PLACES)
def test_patching_is_that_of_hooks(place, both):
    """TransformerLens: the corrupted run, in which a hook puts the clean run's activation into one cell."""
    model, peer = both
    clean, corrupted = "a b c d", "a e c f"
    clean_ids, corrupted_ids = (torch.tensor([model.tokens(text).ids]) for text in (clean, corrupted))
    right, wrong = (model.tokenizer.encode(word)[0] for word in "bc")
    found = ji.patching(model, clean, corrupted, "b", wrong="c", place=place)
    n_heads, width = model.config.n_heads, model.config.d_head
    for layer in range(model.config.n_layers):
        held = {}

        def keep(x, held=held):
            held["clean"] = x.clone()
            return x

        hooked(peer, clean_ids, place, layer, keep)
        for column in range(n_heads if place == "attn_z" else clean_ids.shape[1]):

            def put(x, column=column, held=held):
                x = x.clone()
                if place == "attn_z":
                    at = slice(column * width, (column + 1) * width)
                    x[..., at] = held["clean"][..., at]
                else:
                    x[:, column] = held["clean"][:, column]
                return x

            logits = hooked(peer, corrupted_ids, place, layer, put)
            expected = float(logits[right] - logits[wrong])
            assert found.scores_LN[layer, column] == pytest.approx(expected, abs=1e-5), (layer, column)
    assert np.abs(found.scores_LN - found.base).max() > 1e-3
    assert jnp.isfinite(found.moved_LN).all()
