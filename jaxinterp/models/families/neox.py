"""GPT-NeoX (Black et al. 2022) and Pythia (Biderman et al. 2023): parallel residual, partly rotary heads."""

from jaxinterp.models.config import ModelConfig
from jaxinterp.models.families.common import PLAIN, gguf_plain_sizes, hf_plain_sizes
from jaxinterp.models.families.family import Family, Layout, Shapes, SourceMap, TensorFile, fused_qkv, sources
from jaxinterp.models.families.fields import Fields
from jaxinterp.models.families.names import GGUF_NAMES
from jaxinterp.models.families.rope import gguf_rope, hf_rope, hf_rope_share
from jaxinterp.models.families.writing import name_of, plain_fields, rope_scaling

HF_NAMES = {
    "embedding": "embed_in.weight",
    "unembedding": "embed_out.weight",
    "norm_final.scale": "final_layer_norm.weight",
    "norm_final.bias": "final_layer_norm.bias",
    "layers.norm_attn.scale": "layers.{}.input_layernorm.weight",
    "layers.norm_attn.bias": "layers.{}.input_layernorm.bias",
    "layers.norm_mlp.scale": "layers.{}.post_attention_layernorm.weight",
    "layers.norm_mlp.bias": "layers.{}.post_attention_layernorm.bias",
    "layers.w_o": "layers.{}.attention.dense.weight",
    "layers.b_o": "layers.{}.attention.dense.bias",
    "layers.w_in": "layers.{}.mlp.dense_h_to_4h.weight",
    "layers.b_in": "layers.{}.mlp.dense_h_to_4h.bias",
    "layers.w_out": "layers.{}.mlp.dense_4h_to_h.weight",
    "layers.b_out": "layers.{}.mlp.dense_4h_to_h.bias",
}
IGNORED = {
    r"layers\.\d+\.attention\.(masked_)?bias": "the causal mask",
}


def hf_config(fields: Fields, file: TensorFile) -> ModelConfig:
    """From config.json."""
    sizes = hf_plain_sizes(fields)
    theta, scaling = hf_rope(fields, "rotary_emb_base")
    share = hf_rope_share(fields, "rotary_pct", 0.25)
    fields.only("head_dim", sizes["d_head"])  # another one would count for rotary positions alone
    fields.only("is_decoder", False, True)
    bias = fields.flag("attention_bias", True)
    return ModelConfig(
        **sizes,
        norm_eps=fields.number("layer_norm_eps", 1e-5),
        parallel=fields.flag("use_parallel_residual", True),
        position="rotary",
        rope_theta=theta,
        rope_share=share,
        rope_scaling=scaling,
        ffn=fields.one_of("hidden_act", PLAIN, "gelu"),
        qkv_bias=bias,
        out_bias=bias,
        tied=fields.flag("tie_word_embeddings", False),
    )


def hf_fields(config: ModelConfig) -> dict[str, object]:
    """To config.json."""
    return plain_fields(config) | {
        "layer_norm_eps": config.norm_eps,
        "use_parallel_residual": config.parallel,
        "rotary_emb_base": config.rope_theta,
        "rotary_pct": config.rope_share,
        "rope_scaling": rope_scaling(config.rope_scaling),
        "hidden_act": name_of(config.ffn, PLAIN),
        "attention_bias": config.qkv_bias,
    }


def rename(name: str) -> str:
    """Newer checkpoints call the unembedding as other families do."""
    return name.replace("lm_head.", "embed_out.")


def hf_sources(config: ModelConfig, shapes: Shapes) -> SourceMap:
    """From safetensors, where each head's queries, keys and values lie together."""
    return sources(HF_NAMES, shapes, fused_qkv("layers.{}.attention.query_key_value", shapes, by_head=True))


def gguf_config(fields: Fields, file: TensorFile) -> ModelConfig:
    """From GGUF metadata."""
    sizes, (theta, scaling) = gguf_plain_sizes(fields, file), gguf_rope(fields)
    return ModelConfig(
        **sizes,
        norm_eps=fields.number("attention.layer_norm_epsilon"),
        parallel=fields.flag("use_parallel_residual", True),
        position="rotary",
        rope_theta=theta,
        rope_share=fields.integer("rope.dimension_count", sizes["d_head"]) / sizes["d_head"],
        rope_scaling=scaling,
        ffn="gelu_exact",
    )


def gguf_sources(config: ModelConfig, shapes: Shapes) -> SourceMap:
    """From GGUF, which stores all queries, then all keys, then all values."""
    return sources(GGUF_NAMES, shapes, fused_qkv("blk.{}.attn_qkv", shapes, by_head=False))


FAMILY = Family(
    "neox",
    model_types=("gpt_neox",),
    architectures=("GPTNeoXForCausalLM",),
    hf=Layout(
        hf_config,
        hf_sources,
        "gpt_neox.",
        IGNORED,
        {"embed_out.weight": "embed_in.weight"},
        rename,
        outside=("embed_out.",),
        fields=hf_fields,
    ),
    gguf_architectures=("gptneox",),
    gguf=Layout(gguf_config, gguf_sources),
)
