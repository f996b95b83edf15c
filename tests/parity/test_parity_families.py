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
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from jaxinterp.attribution.integrated_gradients import integrated_gradients
from jaxinterp.attribution.quadrature import quadrature
from jaxinterp.models.loading.load import pretrained_parameters
from jaxinterp.models.model import Model
from jaxinterp.models.readout import Rows, lm_readout
from jaxinterp.models.transformer import forward

TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
SCALED = {"rope_type": "linear", "factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 6, "beta_fast": 4.0}
ALIASED = {name: value for name, value in published.CASES["gpt2"].items() if name != "n_head"}
ALIASED |= {"num_attention_heads": 4}
# Beside the cases that have golden files.
VARIANTS = {
    "bert_relu": published.CASES["bert"] | {"hidden_act": "relu"},
    "bert_untied": published.CASES["bert"] | {"tie_word_embeddings": False, "hidden_act": "gelu_new"},
    "gpt2_wide": published.CASES["gpt2"] | {"n_inner": 20, "scale_attn_weights": False, "activation_function": "gelu"},
    "neox_without_bias": published.CASES["neox"] | {"attention_bias": False, "tie_word_embeddings": True},
    "llama_linear": published.CASES["llama"] | {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama_dynamic": published.CASES["llama"] | {"rope_scaling": {"type": "dynamic", "factor": 4.0}},
    "llama_inside": published.CASES["llama"] | {"rope_scaling": {"rope_type": "default", "rope_theta": 5.0}},
    "llama_replaced": published.CASES["llama"]
    | {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}, "rope_scaling": SCALED},
    "llama_yarn_whole": published.CASES["yarn"] | {"rope_scaling": YARN | {"truncate": False}},
    "llama_yarn_amplitude": published.CASES["yarn"] | {"rope_scaling": YARN | {"attention_factor": 1.7}},
    "llama_yarn_ratio": published.CASES["yarn"] | {"rope_scaling": YARN | {"mscale": 2.0, "mscale_all_dim": 0.5}},
    "llama_yarn_context": published.CASES["yarn"] | {"original_max_position_embeddings": 40},
    "llama3_context": published.CASES["llama3"] | {"original_max_position_embeddings": 40},
    "neox_yarn": published.CASES["neox"] | {"rope_scaling": YARN, "rotary_pct": 1.0},
    "qwen3_yarn": published.CASES["qwen3"] | {"rope_scaling": YARN},
    "gpt2_aliases": ALIASED,
    "gemma3_inside": published.CASES["gemma3"] | {"rope_scaling": SCALED | {"rope_theta": 5.0}},
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
    found = jax.jit(forward)(Model(config, params), tokens, length_B=length).logits_BTV
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


TIED = {"llama": "lm_head.weight", "qwen2": "lm_head.weight", "gpt2": "lm_head.weight", "gemma3": "lm_head.weight"}
TIED |= {"neox": "embed_out.weight", "bert": "cls.predictions.decoder.weight"}
TIED |= {"gemma3_of_images": "language_model.lm_head.weight"}
FIRST = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")


@pytest.mark.parametrize("name", TIED)
def test_tied_weights_under_the_other_name_alone(name, tmp_path):
    config = published.CASES[name] | {"tie_word_embeddings": True}
    published.write_checkpoint(tmp_path, config, reference.file_shapes(config))

    def last_alone(tensors):
        return {TIED[name] if k.endswith(FIRST) else k: v for k, v in tensors.items() if k != TIED[name]}

    published.rewrite(tmp_path, last_alone)
    auto = AutoModelForMaskedLM if name == "bert" else AutoModelForCausalLM
    model, report = auto.from_pretrained(tmp_path, attn_implementation="eager", output_loading_info=True)
    assert not report["missing_keys"]
    config, params, _ = pretrained_parameters(tmp_path)
    compare_logits(config, params, reference.logits(model.eval(), "float32"), "float32")


@pytest.mark.parametrize("name", published.ATTRIBUTED)
def test_attributions(name, dtype, tmp_path):
    expected, probability = brute_force.attribution(reference.build(CASES[name], dtype), dtype, points=published.POINTS)
    config, params = ours(tmp_path, CASES[name], dtype)
    rows = Rows(*(jnp.array(column) for column in zip(*published.ROWS, strict=True)))

    @jax.jit
    def attributed(params):
        tokens, length = jnp.asarray(published.tokens(config.d_vocab)), jnp.array(published.LENGTHS)
        _, readout = lm_readout(Model(config, params), tokens, rows, length)
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
