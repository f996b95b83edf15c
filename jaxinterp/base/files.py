"""Files that appear whole or not at all, and what the user is told when they cannot."""

import contextlib
import ctypes
import errno
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxinterp.base.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

OLD = ".old"  # the end of the name of a folder that is being replaced
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux
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
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write to {folder}: {reason}; choose another folder") from None
    return folder


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the block ends without an exception.

    It does so at once, and when all of it is on the disk: whenever the process or the machine stops, `folder` is the
    older one or the new one. Where no system call swaps two folders there is a moment without `folder`; the next call
    brings the older one back. A call also deletes what processes that were killed have left behind.

    Raises:
      UserError: if the folder cannot be made, written or replaced.
    """
    folder = folder.resolve() if folder.is_symlink() else folder  # what a link points to is replaced, not the link
    writable_folder(folder.parent)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"cannot write {folder}: it is a file; give the name of a folder")
    try:
        delete_partial(folder)
        partial, lock = _locked(folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from None
    try:
        yield partial
        try:
            _replace(folder, partial)
        except OSError as error:
            raise UserError(f"cannot write {folder}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked(folder: Path) -> tuple[Path, int | None]:
    """A new folder beside another one, with the rights that the umask leaves, and a lock that ends with the process."""
    while True:
        partial = folder.with_name(f".{folder.name}.partial-{secrets.token_hex(4)}")
        partial.mkdir()
        if fcntl is None:
            return partial, None
        lock = os.open(partial, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        if partial.exists():  # another process may have taken it for a left-over before it was locked
            return partial, lock
        os.close(lock)


def delete_partial(folder: Path) -> None:
    """Deletes what processes that are no more have left beside a folder; one that they had moved away comes back."""
    left = re.compile(rf"\.{re.escape(folder.name)}\.partial-[0-9a-f]{{8}}({OLD})?")
    beside = folder.parent.iterdir() if folder.parent.is_dir() else ()
    found = sorted(path for path in beside if left.fullmatch(path.name) and not path.is_symlink())
    for path in found if fcntl is not None else []:
        with contextlib.suppress(OSError):  # locked by a process that is at work, or just deleted by another one
            lock = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.name.endswith(OLD) and not folder.exists():
                    os.replace(path, folder)
                else:
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


def _replace(folder: Path, partial: Path) -> None:
    """Puts a folder that is complete in another one's place; what was there is then in `partial`, or nowhere."""
    for path in sorted(partial.rglob("*"), reverse=True):
        _sync(path)
    _sync(partial)
    if not folder.exists():
        os.replace(partial, folder)
    elif not _exchanged(partial, folder):
        old = partial.with_name(partial.name + OLD)
        os.replace(folder, old)
        try:
            os.replace(partial, folder)
        except OSError:
            os.replace(old, folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    _sync(folder.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Swaps two folders in one step; False where the system or the file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    if path.is_symlink() or not (path.is_file() or (path.is_dir() and os.name == "posix")):
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of file systems that have nothing to wait for
            raise
    finally:
        os.close(number)


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
    """Writes the file through a temporary one in the same folder, whole or not at all, also where the machine stops;
    UserError if it cannot be written.
    """
    writable_folder(path.parent)
    if not path.name or path.is_dir():
        raise UserError(f"cannot write to {path}: it is a folder; give the name of a file")
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync(path.parent)
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
