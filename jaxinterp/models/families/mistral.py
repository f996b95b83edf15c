"""Mistral (Jiang et al. 2023): Llama whose layers all attend to a window, or none does."""

from jaxinterp.models.config import ModelConfig
from jaxinterp.models.families import common
from jaxinterp.models.families.family import Family, Layout, Shapes, SourceMap, TensorFile, sources
from jaxinterp.models.families.fields import Fields
from jaxinterp.models.families.rope import hf_rope


def hf_config(fields: Fields, file: TensorFile) -> ModelConfig:
    """From config.json."""
    theta, scaling = hf_rope(fields)
    sizes = common.hf_sizes(fields)
    if "num_key_value_heads" not in fields.values:
        sizes["n_kv_heads"] = 8
    window = common.hf_window(fields, sizes, 4096)
    common.refuse_scaled_windows(fields, window.get("local_layers", ()), scaling)
    return ModelConfig(
        **sizes,
        **window,
        rope_theta=theta,
        rope_scaling=scaling,
        ffn=fields.one_of("hidden_act", common.GATED, "silu"),
        qkv_bias=False,
        out_bias=False,
        mlp_bias=False,
        tied=fields.flag("tie_word_embeddings", False),
    )


def hf_sources(config: ModelConfig, shapes: Shapes) -> SourceMap:
    """From safetensors."""
    return sources(common.HF_NAMES, shapes)


# GGUF files of Mistral say that they are Llama's, and are read as such.
FAMILY = Family(
    "mistral",
    model_types=("mistral",),
    architectures=("MistralForCausalLM",),
    hf=Layout(hf_config, hf_sources, "model.", common.HF_IGNORED, common.HF_TIED),
)
