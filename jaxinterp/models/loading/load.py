"""Published models: a folder of the Hugging Face kind, or a GGUF file."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from jaxinterp.base.digests import file_digest
from jaxinterp.base.errors import UserError, unknown
from jaxinterp.base.files import is_gguf, read_json
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.families.common import refuse_what_no_family_has
from jaxinterp.models.families.family import Layout, TensorFile
from jaxinterp.models.families.fields import Fields
from jaxinterp.models.families.registry import gguf_family, hf_family
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.loading.checks import refuse_absurd_depth, refuse_absurd_widths, refuse_adapter
from jaxinterp.models.loading.embedded_tokenizer import embedded
from jaxinterp.models.loading.gguf_file import GgufFile
from jaxinterp.models.loading.gguf_tokenizer import gguf_tokenizer
from jaxinterp.models.loading.hf_tokenizer import folder_tokenizer
from jaxinterp.models.loading.safetensors_file import SafetensorsFile
from jaxinterp.models.loading.weights import Placement, load_weights
from jaxinterp.models.model import Model

DTYPES = ("float32", "float64", "bfloat16")


def load_pretrained(
    path: Path, *, dtype: str = "float32", placement: Placement | None = None, revision: str | None = None
) -> LanguageModel:
    """Loads a published model with its tokenizer.

    Args:
      path, dtype, placement: see `pretrained_parameters`.
      revision: of a hub's folder, for the provenance.
    Raises:
      UserError: if the model is not supported, or a file is missing, damaged, or does not fit the config.
    """
    check_dtype(dtype)
    opened = _opened(path)
    # The tokenizer comes first: what is wrong with it shows before the weights are read.
    if isinstance(opened.file, GgufFile):
        tokenizer = gguf_tokenizer(opened.file.metadata, path)
    else:
        tokenizer = folder_tokenizer(path, masked=opened.config.attention == "bidirectional")
    tokenizer = embedded(tokenizer, opened.config.d_vocab, path)
    config, params, provenance = _parameters(opened, dtype, placement)
    if revision is not None:
        provenance = {**provenance, "revision": revision}
    return LanguageModel(Model(config, params), tokenizer, provenance)


def pretrained_parameters(
    path: Path, *, dtype: str = "float32", placement: Placement | None = None
) -> tuple[ModelConfig, dict, dict[str, object]]:
    """The config and the parameters of a published model.

    Args:
      path: a folder with config.json (with a "model_type") and safetensors; or a .gguf file, which is dequantised. A
        GGUF file with a source.json beside it that has its SHA-256 is checked against it.
      dtype: of parameters and arithmetic; float64 needs jax_enable_x64.
      placement: where each parameter goes, see `jaxinterp.models.mesh.placement`; None is JAX's default device.
    Returns:
      The config, the parameters, and their provenance: source, format, family, SHA-256 if known, which tensors were
      ignored on purpose and why, and which fields of the config were not read.
    Raises:
      UserError: if the model is not supported, or a file is missing, damaged, or does not fit the config.
    """
    check_dtype(dtype)
    return _parameters(_opened(path), dtype, placement)


def check_dtype(dtype: str) -> None:
    """UserError unless JAX can compute in the dtype here."""
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if dtype == "float64" and not jax.config.jax_enable_x64:
        raise UserError("float64 needs JAX_ENABLE_X64=1 in the environment; or choose float32")


@dataclasses.dataclass(frozen=True)
class _Opened:
    """A published model whose head has been read."""

    file: TensorFile
    layout: Layout
    config: ModelConfig
    provenance: dict[str, object]


def _opened(path: Path) -> _Opened:
    if path.is_dir():
        return _opened_folder(path)
    if is_gguf(path):
        return _opened_gguf(path)
    raise UserError(f"{path} is neither a folder nor a .gguf file; give a model's folder or a GGUF file")


def _opened_folder(folder: Path) -> _Opened:
    refuse_adapter(folder)
    where = folder / "config.json"
    if not where.is_file():
        raise UserError(f"{folder} holds no model: config.json is missing")
    published = read_json(where)
    family = hf_family(published, str(where))
    fields, file = Fields(published, str(where), aliases=family.hf.aliases), SafetensorsFile(folder)
    refuse_absurd_depth(fields, file)
    config = _config(family.hf, fields, file)
    for part in (fields, fields.part("text_config")):
        refuse_what_no_family_has(part, config.attention)
    refuse_absurd_widths(fields, config, file)
    provenance = {"source": str(folder), "format": "safetensors", "family": family.name}
    return _Opened(file, family.hf, config, {**provenance, "fields_not_read": list(fields.unread())})


def _config(layout: Layout, fields: Fields, file: TensorFile) -> ModelConfig:
    """The config; what `ModelConfig` refuses is told with the file's name."""
    try:
        return layout.config(fields, file)
    except UserError as error:
        named = any(str(name) in str(error) for name in (fields.where, file.path))
        raise error if named else UserError(f"{fields.where}: {error}") from None


def _opened_gguf(path: Path) -> _Opened:
    file = GgufFile(path)
    digest = _checked_digest(path)
    kind = file.metadata.get("general.type", "model")
    if kind != "model":
        raise UserError(f"{path} holds no whole model: its general.type is {kind!r}; give the file of the model itself")
    family = gguf_family(file.metadata, str(path))
    prefix = f"{file.metadata['general.architecture']}."
    # Sizes that differ from layer to layer are arrays, which fields would compare number by number.
    arrays = [name for name in file.metadata if name.startswith(prefix) and isinstance(file.metadata[name], np.ndarray)]
    fields = Fields(file.metadata | {name: file.metadata[name].tolist() for name in arrays}, str(path), prefix)
    refuse_absurd_depth(fields, file)
    config = _config(family.gguf, fields, file)
    fields.only("attention.causal", config.attention == "causal")
    refuse_absurd_widths(fields, config, file)
    kinds = sorted({tensor.kind.name for tensor in file.tensors.values()})
    provenance = {"source": str(path), "format": "gguf", "types": kinds, "family": family.name}
    provenance |= {"fields_not_read": list(fields.unread())} | ({} if digest is None else {"sha256": digest})
    return _Opened(file, family.gguf, config, provenance)


def _parameters(
    opened: _Opened, dtype: str, placement: Placement | None
) -> tuple[ModelConfig, dict, dict[str, object]]:
    config = dataclasses.replace(opened.config, dtype=dtype)
    params, ignored = load_weights(opened.file, config, opened.layout, placement=placement)
    return config, params, {**opened.provenance, "ignored_tensors": ignored}


def _checked_digest(path: Path) -> str | None:
    """The file's SHA-256 if the record beside it has one, after comparing the two."""
    record = path.with_name("source.json")
    source = read_json(record).get("source") if record.is_file() else None
    expected = source.get("sha256") if isinstance(source, Mapping) else None
    if expected is None:
        return None
    digest = file_digest(path)
    if digest != expected:
        raise UserError(f"{path} is damaged: its SHA-256 is not the one in {record.name}; fetch it again")
    return digest
