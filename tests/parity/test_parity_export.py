"""Live: transformers' own implementation gives our logits from the folders that are exported."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
import reference
from tiny import ARCHITECTURES, tiny_config, tiny_params

from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.loading.export import export_model
from jaxinterp.models.loading.load import pretrained_parameters
from jaxinterp.models.model import Model
from jaxinterp.models.tokenizer_training import train_tokenizer
from jaxinterp.models.transformer import forward

TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
WORDS = ["a b c d e f g h i j"]
OWN = {name: fields for name, fields in ARCHITECTURES.items() if name != "gemma"}  # no family has all of that
OWN["bert_untied"] = ARCHITECTURES["bert"] | {"tied": False}


def compare(folder, model, dtype):
    expected = reference.logits(reference.opened(folder, dtype), dtype)
    tokens, length = jnp.asarray(published.tokens(model.config.d_vocab)), jnp.array(published.LENGTHS)
    found = jax.jit(forward)(model, tokens, length_B=length).logits_BTV
    for row, length, row_expected in zip(np.asarray(found), published.LENGTHS, expected, strict=True):
        np.testing.assert_allclose(row[:length], row_expected[:length], rtol=0, atol=TOLERANCE[dtype])


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    if request.param == "float64":
        request.getfixturevalue("float64")
    return request.param


@pytest.mark.parametrize("name", published.CASES)
def test_a_published_model_that_has_changed(name, dtype, tmp_path):
    """All of its tensors are made from parameters: none is the one that was read."""
    record = published.golden(name)
    published.write_checkpoint(tmp_path / "published", record["config"], published.shapes(record))
    config, params, provenance = pretrained_parameters(tmp_path / "published", dtype=dtype)
    model = Model(config, jax.tree.map(lambda leaf: 0.75 * leaf, params))
    tokenizer = train_tokenizer(WORDS)
    if name == "roberta":
        tokenizer = dataclasses.replace(tokenizer, pad=1)
    if name == "modernbert":  # two parameters that are constant there
        model.params["head"]["b_head"] = params["head"]["b_head"]
    export_model(tmp_path / "exported", LanguageModel(model, tokenizer, provenance))
    compare(tmp_path / "exported", model, dtype)


@pytest.mark.parametrize("name", OWN)
def test_a_model_of_our_own(name, dtype, tmp_path):
    config = tiny_config(d_vocab=13, **OWN[name], dtype=dtype)
    params = tiny_params(config)
    if name == "modernbert":
        params["head"]["b_head"] = jnp.zeros_like(params["head"]["b_head"])
    model = Model(config, params)
    export_model(tmp_path, LanguageModel(model, train_tokenizer(WORDS), {}))
    compare(tmp_path, model, dtype)
