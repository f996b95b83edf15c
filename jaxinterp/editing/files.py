"""Arrays and what is said of them in one safetensors file, written whole or not at all, and checked when it is read."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from jaxinterp.base.digests import arrays_digest
from jaxinterp.base.errors import UserError
from jaxinterp.base.files import refuse_pointer, write_bytes


def save_arrays(path: Path, kind: str, arrays: Mapping[str, np.ndarray], said: Mapping) -> None:
    """Writes arrays, and JSON about them, with the SHA-256 of both.

    Args:
      path: of the file.
      kind: what it holds, by which `load_arrays` knows it.
      arrays: by name.
      said: JSON.
    Raises:
      UserError: if it cannot be written.
    """
    text = json.dumps(said, ensure_ascii=False, allow_nan=False)
    write_bytes(path, save(dict(arrays), {"kind": kind, kind: text, "sha256": _digest(arrays, text)}))


def load_arrays(path: Path, kind: str) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays of a file that `save_arrays` wrote, and what is said of them.

    Raises:
      UserError: if the file is missing, damaged, or holds something else.
    """
    try:
        refuse_pointer(path)
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        size = int.from_bytes(content[:8], "little")
        said = json.loads(content[8 : 8 + size]).get("__metadata__", {})
        arrays = load(content)
    except (SafetensorError, ValueError, KeyError, AttributeError, RecursionError):
        raise UserError(f"{path} is damaged, or no safetensors file") from None
    if said.get("kind") != kind:
        raise UserError(f"{path} holds {said.get('kind', 'something else')!r}, not a {kind}; give a file with a {kind}")
    if _digest(arrays, said.get(kind, "")) != said.get("sha256"):
        raise UserError(f"{path} is damaged: its SHA-256 is not the one that it names")
    return arrays, json.loads(said[kind])


def _digest(arrays: Mapping[str, np.ndarray], text: str) -> str:
    named = sorted(arrays.items())
    return arrays_digest([*named, ("said", np.frombuffer(text.encode(), np.uint8))])
