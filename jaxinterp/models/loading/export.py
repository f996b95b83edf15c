"""A model in the layout of transformers: config.json, model.safetensors, and the tokenizer's files."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import new_folder, read_json, write_json
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.families.family import Family
from jaxinterp.models.families.registry import hf_family
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.loading.expressing import family_for, family_named, published
from jaxinterp.models.loading.hf_tokenizer_files import copied_tokenizer, special_tokens, write_tokenizer
from jaxinterp.models.loading.safetensors_file import SafetensorsFile
from jaxinterp.models.loading.weights import names_in, unstacked_shapes, wanted_tensors
from jaxinterp.models.loading.writing import Original, listed, written_tensors
from jaxinterp.models.tokenizers import TextTokenizer

CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclasses.dataclass(frozen=True)
class Exported:
    """What `export_model` has written."""

    family: str
    n_tensors: int
    dtype: str  # of most numbers
    notes: tuple[str, ...]  # lines about what was left out or is not the same; none: all of it came along


def export_model(folder: Path, model: LanguageModel, *, family: str | None = None) -> Exported:
    """Writes a model as transformers reads it, all files or none; `load_pretrained` gives the same parameters again.

    What is written is read again and compared with the parameters, bit for bit. A model that was loaded from such a
    folder goes back to its family, and gets the types of its tensors if they hold its numbers without loss. As long as
    that folder is there, the tokenizer's files are copied from it, and so is what no parameter has: see
    `jaxinterp.models.loading.writing.written_tensors`.

    Args:
      folder: a new or an empty one.
      model: any.
      family: its name, as "llama"; None is the family that the model is from, or the first that can express it.
    Raises:
      UserError: if the folder has files, no family (or not this one) can express the model, or it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and has files; give a new folder")
    origin = _origin(model.provenance)
    own = origin.get("family")
    chosen = family_for(model.config, own) if family is None else family_named(model.config, family)
    source = Path(origin["source"]) if origin.get("format") == "safetensors" and chosen.name == own else None
    original = None if source is None else _original(source, model.config, chosen)
    written = written_tensors(model.params, model.config, chosen, original, folder)
    ignored = {name: of for name, of in origin.get("ignored_tensors", {}).items() if name not in written.tensors}
    notes = [*_ignored(ignored), *written.notes]
    if source is not None and original is None:
        notes.append(f"made anew from parameters, where these do not hold all of a tensor: {source} is gone")
    dtype = _usual_dtype(written.tensors.values())
    with new_folder(folder) as partial:
        copied = original is not None and source is not None and copied_tokenizer(model, source, partial)
        if not copied:
            write_tokenizer(model.tokenizer, partial, model.config.n_ctx)
        ids = _token_ids(model.tokenizer) | (_token_ids_of(source / CONFIG) if copied else {})
        fields = published(model.config, chosen)
        if fields.get("pad_token_id", ids["pad_token_id"]) != ids["pad_token_id"]:
            raise UserError(
                f"the family {chosen.name} counts positions from the padding's id, which has to be "
                f"{fields['pad_token_id']}; the tokenizer's is {ids['pad_token_id']}; choose another family"
            )
        write_json(partial / CONFIG, fields | ids | {"dtype": dtype})
        _write_weights(partial / WEIGHTS, written.tensors)
    return Exported(chosen.name, len(written.tensors), dtype, tuple(notes))


def _write_weights(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Straight to the file, as models are large; some versions of transformers ask for the name of a framework."""
    try:
        save_file(tensors, path, {"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write {path.name}: {error}") from None


def _origin(provenance: Mapping) -> Mapping:
    """The provenance of the published model, also of one that was fine-tuned since, once or more often."""
    while "family" not in provenance and "original" in provenance:
        provenance = provenance["original"]
    return provenance


def _original(source: Path, config: ModelConfig, family: Family) -> Original | None:
    """The weights in a folder, by the names of the family; None if they are gone or something else by now."""
    try:
        layout = hf_family(read_json(source / CONFIG), str(source)).hf
        file = SafetensorsFile(source)
        wanted = wanted_tensors(config, family.hf.sources(config, unstacked_shapes(config)))
        return Original(file, names_in(file, layout, wanted))
    except UserError:
        return None


def _token_ids(tokenizer: TextTokenizer) -> dict[str, int | None]:
    """Those that families have defaults for, which may lie outside of this vocabulary."""
    names = special_tokens(tokenizer)
    others = ("bos", "eos", "cls", "sep")
    ids = {name: tokenizer.backend.token_to_id(names.get(f"{name}_token", "")) for name in others}
    return {f"{name}_token_id": id for name, id in ids.items()} | {"pad_token_id": tokenizer.pad}


def _token_ids_of(path: Path) -> dict[str, object]:
    return {name: value for name, value in read_json(path).items() if name.endswith("_token_id") and value is not None}


def _usual_dtype(arrays: Iterable[np.ndarray]) -> str:
    counts: collections.Counter[str] = collections.Counter()
    for array in arrays:
        counts[array.dtype.name] += array.size
    return counts.most_common(1)[0][0]


def _ignored(ignored: Mapping[str, str]) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for name, reason in ignored.items():
        by_reason.setdefault(reason, []).append(name)
    return [f"left out, as it was not read ({reason}): {listed(names)}" for reason, names in by_reason.items()]
