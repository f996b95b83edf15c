"""Llama (Touvron et al. 2023; Grattafiori et al. 2024) and what is built like it: SmolLM2, TinyLlama."""

import dataclasses
import re

import numpy as np

from jaxinterp.base.errors import UserError
from jaxinterp.models.config import ModelConfig, RopeScaling
from jaxinterp.models.families import common
from jaxinterp.models.families.family import Family, Layout, Shape, Shapes, Source, SourceMap, TensorFile, sources
from jaxinterp.models.families.fields import Fields
from jaxinterp.models.families.names import GGUF_NAMES
from jaxinterp.models.families.writing import llama_fields
from jaxinterp.models.layers import layer_constants

DIVISORS = "rope_freqs.weight"


def hf_config(fields: Fields, file: TensorFile) -> ModelConfig:
    """From config.json."""
    bias = fields.flag("attention_bias", False)
    fields.get("is_llama_config", None)  # of the library that trained SmolLM2, as is the next one
    fields.only("rope_interleaved", False)
    # The first files of 2023 have the context under another name, or not at all.
    context = fields.integer("max_sequence_length", 2048)
    sizes = common.hf_sizes(fields, n_ctx=context)
    return common.hf_llama(fields, sizes, bias=bias, mlp_bias=fields.flag("mlp_bias", False))


def hf_fields(config: ModelConfig) -> dict[str, object]:
    """To config.json."""
    return llama_fields(config) | {"attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias}


def gguf_config(fields: Fields, file: TensorFile) -> ModelConfig:
    """From GGUF metadata."""
    config = common.gguf_llama(fields, file)
    return _with_divisors(config, file) if DIVISORS in file.shapes else config


def _with_divisors(config: ModelConfig, file: TensorFile) -> ModelConfig:
    """Llama 3's scaling, of which GGUF has the divisor of each frequency instead of the parameters."""
    divisors = file.rows(DIVISORS, 0, file.shapes[DIVISORS][0])
    scaling = RopeScaling("llama3", float(divisors.max()), 1.0, 4.0, 8192)
    scaled = dataclasses.replace(config, rope_scaling=scaling)
    # The shape first: what the metadata say of it may be too large to compute.
    if config.rope_scaling is None and divisors.shape == (config.d_rotary // 2,):
        plain = layer_constants(config).frequency[0]
        expected = np.asarray(plain / layer_constants(scaled).frequency[0])
        if np.allclose(divisors, expected, rtol=1e-3):
            return scaled
    raise UserError(f"{file.path}: {DIVISORS!r} is not the scaling of Llama 3, the only one of its kind supported")


def gguf_sources(config: ModelConfig, shapes: Shapes) -> SourceMap:
    """From GGUF, which stores a head's query and key coordinates with the two of a rotary pair side by side."""
    special = {}
    for leaf in ("w_q", "w_k", "b_q", "b_k"):
        if (path := f"layers.{leaf}") in shapes:
            special[path] = _unpaired(GGUF_NAMES[path], shapes[path])
    return sources(GGUF_NAMES, shapes, special)


def _unpaired(name: str, shape: Shape) -> Source:
    """Undoes the pairing: rows (head, pair, 2) become (head, 2, pair), the halves layout of `rotate`."""
    *inputs, heads, width = shape

    def combine(x: np.ndarray) -> np.ndarray:
        rows = x.reshape(heads, width // 2, 2, *inputs).swapaxes(1, 2).reshape(heads * width, *inputs)
        return rows.T.reshape(shape)

    return Source(((name, (heads * width, *inputs)),), combine)


FAMILY = Family(
    "llama",
    model_types=("llama",),
    architectures=("LlamaForCausalLM", "LLaMAForCausalLM"),  # the latter in the first files of 2023
    hf=common.hf_layout(hf_config, hf_fields),
    gguf_architectures=("llama",),
    gguf=Layout(gguf_config, gguf_sources, ignored={re.escape(DIVISORS): "read with the config"}),
)
