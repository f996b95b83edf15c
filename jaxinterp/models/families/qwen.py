"""Qwen2 (biases of queries, keys and values) and Qwen3 (norms of queries and keys instead)."""

from jaxinterp.base.errors import UserError
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.families import common
from jaxinterp.models.families.family import Family, Layout, Shapes, SourceMap, TensorFile, sources
from jaxinterp.models.families.fields import Fields
from jaxinterp.models.families.rope import gguf_rope, hf_rope


def _hf_config(fields: Fields, *, qwen3: bool) -> ModelConfig:
    theta, scaling = hf_rope(fields)
    sizes = common.hf_sizes(fields, d_head=128 if qwen3 else None)
    sliding, window = fields.flag("use_sliding_window", False), fields.integer("sliding_window", 4096)
    sliding = sliding and fields.values.get("sliding_window", window) is not None  # null is no window
    first = fields.integer("max_window_layers", 28)
    local = tuple(range(first, sizes["n_layers"])) if sliding else ()
    local = common.hf_local_layers(fields, sizes["n_layers"], local)
    if local and not sliding:
        raise UserError(f"{fields.where}: layer_types has sliding windows, use_sliding_window is false")
    common.refuse_scaled_windows(fields, local, scaling)
    fields.only("use_mrope", False)  # positions in space and time, of models of images
    bias = fields.flag("attention_bias", False) if qwen3 else False
    return ModelConfig(
        **sizes,
        rope_theta=theta,
        rope_scaling=scaling,
        window=window if local else None,
        local_layers=local,
        ffn=fields.one_of("hidden_act", common.GATED, "silu"),
        qkv_bias=bias if qwen3 else True,
        out_bias=bias,
        mlp_bias=False,
        qk_norm=qwen3,
        tied=fields.flag("tie_word_embeddings", False),
    )


def hf_config_2(fields: Fields, file: TensorFile) -> ModelConfig:
    """Qwen2, from config.json."""
    return _hf_config(fields, qwen3=False)


def hf_config_3(fields: Fields, file: TensorFile) -> ModelConfig:
    """Qwen3, from config.json."""
    return _hf_config(fields, qwen3=True)


def hf_sources(config: ModelConfig, shapes: Shapes) -> SourceMap:
    """From safetensors."""
    return sources(common.HF_NAMES, shapes)


def gguf_config(fields: Fields, file: TensorFile) -> ModelConfig:
    """From GGUF metadata."""
    theta, scaling = gguf_rope(fields)
    sizes = common.gguf_sizes(fields, file)
    qk_norm = "blk.0.attn_q_norm.weight" in file.shapes
    return ModelConfig(**sizes, rope_theta=theta, rope_scaling=scaling, ffn="swiglu", qk_norm=qk_norm)


def gguf_sources(config: ModelConfig, shapes: Shapes) -> SourceMap:
    """From GGUF."""
    return sources(common.GGUF_NAMES, shapes)


QWEN2 = Family(
    "qwen2",
    model_types=("qwen2",),
    architectures=("Qwen2ForCausalLM",),
    hf=Layout(hf_config_2, hf_sources, "model.", common.HF_IGNORED, common.HF_TIED),
    gguf_architectures=("qwen2",),
    gguf=Layout(gguf_config, gguf_sources),
)
QWEN3 = Family(
    "qwen3",
    model_types=("qwen3",),
    architectures=("Qwen3ForCausalLM",),
    hf=Layout(hf_config_3, hf_sources, "model.", common.HF_IGNORED, common.HF_TIED),
    gguf_architectures=("qwen3",),
    gguf=Layout(gguf_config, gguf_sources),
)
