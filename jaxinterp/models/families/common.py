"""Parts that families share: sizes and whole configs, from config.json and from GGUF metadata, and activations."""

from collections.abc import Mapping

from jaxinterp.base.errors import UserError
from jaxinterp.models.config import ModelConfig, RopeScaling
from jaxinterp.models.families.family import (
    ConfigReader,
    ConfigWriter,
    Layout,
    Shapes,
    SourceMap,
    Sources,
    TensorFile,
    sources,
)
from jaxinterp.models.families.fields import REQUIRED, Fields
from jaxinterp.models.families.names import GGUF_NAMES, HF_IGNORED, HF_NAMES, HF_TIED
from jaxinterp.models.families.rope import gguf_rope, hf_rope

PLAIN = {
    "gelu": "gelu_exact",
    "gelu_python": "gelu_exact",
    "gelu_new": "gelu",
    "gelu_fast": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "relu": "relu",
}
GATED = {"silu": "swiglu", "swish": "swiglu", "gelu_pytorch_tanh": "geglu", "gelu_new": "geglu"}


def refuse_what_no_family_has(fields: Fields, attention: str) -> None:
    """Raises if a field that any config.json may have asks for another computation."""
    fields.only("is_causal", attention == "causal")
    fields.only("is_encoder_decoder", False)
    for name in ("quantization_config", "compression_config", "per_layer_config"):
        fields.only(name)


def head_width(fields: Fields, d_model: int, n_heads: int) -> int:
    """d_model / n_heads, which has to be whole."""
    if n_heads < 1 or d_model % n_heads:
        raise UserError(f"{fields.where}: a width of {d_model} cannot be divided among {n_heads} heads")
    return d_model // n_heads


def hf_sizes(
    fields: Fields, *, d_head: int | None = None, n_ctx: object = REQUIRED, partly_rotary: bool = False
) -> dict[str, object]:
    """Sizes, norm and positions, the common part of Llama, Qwen and Gemma, as fields of `ModelConfig`.

    Args:
      d_head: head width if the config has none; None is d_model / n_heads.
      n_ctx: context if the config has none.
      partly_rotary: whether the family knows heads of which a share rotates; it reads that share itself.
    """
    d_model, n_heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    if not partly_rotary:
        for part in (fields, fields.part("rope_parameters"), fields.part("rope_scaling")):
            part.only("partial_rotary_factor", 1.0)
    if "head_dim" not in fields and d_head is None:
        d_head = head_width(fields, d_model, n_heads)
    return {
        "d_vocab": fields.integer("vocab_size"),
        "n_ctx": fields.integer("max_position_embeddings", n_ctx),
        "n_layers": fields.integer("num_hidden_layers"),
        "d_model": d_model,
        "d_mlp": fields.integer("intermediate_size"),
        "n_heads": n_heads,
        "n_kv_heads": fields.integer("num_key_value_heads", n_heads),
        "d_head": fields.integer("head_dim", d_head),
        "norm": "rmsnorm",
        "norm_eps": fields.number("rms_norm_eps", 1e-6),
        "position": "rotary",
    }


def hf_plain_sizes(
    fields: Fields, *, d_mlp: str = "intermediate_size", wide: bool = False, **defaults: int
) -> dict[str, object]:
    """Sizes of a model whose query heads have keys and values of their own, as fields of `ModelConfig`.

    Args:
      d_mlp: the field of the FFN's width.
      wide: whether that width is 4 · d_model if the config has none.
      defaults: sizes by field, for configs that lack them.
    """

    def size(name: str, default: object = REQUIRED) -> int:
        return fields.integer(name, defaults.get(name, default))

    d_model, n_heads = size("hidden_size"), size("num_attention_heads")
    return {
        "d_vocab": size("vocab_size"),
        "n_ctx": size("max_position_embeddings"),
        "n_layers": size("num_hidden_layers"),
        "d_model": d_model,
        "d_mlp": size(d_mlp, 4 * d_model if wide else REQUIRED),
        "n_heads": n_heads,
        "n_kv_heads": n_heads,
        "d_head": head_width(fields, d_model, n_heads),
    }


def hf_gpt(fields: Fields, d_mlp: str, **defaults: int) -> dict[str, object]:
    """The common part of GPT-2 and its descendants, as fields of `ModelConfig`; see `hf_plain_sizes`."""
    return hf_plain_sizes(fields, d_mlp=d_mlp, wide=True, **defaults) | {
        "norm_eps": fields.number("layer_norm_epsilon", 1e-5),
        "ffn": fields.one_of("activation_function", PLAIN, "gelu_new"),
    }


def hf_bert(sizes: Mapping[str, object], fields: Fields, **own: object) -> ModelConfig:
    """The config of a masked language model like BERT; `own` is what the family says of itself."""
    return ModelConfig(
        **sizes,
        attention="bidirectional",
        norm_placement="post",
        embed_norm=True,
        tied=fields.flag("tie_word_embeddings", True),
        unembed_bias=True,
        head="transform",
        **own,
    )


def hf_segmented_bert(fields: Fields, n_segments: int, activations: Mapping[str, str] = PLAIN) -> ModelConfig:
    """The config of BERT and RoBERTa, whose texts have segments."""
    fields.only("position_embedding_type", "absolute")
    fields.only("is_decoder", False)
    fields.only("add_cross_attention", False)
    fields.only("type_vocab_size", n_segments)
    norm_eps = fields.number("layer_norm_eps", 1e-12)
    ffn = fields.one_of("hidden_act", activations, "gelu")
    return hf_bert(hf_plain_sizes(fields), fields, norm_eps=norm_eps, ffn=ffn)


