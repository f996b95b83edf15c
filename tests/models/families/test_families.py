"""Published models give the logits and attributions that PyTorch gave, from the same files; configs are read whole."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
from full_forward import FullForwardReadout

from jaxinterp.attribution.edits import NeuronEdit
from jaxinterp.attribution.integrated_gradients import integrated_gradients
from jaxinterp.attribution.quadrature import quadrature
from jaxinterp.base.errors import UserError
from jaxinterp.models.config import RopeScaling
from jaxinterp.models.families.registry import FAMILIES
from jaxinterp.models.loading.load import pretrained_parameters
from jaxinterp.models.model import Model
from jaxinterp.models.readout import Rows, lm_readout
from jaxinterp.models.transformer import forward

TOLERANCE = {"float32": 1e-4, "float64": 1e-9}


def load(folder, name, dtype="float32", **changes):
    """Config and parameters of a case, with fields of its config.json changed (or, if None, removed)."""
    record = published.golden(name)
    config = {key: value for key, value in (record["config"] | changes).items() if value is not None}
    published.write_checkpoint(folder, config, published.shapes(record))
    return pretrained_parameters(folder, dtype=dtype)


def our_logits(config, params):
    tokens, length = jnp.asarray(published.tokens(config.d_vocab)), jnp.array(published.LENGTHS)
    return np.asarray(jax.jit(forward)(Model(config, params), tokens, length_B=length).logits_BTV)


def test_every_case_has_a_golden_file_and_every_family_a_case():
    files = {path.stem: json.loads(path.read_text()) for path in published.GOLDEN.glob("*.json")}
    stored = {name: record["config"] for name, record in files.items() if "logits" in record}
    assert stored == published.CASES
    assert {config["model_type"] for config in stored.values()} == {t for f in FAMILIES for t in f.model_types}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", published.CASES)
def test_logits_are_those_of_pytorch(name, dtype, tmp_path, request):
    if dtype == "float64":
        request.getfixturevalue("float64")
    config, params, provenance = load(tmp_path, name, dtype)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(params))
    assert provenance["fields_not_read"] == []
    logits = our_logits(config, params)
    assert logits.dtype == dtype
    for row, length, expected in zip(logits, published.LENGTHS, published.golden(name)["logits"], strict=True):
        np.testing.assert_allclose(row[:length], expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("name", published.ATTRIBUTED)
def test_attribution_is_that_of_hooks_on_pytorch(name, tmp_path):
    config, params, _ = load(tmp_path, name)
    record, tokens = published.golden(name), jnp.asarray(published.tokens(config.d_vocab))
    rows = Rows(*(jnp.array(column) for column in zip(*published.ROWS, strict=True)))

    @jax.jit
    def attributed(params):
        _, readout = lm_readout(Model(config, params), tokens, rows, jnp.array(published.LENGTHS))
        found = integrated_gradients(readout, quadrature("left", published.POINTS), path="per_layer")
        return found.scores_LRF, readout.untouched()

    scores, probability = attributed(params)
    expected = np.array(record["attribution"])
    np.testing.assert_allclose(probability, record["probability"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)
    assert np.abs(expected).max() > 1e-3  # what is compared is well above the tolerance


# One case of each family.
FAMILY_CASES = {config["model_type"]: name for name, config in reversed(published.CASES.items())}.values()


@pytest.mark.parametrize("name", FAMILY_CASES)
def test_a_neuron_is_what_the_output_matrix_multiplies(name, tmp_path, float64):
    """With gates of 1 nothing changes; without a neuron the model is that whose output matrix has no row for it."""
    config, params, _ = load(tmp_path, name, "float64")
    tokens, length = jnp.asarray(published.tokens(config.d_vocab)), jnp.array(published.LENGTHS)
    rows = Rows(*(jnp.array(column) for column in zip(*published.ROWS, strict=True)))
    layer = config.n_layers - 2

    @jax.jit
    def run(params):
        def logits(gates, w_out):
            edited = {**params, "layers": params["layers"] | {"w_out": w_out}}
            return forward(Model(config, edited), tokens, edit=NeuronEdit(gates), length_B=length).logits_BTV

        result, readout = lm_readout(Model(config, params), tokens, rows, length)
        neuron = jnp.abs(readout.neurons_LRF[layer]).min(0).argmax()  # one that is on at all rows

        def gates(n):
            return jnp.ones((2, config.n_layers, n, config.d_mlp)).at[1, layer, :, neuron].set(0)

        whole = params["layers"]["w_out"]
        cut = whole.at[layer, neuron].set(0)
        everywhere = jax.vmap(logits)(gates(2)[jnp.array([0, 1, 0])], jnp.stack([whole, whole, cut]))
        slow = FullForwardReadout(Model(config, params), tokens, rows, length)
        return (
            (result.logits_BTV, *everywhere),
            (readout.untouched(), *jax.vmap(readout)(gates(3))),
            jax.vmap(slow)(gates(3)),
        )

    (untouched, gated, without, cut), (p, p_gated, p_without), slow = run(params)
    valid = np.arange(tokens.shape[1])[None] < np.array(published.LENGTHS)[:, None]
    np.testing.assert_allclose(untouched[valid], gated[valid], rtol=0, atol=1e-12)
    np.testing.assert_allclose(without[valid], cut[valid], rtol=0, atol=1e-12)
    assert np.abs(cut - untouched)[valid].max() > 1e-4
    np.testing.assert_allclose([p_gated, p_without], slow, rtol=0, atol=1e-12)
    np.testing.assert_allclose(p, p_gated, rtol=0, atol=1e-12)
    assert np.abs(p_without - p).max() > 1e-6


def test_bfloat16_is_near(tmp_path):
    config, params, _ = load(tmp_path, "gemma3", "bfloat16")
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(params))
    logits = our_logits(config, params)
    assert np.abs(logits[0] - published.golden("gemma3")["logits"][0]).max() < 0.3


# A field of config.json, the value it gets, and what that does to our config.
HONOURED = [
    ("bert", {"hidden_act": "gelu_new"}, {"ffn": "gelu"}),
    ("gpt2", {"scale_attn_weights": False}, {"attn_scale": 1.0}),
    ("gpt2", {"n_inner": 16}, None),
    ("neox", {"rotary_pct": 1.0}, {"rope_share": 1.0}),
    ("neox", {"rotary_pct": None, "num_attention_heads": 1}, {"rope_share": 0.25, "d_head": 8}),
    ("neox", {"rotary_emb_base": None}, {"rope_theta": 1e4}),
    ("neox", {"use_parallel_residual": False}, {"parallel": False}),
    ("neox", {"rope_parameters": {"rope_theta": 7.0, "partial_rotary_factor": 1.0}}, {"rope_theta": 7.0}),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, {"rope_scaling": RopeScaling("linear", 2.0)}),
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, {"rope_theta": 5e5}),
    ("llama", {"hidden_act": "gelu_pytorch_tanh"}, {"ffn": "geglu"}),
    ("llama", {"rms_norm_eps": None, "rope_theta": None}, {"norm_eps": 1e-6, "rope_theta": 1e4}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": 1}, {"local_layers": (1,)}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 2}, {"local_layers": ()}),
    ("gemma2", {"attn_logit_softcapping": None}, {"attn_softcap": 50.0}),
    ("gemma2", {"query_pre_attn_scalar": 16}, {"attn_scale": 0.25}),
    ("gemma3", {"sliding_window_pattern": None}, {"local_layers": (0, 1, 2)}),
    ("gemma3", {"rope_local_base_freq": None, "rope_theta": None}, {"rope_theta_local": 1e4, "rope_theta": 1e6}),
    (
        "gemma3",
        {"layer_types": ["full_attention", "full_attention", "sliding_attention"]},
        {"local_layers": (2,)},
    ),
    (
        "gemma3",
        {"rope_scaling": None, "rope_theta": None, "rope_local_base_freq": None}
        | {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 9.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 3.0},
            }
        },
        {"rope_scaling": RopeScaling("linear", 4.0), "rope_theta": 9.0, "rope_theta_local": 3.0},
    ),
    ("mistral", {}, {"window": 3, "local_layers": (0, 1)}),
    ("mistral", {"sliding_window": None, "max_position_embeddings": 5000}, {"window": 4096, "local_layers": (0, 1)}),
    ("mistral", {"sliding_window": None}, {"window": None, "local_layers": ()}),
    ("mistral", {"sliding_window": 16}, {"window": None, "local_layers": ()}),
    (
        "mistral",
        {"sliding_window": 16, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": RopeScaling("linear", 2.0)},
    ),
    ("phi3", {"rms_norm_eps": None}, {"norm_eps": 1e-5, "rope_share": 1.0, "local_layers": ()}),
    ("phi3", {"partial_rotary_factor": 0.5}, {"rope_share": 0.5}),
    ("phi3_partial", {"rope_parameters": {"rope_theta": 9.0, "partial_rotary_factor": 0.25}}, {"rope_share": 0.25}),
    ("phi3_partial", {}, {"rope_share": 0.5, "window": 3, "local_layers": (0, 1)}),
    ("olmo2", {"rms_norm_eps": None}, {"norm_eps": 1e-5, "norm_placement": "output", "qk_norm_over": "all_heads"}),
    ("opt", {"activation_function": "gelu", "init_std": 0.1, "layerdrop": 0.1}, {"ffn": "gelu_exact"}),
    ("opt", {"word_embed_proj_dim": None, "do_layer_norm_before": None}, {"d_model": 8, "norm_placement": "pre"}),
    ("gpt_neo", {}, {"local_layers": (1, 2), "window": 3, "attn_scale": 1.0}),
    ("gpt_neo", {"attention_types": [[["global"], 1], [["local"], 2]]}, {"local_layers": (1, 2)}),
    ("gpt_neo", {"attention_types": [[["local", "global"], 1], [["local"], 1]]}, {"local_layers": (0, 2)}),
    ("gpt_neo", {"window_size": None}, {"window": 256}),
    ("gptj", {}, {"rope_share": 0.5, "d_rotary": 4, "parallel": True}),
    ("gptj", {"rotary_dim": 8}, {"rope_share": 1.0}),
    ("distilbert", {"activation": "relu", "sinusoidal_pos_embds": True, "tie_weights_": True}, {"ffn": "relu"}),
    ("roberta", {}, {"n_ctx": 14, "norm_eps": 1e-5}),
    ("modernbert", {}, {"window": 2, "local_layers": (1, 2), "rope_theta": 1000.0, "rope_theta_local": 10.0}),
    (
        "modernbert",
        {"global_rope_theta": None, "local_rope_theta": None, "local_attention": None, "norm_eps": None},
        {"window": 65, "rope_theta": 160_000.0, "rope_theta_local": 10_000.0, "norm_eps": 1e-5},
    ),
    ("modernbert", {"layer_types": ["sliding_attention"] + 3 * ["full_attention"]}, {"local_layers": (0,)}),
    (
        "modernbert",
        {"hidden_activation": "gelu_pytorch_tanh", "classifier_activation": "gelu_pytorch_tanh"},
        {"ffn": "geglu"},
    ),
    (
        "modernbert",
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 9.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 3.0},
            }
        },
        {"rope_scaling": RopeScaling("linear", 4.0), "rope_theta": 9.0, "rope_theta_local": 3.0},
    ),
]


@pytest.mark.parametrize(("name", "changes", "expected"), HONOURED)
def test_a_field_is_honoured(name, changes, expected, tmp_path):
    if expected is None:  # it disagrees with the tensors, so that it has been read
        with pytest.raises(UserError, match=r"h\.0\.mlp.* the config that disagrees asks for"):
            load(tmp_path, name, **changes)
        return
    config, _, provenance = load(tmp_path, name, **changes)
    assert {field: getattr(config, field) for field in expected} == expected
    assert provenance["fields_not_read"] == []


REFUSED = [
    ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
    ("bert", {"hidden_act": "mish"}, "hidden_act is 'mish'; supported for this family: gelu, gelu_python, gelu_new"),
    ("bert", {"is_decoder": True}, "is_decoder is True, which is not supported; supported: False"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
    ("gpt2", {"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn is True"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention is True"),
    ("gpt2", {"n_head": 3}, "a width of 8 cannot be divided among 3 heads"),
    ("gpt2", {"n_embd": "8"}, "n_embd must be a whole number, got '8'"),
    (
        "llama",
        {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}},
        "'longrope'; known: default, dynamic, linear",
    ),
    ("llama", {"rope_scaling": {"type": "dynamic"}}, "rope_scaling lacks the field 'factor'"),
    ("llama", {"rope_scaling": {"type": "llama3", "factor": 2.0}}, "lacks the field 'low_freq_factor'"),
    ("llama", {"rms_norm_eps": True}, "rms_norm_eps must be a number, got True"),
    ("llama", {"attention_bias": "yes"}, "attention_bias must be true or false, got 'yes'"),
    ("llama", {"hidden_size": None}, "lacks the field 'hidden_size'"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config is"),
    ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "known: LLaMAForCausalLM, LlamaForCausalLM"),
    (
        "llama",
        {"model_type": "mamba"},
        "unknown model_type .* 'mamba'; known: bert, distilbert, gemma2, gemma3, gemma3_",
    ),
    ("llama", {"model_type": None}, "has no model_type; known: bert"),
    ("llama", {"model_type": "qwen3_moe"}, r"\(model_type 'qwen3_moe'\) are not supported: they need a router"),
    ("llama", {"model_type": "x", "auto_map": {"AutoModel": "m.M"}}, r"\(auto_map\) is never run"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, which is not supported; supported: 1.0"),
    ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "rope_parameters: partial_rotary_factor is 0.5"),
    ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "use_sliding_window is false"),
    ("qwen2", {"layer_types": ["sliding_attention"]}, "layer_types must be a list of 2 out of"),
    ("gemma2", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "sliding windows is not supported"),
    ("gemma3", {"attn_logit_softcapping": 5.0}, "attn_logit_softcapping is 5.0"),
    ("gemma3", {"model_type": "gemma3"}, "known: Gemma3ForConditionalGeneration"),
    ("llama", {"model_type": "llava", "text_config": {}}, "text-only checkpoints are"),
    ("llama", {"model_type": "qwen2_audio", "audio_config": {}}, "text-only checkpoints are"),
    ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
    ("gemma3", {"hidden_activation": "gelu"}, "hidden_activation is 'gelu'; supported for this family: silu"),
    ("mistral", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "sliding windows is not supported"),
    ("mistral", {"layer_types": ["full_attention"] * 2}, "layer_types is .*, which is not supported"),
    ("phi3", {"rope_scaling": {"type": "longrope"}}, "rotary scaling 'longrope' is not supported: it needs a divisor"),
    ("phi3", {"rope_scaling": {"type": "su"}}, "'su' is not supported: it needs a divisor for each frequency"),
    ("phi3", {"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters: rotary scaling 'yarn' is not supported"),
    ("phi3", {"attention_bias": True}, "attention_bias is True"),
    ("phi3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear' is one that this family does not have"),
    ("olmo2", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, which is not supported"),
    (
        "opt",
        {"word_embed_proj_dim": 4},
        r"\(word_embed_proj_dim 4, hidden_size 8\) are not supported: they need a matrix",
    ),
    ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before is False"),
    ("opt", {"_remove_final_layer_norm": True}, "_remove_final_layer_norm is True"),
    ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine is False"),
    ("gpt_neo", {"attention_types": [[["global"], 1]]}, "attention_types must be global and local for 3 layers"),
    ("gpt_neo", {"attention_types": [[["global", "sparse"], 2]]}, "attention_types must be global and local"),
    ("gpt_neo", {"attention_types": ["global"] * 3}, "attention_types must be global and local for 3 layers"),
    ("gptj", {"scale_attn_weights": False}, "scale_attn_weights is False"),
    ("gptj", {"rotary": False}, "rotary is False"),
    ("gptj", {"rotary_dim": None}, r"rope_share must be above 0 and at most 1, got 8\.0"),
    ("roberta", {"hidden_act": "relu"}, "hidden_act is 'relu'; supported for this family: gelu, gelu_python"),
    ("roberta", {"pad_token_id": 2}, "pad_token_id is 2, which is not supported; supported: 1"),
    ("roberta", {"type_vocab_size": 2}, "type_vocab_size is 2"),
    ("modernbert", {"classifier_activation": "silu"}, "another classifier_activation than hidden_activation"),
    ("modernbert", {"classifier_bias": True}, "classifier_bias is True"),
    ("modernbert", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling is"),
]


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED)
def test_what_cannot_be_computed_is_refused_by_name(name, changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load(tmp_path, name, **changes)


def test_fields_that_nobody_reads_are_reported(tmp_path):
    future = {
        "attention_window_of_the_future": 3,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0, "mscale": 1.0},
    }
    _, _, provenance = load(tmp_path, "llama", attention_dropout=0.1, **future)
    assert provenance["fields_not_read"] == ["attention_window_of_the_future", "rope_scaling.mscale"]


def test_a_soft_cap_of_null_is_no_cap(tmp_path):
    record = published.golden("gemma2")
    published.write_checkpoint(tmp_path, record["config"] | {"final_logit_softcapping": None}, published.shapes(record))
    config, _, provenance = pretrained_parameters(tmp_path)
    assert (config.logit_softcap, config.attn_softcap) == (None, 2.0)
    assert provenance["fields_not_read"] == []


def test_a_sliding_window_of_null_is_no_window(tmp_path):
    """Unlike none at all, which is a window of 4,096 positions."""
    record = published.golden("mistral")
    config = record["config"] | {"sliding_window": None, "max_position_embeddings": 5000}
    published.write_checkpoint(tmp_path, config, published.shapes(record))
    config, _, provenance = pretrained_parameters(tmp_path)
    assert (config.window, config.local_layers) == (None, ())
    assert provenance["fields_not_read"] == []


@pytest.mark.parametrize("name", ["bert", "gpt2", "neox", "llama", "opt", "gpt_neo", "gptj", "roberta", "modernbert"])
def test_names_without_a_prefix_mean_the_same(name, tmp_path):
    record = published.golden(name)
    prefix = next(family.hf.prefix for family in FAMILIES if record["config"]["model_type"] in family.model_types)
    named = published.shapes(record)
    assert any(tensor.startswith(prefix) for tensor in named)
    _, params, _ = load(tmp_path / "with", name)
    folder = published.write_checkpoint(tmp_path / "without", record["config"], named)
    published.rewrite(folder, lambda tensors: {re.sub(f"^{prefix}", "", k): v for k, v in tensors.items()})
    _, again, _ = pretrained_parameters(folder)
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_old_names_and_unused_parts_of_bert(tmp_path):
    record = published.golden("bert")
    _, params, _ = load(tmp_path / "new", "bert")
    folder = published.write_checkpoint(tmp_path / "old", record["config"], published.shapes(record))
    extra = {"bert.pooler.dense.weight": (8, 8), "bert.pooler.dense.bias": (8,), "cls.seq_relationship.weight": (2, 8)}
    extra |= {"cls.seq_relationship.bias": (2,), "bert.embeddings.position_ids": (1, 16)}

    def old(tensors):
        renamed = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
            for name, value in tensors.items()
        }
        copies = {"cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"]}
        return renamed | copies | {name: np.zeros(shape, np.float32) for name, shape in extra.items()}

    published.rewrite(folder, old)
    _, again, provenance = pretrained_parameters(folder)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    assert provenance["ignored_tensors"].keys() == {*extra, "cls.predictions.decoder.weight"}
    assert provenance["ignored_tensors"]["cls.predictions.decoder.weight"].startswith("equal to bert.embeddings")


BUFFERS = {
    "gpt2": {"transformer.h.0.attn.bias": (1, 1, 16, 16), "h.1.attn.masked_bias": ()},
    "neox": {"gpt_neox.layers.0.attention.bias": (1, 1, 4, 4), "gpt_neox.layers.1.attention.rotary_emb.inv_freq": (1,)},
    "llama": {"model.layers.1.self_attn.rotary_emb.inv_freq": (2,)},
    "gpt_neo": {"transformer.h.0.attn.attention.bias": (1, 1, 16, 16), "h.1.attn.attention.masked_bias": ()},
    "gptj": {"transformer.h.0.attn.bias": (1, 1, 16, 16), "transformer.h.1.attn.embed_positions": (16, 4)},
    "distilbert": {"distilbert.embeddings.position_ids": (1, 16)},
    "roberta": {"roberta.embeddings.position_ids": (1, 16), "roberta.pooler.dense.weight": (8, 8)},
}


@pytest.mark.parametrize("name", BUFFERS)
def test_buffers_are_ignored_and_named(name, tmp_path):
    _, params, _ = load(tmp_path, name)
    published.rewrite(tmp_path, lambda tensors: tensors | {k: np.zeros(s, bool) for k, s in BUFFERS[name].items()})
    _, again, provenance = pretrained_parameters(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    assert provenance["ignored_tensors"].keys() == BUFFERS[name].keys()
