"""What several families share: tensor names, activations, and the config fields of sizes."""

from collections.abc import Mapping

from jaxinterp.base.errors import UserError
from jaxinterp.models.config import RopeScaling
from jaxinterp.models.families.family import TensorFile
from jaxinterp.models.families.fields import REQUIRED, Fields

HF_NAMES = {
    "embedding": "embed_tokens.weight",
    "unembedding": "lm_head.weight",
    "norm_final.scale": "norm.weight",
    "layers.norm_attn.scale": "layers.{}.input_layernorm.weight",
    "layers.norm_mlp.scale": "layers.{}.post_attention_layernorm.weight",
    "layers.norm_q.scale": "layers.{}.self_attn.q_norm.weight",
    "layers.norm_k.scale": "layers.{}.self_attn.k_norm.weight",
    "layers.w_q": "layers.{}.self_attn.q_proj.weight",
    "layers.w_k": "layers.{}.self_attn.k_proj.weight",
    "layers.w_v": "layers.{}.self_attn.v_proj.weight",
    "layers.w_o": "layers.{}.self_attn.o_proj.weight",
    "layers.b_q": "layers.{}.self_attn.q_proj.bias",
    "layers.b_k": "layers.{}.self_attn.k_proj.bias",
    "layers.b_v": "layers.{}.self_attn.v_proj.bias",
    "layers.b_o": "layers.{}.self_attn.o_proj.bias",
    "layers.w_gate": "layers.{}.mlp.gate_proj.weight",
    "layers.w_in": "layers.{}.mlp.up_proj.weight",
    "layers.w_out": "layers.{}.mlp.down_proj.weight",
    "layers.b_gate": "layers.{}.mlp.gate_proj.bias",
    "layers.b_in": "layers.{}.mlp.up_proj.bias",
    "layers.b_out": "layers.{}.mlp.down_proj.bias",
}
# Buffers of rotary positions, of each layer or of the model, which older versions of transformers saved. They are
# ignored in every family.
HF_IGNORED = {r"(.+\.)?rotary_emb(_local)?\.((\w+_)?inv_freq|cos_cached|sin_cached)": "computed from the config"}
HF_TIED = {"lm_head.weight": "embed_tokens.weight"}

GGUF_NAMES = {
    "embedding": "token_embd.weight",
    "unembedding": "output.weight",
    "norm_final.scale": "output_norm.weight",
    "norm_final.bias": "output_norm.bias",
    "layers.norm_attn.scale": "blk.{}.attn_norm.weight",
    "layers.norm_attn.bias": "blk.{}.attn_norm.bias",
    "layers.norm_mlp.scale": "blk.{}.ffn_norm.weight",
    "layers.norm_mlp.bias": "blk.{}.ffn_norm.bias",
    "layers.norm_attn_out.scale": "blk.{}.post_attention_norm.weight",
    "layers.norm_mlp_out.scale": "blk.{}.post_ffw_norm.weight",
    "layers.norm_q.scale": "blk.{}.attn_q_norm.weight",
    "layers.norm_k.scale": "blk.{}.attn_k_norm.weight",
    "layers.w_q": "blk.{}.attn_q.weight",
    "layers.w_k": "blk.{}.attn_k.weight",
    "layers.w_v": "blk.{}.attn_v.weight",
    "layers.w_o": "blk.{}.attn_output.weight",
    "layers.b_q": "blk.{}.attn_q.bias",
    "layers.b_k": "blk.{}.attn_k.bias",
    "layers.b_v": "blk.{}.attn_v.bias",
    "layers.b_o": "blk.{}.attn_output.bias",
    "layers.w_gate": "blk.{}.ffn_gate.weight",
    "layers.w_in": "blk.{}.ffn_up.weight",
    "layers.w_out": "blk.{}.ffn_down.weight",
    "layers.b_gate": "blk.{}.ffn_gate.bias",
    "layers.b_in": "blk.{}.ffn_up.bias",
    "layers.b_out": "blk.{}.ffn_down.bias",
}

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
    """Sizes and what Llama, Qwen and Gemma have in common, as fields of `ModelConfig`.

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


def gguf_sizes(fields: Fields, file: TensorFile) -> dict[str, object]:
    """`hf_sizes` from GGUF metadata; biases and an unembedding are there if the file has them."""
    d_model, n_heads = fields.integer("embedding_length"), fields.integer("attention.head_count")
    d_head = fields.integer("attention.key_length", None) or head_width(fields, d_model, n_heads)
    fields.only("attention.value_length", d_head)
    fields.only("rope.dimension_count", d_head)
    fields.only("expert_count", 0)
    d_vocab = gguf_vocabulary(fields, file)
    return {
        "d_vocab": d_vocab,
        "n_ctx": fields.integer("context_length"),
        "n_layers": fields.integer("block_count"),
        "d_model": d_model,
        "d_mlp": fields.integer("feed_forward_length"),
        "n_heads": n_heads,
        "n_kv_heads": fields.integer("attention.head_count_kv", n_heads),
        "d_head": d_head,
        "norm": "rmsnorm",
        "norm_eps": fields.number("attention.layer_norm_rms_epsilon"),
        "position": "rotary",
        "qkv_bias": "blk.0.attn_q.bias" in file.shapes,
        "out_bias": "blk.0.attn_output.bias" in file.shapes,
        "mlp_bias": "blk.0.ffn_up.bias" in file.shapes,
        "tied": "output.weight" not in file.shapes,
    }
