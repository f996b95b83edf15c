"""What a model config accepts, and how many parameters it says a model has."""

import dataclasses
from typing import get_type_hints

import jax
import numpy as np
import pytest
from beartype.door import is_bearable
from tiny import ARCHITECTURES, tiny_config

from jaxinterp.base import configs
from jaxinterp.base.errors import UserError
from jaxinterp.models.config import PRESETS, ModelConfig, RopeScaling, preset
from jaxinterp.models.model import logical_axes, parameter_shapes
from jaxinterp.models.parameters import n_params
from jaxinterp.models.transformer import init

VARIANTS = {
    **ARCHITECTURES,
    "swiglu with biases": {"ffn": "swiglu", "norm": "rmsnorm"},
    "no biases": {"ffn": "relu", "qkv_bias": False, "out_bias": False, "mlp_bias": False, "tied": False},
    "wide heads": {"n_heads": 6, "n_kv_heads": 3, "d_head": 10, "d_mlp": 5, "position": "rotary"},
    "biases of queries alone": {"qkv_bias": True, "out_bias": False, "mlp_bias": False, "n_kv_heads": 1},
    "normed heads": {"qk_norm": True, "norm": "rmsnorm", "position": "rotary"},
    "all heads normed at once": {"qk_norm": True, "qk_norm_over": "all_heads", "norm": "rmsnorm", "n_kv_heads": 1},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_n_params_counts_what_init_makes_and_every_parameter_has_named_axes(name):
    config = tiny_config(**VARIANTS[name])
    shapes = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    assert n_params(config) == sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
    assert parameter_shapes(config) == shapes
    axes = logical_axes(config)
    assert jax.tree.structure(axes, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec)) == jax.tree.structure(
        shapes
    )
    sizes = {
        "vocab": config.d_vocab,
        "embed": config.d_model,
        "embed_out": config.d_model,
        "position": config.n_ctx,
        "layers": config.n_layers,
        "heads": config.n_heads,
        "kv_heads": config.n_kv_heads,
        "head": config.d_head,
        "mlp": config.d_mlp,
    }
    jax.tree.map(lambda leaf, spec: np.testing.assert_array_equal(leaf.shape, [sizes[a] for a in spec]), shapes, axes)


def test_n_params_and_n_neurons_by_hand():
    config = ModelConfig(d_vocab=10, n_ctx=4, n_layers=2, d_model=3, d_mlp=5, n_heads=1, n_kv_heads=1, d_head=2)
    attention = 3 * (3 * 2 + 2) + 2 * 3 + 3
    ffn = 3 * 5 + 5 + 5 * 3 + 3
    assert n_params(config) == 2 * (attention + ffn + 2 * 6) + 6 + 10 * 3 + 4 * 3
    assert config.n_neurons == 10


def test_presets_are_as_large_as_their_names_say():
    for name in PRESETS:
        config = preset(name, d_vocab=4096, n_ctx=64)
        assert (config.d_vocab, config.n_ctx) == (4096, 64)
        assert 0.8 < n_params(config) / (float(name[:-1]) * {"m": 1e6, "b": 1e9}[name[-1]]) < 1.25
        assert config.n_heads * config.d_head == config.d_model


def test_preset_takes_changes():
    config = preset("0.7m", d_vocab=10, n_ctx=8, ffn="swiglu", n_layers=2)
    assert config == dataclasses.replace(preset("0.7m", d_vocab=10, n_ctx=8), ffn="swiglu", n_layers=2)
    assert (config.ffn, config.n_layers, config.d_model) == ("swiglu", 2, 96)


