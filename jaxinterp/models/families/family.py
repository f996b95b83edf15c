"""Families of published models: the types that say how a config is read and where our parameters come from."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from jaxinterp.models.config import ModelConfig
from jaxinterp.models.families.fields import Fields

Shape: TypeAlias = tuple[int, ...]
# Our parameters by dotted path ("layers.w_q"); those under "layers" without the layer axis.
Shapes: TypeAlias = Mapping[str, Shape]


class TensorFile:
    """Tensors by name, read by rows."""

    path: Path
    shapes: Mapping[str, Shape]

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows start … stop − 1 of the tensor's first axis."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Source:
    """The tensors that a parameter (or one layer of it) comes from, and goes back to."""

    tensors: tuple[tuple[str, Shape], ...]  # names and shapes in the file; "{}" in a name is the layer's number
    combine: Callable[..., np.ndarray] | None = None  # the tensors → the parameter; None: the one tensor is it
    first: "Source | None" = None  # of the first layer, where nothing reads the parameter
    # (the parameter, its tensors): writes it into them. None: `combine` gives a view of the one tensor, and what is
    # written to the view stands in the tensor.
    split: Callable[..., None] | None = None
    whole: bool = True  # whether the parameter has all that the tensors have, so that they can be made from it again

    def of_layer(self, layer: int | None) -> "Source":
        """The source of this layer's parameter."""
        return self.first if layer == 0 and self.first is not None else self


SourceMap: TypeAlias = dict[str, Source]
# (config, shapes of our parameters) → a source for each
Sources: TypeAlias = Callable[[ModelConfig, Shapes], SourceMap]
# (fields of config.json or of GGUF metadata, the file) → our config
ConfigReader: TypeAlias = Callable[[Fields, TensorFile], ModelConfig]
# Our config → the fields of config.json that are read as this config, as far as the family can say it
ConfigWriter: TypeAlias = Callable[[ModelConfig], dict[str, object]]


@dataclasses.dataclass(frozen=True)
class Layout:
    """One file format of a family.

    `config` takes the config (config.json, or GGUF metadata under the architecture's prefix) and the file. `ignored`
    maps regular expressions of tensor names to the reason why they are not needed; `copies` maps a tensor that must
    equal another one to that one. All names are without `prefix`, which files may lack. Names that begin with one of
    `outside` never have it. A layout with `fields` can be written, too.
    """

    config: ConfigReader
    sources: Sources
    prefix: str = ""
    ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rename: Callable[[str], str] = str  # old spellings of tensor names → today's
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)  # other names of config fields → the names
    outside: tuple[str, ...] = ()
    fields: ConfigWriter | None = None

    def full_name(self, name: str) -> str:
        """A tensor's name as transformers writes it, with the prefix."""
        return name if name.startswith(self.outside) else self.prefix + name


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of models."""

    name: str
    model_types: tuple[str, ...]  # "model_type" of config.json
    architectures: tuple[str, ...]  # accepted "architectures" of config.json
    hf: Layout
    gguf_architectures: tuple[str, ...] = ()  # "general.architecture" of GGUF files
    gguf: Layout | None = None


def as_is(name: str, shape: Shape) -> Source:
    """A tensor that has our shape already."""
    return Source(((name, shape),))


def linear(name: str, shape: Shape, n_in: int = 1) -> Source:
    """A matrix stored as [outputs, inputs]; the first `n_in` axes of our shape are inputs."""
    stored = (math.prod(shape[n_in:]), math.prod(shape[:n_in]))
    return Source(((name, stored),), lambda x: x.T.reshape(shape))


def flat_vector(name: str, shape: Shape) -> Source:
    """A bias stored as one vector."""
    return Source(((name, (math.prod(shape),)),), lambda x: x.reshape(shape))


def fused(name: str, shape: Shape, part: int, *, by_head: bool = False) -> Source:
    """A third of a matrix (or bias) of queries, keys and values, stored as [outputs, inputs].

    Args:
      shape: ours, [D, H, K] or [H, K].
      part: 0 for queries, 1 for keys, 2 for values.
      by_head: the outputs are [H, 3, K], otherwise [3, H, K].
    """
    *inputs, heads, width = shape
    outer = (heads, 3) if by_head else (3, heads)

    def combine(x: np.ndarray) -> np.ndarray:
        stored = x.reshape(*outer, width, *inputs)
        third = stored[:, part] if by_head else stored[part]
        return np.moveaxis(third, -1, 0) if inputs else third

    return Source(((name, (3 * heads * width, *inputs)),), combine)


def fused_qkv(name: str, shapes: Shapes, *, by_head: bool) -> SourceMap:
    """`fused` sources of all weights and biases of queries, keys and values that the model has."""
    return {
        path: fused(f"{name}.{kind}", shapes[path], part, by_head=by_head)
        for prefix, kind in (("w", "weight"), ("b", "bias"))
        for part, letter in enumerate("qkv")
        if (path := f"layers.{prefix}_{letter}") in shapes
    }


def one_after_another(name: str, leaves: Sequence[str], shapes: Shapes) -> SourceMap:
    """Sources of weights and biases whose outputs follow each other in one matrix [outputs, inputs] and one bias.

    Args:
      name: of the matrix and the bias, without ".weight" and ".bias".
      leaves: what our parameters are called after "w_" and "b_", in their order in the file.
      shapes: shapes of our parameters.
    """
    special = {}
    for prefix, kind, n_in in (("w", "weight", 1), ("b", "bias", 0)):
        paths = [path for leaf in leaves if (path := f"layers.{prefix}_{leaf}") in shapes]
        ends = np.cumsum([0] + [math.prod(shapes[path][n_in:]) for path in paths]).tolist()
        for path, start, stop in zip(paths, ends[:-1], ends[1:], strict=True):
            shape = shapes[path]
            special[path] = Source(
                ((f"{name}.{kind}", (ends[-1], *shape[:n_in])),),
                lambda x, rows=slice(start, stop), shape=shape: x[rows].T.reshape(shape),
            )
    return special


def filled(value: float, shape: Shape) -> Source:
    """No tensor at all: the parameter has one value everywhere, as a bias that a family does not have is 0."""
    return Source((), lambda: np.full(shape, value, np.float32))


def sources(names: Mapping[str, str], shapes: Shapes, special: Mapping[str, Source] | None = None) -> SourceMap:
    """Sources of matrices stored as [outputs, inputs] (as PyTorch and GGUF do) and of vectors.

    Args:
      names: the tensor's name for each of our parameters; those that the model does not have are passed over.
      shapes: shapes of our parameters.
      special: sources of parameters that are stored in another way.
    """
    source_of: SourceMap = dict(special or {})
    for path, shape in shapes.items():
        if path in source_of:
            continue
        leaf = path.rsplit(".", 1)[-1]
        if leaf.startswith("w_"):
            source_of[path] = linear(names[path], shape, n_in=2 if leaf == "w_o" else 1)
        elif leaf.startswith("b_"):
            source_of[path] = flat_vector(names[path], shape)
        else:
            source_of[path] = as_is(names[path], shape)
    return source_of
