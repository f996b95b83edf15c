"""OLMo 2 (OLMo team 2024): norms of what attention and FFN add, and of all heads' queries and keys at once."""

from jaxinterp.models.config import ModelConfig
from jaxinterp.models.families import common, names
from jaxinterp.models.families.family import Family, Layout, Shapes, SourceMap, TensorFile, flat_vector, sources
from jaxinterp.models.families.fields import Fields
from jaxinterp.models.families.writing import llama_fields

HF_NAMES = names.HF_NAMES | {
    "layers.norm_attn_out.scale": "layers.{}.post_attention_layernorm.weight",
    "layers.norm_mlp_out.scale": "layers.{}.post_feedforward_layernorm.weight",
}
SHARED = {"norm_placement": "output", "qk_norm": True, "qk_norm_over": "all_heads"}


def hf_config(fields: Fields, file: TensorFile) -> ModelConfig:
    """From config.json."""
    sizes = common.hf_sizes(fields) | {"norm_eps": fields.number("rms_norm_eps", 1e-5)}
    return common.hf_llama(fields, sizes, bias=fields.flag("attention_bias", False), **SHARED)


def hf_fields(config: ModelConfig) -> dict[str, object]:
    """To config.json."""
    return llama_fields(config) | {"attention_bias": config.qkv_bias}


def hf_sources(config: ModelConfig, shapes: Shapes) -> SourceMap:
    """From safetensors."""
    return sources(HF_NAMES, shapes, _flat_norms(HF_NAMES, shapes))


def gguf_config(fields: Fields, file: TensorFile) -> ModelConfig:
    """From GGUF metadata."""
    return common.gguf_llama(fields, file, **SHARED)


def gguf_sources(config: ModelConfig, shapes: Shapes) -> SourceMap:
    """From GGUF."""
    return sources(names.GGUF_NAMES, shapes, _flat_norms(names.GGUF_NAMES, shapes))


def _flat_norms(table: dict[str, str], shapes: Shapes) -> SourceMap:
    paths = ("layers.norm_q.scale", "layers.norm_k.scale")
    return {path: flat_vector(table[path], shapes[path]) for path in paths}


FAMILY = Family(
    "olmo2",
    model_types=("olmo2",),
    architectures=("Olmo2ForCausalLM",),
    hf=common.hf_layout(hf_config, hf_fields, hf_sources),
    gguf_architectures=("olmo2",),
    gguf=Layout(gguf_config, gguf_sources),
)
