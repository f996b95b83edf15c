"""From parameters back to the tensors of a file; what is to be written is read again and compared with them."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from jaxinterp.base.errors import UserError
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.families.family import Family, Source, TensorFile
from jaxinterp.models.loading.safetensors_file import DTYPES, SafetensorsFile
from jaxinterp.models.loading.weights import fill, unstacked_shapes, working_dtype


@dataclasses.dataclass(frozen=True)
class Original:
    """The weights that a model was loaded from."""

    file: SafetensorsFile
    names: Mapping[str, str]  # the file's names by the family's, as of `weights.names_in`

    def dtype(self, name: str) -> np.dtype | None:
        """The type of a tensor by the family's name; None if the file does not have it."""
        return DTYPES.get(self.file.tensors[self.names[name]].dtype) if name in self.names else None


@dataclasses.dataclass(frozen=True)
class Written:
    """The tensors of a file, and what is not the same when they are read."""

    tensors: dict[str, np.ndarray]  # by the names of transformers
    notes: tuple[str, ...]  # lines for people


@dataclasses.dataclass(frozen=True)
class _Part:
    """A parameter, or one layer of it, with its source."""

    path: str
    layer: int | None
    value: np.ndarray
    source: Source
    used: bool = True  # whether anything computes with it

    @property
    def names(self) -> list[str]:
        return [name.format(self.layer) for name, _ in self.source.tensors]


class _InMemory(TensorFile):
    def __init__(self, path: Path, tensors: Mapping[str, np.ndarray]) -> None:
        self.path, self.tensors = path, tensors
        self.shapes = {name: tensor.shape for name, tensor in tensors.items()}

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        return self.tensors[name][start:stop]


def written_tensors(
    params: Mapping, config: ModelConfig, family: Family, original: Original | None, where: Path
) -> Written:
    """The tensors of a file that is read as these parameters, bit for bit.

    Every tensor has the type that it has in `original`, if all of them can have theirs without loss; otherwise all have
    the type of the parameters. A tensor that has more than the parameter says (two that are added, rows before the
    first position) is that of `original` if the parameter still is what comes of it.

    Args:
      params: of a model with this config.
      family: one whose layout can express the config.
      original: what the model was loaded from, in this family's names; None if it was not, or is gone.
      where: the folder that is to be written, for messages.
    Raises:
      UserError: if a parameter is not what the layout can have: it is not constant where the family has none, or
        differs from another one where the family has one tensor for both; or a number is not finite.
    """
    parts = list(_parts(params, config, family))
    tensors: dict[str, np.ndarray] = {}
    for part in parts:
        _place(part, tensors, family)
    kept, made = _kept(parts, original)
    tensors |= kept
    notes = [f"made anew from parameters that have changed: {listed(made)}"] if made else []
    own = np.dtype(config.dtype)
    dtypes = {name: (original.dtype(name) if original else None) or own for name in tensors}
    if not all(_fits(tensor, dtypes[name]) for name, tensor in tensors.items()):
        dtypes = dict.fromkeys(tensors, own)
    tensors = {name: tensor.astype(dtypes[name], copy=False) for name, tensor in tensors.items()}
    notes += _compared(parts, _InMemory(where, tensors), family)
    for copy, of in family.hf.copies.items():
        if copy in tensors and of not in tensors:
            tensors[of] = tensors[copy]  # nothing reads it, but transformers asks for it
    return Written({family.hf.full_name(name): tensor for name, tensor in tensors.items()}, tuple(notes))


def _parts(params: Mapping, config: ModelConfig, family: Family) -> Iterator[_Part]:
    sources = family.hf.sources(config, unstacked_shapes(config))
    for path, leaf in flatten_dict(params, sep=".").items():
        value = np.asarray(leaf)
        if path.startswith("layers."):
            for layer in range(config.n_layers):
                source = sources[path].of_layer(layer)
                yield _Part(path, layer, value[layer], source, source is sources[path])
        else:
            yield _Part(path, None, value, sources[path])


def _place(part: _Part, tensors: dict[str, np.ndarray], family: Family) -> None:
    source, value = part.source, part.value
    if source.split is not None:
        value = value.astype(working_dtype(value.dtype))
    for name, (_, shape) in zip(part.names, source.tensors, strict=True):
        tensors.setdefault(name, np.zeros(shape, value.dtype))
    arrays = [tensors[name] for name in part.names]
    if source.split is not None:
        source.split(value, *arrays)
    elif source.combine is None:
        arrays[0][...] = value
    elif arrays:
        view = source.combine(*arrays)
        if not np.may_share_memory(view, arrays[0]):
            raise UserError(f"the family {family.name} does not say how {part.path} becomes {' and '.join(part.names)}")
        view[...] = value


def _kept(parts: list[_Part], original: Original | None) -> tuple[dict[str, np.ndarray], list[str]]:
    """The original tensors of parameters that do not hold all of them, and the names of those that have changed."""
    kept: dict[str, np.ndarray] = {}
    made: list[str] = []
    for part in parts if original is not None else ():
        if part.source.whole or not all(name in original.names for name in part.names):
            continue
        shapes = [shape for _, shape in part.source.tensors]
        full = [original.names[name] for name in part.names]
        same = all(tuple(original.file.shapes[name]) == shape for name, shape in zip(full, shapes, strict=True))
        if same and _read(part, original.file, original.names).tobytes() == part.value.tobytes():
            rows = [original.file.rows(name, 0, shape[0]) for name, shape in zip(full, shapes, strict=True)]
            kept |= dict(zip(part.names, rows, strict=True))
        else:
            made += part.names
    return kept, made


def _read(part: _Part, file: TensorFile, names: Mapping[str, str]) -> np.ndarray:
    out = np.empty(part.value.shape, part.value.dtype)
    fill(out, file, names, part.source, part.layer)
    return out


def _fits(tensor: np.ndarray, dtype: np.dtype) -> bool:
    with np.errstate(over="ignore"):
        return tensor.dtype == dtype or np.array_equal(tensor.astype(dtype).astype(tensor.dtype), tensor)


def _compared(parts: list[_Part], file: _InMemory, family: Family) -> list[str]:
    """Lines about what differs though nothing computes with it, or by rounding; UserError if more does."""
    names = {name: name for name in file.shapes}
    unused, rounded, largest = [], [], 0.0
    for part in parts:
        back = _read(part, file, names)
        if back.tobytes() == part.value.tobytes():
            continue
        label = part.path if part.layer is None else f"{part.path} of layer {part.layer}"
        difference = float(np.abs(back.astype(np.float64) - part.value.astype(np.float64)).max())
        if not part.used:
            unused.append(label)
        elif not part.source.whole and difference <= jnp.finfo(part.value.dtype).eps:
            rounded.append(label)
            largest = max(largest, difference)
        elif part.names:
            raise UserError(
                f"{label} cannot be exported to the family {family.name}: its tensor there, {part.names[0]}, is that "
                "of another parameter too, and the two differ"
            )
        else:
            raise UserError(
                f"{label} cannot be exported to the family {family.name}, which has no such parameter: all of it is "
                f"{back.flat[0]:g} there"
            )
    lines = [f"left out, as nothing computes with it: {listed(unused)}"] if unused else []
    return lines + ([f"rounded, by at most {largest:.2g}: {listed(rounded)}"] if rounded else [])


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
