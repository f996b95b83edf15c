"""Files that appear whole or not at all, and what the user is told when they cannot."""

import contextlib
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxinterp.base.errors import UserError

POINTER = b"version https://git-lfs.github.com/spec/"


def writable_folder(folder: Path) -> Path:
    """The folder, made if need be.

    Raises:
      UserError: if it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}; choose another folder") from None
    return folder


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the block ends without an exception."""
    writable_folder(folder.parent)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield partial
        partial.chmod(0o755)
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            os.replace(folder, old / "old")
            os.replace(partial, folder)
            shutil.rmtree(old)
        else:
            os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def delete_partial(folder: Path) -> None:
    """Deletes what processes that were killed in `new_folder` have left beside `folder`; no other may be writing it."""
    for path in folder.parent.glob(f".{glob.escape(folder.name)}-*"):
        shutil.rmtree(path, ignore_errors=True)


def is_gguf(path: Path) -> bool:
    """Whether the name is that of a GGUF file."""
    return path.suffix.lower() == ".gguf"


def refuse_pointer(path: Path) -> None:
    """Raises if the file is what Git leaves where Git LFS is not installed: the address of the contents.

    Raises:
      UserError: if it is; or OSError, if it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise UserError(f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository")


def write_text(path: Path, text: str) -> None:
    """Writes the file as UTF-8, whole or not at all; UserError if it cannot be written."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes the file through a temporary one in the same folder; UserError if it cannot be written."""
    writable_folder(path.parent)
    if not path.name or path.is_dir():
        raise UserError(f"cannot write to {path}: it is a folder; give the name of a file")
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: object, *, indent: int | None = 1) -> None:
    """Writes JSON that any parser reads: NaN and infinity are errors. In one line if `indent` is None."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def rounded(value: object, digits: int = 5) -> object:
    """JSON whose numbers have so many significant digits: what pages quote."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, Mapping):
        return {name: rounded(of, digits) for name, of in value.items()}
    return [rounded(of, digits) for of in value] if isinstance(value, list | tuple) else value


def read_json(path: Path) -> dict:
    """Reads a JSON object.

    Raises:
      UserError: if the file is missing, or is not a JSON object.
    """
    try:
        refuse_pointer(path)
        value = json.loads(path.read_text(encoding="utf-8"))
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except RecursionError:
        raise UserError(f"{path} cannot be read as JSON: its objects lie too deep in one another") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a JSON {type(value).__name__}, not an object")
    return value
