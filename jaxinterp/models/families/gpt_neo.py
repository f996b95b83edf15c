"""GPT-Neo (Black et al. 2021) and TinyStories: layers with a window, attention scores that are not scaled."""

from jaxinterp.models.config import ModelConfig
from jaxinterp.models.families.common import hf_gpt
from jaxinterp.models.families.family import Family, Layout, Shapes, SourceMap, TensorFile, sources
from jaxinterp.models.families.fields import Fields
from jaxinterp.models.families.names import GPT_NAMES
from jaxinterp.models.families.writing import gpt_fields

HF_NAMES = GPT_NAMES | {
    "layers.w_q": "h.{}.attn.attention.q_proj.weight",
    "layers.w_k": "h.{}.attn.attention.k_proj.weight",
    "layers.w_v": "h.{}.attn.attention.v_proj.weight",
    "layers.w_o": "h.{}.attn.attention.out_proj.weight",
    "layers.b_o": "h.{}.attn.attention.out_proj.bias",
    "layers.w_in": "h.{}.mlp.c_fc.weight",
    "layers.b_in": "h.{}.mlp.c_fc.bias",
    "layers.w_out": "h.{}.mlp.c_proj.weight",
    "layers.b_out": "h.{}.mlp.c_proj.bias",
}
KINDS = ("global", "local")


def hf_config(fields: Fields, file: TensorFile) -> ModelConfig:
    """From config.json."""
    sizes = hf_gpt(fields, "intermediate_size")
    fields.get("attention_layers", None)  # attention_types, written out
    return ModelConfig(
        **sizes,
        window=fields.integer("window_size", 256),
        local_layers=_local(fields, sizes["n_layers"]),
        attn_scale=1.0,
        qkv_bias=False,
        tied=fields.flag("tie_word_embeddings", True),
    )


def hf_fields(config: ModelConfig) -> dict[str, object]:
    """To config.json."""
    kinds = [KINDS[layer in config.local_layers] for layer in range(config.n_layers)]
    window = 256 if config.window is None else config.window
    return gpt_fields(config, "intermediate_size") | {"window_size": window, "attention_types": [[kinds, 1]]}


def _local(fields: Fields, n_layers: int) -> tuple[int, ...]:
    """Layers with a window, from "attention_types": kinds in turn and how often, as [[["global", "local"], 12]]."""
    types = fields.get("attention_types", [[KINDS, 12]])
    try:
        kinds = [kind for in_turn, times in types for _ in range(times) for kind in in_turn]
    except (TypeError, ValueError):
        kinds = []
    if len(kinds) != n_layers or not all(kind in KINDS for kind in kinds):
        raise fields.wrong("attention_types", types, f"{' and '.join(KINDS)} for {n_layers} layers")
    return tuple(layer for layer, kind in enumerate(kinds) if kind == "local")


def hf_sources(config: ModelConfig, shapes: Shapes) -> SourceMap:
    """From safetensors."""
    return sources(HF_NAMES, shapes)


FAMILY = Family(
    "gpt_neo",
    model_types=("gpt_neo",),
    architectures=("GPTNeoForCausalLM",),
    hf=Layout(
        hf_config,
        hf_sources,
        "transformer.",
        {r"h\.\d+\.attn\.attention\.(masked_)?bias": "the causal mask"},
        {"lm_head.weight": "wte.weight"},
        aliases={"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"},
        outside=("lm_head.",),
        fields=hf_fields,
    ),
)
