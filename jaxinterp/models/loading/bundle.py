"""A language model in a folder: config.json, model.safetensors, the tokenizer's two files, provenance.json.

digests.json has the SHA-256 of all of them; see `jaxinterp.models.loading.pinned`.
"""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save

from jaxinterp.base.configs import from_json
from jaxinterp.base.digests import file_digest
from jaxinterp.base.errors import UserError
from jaxinterp.base.files import is_gguf, new_folder, read_json, write_bytes, write_json
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.loading.checks import refuse_adapter
from jaxinterp.models.loading.embedded_tokenizer import embedded
from jaxinterp.models.loading.load import check_dtype, load_pretrained
from jaxinterp.models.loading.pinned import pin, verify
from jaxinterp.models.loading.safetensors_file import DTYPES, SafetensorsFile
from jaxinterp.models.loading.tokenizer_files import load_tokenizer, save_tokenizer
from jaxinterp.models.loading.weights import Placement
from jaxinterp.models.mesh import on_mesh
from jaxinterp.models.model import Model, parameter_shapes
from jaxinterp.models.sources.fetch import resolve


def save_model(folder: Path, model: LanguageModel) -> None:
    """Writes the files, all or none: the folder appears when it is complete, and replaces an older one.

    Raises:
      UserError: if the folder cannot be written.
    """
    arrays = {name: np.asarray(value) for name, value in flatten_dict(model.params, sep=".").items()}
    with new_folder(folder) as partial:
        weights = partial / "model.safetensors"
        write_bytes(weights, save(arrays))
        save_tokenizer(model.tokenizer, partial / "tokenizer.json")
        write_json(partial / "config.json", dataclasses.asdict(model.config))
        write_json(partial / "provenance.json", {**model.provenance, "weights_sha256": file_digest(weights)})
        pin(partial)


def load_model(path: str | Path, *, dtype: str | None = None, placement: Placement | None = None) -> LanguageModel:
    """Opens a model, whatever wrote it.

    Args:
      path: a folder that `save_model` wrote, or that of a run whose model it is; or a published model, see
        `load_pretrained`. A text may also be a name of
        the catalogue or of the hub, see `jaxinterp.models.sources.fetch.resolve`.
      dtype: of parameters and arithmetic; None is that of our own folder, and float32 for a published model.
      placement: where each parameter goes, see `jaxinterp.models.mesh.placement`; None is JAX's default device.
    Raises:
      UserError: if a file is missing or damaged, a tensor is missing, unexpected, misshapen or not finite, or a
        published model is not supported.
    """
    path = resolve(path) if isinstance(path, str) else path
    path = of_run(path)
    refuse_adapter(path)
    pinned = verify(path)
    if is_gguf(path) or ((path / "config.json").is_file() and "model_type" in read_json(path / "config.json")):
        return _told(load_pretrained(path, dtype=dtype or "float32", placement=placement), path)
    if not (path / "config.json").is_file():
        files = sorted(file.name for file in path.iterdir() if is_gguf(file)) if path.is_dir() else []
        hint = f"; give the file itself: {', '.join(files)}" if files else ""
        raise UserError(
            f"{path} holds no model: config.json is missing; give a folder that `jaxinterp train` wrote, or a "
            f"published model: a folder with config.json and safetensors, or a .gguf file{hint}"
        )
    model = _told(_load_own(path, placement, pinned), path)
    if dtype is None or dtype == model.config.dtype:
        return model
    check_dtype(dtype)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), model.params)
    config = dataclasses.replace(model.config, dtype=dtype)
    return dataclasses.replace(model, model=Model(config, params))


def of_run(path: Path) -> Path:
    """The model's folder, if the path is that of a training run.

    Raises:
      UserError: if the run is not done.
    """
    if not (path / "metrics.jsonl").is_file():
        return path
    if not (path / "model" / "config.json").is_file():
        raise UserError(
            f"{path} holds a run that is not done; continue it with `jaxinterp train --out {path} --resume`"
        )
    return path / "model"


def _told(model: LanguageModel, path: Path) -> LanguageModel:
    """The model, after a line for people if its config had fields that nobody has read."""
    original = model.provenance.get("original", {})  # of a model that was fine-tuned
    fields = model.provenance.get("fields_not_read") or original.get("fields_not_read")
    if fields:
        print(
            f"{path}: these fields of its config are not known here and were not read: {', '.join(fields)}",
            file=sys.stderr,
        )
    return model


def _load_own(folder: Path, placement: Placement | None, pinned: bool) -> LanguageModel:
    """Our own folder; where it is pinned, all of its files have been checked."""
    config = from_json(ModelConfig, read_json(folder / "config.json"), str(folder / "config.json"))
    provenance = dict(read_json(folder / "provenance.json"))
    path = folder / "model.safetensors"
    kept = provenance.pop("weights_sha256", None)
    try:
        damaged = not pinned and file_digest(path) != kept
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    if damaged:
        raise UserError(f"{path} is damaged: its SHA-256 is not the one in provenance.json")
    file = SafetensorsFile(folder)
    expected = flatten_dict(parameter_shapes(config))
    shardings = flatten_dict(placement(config)) if placement else {}
    named = {".".join(keys): keys for keys in expected}
    for name in sorted(named.keys() ^ file.tensors.keys()):
        raise UserError(f"{folder}: tensor {name!r} is {'missing' if name in named else 'not part of this model'}")
    tokenizer = embedded(load_tokenizer(folder / "tokenizer.json"), config.d_vocab, folder)
    loaded = {}
    for name, keys in named.items():
        shape, tensor = expected[keys], file.tensors[name]
        dtype = DTYPES.get(tensor.dtype, tensor.dtype)
        if tensor.shape != shape.shape or dtype != shape.dtype:
            raise UserError(
                f"{folder}: tensor {name!r} is {dtype}{list(tensor.shape)}, "
                f"the config asks for {shape.dtype}{list(shape.shape)}"
            )
        value = file.rows(name, 0, tensor.shape[0])
        if not np.isfinite(value).all():
            raise UserError(f"{folder}: tensor {name!r} has values that are not finite")
        loaded[keys] = on_mesh(value, shardings[keys]) if placement else jax.device_put(value)
    return LanguageModel(Model(config, unflatten_dict(loaded)), tokenizer, provenance)
