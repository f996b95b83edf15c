"""OLMo 2 (OLMo team 2024): norms of what attention and FFN add, and of all heads' queries and keys at once."""

from jaxinterp.models.config import ModelConfig
from jaxinterp.models.families import common
from jaxinterp.models.families.family import Family, Layout, Shapes, SourceMap, TensorFile, flat_vector, sources
from jaxinterp.models.families.fields import Fields
from jaxinterp.models.families.rope import gguf_rope, hf_rope

HF_NAMES = common.HF_NAMES | {
    "layers.norm_attn_out.scale": "layers.{}.post_attention_layernorm.weight",
    "layers.norm_mlp_out.scale": "layers.{}.post_feedforward_layernorm.weight",
}
SHARED = {"norm_placement": "output", "qk_norm": True, "qk_norm_over": "all_heads"}


def hf_config(fields: Fields, file: TensorFile) -> ModelConfig:
    """From config.json."""
    theta, scaling = hf_rope(fields)
    bias = fields.flag("attention_bias", False)
    return ModelConfig(
        **common.hf_sizes(fields) | {"norm_eps": fields.number("rms_norm_eps", 1e-5)},
        **SHARED,
        rope_theta=theta,
        rope_scaling=scaling,
        ffn=fields.one_of("hidden_act", common.GATED, "silu"),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=False,
        tied=fields.flag("tie_word_embeddings", False),
    )


def hf_sources(config: ModelConfig, shapes: Shapes) -> SourceMap:
    """From safetensors."""
    return sources(HF_NAMES, shapes, _flat_norms(HF_NAMES, shapes))


def gguf_config(fields: Fields, file: TensorFile) -> ModelConfig:
    """From GGUF metadata."""
    theta, scaling = gguf_rope(fields)
    sizes = common.gguf_sizes(fields, file)
    return ModelConfig(**sizes, **SHARED, rope_theta=theta, rope_scaling=scaling, ffn="swiglu")


def gguf_sources(config: ModelConfig, shapes: Shapes) -> SourceMap:
    """From GGUF."""
    return sources(common.GGUF_NAMES, shapes, _flat_norms(common.GGUF_NAMES, shapes))


def _flat_norms(names: dict[str, str], shapes: Shapes) -> SourceMap:
    paths = ("layers.norm_q.scale", "layers.norm_k.scale")
    return {path: flat_vector(names[path], shapes[path]) for path in paths}


FAMILY = Family(
    "olmo2",
    model_types=("olmo2",),
    architectures=("Olmo2ForCausalLM",),
    hf=Layout(hf_config, hf_sources, "model.", common.HF_IGNORED, common.HF_TIED),
    gguf_architectures=("olmo2",),
    gguf=Layout(gguf_config, gguf_sources),
)
