"""The tensors of a folder's safetensors files, one or several with an index, read by rows.

The dependency `safetensors` writes these files, but does not read them here. It maps them into memory, so that a file
which becomes shorter in the meantime ends the process by a bus error instead of an exception. Its errors name neither
the file nor what is wrong with which of its tensors. And it knows single files alone, not the index of several.
"""

import dataclasses
import json
import math
import re
import struct
from pathlib import Path, PurePosixPath, PureWindowsPath

import ml_dtypes
import numpy as np

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json, refuse_pointer
from jaxinterp.models.families.family import TensorFile

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
# Sizes of types that only tensors that are ignored may have (buffers of positions and masks).
OTHERS = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8}
OTHERS |= {"F8_E4M3": 1, "F8_E5M2": 1}
LARGEST_HEADER = 100_000_000  # the format's own limit, bytes


@dataclasses.dataclass(frozen=True)
class Tensor:
    """The place of a tensor's bytes, and their type."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int  # of the file


class SafetensorsFile(TensorFile):
    """All tensors of a folder: their shapes, and their rows as floating-point numbers."""

    def __init__(self, folder: Path) -> None:
        """Reads the heads of the files.

        Raises:
          UserError: if there are no safetensors, or a file is missing, truncated or damaged, or lies elsewhere.
        """
        self.path = folder
        self.tensors: dict[str, Tensor] = {}
        for path, expected in _files(folder).items():
            tensors = _head(path)
            if expected is not None:
                _compare(path, expected, set(tensors))
            self.tensors |= tensors
        self.shapes = {name: tensor.shape for name, tensor in self.tensors.items()}

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows start … stop − 1 of the tensor's first axis, in the type of the file.

        Raises:
          UserError: if the tensor does not hold floating-point numbers.
        """
        tensor = self.tensors[name]
        if tensor.dtype not in DTYPES:
            raise UserError(f"{tensor.path}: tensor {name!r} is of type {tensor.dtype}; supported: {', '.join(DTYPES)}")
        dtype, inner = DTYPES[tensor.dtype], math.prod(tensor.shape[1:])
        offset = tensor.start + start * inner * dtype.itemsize
        data = np.fromfile(tensor.path, dtype, (stop - start) * inner, offset=offset)
        if data.size < (stop - start) * inner:
            raise UserError(f"{tensor.path}: tensor {name!r} cannot be read: the file has become shorter")
        return data.reshape((stop - start, *tensor.shape[1:]))


def _files(folder: Path) -> dict[Path, set[str] | None]:
    """The files, each with the tensors that the index puts there (None without an index)."""
    if (folder / SINGLE).is_file():
        return {folder / SINGLE: None}
    if not (folder / INDEX).is_file():
        pickles = sorted(path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")))
        if pickles:
            raise UserError(
                f"{folder} has its weights as pickle ({', '.join(pickles)}), which is never read, because it can run "
                "code; convert it to safetensors: load it in PyTorch and call save_pretrained"
            )
        others = sorted(path.name for path in folder.glob("*.safetensors"))
        if any(re.search(r"-\d+-of-\d+\.safetensors$", name) for name in others):
            raise UserError(
                f"{folder} has parts of the weights ({', '.join(others)}), but no {INDEX}, which says what lies where; "
                "take it from the same place"
            )
        seen = f" (it has {', '.join(others)}; rename the model's to {SINGLE})" if others else ""
        raise UserError(f"{folder} holds no weights: neither {SINGLE} nor {INDEX} is there{seen}")
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{folder / INDEX} has no weight_map of tensors to files")
    files: dict[Path, set[str] | None] = {}
    for tensor, name in places.items():
        # Also what is a path on other systems: an index has to mean the same everywhere.
        if name in ("", ".", "..") or name != PurePosixPath(name).name or name != PureWindowsPath(name).name:
            raise UserError(f"{folder / INDEX}: {tensor!r} lies in {name!r}; only files of the folder itself are read")
        files.setdefault(folder / name, set()).add(tensor)
    return files


def _compare(path: Path, expected: set[str], present: set[str]) -> None:
    for name in sorted(expected ^ present):
        what = "is missing, the index puts it there" if name in expected else "is not in the index"
        raise UserError(f"{path}: tensor {name!r} {what}")


def _head(path: Path) -> dict[str, Tensor]:
    """The tensors of one file; their bytes have to fill it without a gap."""
    try:
        size = path.stat().st_size
        refuse_pointer(path)
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0] if size >= 8 else size
            if size < 8 or length > min(size - 8, LARGEST_HEADER):
                raise UserError(f"{path} is truncated or no safetensors file: its header should have {length} bytes")
            header = json.loads(file.read(length).decode("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except RecursionError:
        raise UserError(f"{path} is damaged: the objects of its header lie too deep in one another") from None
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged: its header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise UserError(f"{path} is damaged: its header is a JSON {type(header).__name__}, not an object")
    header.pop("__metadata__", None)
    tensors, ends = {}, {}
    for name, info in header.items():
        dtype, shape, begin, end = _info(path, name, info)
        tensors[name] = Tensor(path, dtype, shape, 8 + length + begin)
        ends[name] = (begin, end)
    position = 0
    for name, (begin, end) in sorted(ends.items(), key=lambda item: item[1]):
        if begin != position:
            raise UserError(f"{path} is damaged: tensor {name!r} begins at byte {begin} of the data, not {position}")
        position = end
    if 8 + length + position != size:
        raise UserError(f"{path} is truncated or damaged: it should have {8 + length + position} bytes, it has {size}")
    return tensors


def _info(path: Path, name: str, info: object) -> tuple[str, tuple[int, ...], int, int]:
    try:
        dtype, shape, (begin, end) = info["dtype"], info["shape"], info["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end)) and isinstance(dtype, str)
    except (TypeError, KeyError, ValueError):
        whole = False
    if not whole:
        raise UserError(f"{path} is damaged: the header's entry for tensor {name!r} is {info!r}")
    if dtype not in DTYPES and dtype not in OTHERS:
        raise UserError(f"{path}: tensor {name!r} is of type {dtype!r}; supported: {', '.join(DTYPES)}")
    width = DTYPES[dtype].itemsize if dtype in DTYPES else OTHERS[dtype]
    if end - begin != width * math.prod(shape):
        raise UserError(f"{path} is damaged: tensor {name!r} ({dtype} {shape}) does not fit its {end - begin} bytes")
    return dtype, tuple(shape), begin, end
