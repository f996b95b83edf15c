"""Digests of every file of a model, beside it: what was changed since is not loaded."""

import glob
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from jaxinterp.base.digests import file_digest
from jaxinterp.base.errors import UserError
from jaxinterp.base.files import is_gguf, read_json, write_json

DIGESTS = "digests.json"  # in a folder; beside a .gguf file with the file's name before it
FIELDS = {"files", "check"}


def pin(path: Path) -> Path:
    """Writes the SHA-256 of all files of a model's folder, or of a .gguf file, as they are now.

    Returns:
      The file with the digests.
    Raises:
      UserError: if there is no model, or a file cannot be read or written.
    """
    files = _files(path)
    if not files:
        raise UserError(f"{path} has no files to pin; give a model's folder or a .gguf file")
    try:
        digests = {name: file_digest(file) for name, file in files.items()}
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from None
    place = digests_of(path)
    write_json(place, {"files": digests, "check": _check(digests)})
    return place


def digests_of(path: Path) -> Path:
    """Where the digests of a model stand, if it is pinned."""
    return path.with_name(f"{path.name}.{DIGESTS}") if is_gguf(path) else path / DIGESTS


def verify(path: Path) -> bool:
    """Whether a model is pinned; then its files are those that were.

    Raises:
      UserError: if a file was changed, is missing or cannot be read, or the digests themselves were changed.
    """
    place = digests_of(path)
    if not place.is_file():
        return False
    kept = read_json(place)
    digests = kept.get("files")
    if kept.keys() != FIELDS or not isinstance(digests, Mapping) or kept["check"] != _check(digests):
        raise UserError(f"{place} is damaged: it is not what was written; `jaxinterp models pin {path}` makes it anew")
    if more := sorted(_files(path).keys() - digests.keys()):
        raise UserError(
            f"{path} has a file that was not there when it was pinned: {more[0]}; if it is meant, "
            f"`jaxinterp models pin {path}` records it"
        )
    for name, digest in digests.items():
        file = path.with_name(name) if is_gguf(path) else path / name
        try:
            found = file_digest(file)
        except OSError as error:
            raise UserError(f"{file} is pinned in {DIGESTS} and cannot be read: {error.strerror}") from None
        if found != digest:
            raise UserError(
                f"{file} is damaged: its SHA-256 is not the one in {DIGESTS}; if the change is meant, "
                f"`jaxinterp models pin {path}` records it"
            )
    return True


def _files(path: Path) -> dict[str, Path]:
    if path.is_file():
        return {file.name: file for file in _parts(path)} if is_gguf(path) else {}
    found = sorted(path.iterdir()) if path.is_dir() else []
    return {file.name: file for file in found if file.is_file() and file.name != DIGESTS and file.name[0] != "."}


def _parts(path: Path) -> list[Path]:
    """A .gguf file, or all parts of one that is split, as a-00001-of-00002.gguf."""
    found = re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\.gguf", path.name)
    return sorted(path.parent.glob(f"{glob.escape(found[1])}-?????-of-{found[2]}.gguf")) if found else [path]


def _check(digests: Mapping) -> str:
    return hashlib.sha256("\n".join(f"{name} {digest}" for name, digest in digests.items()).encode()).hexdigest()
