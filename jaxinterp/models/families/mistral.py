"""Mistral (Jiang et al. 2023): Llama whose layers all attend to a window, or none does."""

from jaxinterp.models.config import ModelConfig
from jaxinterp.models.families import common
from jaxinterp.models.families.family import Family, TensorFile
from jaxinterp.models.families.fields import Fields


def hf_config(fields: Fields, file: TensorFile) -> ModelConfig:
    """From config.json."""
    sizes = common.hf_sizes(fields)
    if "num_key_value_heads" not in fields.values:
        sizes["n_kv_heads"] = 8
    return common.hf_llama(fields, sizes, **common.hf_window(fields, sizes, 4096))


# GGUF files of Mistral say that they are Llama's, and are read as such.
FAMILY = Family(
    "mistral",
    model_types=("mistral",),
    architectures=("MistralForCausalLM",),
    hf=common.hf_layout(hf_config),
)
