"""GPT-J (Wang & Komatsuzaki 2021): parallel residual with one norm, partly rotary heads, a bias of the unembedding."""

import math

import numpy as np

from jaxinterp.models.config import ModelConfig
from jaxinterp.models.families import gpt2
from jaxinterp.models.families.common import hf_gpt
from jaxinterp.models.families.family import Family, Layout, Shape, Shapes, Source, SourceMap, TensorFile, sources
from jaxinterp.models.families.fields import Fields
from jaxinterp.models.families.names import GPT_NAMES
from jaxinterp.models.families.writing import gpt_fields

HF_NAMES = GPT_NAMES | {
    "b_unembed": "lm_head.bias",
    # Attention and FFN read the same norm, which is there twice here.
    "layers.norm_mlp.scale": "h.{}.ln_1.weight",
    "layers.norm_mlp.bias": "h.{}.ln_1.bias",
    "layers.w_q": "h.{}.attn.q_proj.weight",
    "layers.w_k": "h.{}.attn.k_proj.weight",
    "layers.w_v": "h.{}.attn.v_proj.weight",
    "layers.w_o": "h.{}.attn.out_proj.weight",
    "layers.w_in": "h.{}.mlp.fc_in.weight",
    "layers.b_in": "h.{}.mlp.fc_in.bias",
    "layers.w_out": "h.{}.mlp.fc_out.weight",
    "layers.b_out": "h.{}.mlp.fc_out.bias",
}
IGNORED = {
    r"h\.\d+\.attn\.(masked_)?bias": "the causal mask",
    r"h\.\d+\.attn\.embed_positions": "computed from the config",
}


def hf_config(fields: Fields, file: TensorFile) -> ModelConfig:
    """From config.json."""
    sizes = hf_gpt(fields, "n_inner")
    d_head, d_rotary = sizes["d_head"], fields.integer("rotary_dim", 64)
    share = d_rotary / d_head
    if int(share * d_head) < d_rotary:  # the division has rounded down
        share = math.nextafter(share, 1)
    fields.only("rotary", True)
    fields.only("scale_attn_weights", True)
    return ModelConfig(
        **sizes,
        parallel=True,
        position="rotary",
        rope_share=share,
        qkv_bias=False,
        out_bias=False,
        tied=fields.flag("tie_word_embeddings", False),
        unembed_bias=True,
    )


def hf_fields(config: ModelConfig) -> dict[str, object]:
    """To config.json."""
    return gpt_fields(config, "n_inner") | {"rotary_dim": config.d_rotary}


def hf_sources(config: ModelConfig, shapes: Shapes) -> SourceMap:
    """From safetensors, where the two coordinates of a rotary pair stand side by side."""
    paths = ("layers.w_q", "layers.w_k")
    return sources(HF_NAMES, shapes, {path: _unpaired(HF_NAMES[path], shapes[path], config.d_rotary) for path in paths})


def _unpaired(name: str, shape: Shape, d_rotary: int) -> Source:
    """Undoes the pairing: of a head's first rows, (pair, 2) become (2, pair), the halves layout of `rotate`."""
    d_model, heads, width = shape

    order = [*range(0, d_rotary, 2), *range(1, d_rotary, 2), *range(d_rotary, width)]

    def combine(x: np.ndarray) -> np.ndarray:
        return x.reshape(heads, width, d_model)[:, order].transpose(2, 0, 1)

    def split(parameter: np.ndarray, x: np.ndarray) -> None:
        x.reshape(heads, width, d_model)[:, order] = parameter.transpose(1, 2, 0)

    return Source(((name, (heads * width, d_model)),), combine, split=split)


FAMILY = Family(
    "gptj",
    model_types=("gptj",),
    architectures=("GPTJForCausalLM",),
    hf=Layout(
        hf_config,
        hf_sources,
        "transformer.",
        IGNORED,
        {"lm_head.weight": "wte.weight"},
        aliases=gpt2.ALIASES,
        outside=("lm_head.",),
        fields=hf_fields,
    ),
)
