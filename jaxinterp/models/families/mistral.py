"""Mistral (Jiang et al. 2023): Llama whose layers all attend to a window, or none does."""

from jaxinterp.models.config import ModelConfig
from jaxinterp.models.families import common
from jaxinterp.models.families.family import Family, TensorFile
from jaxinterp.models.families.fields import Fields
from jaxinterp.models.families.writing import llama_fields, window_of_all_layers


def hf_config(fields: Fields, file: TensorFile) -> ModelConfig:
    """From config.json."""
    sizes = common.hf_sizes(fields)
    if "num_key_value_heads" not in fields.values:
        sizes["n_kv_heads"] = 8
    return common.hf_llama(fields, sizes, **common.hf_window(fields, sizes, 4096))


def hf_fields(config: ModelConfig) -> dict[str, object]:
    """To config.json."""
    return llama_fields(config) | {"sliding_window": window_of_all_layers(config)}


# GGUF files of Mistral say that they are Llama's, and are read as such.
FAMILY = Family(
    "mistral",
    model_types=("mistral",),
    architectures=("MistralForCausalLM",),
    hf=common.hf_layout(hf_config, hf_fields),
)
