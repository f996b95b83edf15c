"""All families, and the one that a file belongs to. Modules of this folder with a `FAMILY` or `FAMILIES` are found."""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.base.plugins import plugins
from jaxinterp.models import families
from jaxinterp.models.families.family import Family


def _families(modules: Iterable[ModuleType]) -> Iterator[Family]:
    for module in modules:
        values = vars(module)
        yield from [values["FAMILY"]] if "FAMILY" in values else values.get("FAMILIES", [])


_FOLDER = pkgutil.iter_modules(families.__path__, f"{families.__name__}.")
FAMILIES: tuple[Family, ...] = tuple(_families(importlib.import_module(module.name) for module in _FOLDER))


def all_families() -> tuple[Family, ...]:
    """Those of this folder, and those of plug-ins (modules with a `FAMILY` or `FAMILIES`), which come first."""
    return (*_families(plugins()), *FAMILIES)


# Parts of a config.json of a model that does not only read text.
OTHER_SENSES = ("text_config", "vision_config", "audio_config", "visual", "thinker_config")
MIXTURES = ("qwen2_moe", "qwen3_moe", "mixtral", "olmoe", "phimoe")


def hf_family(config: Mapping[str, object], where: str) -> Family:
    """The family of a config.json.

    Raises:
      UserError: if the model type or its head is not supported.
    """
    by_type = {model_type: family for family in reversed(all_families()) for model_type in family.model_types}
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise UserError(f"{where} has no model_type; known: {', '.join(sorted(by_type))}")
    if model_type in MIXTURES:
        raise UserError(
            f"{where}: mixtures of experts (model_type {model_type!r}) are not supported: they need a router, and the "
            "neurons of all experts, times the router's weights, as the neurons of a layer; take a dense model"
        )
    if model_type not in by_type:
        hint = "Code that comes with a model (auto_map) is never run." if "auto_map" in config else ""
        if any(name in config for name in OTHER_SENSES):
            hint = "Models of text and images or sounds are not supported: text-only checkpoints are."
        raise unknown(f"model_type in {where}:", model_type, by_type, hint)
    family = by_type[model_type]
    architectures = config.get("architectures")
    if architectures is None:
        return family
    if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
        raise UserError(f"{where}: architectures must be a list of names, got {architectures!r}")
    for name in architectures:
        if name not in family.architectures:
            raise unknown(f"architecture in {where}:", name, family.architectures)
    return family


def gguf_family(metadata: Mapping[str, object], where: str) -> Family:
    """The family of a GGUF file.

    Raises:
      UserError: if the architecture is not supported.
    """
    by_name = {name: family for family in reversed(all_families()) for name in family.gguf_architectures}
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise UserError(f"{where} has no general.architecture; it may hold something else than a model")
    if architecture not in by_name:
        raise unknown(f"general.architecture in {where}:", architecture, by_name)
    return by_name[architecture]
