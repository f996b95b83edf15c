"""RoBERTa (Liu et al. 2019): BERT with one segment and other names in the head; positions begin after the padding's."""

import dataclasses

import numpy as np

from jaxinterp.models.config import ModelConfig
from jaxinterp.models.families import bert
from jaxinterp.models.families.common import hf_segmented_bert
from jaxinterp.models.families.family import Family, Layout, Shapes, Source, SourceMap, TensorFile, linear, sources
from jaxinterp.models.families.fields import Fields
from jaxinterp.models.families.writing import bert_fields

HF_NAMES = bert.HF_NAMES | {
    "unembedding": "lm_head.decoder.weight",
    "b_unembed": "lm_head.bias",
    "head.b_head": "lm_head.dense.bias",
    "head.norm.scale": "lm_head.layer_norm.weight",
    "head.norm.bias": "lm_head.layer_norm.bias",
}
IGNORED = {
    r"embeddings\.position_ids": "0, 1, 2, …",
    r"embeddings\.token_type_ids": "a text is one segment",
    r"lm_head\.bias": "the unembedding has its own bias",
    r"pooler\.dense\.(weight|bias)": "of classification",
}
COPIES = {
    "lm_head.decoder.weight": "embeddings.word_embeddings.weight",
    "lm_head.decoder.bias": "lm_head.bias",
}
OFFSET = 2  # rows before that of the first position: up to that of the padding, whose id is 1
# The head has this one whatever hidden_act says.
ACTIVATIONS = {"gelu": "gelu_exact", "gelu_python": "gelu_exact"}


def hf_config(fields: Fields, file: TensorFile) -> ModelConfig:
    """From config.json."""
    fields.only("pad_token_id", 1)
    config = hf_segmented_bert(fields, 1, ACTIVATIONS)
    return dataclasses.replace(config, n_ctx=config.n_ctx - OFFSET)


def hf_fields(config: ModelConfig) -> dict[str, object]:
    """To config.json."""
    longer = {"max_position_embeddings": config.n_ctx + OFFSET, "pad_token_id": 1}
    return bert_fields(config, 1, ACTIVATIONS) | longer


def hf_sources(config: ModelConfig, shapes: Shapes) -> SourceMap:
    """From safetensors."""
    rows, width = shapes["positions"]
    tables = (
        ("embeddings.position_embeddings.weight", (rows + OFFSET, width)),
        ("embeddings.token_type_embeddings.weight", (1, width)),
    )
    special = {
        "positions": Source(tables, _of_the_one_segment, split=_without_segment, whole=False),
        "head.w_head": linear("lm_head.dense.weight", shapes["head.w_head"]),
    }
    own = {} if config.tied else {"b_unembed": "lm_head.decoder.bias"}
    return sources(HF_NAMES | own, shapes, special)


def _of_the_one_segment(positions: np.ndarray, segment: np.ndarray) -> np.ndarray:
    return positions[OFFSET:] + segment


def _without_segment(parameter: np.ndarray, positions: np.ndarray, segment: np.ndarray) -> None:
    positions[OFFSET:] = parameter
    segment[...] = -0.0  # which changes no number that it is added to, another -0 included


FAMILY = Family(
    "roberta",
    model_types=("roberta",),
    architectures=("RobertaForMaskedLM",),
    hf=Layout(hf_config, hf_sources, "roberta.", IGNORED, COPIES, outside=("lm_head.",), fields=hf_fields),
)
