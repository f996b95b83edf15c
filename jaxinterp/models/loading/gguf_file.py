"""The tensors of a GGUF file, read and dequantised by rows."""

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import refuse_pointer
from jaxinterp.models.families.family import TensorFile
from jaxinterp.models.loading.gguf_metadata import Reader

PLAIN = {Kind.F32: "<f4", Kind.F16: "<f2", Kind.F64: "<f8"}
QUANTISED = (Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1)
QUANTISED += (Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K, Kind.IQ4_NL, Kind.IQ4_XS)
SUPPORTED = tuple(kind.name for kind in (*PLAIN, *QUANTISED))
LONG_ROW = 1 << 14  # numbers; 16 of them stay in a processor's cache
ALIGNMENT = 32  # of tensors, unless the metadata has another


@dataclasses.dataclass(frozen=True)
class Tensor:
    """The place of a tensor's bytes, and their type."""

    path: Path
    kind: Kind
    shape: tuple[int, ...]  # rows first: GGUF's order reversed
    start: int  # of the file

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of the first axis (of everything, if there is one axis only)."""
        block, size = gguf.GGML_QUANT_SIZES[self.kind]
        inner = math.prod(self.shape[1:]) if len(self.shape) > 1 else 1
        return inner // block * size

    @property
    def n_bytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.shape[0] * self.row_bytes


class GgufFile(TensorFile):
    """A GGUF file: its metadata, the shapes of its tensors, and their rows as floating-point numbers.

    A file that was split has its metadata in the first part, which stands for all of them.
    """

    def __init__(self, path: Path) -> None:
        """Reads the head of the file, and of the other parts of a split one.

        Raises:
          UserError: if the file is missing, no GGUF file, truncated or damaged, a tensor's type is not supported, or
            a part is missing or not the first.
        """
        self.path = path
        self.metadata, self.tensors = _head(path)
        for other in _other_parts(path, self.metadata):
            _, more = _head(other)
            for name in self.tensors.keys() & more.keys():
                raise UserError(f"{other} is damaged: it has the tensor {name!r}, which another part has too")
            self.tensors |= more
        expected = self.metadata.get("split.tensors.count", len(self.tensors))
        if expected != len(self.tensors):
            raise UserError(f"{path} says that all parts have {expected} tensors; they have {len(self.tensors)}")
        self.shapes = {name: tensor.shape for name, tensor in self.tensors.items()}

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows start … stop − 1 of the tensor's first axis, in float32 (float64 if stored so)."""
        tensor = self.tensors[name]
        count, offset = (stop - start) * tensor.row_bytes, tensor.start + start * tensor.row_bytes
        data = np.fromfile(tensor.path, np.uint8, count, offset=offset)
        if data.size < count:
            raise UserError(f"{tensor.path}: tensor {name!r} cannot be read: the file has become shorter")
        shape = (stop - start, *tensor.shape[1:])
        if tensor.kind in PLAIN:
            return data.view(PLAIN[tensor.kind]).reshape(shape)
        # A scale that is no number is found afterwards, with the tensor's name.
        with np.errstate(all="ignore"):
            return gguf.dequantize(data.reshape(-1, _row_bytes(tensor.kind, count)), tensor.kind).reshape(shape)


def _head(path: Path) -> tuple[dict[str, object], dict[str, Tensor]]:
    """The metadata of one file, and where its tensors are."""
    try:
        refuse_pointer(path)
        size = path.stat().st_size
        with path.open("rb") as file:
            reader = Reader(file, size, path)
            metadata = reader.pairs()
            n_tensors = int(np.frombuffer(bytes(reader.data[8:16]), "<u8")[0])
            infos = [_info(reader) for _ in range(n_tensors)]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise UserError(f"{path} is damaged: general.alignment is {alignment!r}")
    start = -(-reader.position // alignment) * alignment
    tensors: dict[str, Tensor] = {}
    for name, kind, shape, offset in infos:
        if name in tensors:
            raise UserError(f"{path} is damaged: it has the tensor {name!r} twice")
        tensor = Tensor(path, _supported(kind, name, path), shape, start + offset)
        block = gguf.GGML_QUANT_SIZES[tensor.kind][0]
        if shape[-1] % block or (len(shape) == 1 and block > 1):
            raise UserError(f"{path}: tensor {name!r} {list(shape)} does not fit the blocks of {tensor.kind.name}")
        if tensor.start + tensor.n_bytes > size:
            raise UserError(
                f"{path} is truncated: tensor {name!r} should end at byte {tensor.start + tensor.n_bytes}, the "
                f"file has {size}"
            )
        tensors[name] = tensor
    return metadata, tensors


def _other_parts(path: Path, metadata: Mapping[str, object]) -> list[Path]:
    """The parts after the first of a file that was split into several."""
    n_parts = metadata.get("split.count", 1)
    if n_parts in (0, 1):
        return []
    pattern = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.gguf)", re.IGNORECASE)
    named = pattern.fullmatch(path.name)
    if named is None or int(named[3]) != n_parts:
        raise UserError(f"{path} is one of {n_parts} parts; give them their names back, which end in -00001-of-0000n")
    names = [f"{named[1]}-{part:05}-of-{named[3]}{named[4]}" for part in range(1, n_parts + 1)]
    if path.name != names[0] or metadata.get("split.no", 0) != 0:
        raise UserError(f"{path} is not the first of its {n_parts} parts; give {names[0]}")
    for name in names[1:]:
        if not path.with_name(name).is_file():
            raise UserError(f"{path} is the first of {n_parts} parts, and {name} is not beside it")
    return [path.with_name(name) for name in names[1:]]


def _row_bytes(kind: Kind, n_bytes: int) -> int:
    """Blocks stand one after the other, and `gguf` takes 16 rows at a time: long ones are faster than the tensor's."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return math.gcd(n_bytes // size, max(LONG_ROW // block, 1)) * size


def _info(reader: Reader) -> tuple[str, int, tuple[int, ...], int]:
    name = reader.string("a tensor's name")
    n_axes = reader.number("<u4")
    if not 1 <= n_axes <= 4:
        raise UserError(f"{reader.path} is damaged: tensor {name!r} has {n_axes} axes, GGUF allows 1 to 4")
    shape = tuple(reader.number("<u8") for _ in range(n_axes))[::-1]
    if not all(0 < length < 1 << 40 for length in shape):
        raise UserError(f"{reader.path} is damaged: tensor {name!r} has the shape {list(shape)}")
    return name, reader.number("<u4"), shape, reader.number("<u8")


def _supported(kind: int, name: str, path: Path) -> Kind:
    known = {member.value: member for member in Kind}
    if kind in known and known[kind].name in SUPPORTED:
        return known[kind]
    given = known[kind].name if kind in known else f"number {kind}"
    raise UserError(
        f"{path}: tensor {name!r} is of type {given}; supported: {', '.join(SUPPORTED)}; take a file of the model with "
        "one of these, or make it with llama-quantize"
    )
