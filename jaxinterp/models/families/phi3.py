"""Phi-3 (Abdin et al. 2024) with contexts of 4k: Llama with fused matrices, a window, partly rotary heads."""

from jaxinterp.base.errors import UserError
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.families import common
from jaxinterp.models.families.family import Family, Shapes, SourceMap, TensorFile, one_after_another, sources
from jaxinterp.models.families.fields import Fields
from jaxinterp.models.families.names import HF_NAMES
from jaxinterp.models.families.rope import hf_rope_share
from jaxinterp.models.families.writing import llama_fields, window_of_all_layers

# In this family these three are one thing; "yarn" is not the YaRN of others.
LONGROPE = ("longrope", "su", "yarn")


def hf_config(fields: Fields, file: TensorFile) -> ModelConfig:
    """From config.json."""
    for name in ("rope_scaling", "rope_parameters"):
        _refuse_scaling(fields.part(name))
    sizes = common.hf_sizes(fields, partly_rotary=True) | {"norm_eps": fields.number("rms_norm_eps", 1e-5)}
    fields.get("original_max_position_embeddings", None)  # means something to longrope alone
    for name in ("attention_bias", "mlp_bias", "lm_head_bias"):
        fields.only(name, False)
    window = common.hf_window(fields, sizes, None)
    return common.hf_llama(fields, sizes, rope_share=hf_rope_share(fields), **window)


def hf_fields(config: ModelConfig) -> dict[str, object]:
    """To config.json."""
    own = {"partial_rotary_factor": config.rope_share, "sliding_window": window_of_all_layers(config)}
    return llama_fields(config) | own


def _refuse_scaling(scaling: Fields) -> None:
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind in LONGROPE:
        raise UserError(
            f"{scaling.where}: rotary scaling {kind!r} is not supported: it needs a divisor for each frequency, for "
            "short and for long texts, and a factor of queries and keys; take a checkpoint with 4k context"
        )
    if kind != "default":
        raise UserError(f"{scaling.where}: rotary scaling {kind!r} is one that this family does not have")


def hf_sources(config: ModelConfig, shapes: Shapes) -> SourceMap:
    """From safetensors, where queries, keys and values are one matrix, and gate and up another."""
    special = one_after_another("layers.{}.self_attn.qkv_proj", "qkv", shapes)
    special |= one_after_another("layers.{}.mlp.gate_up_proj", ("gate", "in"), shapes)
    return sources(HF_NAMES, shapes, special)


FAMILY = Family(
    "phi3",
    model_types=("phi3",),
    architectures=("Phi3ForCausalLM",),
    hf=common.hf_layout(hf_config, hf_fields, hf_sources),
)