def hf_llama(fields: Fields, sizes: Mapping[str, object], *, bias: bool = False, **own: object) -> ModelConfig:
    """The config of a model like Llama.

    Args:
      sizes: `hf_sizes`.
      bias: whether queries, keys, values and attention's output have biases.
      own: fields of `ModelConfig` in which the family differs.
    """
    theta, scaling = hf_rope(fields)
    refuse_scaled_windows(fields, own.get("local_layers", ()), scaling)
    shared = {"qkv_bias": bias, "out_bias": bias, "mlp_bias": False}
    return ModelConfig(
        **shared | sizes | own,
        rope_theta=theta,
        rope_scaling=scaling,
        ffn=fields.one_of("hidden_act", GATED, "silu"),
        tied=fields.flag("tie_word_embeddings", False),
    )


def hf_sources(config: ModelConfig, shapes: Shapes) -> SourceMap:
    """From safetensors with the names of Llama."""
    return sources(HF_NAMES, shapes)


def hf_layout(config: ConfigReader, fields: ConfigWriter, sources: Sources = hf_sources) -> Layout:
    """The layout of a family like Llama."""
    return Layout(config, sources, "model.", HF_IGNORED, HF_TIED, outside=("lm_head.",), fields=fields)


def hf_local_layers(fields: Fields, n_layers: int, default: tuple[int, ...]) -> tuple[int, ...]:
    """Layers that attend to a window, from `layer_types` if it is there."""
    types = fields.get("layer_types", None)
    if types is None:
        return default
    known = ("full_attention", "sliding_attention")
    if not isinstance(types, list) or len(types) != n_layers or not all(kind in known for kind in types):
        raise fields.wrong("layer_types", types, f"a list of {n_layers} out of {' and '.join(known)}")
    return tuple(layer for layer, kind in enumerate(types) if kind == "sliding_attention")


def hf_window(fields: Fields, sizes: Mapping[str, int], default: int | None) -> dict[str, object]:
    """A window of all layers, as fields of `ModelConfig`; null switches it off, unlike absence.

    Args:
      sizes: `hf_sizes`; a window as long as the context is none.
      default: the window if the config has none.
    """
    fields.only("layer_types")  # implementations disagree whether it acts in these families
    given = fields.integer("sliding_window", None)
    window = given if "sliding_window" in fields.values else default
    if window is None or window >= sizes["n_ctx"]:
        return {}
    return {"window": window, "local_layers": tuple(range(sizes["n_layers"]))}


def refuse_scaled_windows(fields: Fields, local_layers: tuple[int, ...], scaling: RopeScaling | None) -> None:
    """Raises if rotary positions of local layers would have to be scaled."""
    if local_layers and scaling is not None:
        raise UserError(f"{fields.where}: rope_scaling together with sliding windows is not supported")


def gguf_vocabulary(fields: Fields, file: TensorFile) -> int:
    """The rows of the embedding, which has to agree with the metadata."""
    if "token_embd.weight" not in file.shapes:
        raise UserError(f"{fields.where}: tensor 'token_embd.weight' is missing")
    d_vocab = file.shapes["token_embd.weight"][0]
    fields.only("vocab_size", d_vocab)
    return d_vocab


def gguf_plain_sizes(fields: Fields, file: TensorFile, d_head: int | None = None) -> dict[str, object]:
    """`hf_plain_sizes` from GGUF metadata; there is an unembedding if the file has it."""
    d_model, n_heads = fields.integer("embedding_length"), fields.integer("attention.head_count")
    return {
        "d_vocab": gguf_vocabulary(fields, file),
        "n_ctx": fields.integer("context_length"),
        "n_layers": fields.integer("block_count"),
        "d_model": d_model,
        "d_mlp": fields.integer("feed_forward_length"),
        "n_heads": n_heads,
        "n_kv_heads": n_heads,
        "d_head": d_head or head_width(fields, d_model, n_heads),
        "tied": "output.weight" not in file.shapes,
    }


def gguf_sizes(fields: Fields, file: TensorFile) -> dict[str, object]:
    """`hf_sizes` from GGUF metadata; there are biases and an unembedding if the file has them."""
    sizes = gguf_plain_sizes(fields, file, fields.integer("attention.key_length", None))
    fields.only("attention.value_length", sizes["d_head"])
    fields.only("rope.dimension_count", sizes["d_head"])
    fields.only("expert_count", 0)
    return sizes | {
        "n_kv_heads": fields.integer("attention.head_count_kv", sizes["n_heads"]),
        "norm": "rmsnorm",
        "norm_eps": fields.number("attention.layer_norm_rms_epsilon"),
        "position": "rotary",
        "qkv_bias": "blk.0.attn_q.bias" in file.shapes,
        "out_bias": "blk.0.attn_output.bias" in file.shapes,
        "mlp_bias": "blk.0.ffn_up.bias" in file.shapes,
    }


def gguf_llama(fields: Fields, file: TensorFile, **own: object) -> ModelConfig:
    """The config of a model like Llama from GGUF metadata; `own` are fields in which the family differs."""
    theta, scaling = gguf_rope(fields)
    return ModelConfig(**gguf_sizes(fields, file), rope_theta=theta, rope_scaling=scaling, ffn="swiglu", **own)


def gguf_sources(config: ModelConfig, shapes: Shapes) -> SourceMap:
    """From GGUF."""
    return sources(GGUF_NAMES, shapes)
