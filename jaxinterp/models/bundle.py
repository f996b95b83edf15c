"""A language model in a folder: config.json, model.safetensors, the tokenizer's two files, provenance.json."""

import dataclasses
import hashlib
from pathlib import Path

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from jaxinterp.errors import UserError
from jaxinterp.files import new_folder, read_json, write_json
from jaxinterp.models import transformer
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.language_model import LanguageModel, flat, nested
from jaxinterp.models.loading.load import check_dtype, load_pretrained
from jaxinterp.models.loading.weights import Placement
from jaxinterp.models.tokenizers import load_tokenizer, save_tokenizer


def save_model(folder: Path, model: LanguageModel) -> None:
    """Writes the files, all or none: the folder appears when it is complete, and replaces an older one.

    Raises:
      UserError: if the folder cannot be written.
    """
    arrays = {".".join(path): np.asarray(value) for path, value in flat(model.params).items()}
    weights = save(arrays)
    with new_folder(folder) as partial:
        (partial / "model.safetensors").write_bytes(weights)
        save_tokenizer(model.tokenizer, partial / "tokenizer.json")
        write_json(partial / "config.json", dataclasses.asdict(model.config))
        digest = hashlib.sha256(weights).hexdigest()
        write_json(partial / "provenance.json", {**model.provenance, "weights_sha256": digest})


def load_model(path: Path, *, dtype: str | None = None, placement: Placement | None = None) -> LanguageModel:
    """Reads a model, whatever wrote it.

    Args:
      path: a folder that `save_model` wrote; or a published model, see `load_pretrained`.
      dtype: of parameters and arithmetic; None is that of our own folder, and float32 for a published model.
      placement: the sharding of each parameter, from its path and shape; None is JAX's default device.
    Raises:
      UserError: if a file is missing or damaged, a tensor is missing, unexpected, misshapen or not finite, or a
        published model is not supported.
    """
    if path.suffix == ".gguf" or ((path / "config.json").is_file() and "model_type" in read_json(path / "config.json")):
        return load_pretrained(path, dtype=dtype or "float32", placement=placement)
    if not (path / "config.json").is_file():
        raise UserError(
            f"{path} holds no model: config.json is missing; give a folder that `jaxinterp train` wrote, or a "
            "published model: a folder with config.json and safetensors, or a .gguf file"
        )
    model = _load_own(path, placement)
    if dtype is None or dtype == model.config.dtype:
        return model
    check_dtype(dtype)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), model.params)
    return dataclasses.replace(model, config=dataclasses.replace(model.config, dtype=dtype), params=params)


def _load_own(folder: Path, placement: Placement | None) -> LanguageModel:
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
    paths = {name: tuple(name.split(".")) for name in arrays}
    where = {name: placement(paths[name], value.shape) if placement else None for name, value in arrays.items()}
    params = nested({paths[name]: jax.device_put(value, where[name]) for name, value in arrays.items()})
    return LanguageModel(config, params, load_tokenizer(folder / "tokenizer.json"), provenance)
