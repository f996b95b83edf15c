"""DistilBERT (Sanh et al. 2019): BERT without segments, under other names."""

from jaxinterp.models.config import ModelConfig
from jaxinterp.models.families.common import PLAIN, hf_bert, hf_plain_sizes
from jaxinterp.models.families.family import Family, Layout, Shapes, SourceMap, TensorFile, linear, sources
from jaxinterp.models.families.fields import Fields
from jaxinterp.models.families.writing import name_of, plain_fields

HF_NAMES = {
    "embedding": "embeddings.word_embeddings.weight",
    "unembedding": "vocab_projector.weight",
    "b_unembed": "vocab_projector.bias",
    "positions": "embeddings.position_embeddings.weight",
    "norm_embed.scale": "embeddings.LayerNorm.weight",
    "norm_embed.bias": "embeddings.LayerNorm.bias",
    "head.b_head": "vocab_transform.bias",
    "head.norm.scale": "vocab_layer_norm.weight",
    "head.norm.bias": "vocab_layer_norm.bias",
    "layers.norm_attn.scale": "transformer.layer.{}.sa_layer_norm.weight",
    "layers.norm_attn.bias": "transformer.layer.{}.sa_layer_norm.bias",
    "layers.norm_mlp.scale": "transformer.layer.{}.output_layer_norm.weight",
    "layers.norm_mlp.bias": "transformer.layer.{}.output_layer_norm.bias",
    "layers.w_q": "transformer.layer.{}.attention.q_lin.weight",
    "layers.b_q": "transformer.layer.{}.attention.q_lin.bias",
    "layers.w_k": "transformer.layer.{}.attention.k_lin.weight",
    "layers.b_k": "transformer.layer.{}.attention.k_lin.bias",
    "layers.w_v": "transformer.layer.{}.attention.v_lin.weight",
    "layers.b_v": "transformer.layer.{}.attention.v_lin.bias",
    "layers.w_o": "transformer.layer.{}.attention.out_lin.weight",
    "layers.b_o": "transformer.layer.{}.attention.out_lin.bias",
    "layers.w_in": "transformer.layer.{}.ffn.lin1.weight",
    "layers.b_in": "transformer.layer.{}.ffn.lin1.bias",
    "layers.w_out": "transformer.layer.{}.ffn.lin2.weight",
    "layers.b_out": "transformer.layer.{}.ffn.lin2.bias",
}


def hf_config(fields: Fields, file: TensorFile) -> ModelConfig:
    """From config.json."""
    fields.get("sinusoidal_pos_embds", None)  # how the stored positions began
    fields.get("tie_weights_", None)  # tie_word_embeddings alone counts
    sizes = hf_plain_sizes(fields, d_mlp="hidden_dim")
    return hf_bert(sizes, fields, norm_eps=1e-12, ffn=fields.one_of("activation", PLAIN, "gelu"))


def hf_fields(config: ModelConfig) -> dict[str, object]:
    """To config.json."""
    return plain_fields(config, "hidden_dim") | {"activation": name_of(config.ffn, PLAIN)}


def hf_sources(config: ModelConfig, shapes: Shapes) -> SourceMap:
    """From safetensors."""
    return sources(HF_NAMES, shapes, {"head.w_head": linear("vocab_transform.weight", shapes["head.w_head"])})


FAMILY = Family(
    "distilbert",
    model_types=("distilbert",),
    architectures=("DistilBertForMaskedLM",),
    hf=Layout(
        hf_config,
        hf_sources,
        "distilbert.",
        {r"embeddings\.position_ids": "0, 1, 2, …"},
        {"vocab_projector.weight": "embeddings.word_embeddings.weight"},
        aliases={"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
        outside=("vocab_",),
        fields=hf_fields,
    ),
)
