"""BERT (Devlin et al. 2019), a masked language model with its head.

A text is one segment here, so that the embedding of the first segment is added to the positions at load, and that of
the second is not used.
"""

import numpy as np

from jaxinterp.models.config import ModelConfig
from jaxinterp.models.families.common import hf_segmented_bert
from jaxinterp.models.families.family import Family, Layout, Shapes, Source, SourceMap, TensorFile, linear, sources
from jaxinterp.models.families.fields import Fields
from jaxinterp.models.families.writing import bert_fields

HF_NAMES = {
    "embedding": "embeddings.word_embeddings.weight",
    "unembedding": "cls.predictions.decoder.weight",
    "b_unembed": "cls.predictions.bias",
    "norm_embed.scale": "embeddings.LayerNorm.weight",
    "norm_embed.bias": "embeddings.LayerNorm.bias",
    "head.b_head": "cls.predictions.transform.dense.bias",
    "head.norm.scale": "cls.predictions.transform.LayerNorm.weight",
    "head.norm.bias": "cls.predictions.transform.LayerNorm.bias",
    "layers.norm_attn.scale": "encoder.layer.{}.attention.output.LayerNorm.weight",
    "layers.norm_attn.bias": "encoder.layer.{}.attention.output.LayerNorm.bias",
    "layers.norm_mlp.scale": "encoder.layer.{}.output.LayerNorm.weight",
    "layers.norm_mlp.bias": "encoder.layer.{}.output.LayerNorm.bias",
    "layers.w_q": "encoder.layer.{}.attention.self.query.weight",
    "layers.b_q": "encoder.layer.{}.attention.self.query.bias",
    "layers.w_k": "encoder.layer.{}.attention.self.key.weight",
    "layers.b_k": "encoder.layer.{}.attention.self.key.bias",
    "layers.w_v": "encoder.layer.{}.attention.self.value.weight",
    "layers.b_v": "encoder.layer.{}.attention.self.value.bias",
    "layers.w_o": "encoder.layer.{}.attention.output.dense.weight",
    "layers.b_o": "encoder.layer.{}.attention.output.dense.bias",
    "layers.w_in": "encoder.layer.{}.intermediate.dense.weight",
    "layers.b_in": "encoder.layer.{}.intermediate.dense.bias",
    "layers.w_out": "encoder.layer.{}.output.dense.weight",
    "layers.b_out": "encoder.layer.{}.output.dense.bias",
}
IGNORED = {
    r"embeddings\.position_ids": "0, 1, 2, …",
    r"embeddings\.token_type_ids": "a text is one segment",
    r"cls\.predictions\.bias": "the unembedding has its own bias",
    r"pooler\.dense\.(weight|bias)": "of next-sentence prediction",
    r"cls\.seq_relationship\.(weight|bias)": "next-sentence prediction",
}
COPIES = {
    "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


def hf_config(fields: Fields, file: TensorFile) -> ModelConfig:
    """From config.json."""
    return hf_segmented_bert(fields, 2)


def hf_fields(config: ModelConfig) -> dict[str, object]:
    """To config.json."""
    return bert_fields(config, 2)


def hf_sources(config: ModelConfig, shapes: Shapes) -> SourceMap:
    """From safetensors."""
    d = config.d_model
    special = {
        "positions": Source(
            (
                ("embeddings.position_embeddings.weight", shapes["positions"]),
                ("embeddings.token_type_embeddings.weight", (2, d)),
            ),
            _plus_first_segment,
            split=_without_segments,
            whole=False,
        ),
        "head.w_head": linear("cls.predictions.transform.dense.weight", (d, d)),
    }
    # An unembedding of its own has a bias of its own, and the head's is not used.
    own = {} if config.tied else {"b_unembed": "cls.predictions.decoder.bias"}
    return sources(HF_NAMES | own, shapes, special)


def _plus_first_segment(positions: np.ndarray, segments: np.ndarray) -> np.ndarray:
    return positions + segments[:1]


def _without_segments(parameter: np.ndarray, positions: np.ndarray, segments: np.ndarray) -> None:
    positions[...] = parameter
    segments[...] = -0.0  # which changes no number that it is added to, another -0 included


def rename(name: str) -> str:
    """Checkpoints converted from the authors' TensorFlow ones have the authors' names for a LayerNorm's parameters."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


FAMILY = Family(
    "bert",
    model_types=("bert",),
    architectures=("BertForMaskedLM", "BertForPreTraining"),
    hf=Layout(hf_config, hf_sources, "bert.", IGNORED, COPIES, rename, outside=("cls.",), fields=hf_fields),
)
