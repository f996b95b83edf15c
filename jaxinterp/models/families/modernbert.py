"""ModernBERT (Warner et al. 2024): rotary positions, windows to both sides in two layers of three, gated FFNs."""

from jaxinterp.base.errors import UserError
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.families.common import hf_local_layers, hf_plain_sizes
from jaxinterp.models.families.family import (
    Family,
    Layout,
    Shapes,
    Source,
    SourceMap,
    TensorFile,
    filled,
    linear,
    one_after_another,
    sources,
)
from jaxinterp.models.families.fields import Fields
from jaxinterp.models.families.rope import hf_rope_by_layer_type
from jaxinterp.models.families.writing import (
    layer_types,
    name_of,
    plain_fields,
    rope_by_layer_type,
    theta_of_local_layers,
)

HF_NAMES = {
    "embedding": "embeddings.tok_embeddings.weight",
    "unembedding": "decoder.weight",
    "b_unembed": "decoder.bias",
    "norm_embed.scale": "embeddings.norm.weight",
    "norm_embed.bias": "embeddings.norm.bias",
    "norm_final.scale": "final_norm.weight",
    "norm_final.bias": "final_norm.bias",
    "head.norm.scale": "head.norm.weight",
    "head.norm.bias": "head.norm.bias",
    "layers.norm_attn.scale": "layers.{}.attn_norm.weight",
    "layers.norm_attn.bias": "layers.{}.attn_norm.bias",
    "layers.norm_mlp.scale": "layers.{}.mlp_norm.weight",
    "layers.norm_mlp.bias": "layers.{}.mlp_norm.bias",
    "layers.w_o": "layers.{}.attn.Wo.weight",
    "layers.b_o": "layers.{}.attn.Wo.bias",
    "layers.w_out": "layers.{}.mlp.Wo.weight",
    "layers.b_out": "layers.{}.mlp.Wo.bias",
}
ACTIVATIONS = {"gelu": "geglu_exact", "gelu_pytorch_tanh": "geglu", "silu": "swiglu"}
# Of training, of classification, and of how it is computed.
NO_MATTER = ("initializer_cutoff_factor", "classifier_pooling", "deterministic_flash_attn", "sparse_prediction")
NO_MATTER += ("sparse_pred_ignore_index", "reference_compile", "repad_logits_with_grad")
# Published configs have these too, and nothing reads them: norm_eps and rotary positions count.
NO_MATTER += ("layer_norm_eps", "position_embedding_type")


def hf_config(fields: Fields, file: TensorFile) -> ModelConfig:
    """From config.json."""
    sizes = hf_plain_sizes(fields)
    n_layers = sizes["n_layers"]
    fields.only("rope_scaling")
    fields.only("classifier_bias", False)
    fields.only("head_dim", sizes["d_head"])  # rotary positions would be made for it
    fields.only("sliding_window", fields.integer("local_attention", 128) // 2)  # the same to one side
    for name in NO_MATTER:
        fields.get(name, None)
    ffn = fields.one_of("hidden_activation", ACTIVATIONS, "gelu")
    if fields.one_of("classifier_activation", ACTIVATIONS, "gelu") != ffn:
        raise UserError(f"{fields.where}: another classifier_activation than hidden_activation is not supported")
    theta, scaling, theta_local = hf_rope_by_layer_type(
        fields, fields.number("global_rope_theta", 160_000.0), fields.number("local_rope_theta", 10_000.0)
    )
    period = fields.integer("global_attn_every_n_layers", 3)
    local = tuple(layer for layer in range(n_layers) if layer % period)
    qkv_bias = fields.flag("attention_bias", False)
    return ModelConfig(
        **sizes,
        attention="bidirectional",
        norm_bias=fields.flag("norm_bias", False),
        norm_eps=fields.number("norm_eps", 1e-5),
        first_attn_norm=False,
        position="rotary",
        rope_theta=theta,
        rope_scaling=scaling,
        rope_theta_local=theta_local,
        # Half of local_attention lies on either side, and the position itself comes on top.
        window=fields.integer("local_attention", 128) // 2 + 1,
        local_layers=hf_local_layers(fields, n_layers, local),
        ffn=ffn,
        qkv_bias=qkv_bias,
        out_bias=qkv_bias,
        mlp_bias=fields.flag("mlp_bias", False),
        embed_norm=True,
        tied=fields.flag("tie_word_embeddings", True),
        unembed_bias=fields.flag("decoder_bias", True),
        head="transform",
    )


def hf_fields(config: ModelConfig) -> dict[str, object]:
    """To config.json."""
    activation = name_of(config.ffn, ACTIVATIONS)
    return plain_fields(config) | {
        "norm_eps": config.norm_eps,
        "norm_bias": config.norm_bias,
        "global_rope_theta": config.rope_theta,
        "local_rope_theta": theta_of_local_layers(config),
        "rope_parameters": rope_by_layer_type(config),
        "local_attention": 128 if config.window is None else 2 * (config.window - 1),
        "layer_types": layer_types(config),
        "hidden_activation": activation,
        "classifier_activation": activation,
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
        "decoder_bias": config.unembed_bias,
    }


def hf_sources(config: ModelConfig, shapes: Shapes) -> SourceMap:
    """From safetensors, where queries, keys and values are one matrix, and gate and up another."""
    special = one_after_another("layers.{}.attn.Wqkv", "qkv", shapes)
    special |= one_after_another("layers.{}.mlp.Wi", ("gate", "in"), shapes)
    special["head.w_head"] = linear("head.dense.weight", shapes["head.w_head"])
    special["head.b_head"] = filled(0.0, shapes["head.b_head"])
    for path, value in (("layers.norm_attn.scale", 1.0), ("layers.norm_attn.bias", 0.0)):
        if path in shapes:
            # The first layer has no such norm, and what stands in for it is not used.
            special[path] = Source(((HF_NAMES[path], shapes[path]),), first=filled(value, shapes[path]))
    return sources(HF_NAMES, shapes, special)


FAMILY = Family(
    "modernbert",
    model_types=("modernbert",),
    architectures=("ModernBertForMaskedLM",),
    hf=Layout(
        hf_config,
        hf_sources,
        "model.",
        copies={"decoder.weight": "embeddings.tok_embeddings.weight"},
        outside=("head.", "decoder."),
        fields=hf_fields,
    ),
)
