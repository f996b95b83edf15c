"""GPT-2 (Radford et al. 2019)."""

import math

from jaxinterp.models.config import ModelConfig
from jaxinterp.models.families.common import GGUF_NAMES, PLAIN, gguf_vocabulary, head_width
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

HF_NAMES = {
    "embedding": "wte.weight",
    "unembedding": "lm_head.weight",
    "positions": "wpe.weight",
    "norm_final.scale": "ln_f.weight",
    "norm_final.bias": "ln_f.bias",
    "layers.norm_attn.scale": "h.{}.ln_1.weight",
    "layers.norm_attn.bias": "h.{}.ln_1.bias",
    "layers.norm_mlp.scale": "h.{}.ln_2.weight",
    "layers.norm_mlp.bias": "h.{}.ln_2.bias",
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


def hf_config(fields: Fields, file: TensorFile) -> ModelConfig:
    """From config.json."""
    d_model, n_heads = fields.integer("n_embd", 768), fields.integer("n_head", 12)
    fields.only("scale_attn_by_inverse_layer_idx", False)
    fields.only("reorder_and_upcast_attn", False)
    fields.only("add_cross_attention", False)
    fields.get("n_ctx", None)  # the same as n_positions, which alone counts
    return ModelConfig(
        d_vocab=fields.integer("vocab_size", 50257),
        n_ctx=fields.integer("n_positions", 1024),
        n_layers=fields.integer("n_layer", 12),
        d_model=d_model,
        d_mlp=fields.integer("n_inner", 4 * d_model),
        n_heads=n_heads,
        n_kv_heads=n_heads,
        d_head=head_width(fields, d_model, n_heads),
        norm_eps=fields.number("layer_norm_epsilon", 1e-5),
        attn_scale=None if fields.flag("scale_attn_weights", True) else 1.0,
        ffn=fields.one_of("activation_function", PLAIN, "gelu_new"),
        tied=fields.flag("tie_word_embeddings", True),
    )


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
    d_model, n_heads = fields.integer("embedding_length"), fields.integer("attention.head_count")
    return ModelConfig(
        d_vocab=gguf_vocabulary(fields, file),
        n_ctx=fields.integer("context_length"),
        n_layers=fields.integer("block_count"),
        d_model=d_model,
        d_mlp=fields.integer("feed_forward_length"),
        n_heads=n_heads,
        n_kv_heads=n_heads,
        d_head=head_width(fields, d_model, n_heads),
        norm_eps=fields.number("attention.layer_norm_epsilon"),
        tied="output.weight" not in file.shapes,
    )


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
    ),
    gguf_architectures=("gpt2",),
    gguf=Layout(gguf_config, gguf_sources),
)