def test_unknown_preset_or_field():
    with pytest.raises(UserError, match=r"unknown preset '7m'; known: 0\.5m, 0\.7m, 100m"):
        preset("7m", d_vocab=10, n_ctx=8)
    with pytest.raises(
        UserError, match=r"unknown model field 'width'; known: attention, attention_kernel, attn_scale, .*d_head"
    ):
        preset("0.7m", d_vocab=10, n_ctx=8, width=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_mlp": 0}, "model.d_mlp must be at least 1, got 0"),
        ({"n_layers": -1}, "model.n_layers must be at least 1, got -1"),
        ({"norm": "batchnorm"}, "unknown model.norm 'batchnorm'; known: layernorm, rmsnorm"),
        ({"ffn": "reglu"}, "unknown model.ffn 'reglu'; known: bilinear, geglu, geglu_exact, gelu, gelu_exact, relu"),
        ({"position": "alibi"}, "unknown model.position 'alibi'; known: learned, rotary"),
        ({"dtype": "float16"}, "unknown model.dtype 'float16'; known: bfloat16, float32, float64"),
        ({"attention": "prefix"}, "unknown model.attention 'prefix'; known: bidirectional, causal"),
        ({"norm_placement": "none"}, "unknown model.norm_placement 'none'; known: output, post, pre, sandwich"),
        ({"head": "mlp"}, "unknown model.head 'mlp'; known: linear, transform"),
        ({"n_heads": 4, "n_kv_heads": 3}, r"model.n_heads \(4\) must be a multiple of model.n_kv_heads \(3\)"),
        ({"position": "rotary", "d_head": 3}, "even model.d_head · model.rope_share, got 3"),
        ({"position": "rotary", "d_head": 4, "rope_share": 0.25}, "even model.d_head · model.rope_share, got 1"),
        ({"rope_share": 0.0}, r"model.rope_share must be above 0 and at most 1, got 0\.0"),
        ({"rope_share": 1.5}, r"model.rope_share must be above 0 and at most 1, got 1\.5"),
        ({"local_layers": (1,)}, "model.local_layers need a model.window of 1 … 2147483647, got None"),
        ({"local_layers": (1,), "window": 0}, "model.local_layers need a model.window of 1 … 2147483647, got 0"),
        ({"local_layers": (3,), "window": 2}, r"model.local_layers must lie in 0 … 2, got \(3,\)"),
        ({"parallel": True, "norm_placement": "sandwich"}, "model.parallel needs norm_placement pre, got sandwich"),
        (
            {"local_layers": (0,), "window": 2, "rope_scaling": RopeScaling("yarn", 2.0)},
            "model.local_layers together with model.rope_scaling.kind yarn is not supported",
        ),
        ({"parallel": True, "norm_placement": "output"}, "model.parallel needs norm_placement pre, got output"),
        ({"qk_norm_over": "heads"}, "unknown model.qk_norm_over 'heads'; known: all_heads, head"),
        ({"qk_norm_over": "all_heads"}, "model.qk_norm_over all_heads needs model.qk_norm"),
        ({"first_attn_norm": False, "norm_placement": "post"}, "norm_placement post has no model.first_attn_norm"),
        ({"first_attn_norm": False, "norm_placement": "output"}, "norm_placement output has no model.first_attn_norm"),
    ],
)
def test_what_does_not_fit(changes, message):
    config = object.__new__(ModelConfig)  # past the type check, which knows the literals too
    for name, value in (dataclasses.asdict(tiny_config()) | changes).items():
        object.__setattr__(config, name, value)
    with pytest.raises(UserError, match=message):
        config.__post_init__()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"kind": "longrope", "factor": 2.0},
            "unknown model.rope_scaling.kind 'longrope'; known: linear, llama3, yarn",
        ),
        ({"kind": "linear", "factor": 0.0}, r"model.rope_scaling.factor must be above 0, got 0\.0"),
        ({"kind": "yarn", "factor": 2.0, "amplitude": 0.0}, r"model.rope_scaling.amplitude must be above 0, got 0\.0"),
        ({"kind": "llama3", "factor": 2.0, "original_n_ctx": 0}, "model.rope_scaling.original_n_ctx must be above 0"),
        (
            {"kind": "llama3", "factor": 2.0, "high_freq_factor": 1.0},
            r"model.rope_scaling.high_freq_factor must be above low_freq_factor, got 1\.0 and 1\.0",
        ),
        (
            {"kind": "yarn", "factor": 2.0, "beta_fast": 0.5},
            r"model.rope_scaling.beta_fast must be above beta_slow, got 0\.5 and 1\.0",
        ),
    ],
)
def test_what_does_not_scale(fields, message):
    scaling = object.__new__(RopeScaling)
    for name, value in fields.items():
        object.__setattr__(scaling, name, value)
    with pytest.raises(UserError, match=message):
        scaling.__post_init__()


@pytest.mark.parametrize("value", [None, True, "x", "1", [], ["a"], [1.5], {}, {"kind": []}, 10**400, 1.5, -1, 1])
def test_a_field_of_another_type_is_refused(value):
    for name, kind in get_type_hints(ModelConfig).items():
        try:
            # Not by way of the whole config, whose types the tests check at every call, unlike users.
            found = configs._built(kind, value)
        except configs.WRONG:
            continue
        assert is_bearable(found, kind) or (kind in (float, float | None) and type(found) is int), name
