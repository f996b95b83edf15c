"""Gemma 2 (soft caps, alternating windows) and Gemma 3's text models (norms of queries and keys, 5 : 1 windows)."""

import numpy as np

from jaxinterp.models.config import ModelConfig, RopeScaling
from jaxinterp.models.families import common, names
from jaxinterp.models.families.family import Family, Layout, Shapes, Source, SourceMap, TensorFile, sources
from jaxinterp.models.families.fields import Fields
from jaxinterp.models.families.rope import gguf_rope, hf_rope, hf_rope_by_layer_type
from jaxinterp.models.families.writing import inverse_square, layer_types, llama_fields, theta_of_local_layers

HF_NAMES = names.HF_NAMES | {
    "layers.norm_attn_out.scale": "layers.{}.post_attention_layernorm.weight",
    "layers.norm_mlp.scale": "layers.{}.pre_feedforward_layernorm.weight",
    "layers.norm_mlp_out.scale": "layers.{}.post_feedforward_layernorm.weight",
}
LARGEST_2, LARGEST_3 = 46, 62  # layers of the 27B models, which scale attention scores in another way
# What the "text_config" of models of text and images leaves out, as transformers has it.
TEXT_DEFAULTS = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131_072,
}
OF_IMAGES = r"(model\.)?(vision_tower|multi_modal_projector)\..*"


def _hf_common(fields: Fields) -> dict[str, object]:
    sizes = common.hf_sizes(fields, d_head=256)
    if "sliding_window" in fields.values and fields.values["sliding_window"] is None:
        raise fields.wrong("sliding_window", None, "a whole number")
    fields.only("use_bidirectional_attention", False)
    fields.get("hidden_act", None)  # hidden_activation alone counts
    bias = fields.flag("attention_bias", False)
    window = fields.integer("sliding_window", 4096)
    fields.only("sliding_window_size", window)  # a second name in the largest Gemma 2 models
    return sizes | {
        "norm_placement": "sandwich",
        "attn_scale": fields.number("query_pre_attn_scalar", 256.0) ** -0.5,
        "ffn": fields.one_of("hidden_activation", common.GATED, "gelu_pytorch_tanh"),
        "qkv_bias": bias,
        "out_bias": bias,
        "mlp_bias": False,
        "embed_scale": sizes["d_model"] ** 0.5,
        "tied": fields.flag("tie_word_embeddings", True),
        "window": window,
    }


def _local(n_layers: int, period: int) -> tuple[int, ...]:
    """All layers but every `period`-th."""
    return tuple(layer for layer in range(n_layers) if (layer + 1) % period)


def hf_config_2(fields: Fields, file: TensorFile) -> ModelConfig:
    """Gemma 2, from config.json."""
    shared = _hf_common(fields)
    local = common.hf_local_layers(fields, shared["n_layers"], _local(shared["n_layers"], 2))
    return _config_2(fields, shared, hf_rope(fields), local)


def _config_2(
    fields: Fields, shared: dict[str, object], rope: tuple[float, RopeScaling | None], local: tuple[int, ...]
) -> ModelConfig:
    theta, scaling = rope
    common.refuse_scaled_windows(fields, local, scaling)
    return ModelConfig(
        **shared,
        rope_theta=theta,
        rope_scaling=scaling,
        local_layers=local,
        attn_softcap=_cap(fields, "attn_logit_softcapping", 50.0),
        logit_softcap=_cap(fields, "final_logit_softcapping", 30.0),
    )


def hf_config_3(fields: Fields, file: TensorFile) -> ModelConfig:
    """Gemma 3, from config.json of a text model."""
    shared = _hf_common(fields)
    theta, scaling, theta_local = hf_rope_by_layer_type(fields, 1e6, 1e4)
    fields.only("attn_logit_softcapping")  # implementations disagree whether it acts; no published model has it
    period = fields.integer("sliding_window_pattern", 6)
    if "layer_types" not in fields:
        fields.only("_sliding_window_pattern", period)  # which transformers writes, but does not read
    local = common.hf_local_layers(fields, shared["n_layers"], _local(shared["n_layers"], period))
    return ModelConfig(
        **shared,
        rope_theta=theta,
        rope_scaling=scaling,
        rope_theta_local=theta_local,
        local_layers=local,
        qk_norm=True,
        logit_softcap=_cap(fields, "final_logit_softcapping", None),
    )


def hf_config_3_of_images(fields: Fields, file: TensorFile) -> ModelConfig:
    """Gemma 3, from the text half of the config.json of a model of text and images."""
    text = fields.part("text_config")
    text.only("model_type", "gemma3_text")
    fields.only("tie_word_embeddings", True)
    text.only("tie_word_embeddings", True)
    for name in ("vision_config", "mm_tokens_per_image", "boi_token_index", "eoi_token_index", "image_token_index"):
        fields.get(name, None)  # of images
    given = {name: value for name, value in text.values.items() if value is not None or name not in TEXT_DEFAULTS}
    whole = Fields(TEXT_DEFAULTS | given, text.where)
    config = hf_config_3(whole, file)
    text.took_part_in(whole)
    return config


