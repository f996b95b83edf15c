"""GPT-2 (Radford et al. 2019)."""

import math

from jaxinterp.models.config import ModelConfig
from jaxinterp.models.families.common import gguf_plain_sizes, hf_gpt
from jaxinterp.models.families.family import (
    Family,
    Layout,
    Shape,
    Shapes,
    Source,
    SourceMap,
    TensorFile,
    fused_qkv,
    sources,
)
from jaxinterp.models.families.fields import Fields
from jaxinterp.models.families.names import GGUF_NAMES, GPT_NAMES
from jaxinterp.models.families.writing import gpt_fields

HF_NAMES = GPT_NAMES | {
    "layers.b_o": "h.{}.attn.c_proj.bias",
    "layers.b_in": "h.{}.mlp.c_fc.bias",
    "layers.b_out": "h.{}.mlp.c_proj.bias",
}
MATRICES = {  # and how many axes of ours are inputs
    "layers.w_o": ("h.{}.attn.c_proj.weight", 2),
    "layers.w_in": ("h.{}.mlp.c_fc.weight", 1),
    "layers.w_out": ("h.{}.mlp.c_proj.weight", 1),
}
# Of any model's sizes, which transformers takes for GPT-2's as well.
ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
# GPT-2 small, for configs that leave them out
SIZES = {
    "vocab_size": 50257,
    "max_position_embeddings": 1024,
    "num_hidden_layers": 12,
    "hidden_size": 768,
    "num_attention_heads": 12,
}


def hf_config(fields: Fields, file: TensorFile) -> ModelConfig:
    """From config.json."""
    fields.only("scale_attn_by_inverse_layer_idx", False)
    fields.only("reorder_and_upcast_attn", False)
    fields.only("add_cross_attention", False)
    fields.get("n_ctx", None)  # the same as n_positions, which alone counts
    return ModelConfig(
        **hf_gpt(fields, "n_inner", **SIZES),
        attn_scale=None if fields.flag("scale_attn_weights", True) else 1.0,
        tied=fields.flag("tie_word_embeddings", True),
    )


def hf_fields(config: ModelConfig) -> dict[str, object]:
    """To config.json."""
    return gpt_fields(config, "n_inner") | {"scale_attn_weights": config.attn_scale is None}


def hf_sources(config: ModelConfig, shapes: Shapes) -> SourceMap:
    """From safetensors, where matrices are [inputs, outputs], and queries, keys and values are one."""
    special = {path: _stored_as_ours(name, shapes[path], n_in) for path, (name, n_in) in MATRICES.items()}
    for part, letter in enumerate("qkv"):
        d, heads, width = shapes[f"layers.w_{letter}"]
        special[f"layers.w_{letter}"] = Source(
            (("h.{}.attn.c_attn.weight", (d, 3 * heads * width)),),
            lambda x, part=part, shape=(d, 3, heads, width): x.reshape(shape)[:, part],
        )
        special[f"layers.b_{letter}"] = Source(
            (("h.{}.attn.c_attn.bias", (3 * heads * width,)),),
            lambda x, part=part, shape=(3, heads, width): x.reshape(shape)[part],
        )
    return sources(HF_NAMES, shapes, special)


def _stored_as_ours(name: str, shape: Shape, n_in: int) -> Source:
    stored = (math.prod(shape[:n_in]), math.prod(shape[n_in:]))
    return Source(((name, stored),), lambda x: x.reshape(shape))


def gguf_config(fields: Fields, file: TensorFile) -> ModelConfig:
    """From GGUF metadata."""
    return ModelConfig(**gguf_plain_sizes(fields, file), norm_eps=fields.number("attention.layer_norm_epsilon"))


def gguf_sources(config: ModelConfig, shapes: Shapes) -> SourceMap:
    """From GGUF, where matrices are [outputs, inputs]."""
    names = GGUF_NAMES | {"positions": "position_embd.weight"}
    return sources(names, shapes, fused_qkv("blk.{}.attn_qkv", shapes, by_head=False))


FAMILY = Family(
    "gpt2",
    model_types=("gpt2",),
    architectures=("GPT2LMHeadModel", "GPT2Model"),
    hf=Layout(
        hf_config,
        hf_sources,
        "transformer.",
        {r"h\.\d+\.attn\.(masked_)?bias": "the causal mask"},
        {"lm_head.weight": "wte.weight"},
        aliases=ALIASES,
        outside=("lm_head.",),
        fields=hf_fields,
    ),
    gguf_architectures=("gpt2",),
    gguf=Layout(gguf_config, gguf_sources),
)
