"""Parts of config.json that families share on the way back: what `common` and `rope` read, from our config.

A writer says what its family can say of a config, and no more: whoever exports reads it again and compares. So a value
that the family does not have becomes the one that it has instead, never an error.
"""

import math
from collections.abc import Mapping

from jaxinterp.models.config import ModelConfig, RopeScaling
from jaxinterp.models.families.common import GATED, PLAIN


def name_of(value: object, names: Mapping[str, object]) -> str:
    """The first name in config.json of this value of ours; of values that the family lacks, its first name."""
    return next((name for name, meant in names.items() if meant == value), next(iter(names)))


def plain_fields(config: ModelConfig, d_mlp: str = "intermediate_size") -> dict[str, object]:
    """What `common.hf_plain_sizes` reads, and whether embeddings are tied; `d_mlp` is the field of the FFN's width."""
    return {
        "vocab_size": config.d_vocab,
        "max_position_embeddings": config.n_ctx,
        "num_hidden_layers": config.n_layers,
        "hidden_size": config.d_model,
        d_mlp: config.d_mlp,
        "num_attention_heads": config.n_heads,
        "tie_word_embeddings": config.tied,
    }


def gpt_fields(config: ModelConfig, d_mlp: str) -> dict[str, object]:
    """What `common.hf_gpt` reads."""
    own = {"layer_norm_epsilon": config.norm_eps, "activation_function": name_of(config.ffn, PLAIN)}
    return plain_fields(config, d_mlp) | own


def bert_fields(config: ModelConfig, n_segments: int, activations: Mapping[str, str] = PLAIN) -> dict[str, object]:
    """What `common.hf_segmented_bert` reads."""
    return plain_fields(config) | {
        "type_vocab_size": n_segments,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": name_of(config.ffn, activations),
    }


def llama_fields(config: ModelConfig) -> dict[str, object]:
    """What `common.hf_sizes` and `common.hf_llama` read."""
    return plain_fields(config) | {
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.d_head,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": name_of(config.ffn, GATED),
        "rope_theta": config.rope_theta,
        "rope_scaling": rope_scaling(config.rope_scaling),
    }


def rope_scaling(scaling: RopeScaling | None) -> dict[str, object] | None:
    """Scaled rotary positions, as `rope.hf_rope` reads them."""
    if scaling is None:
        return None
    fields: dict[str, object] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind != "linear":
        fields["original_max_position_embeddings"] = scaling.original_n_ctx
    if scaling.kind == "llama3":
        fields |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    if scaling.kind == "yarn":
        fields |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow, "truncate": scaling.whole_pairs}
        fields["attention_factor"] = scaling.amplitude
    return fields


def rope_by_layer_type(config: ModelConfig) -> dict[str, dict[str, object]]:
    """Rotary positions of global and of local layers, as `rope.hf_rope_by_layer_type` reads them."""
    scaling = rope_scaling(config.rope_scaling) or {"rope_type": "default"}
    return {
        "full_attention": {**scaling, "rope_theta": config.rope_theta},
        "sliding_attention": {"rope_type": "default", "rope_theta": theta_of_local_layers(config)},
    }


def theta_of_local_layers(config: ModelConfig) -> float:
    """The base wavelength of layers that attend to a window."""
    return config.rope_theta if config.rope_theta_local is None else config.rope_theta_local


def layer_types(config: ModelConfig) -> list[str]:
    """One type for each layer, as `common.hf_local_layers` reads them."""
    local = set(config.local_layers)
    return ["sliding_attention" if layer in local else "full_attention" for layer in range(config.n_layers)]


def window_of_all_layers(config: ModelConfig) -> int | None:
    """The window of all layers, as `common.hf_window` reads it: null is none."""
    return config.window if config.local_layers else None


def inverse_square(scale: float) -> int | float:
    """The x with x^-1/2 = scale; a whole number where one is it exactly, as Gemma's query_pre_attn_scalar."""
    if scale <= 0:
        return 1.0  # there is none
    near = scale**-2
    candidates = (round(near), near, math.nextafter(near, 0), math.nextafter(near, math.inf))
    return next((x for x in candidates if x > 0 and x**-0.5 == scale), near)
