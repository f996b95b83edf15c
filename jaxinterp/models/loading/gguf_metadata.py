"""The metadata of a GGUF file: its key-value pairs, read in one pass and without the tensors.

The `gguf` package's reader makes several arrays of every string, which takes seconds for a vocabulary; a vocabulary is
nearly all of the metadata of a model.
"""

import struct
from pathlib import Path

import numpy as np

from jaxinterp.base.errors import UserError

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # version 1 had 32-bit lengths
STRING, ARRAY, BOOL = 8, 9, 7
NUMBERS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    BOOL: "|b1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
CHUNK = 1 << 24


def read_metadata(path: Path) -> dict[str, object]:
    """The key-value pairs of a GGUF file (version 2 or 3, little-endian).

    Returns:
      Values by key: int, float, bool, str, a list of str, or a NumPy array where the file has an array of numbers.
    Raises:
      UserError: if the file is missing, no GGUF file, truncated, or its metadata is damaged.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return Reader(file, size, path).pairs()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


class Reader:
    """A position in the file's first bytes, which grow chunk by chunk: the tensors behind them are never read."""

    def __init__(self, file, size: int, path: Path) -> None:
        self.file, self.size, self.path = file, size, path
        self.data = bytearray()
        self.position = 0

    def pairs(self) -> dict[str, object]:
        magic = self.data_of(min(4, self.size))
        if magic != MAGIC:
            raise UserError(f"{self.path} is no GGUF file: it begins with {magic!r}, not with {MAGIC!r}")
        version = self.number("<u4")
        if version not in VERSIONS:
            if version and version < 1 << 32 and int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
                raise UserError(f"{self.path} is a big-endian GGUF file; only little-endian ones are read")
            raise UserError(f"{self.path} is a GGUF file of version {version}; versions 2 and 3 are read")
        self.number("<u8")  # tensors
        n_pairs = self.length("key-value pairs", 13)  # a key's length, a type and one byte
        values: dict[str, object] = {}
        for _ in range(n_pairs):
            key = self.string("a key")
            if key in values:
                raise UserError(f"{self.path} is damaged: it has the key {key!r} twice")
            values[key] = self.value(self.number("<u4"), key)
        return values

    def value(self, kind: int, key: str) -> object:
        if kind == STRING:
            return self.string(repr(key))
        if kind == ARRAY:
            return self.array(key)
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        raise UserError(f"{self.path} is damaged: {key!r} has the value type {kind}, which GGUF does not know")

    def array(self, key: str) -> list[str] | np.ndarray:
        kind = self.number("<u4")
        if kind == STRING:
            return self.strings(self.length(repr(key), 8), repr(key))
        if kind in NUMBERS:
            dtype = np.dtype(NUMBERS[kind])
            n = self.length(repr(key), dtype.itemsize)
            return np.frombuffer(self.data_of(n * dtype.itemsize), dtype)
        if kind == ARRAY:
            raise UserError(f"{self.path}: {key!r} is an array of arrays, which is not supported")
        raise UserError(f"{self.path} is damaged: {key!r} is an array of type {kind}, which GGUF does not know")

    def number(self, dtype: str) -> int | float | bool:
        return np.frombuffer(self.data_of(np.dtype(dtype).itemsize), dtype)[0].item()

    def length(self, what: str, item_size: int) -> int:
        n = self.number("<u8")
        if n * item_size > self.size - self.position:
            raise self.truncated(f"{what} should have {n} items")
        return n

    def string(self, what: str) -> str:
        return self.strings(1, what)[0]

    def strings(self, n: int, what: str) -> list[str]:
        """The loop over a vocabulary: the only one that has to be fast."""
        texts = []
        unpack, data, position = struct.Struct("<Q").unpack_from, self.data, self.position
        for _ in range(n):
            self.fill(position + 8)
            start = position + 8
            position = start + unpack(data, position)[0]
            if position > len(data):
                self.fill(position)
            texts.append(data[start:position])
        self.position = position
        try:
            return [text.decode("utf-8") for text in texts]
        except UnicodeDecodeError:
            raise UserError(f"{self.path} is damaged: {what} is not valid UTF-8") from None

    def data_of(self, n: int) -> bytes:
        start = self.position
        self.fill(start + n)
        self.position = start + n
        return bytes(self.data[start : self.position])

    def fill(self, end: int) -> None:
        """Makes the bytes before `end` available."""
        if end > self.size:
            raise self.truncated(f"something should end at byte {end}")
        if end > len(self.data):
            self.data += self.file.read(max(end - len(self.data), CHUNK))
            if end > len(self.data):
                raise self.truncated(f"reading stopped at byte {len(self.data)}")

    def truncated(self, what: str) -> UserError:
        return UserError(f"{self.path} is truncated or damaged: {what}, the file has {self.size} bytes")
