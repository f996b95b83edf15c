"""OPT (Zhang et al. 2022); its 350m, with narrow embeddings and norms after the sum, is refused."""

from jaxinterp.base.errors import UserError
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.families.common import PLAIN, hf_plain_sizes
from jaxinterp.models.families.family import Family, Layout, Shapes, Source, SourceMap, TensorFile, sources
from jaxinterp.models.families.fields import Fields
from jaxinterp.models.families.writing import name_of, plain_fields

HF_NAMES = {
    "embedding": "embed_tokens.weight",
    "unembedding": "lm_head.weight",
    "norm_final.scale": "final_layer_norm.weight",
    "norm_final.bias": "final_layer_norm.bias",
    "layers.norm_attn.scale": "layers.{}.self_attn_layer_norm.weight",
    "layers.norm_attn.bias": "layers.{}.self_attn_layer_norm.bias",
    "layers.norm_mlp.scale": "layers.{}.final_layer_norm.weight",
    "layers.norm_mlp.bias": "layers.{}.final_layer_norm.bias",
    "layers.w_q": "layers.{}.self_attn.q_proj.weight",
    "layers.b_q": "layers.{}.self_attn.q_proj.bias",
    "layers.w_k": "layers.{}.self_attn.k_proj.weight",
    "layers.b_k": "layers.{}.self_attn.k_proj.bias",
    "layers.w_v": "layers.{}.self_attn.v_proj.weight",
    "layers.b_v": "layers.{}.self_attn.v_proj.bias",
    "layers.w_o": "layers.{}.self_attn.out_proj.weight",
    "layers.b_o": "layers.{}.self_attn.out_proj.bias",
    "layers.w_in": "layers.{}.fc1.weight",
    "layers.b_in": "layers.{}.fc1.bias",
    "layers.w_out": "layers.{}.fc2.weight",
    "layers.b_out": "layers.{}.fc2.bias",
}
OFFSET = 2  # rows before that of the first position


def hf_config(fields: Fields, file: TensorFile) -> ModelConfig:
    """From config.json."""
    sizes = hf_plain_sizes(fields, d_mlp="ffn_dim")
    d_model = sizes["d_model"]
    width = fields.integer("word_embed_proj_dim", d_model)
    if width != d_model:
        raise UserError(
            f"{fields.where}: embeddings of another width than the model's (word_embed_proj_dim {width}, hidden_size "
            f"{d_model}) are not supported: they need a matrix before the first layer and one after the last"
        )
    fields.only("do_layer_norm_before", True)
    fields.only("_remove_final_layer_norm", False)
    fields.only("layer_norm_elementwise_affine", True)
    for name in ("layerdrop", "init_std"):
        fields.get(name, None)  # of training
    bias = fields.flag("enable_bias", True)
    return ModelConfig(
        **sizes,
        norm_eps=1e-5,
        ffn=fields.one_of("activation_function", PLAIN, "relu"),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        tied=fields.flag("tie_word_embeddings", True),
    )


def hf_fields(config: ModelConfig) -> dict[str, object]:
    """To config.json."""
    return plain_fields(config, "ffn_dim") | {
        "word_embed_proj_dim": config.d_model,
        "do_layer_norm_before": True,
        "activation_function": name_of(config.ffn, PLAIN),
        "enable_bias": config.qkv_bias,
    }


def hf_sources(config: ModelConfig, shapes: Shapes) -> SourceMap:
    """From safetensors."""
    rows, width = shapes["positions"]
    table = (("embed_positions.weight", (rows + OFFSET, width)),)
    return sources(HF_NAMES, shapes, {"positions": Source(table, lambda x: x[OFFSET:], whole=False)})


def rename(name: str) -> str:
    """A bare OPTModel lacks half of the prefix."""
    return name.removeprefix("decoder.")


FAMILY = Family(
    "opt",
    model_types=("opt",),
    architectures=("OPTForCausalLM",),
    hf=Layout(
        hf_config,
        hf_sources,
        "model.decoder.",
        copies={"lm_head.weight": "embed_tokens.weight"},
        rename=rename,
        outside=("lm_head.",),
        fields=hf_fields,
    ),
)
