"""Qwen2 (biases of queries, keys and values) and Qwen3 (norms of queries and keys instead)."""

from jaxinterp.base.errors import UserError
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.families import common
from jaxinterp.models.families.family import Family, Layout, TensorFile
from jaxinterp.models.families.fields import Fields
from jaxinterp.models.families.writing import layer_types, llama_fields


def _hf_config(fields: Fields, *, qwen3: bool) -> ModelConfig:
    sizes = common.hf_sizes(fields, d_head=128 if qwen3 else None)
    sliding, window = fields.flag("use_sliding_window", False), fields.integer("sliding_window", 4096)
    sliding = sliding and fields.values.get("sliding_window", window) is not None  # null is no window
    first = fields.integer("max_window_layers", 28)
    local = tuple(range(first, sizes["n_layers"])) if sliding else ()
    local = common.hf_local_layers(fields, sizes["n_layers"], local)
    if local and not sliding:
        raise UserError(f"{fields.where}: layer_types has sliding windows, use_sliding_window is false")
    fields.only("use_mrope", False)  # positions in space and time, of models of images
    bias = fields.flag("attention_bias", False) if qwen3 else False
    window = window if local else None
    own = {"window": window, "local_layers": local, "qkv_bias": bias if qwen3 else True, "qk_norm": qwen3}
    return common.hf_llama(fields, sizes, bias=bias, **own)


def hf_config_2(fields: Fields, file: TensorFile) -> ModelConfig:
    """Qwen2, from config.json."""
    return _hf_config(fields, qwen3=False)


def hf_config_3(fields: Fields, file: TensorFile) -> ModelConfig:
    """Qwen3, from config.json."""
    return _hf_config(fields, qwen3=True)


def hf_fields_2(config: ModelConfig) -> dict[str, object]:
    """Qwen2, to config.json."""
    sliding = {"use_sliding_window": bool(config.local_layers), "sliding_window": config.window}
    local = {"max_window_layers": min(config.local_layers, default=0), "layer_types": layer_types(config)}
    return llama_fields(config) | sliding | (local if config.local_layers else {})


def hf_fields_3(config: ModelConfig) -> dict[str, object]:
    """Qwen3, to config.json."""
    return hf_fields_2(config) | {"attention_bias": config.qkv_bias}


def gguf_config(fields: Fields, file: TensorFile) -> ModelConfig:
    """From GGUF metadata."""
    return common.gguf_llama(fields, file, qk_norm="blk.0.attn_q_norm.weight" in file.shapes)


FAMILIES = (
    Family(
        "qwen2",
        model_types=("qwen2",),
        architectures=("Qwen2ForCausalLM",),
        hf=common.hf_layout(hf_config_2, hf_fields_2),
        gguf_architectures=("qwen2",),
        gguf=Layout(gguf_config, common.gguf_sources),
    ),
    Family(
        "qwen3",
        model_types=("qwen3",),
        architectures=("Qwen3ForCausalLM",),
        hf=common.hf_layout(hf_config_3, hf_fields_3),
        gguf_architectures=("qwen3",),
        gguf=Layout(gguf_config, common.gguf_sources),
    ),
)