def _hf_fields(config: ModelConfig) -> dict[str, object]:
    shared = llama_fields(config)
    scalar = config.d_head if config.attn_scale is None else inverse_square(config.attn_scale)
    own = {
        "hidden_activation": shared.pop("hidden_act"),
        "attention_bias": config.qkv_bias,
        "query_pre_attn_scalar": scalar,
        "sliding_window": 4096 if config.window is None else config.window,
        "layer_types": layer_types(config),
        "final_logit_softcapping": config.logit_softcap,
    }
    return shared | own


def hf_fields_2(config: ModelConfig) -> dict[str, object]:
    """Gemma 2, to config.json."""
    return _hf_fields(config) | {"attn_logit_softcapping": config.attn_softcap}


def hf_fields_3(config: ModelConfig) -> dict[str, object]:
    """Gemma 3, to config.json of a text model."""
    return _hf_fields(config) | {"rope_local_base_freq": theta_of_local_layers(config)}


def text_half(name: str) -> str:
    """Tensor names of the text half, which old and new files put under different prefixes."""
    for prefix in ("language_model.model.", "model.language_model.", "language_model."):
        name = name.removeprefix(prefix)
    return name


def _cap(fields: Fields, name: str, default: float | None) -> float | None:
    """A soft cap, which null switches off, unlike absence."""
    if name in fields.values and fields.values[name] is None:
        return fields.get(name, None)
    cap = fields.number(name, default)
    if cap is not None and cap <= 0:
        raise fields.wrong(name, cap, "a number above 0, or null for no cap")
    return cap


def hf_sources(config: ModelConfig, shapes: Shapes) -> SourceMap:
    """From safetensors, where a norm's weight w means a scale of 1 + w; GGUF stores 1 + w."""
    norms = {path: _one_plus(HF_NAMES[path], shape) for path, shape in shapes.items() if path.endswith(".scale")}
    return sources(HF_NAMES, shapes, norms)


def _one_plus(name: str, shape: tuple[int, ...]) -> Source:
    def combine(x: np.ndarray) -> np.ndarray:
        return 1 + x

    def split(parameter: np.ndarray, x: np.ndarray) -> None:
        x[...] = parameter - 1

    return Source(((name, shape),), combine, split=split, whole=False)


def _gguf_common(fields: Fields, file: TensorFile, largest: int) -> dict[str, object]:
    sizes = common.gguf_sizes(fields, file)
    # The scale is not in the metadata; llama.cpp goes by the number of layers, too.
    width = sizes["d_model"] / sizes["n_heads"] if sizes["n_layers"] == largest else sizes["d_head"]
    return sizes | {
        "norm_placement": "sandwich",
        "attn_scale": width**-0.5,
        "ffn": "geglu",
        "embed_scale": sizes["d_model"] ** 0.5,
        "window": fields.integer("attention.sliding_window", 4096),
    }


def gguf_config_2(fields: Fields, file: TensorFile) -> ModelConfig:
    """Gemma 2, from GGUF metadata."""
    shared = _gguf_common(fields, file, LARGEST_2)
    return _config_2(fields, shared, gguf_rope(fields), _gguf_local(fields, shared["n_layers"], 2))


def gguf_config_3(fields: Fields, file: TensorFile) -> ModelConfig:
    """Gemma 3, from GGUF metadata."""
    shared = _gguf_common(fields, file, LARGEST_3)
    theta, scaling = gguf_rope(fields, 1e6)
    fields.only("attn_logit_softcapping")
    return ModelConfig(
        **shared,
        rope_theta=theta,
        rope_scaling=scaling,
        rope_theta_local=fields.number("rope.freq_base_swa", 1e4),
        local_layers=_gguf_local(fields, shared["n_layers"], 6),
        qk_norm=True,
        logit_softcap=_cap(fields, "final_logit_softcapping", None),
    )


def _gguf_local(fields: Fields, n_layers: int, period: int) -> tuple[int, ...]:
    pattern = fields.get("attention.sliding_window_pattern", period)
    if not isinstance(pattern, np.ndarray):
        return _local(n_layers, fields.integer("attention.sliding_window_pattern", period))
    if pattern.shape != (n_layers,):
        raise fields.wrong(
            "attention.sliding_window_pattern", pattern.tolist(), f"one flag for each of {n_layers} layers"
        )
    return tuple(np.flatnonzero(pattern).tolist())


FAMILIES = (
    Family(
        "gemma2",
        model_types=("gemma2",),
        architectures=("Gemma2ForCausalLM",),
        hf=common.hf_layout(hf_config_2, hf_fields_2, hf_sources),
        gguf_architectures=("gemma2",),
        gguf=Layout(gguf_config_2, common.gguf_sources),
    ),
    Family(
        "gemma3",
        model_types=("gemma3_text",),
        architectures=("Gemma3ForCausalLM",),
        hf=common.hf_layout(hf_config_3, hf_fields_3, hf_sources),
        gguf_architectures=("gemma3",),
        gguf=Layout(gguf_config_3, common.gguf_sources),
    ),
    Family(
        "gemma3",
        model_types=("gemma3",),
        architectures=("Gemma3ForConditionalGeneration",),
        hf=Layout(
            hf_config_3_of_images,
            hf_sources,
            ignored=names.HF_IGNORED | {OF_IMAGES: "of images, which are not read"},
            copies=names.HF_TIED,
            rename=text_half,
        ),
    ),
)
