"""SHA-256 of files and of arrays, by which contents are recognised."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits; OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def array_digest(array: np.ndarray) -> str:
    """The array's type, shape, and SHA-256 of its values in C order, as in "float32[2, 3] 9f86d0…"."""
    return f"{array.dtype}{list(array.shape)} {hashlib.sha256(array.tobytes()).hexdigest()}"


def arrays_digest(arrays: Iterable[tuple[str, np.ndarray]], digest: Callable[[np.ndarray], str] = array_digest) -> str:
    """SHA-256 of named arrays, in this order: their names, types, shapes and values.

    Args:
      arrays: (name, array).
      digest: gives what `array_digest` gives; one that remembers may be faster.
    """
    return hashlib.sha256("\n".join(f"{name} {digest(array)}" for name, array in arrays).encode()).hexdigest()
