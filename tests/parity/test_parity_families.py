"""Live: logits and attributions of tiny models equal PyTorch's in both dtypes, and the golden files are today's."""

import functools
import json

import brute_force
import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
import reference
import write_golden

from jaxinterp.attribution import integrated_gradients
from jaxinterp.models.loading.load import pretrained_parameters
from jaxinterp.models.transformer import forward
from jaxinterp.quadrature import quadrature
from jaxinterp.readout import Rows, lm_readout

TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
# Beside the cases that have golden files.
VARIANTS = {
    "bert_relu": published.CASES["bert"] | {"hidden_act": "relu"},
    "bert_untied": published.CASES["bert"] | {"tie_word_embeddings": False, "hidden_act": "gelu_new"},
    "gpt2_wide": published.CASES["gpt2"] | {"n_inner": 20, "scale_attn_weights": False, "activation_function": "gelu"},
    "neox_without_bias": published.CASES["neox"] | {"attention_bias": False, "tie_word_embeddings": True},
    "llama_linear": published.CASES["llama"] | {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "qwen2_windows": published.CASES["qwen2"]
    | {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": 1, "tie_word_embeddings": True},
    "qwen3_bias": published.CASES["qwen3"] | {"attention_bias": True},
    "gemma2_bias": published.CASES["gemma2"] | {"attention_bias": True, "final_logit_softcapping": None},
    "mistral_without_windows": published.CASES["mistral"] | {"sliding_window": None, "tie_word_embeddings": True},
    "mistral_short": published.CASES["mistral"] | {"sliding_window": 16, "head_dim": 6, "num_key_value_heads": 2},
    "phi3_partial_as_today": published.CASES["phi3_partial"]
    | {"partial_rotary_factor": None, "rope_parameters": {"rope_theta": 50.0, "partial_rotary_factor": 0.5}},
    "olmo2_bias": published.CASES["olmo2"]
    | {"attention_bias": True, "num_key_value_heads": 2, "num_attention_heads": 4, "tie_word_embeddings": True}
    | {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "opt_without_bias": published.CASES["opt"]
    | {"enable_bias": False, "tie_word_embeddings": False}
    | {"activation_function": "gelu"},
    "gpt_neo_global": published.CASES["gpt_neo"]
    | {"attention_types": [[["global"], 2], [["local"], 1]], "intermediate_size": 20, "tie_word_embeddings": False},
    "gptj_rotary": published.CASES["gptj"] | {"rotary_dim": 8, "n_inner": 12},
    "distilbert_untied": published.CASES["distilbert"] | {"tie_word_embeddings": False, "activation": "relu"},
    "roberta_untied": published.CASES["roberta"] | {"tie_word_embeddings": False},
    "modernbert_bias": published.CASES["modernbert"]
    | {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "decoder_bias": False}
    | {"hidden_activation": "gelu_pytorch_tanh", "classifier_activation": "gelu_pytorch_tanh", "local_attention": 3},
    "modernbert_local": published.CASES["modernbert"]
    | {"layer_types": ["sliding_attention", "full_attention"] * 2, "tie_word_embeddings": False},
    "gemma3_capped": published.CASES["gemma3"] | {"final_logit_softcapping": 2.0, "attention_bias": True},
}
CASES = published.CASES | VARIANTS


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    if request.param == "float64":
        request.getfixturevalue("float64")
    return request.param


def ours(folder, config, dtype):
    published.write_checkpoint(folder, config, reference.file_shapes(config))
    return pretrained_parameters(folder, dtype=dtype)[:2]


def compare_logits(config, params, expected, dtype):
    tokens, length = jnp.asarray(published.tokens(config.d_vocab)), jnp.array(published.LENGTHS)
    found = jax.jit(functools.partial(forward, config))(params, tokens, length_B=length).logits_BTV
    for row, length, row_expected in zip(np.asarray(found), published.LENGTHS, expected, strict=True):
        np.testing.assert_allclose(row[:length], row_expected[:length], rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("name", CASES)
def test_logits(name, dtype, tmp_path):
    expected = reference.logits(reference.build(CASES[name], dtype), dtype)
    assert expected.dtype == dtype
    compare_logits(*ours(tmp_path, CASES[name], dtype), expected, dtype)


@pytest.mark.parametrize("name", CASES)
def test_configs_and_files_as_transformers_writes_them_today(name, tmp_path):
    model = reference.build(CASES[name], "float32")
    model.save_pretrained(tmp_path)
    config, params, provenance = pretrained_parameters(tmp_path)
    compare_logits(config, params, reference.logits(model, "float32"), "float32")
    assert provenance["fields_not_read"] == []


@pytest.mark.parametrize("name", published.ATTRIBUTED)
def test_attributions(name, dtype, tmp_path):
    expected, probability = brute_force.attribution(reference.build(CASES[name], dtype), dtype, points=published.POINTS)
    config, params = ours(tmp_path, CASES[name], dtype)
    rows = Rows(*(jnp.array(column) for column in zip(*published.ROWS, strict=True)))

    @jax.jit
    def attributed(params):
        tokens, length = jnp.asarray(published.tokens(config.d_vocab)), jnp.array(published.LENGTHS)
        _, readout = lm_readout(config, params, tokens, rows, length)
        found = integrated_gradients(readout, quadrature("left", published.POINTS), path="per_layer")
        return found.scores_LRF, readout.untouched()

    scores, untouched = attributed(params)
    tolerance = {"float32": 1e-5, "float64": 1e-10}[dtype]
    np.testing.assert_allclose(untouched, probability, rtol=0, atol=tolerance)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", published.CASES)
def test_golden_files_are_what_would_be_written_now(name):
    stored, now = published.golden(name), json.loads(json.dumps(write_golden.record(name)))
    numbers = ("logits", "attribution", "probability")
    assert {k: v for k, v in stored.items() if k not in numbers} == {k: v for k, v in now.items() if k not in numbers}
    for key in stored.keys() & set(numbers):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-9), stored[key], now[key])
