"""A language model in a folder: config.json, model.safetensors, tokenizer.json, provenance.json."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save
from tokenizers import Tokenizer

from jaxinterp.errors import UserError
from jaxinterp.files import new_folder, read_json, write_json
from jaxinterp.models import transformer
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.tokenizers import load_tokenizer


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """Everything that is needed to run a model."""

    config: ModelConfig
    params: Mapping
    tokenizer: Tokenizer
    provenance: Mapping  # how it came about: the training config, revision, versions


def save_model(folder: Path, model: LanguageModel) -> None:
    """Writes the four files, all or none: the folder appears when it is complete, and replaces an older one.

    Raises:
      UserError: if the folder cannot be written.
    """
    arrays = {".".join(path): np.asarray(value) for path, value in flat(model.params).items()}
    weights = save(arrays)
    with new_folder(folder) as partial:
        (partial / "model.safetensors").write_bytes(weights)
        (partial / "tokenizer.json").write_text(model.tokenizer.to_str(pretty=False), encoding="utf-8")
        write_json(partial / "config.json", dataclasses.asdict(model.config))
        digest = hashlib.sha256(weights).hexdigest()
        write_json(partial / "provenance.json", {**model.provenance, "weights_sha256": digest})


def load_model(folder: Path) -> LanguageModel:
    """Reads a folder that `save_model` wrote.

    Raises:
      UserError: if a file is missing or damaged, or a tensor is missing, unexpected, misshapen or not finite.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no model: config.json is missing; give a folder that `jaxinterp train` wrote")
    try:
        config = ModelConfig(**read_json(folder / "config.json"))
    except TypeError as error:
        raise UserError(f"{folder / 'config.json'} is not a model config: {error}") from None
    provenance = dict(read_json(folder / "provenance.json"))
    try:
        weights = (folder / "model.safetensors").read_bytes()
        arrays = load(weights)
    except (OSError, SafetensorError) as error:
        raise UserError(f"the weights in {folder} cannot be read: {error}") from None
    digest = hashlib.sha256(weights).hexdigest()
    if digest != provenance.pop("weights_sha256", None):
        raise UserError(f"{folder / 'model.safetensors'} is damaged: its SHA-256 is not the one in provenance.json")
    expected = jax.eval_shape(lambda: transformer.init(config, jax.random.key(0)))
    named = {".".join(path): value for path, value in flat(expected).items()}
    for name in sorted(named.keys() ^ arrays.keys()):
        raise UserError(f"{folder}: tensor {name!r} is {'missing' if name in named else 'not part of this model'}")
    for name, shape in named.items():
        if arrays[name].shape != shape.shape or arrays[name].dtype != shape.dtype:
            raise UserError(
                f"{folder}: tensor {name!r} is {arrays[name].dtype}{list(arrays[name].shape)}, "
                f"the config asks for {shape.dtype}{list(shape.shape)}"
            )
        if not np.isfinite(arrays[name]).all():
            raise UserError(f"{folder}: tensor {name!r} has values that are not finite")
    params = nested({tuple(name.split(".")): jax.numpy.asarray(value) for name, value in arrays.items()})
    return LanguageModel(config, params, load_tokenizer(folder / "tokenizer.json"), provenance)


def flat(tree: Mapping, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    """A nested dictionary as one with paths for keys, in sorted order."""
    leaves: dict[tuple[str, ...], object] = {}
    for name in sorted(tree):
        value = tree[name]
        leaves |= flat(value, (*prefix, name)) if isinstance(value, Mapping) else {(*prefix, name): value}
    return leaves


def nested(leaves: Mapping[tuple[str, ...], object]) -> dict:
    """The inverse of `flat`."""
    tree: dict = {}
    for path, value in leaves.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = value
    return tree
