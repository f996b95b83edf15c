"""From the tensors of a file to stacked parameters: every tensor is used or named as ignored, none is copied twice."""

import math
import re
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxinterp.base.errors import UserError
from jaxinterp.models import parameters
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.families.family import Layout, Shape, Source, TensorFile
from jaxinterp.models.families.names import HF_IGNORED
from jaxinterp.models.mesh import on_mesh

# The config → where each parameter goes, as a tree like that of the parameters; see `jaxinterp.models.mesh.placement`
Placement = Callable[[ModelConfig], Mapping]
ALIGNMENT = 64  # bytes
# What stands before names of tensors that were saved from inside another object.
WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "module.": "PyTorch's data parallelism",
    "base_model.model.": "peft, around a model with an adapter,",
    "_fsdp_wrapped_module.": "PyTorch's FSDP",
    "_forward_module.": "Lightning",
}
CHUNK = 1 << 21  # numbers that are converted at once: what temporary arrays hold


def load_weights(
    file: TensorFile, config: ModelConfig, layout: Layout, *, placement: Placement | None = None
) -> tuple[dict, dict[str, str]]:
    """The parameters of a model, stacked along layers, in the dtype of the config.

    One parameter at a time is assembled on the host, the largest first, so that the peak is little above the sum.

    Args:
      file: where the tensors are.
      config: the model; `config.dtype` is the dtype of the parameters.
      layout: the family's names for this kind of file.
      placement: the sharding of each parameter; None is JAX's default device.
    Returns:
      The parameters, and the tensors that were ignored on purpose with the reason.
    Raises:
      UserError: if a tensor is missing, unknown, misshapen, or not finite; or a copy differs from its original.
    """
    leaves = unstacked_shapes(config)
    sources = layout.sources(config, leaves)
    wanted = wanted_tensors(config, sources)
    names = names_in(file, layout, wanted)
    ignored = _check(file, layout, names, wanted, config)
    shardings = flatten_dict(placement(config)) if placement else {}
    loaded: dict[tuple[str, ...], jax.Array] = {}
    for path in sorted(leaves, key=lambda path: -math.prod(_stacked(path, leaves[path], config))):
        shape = _stacked(path, leaves[path], config)
        array = _aligned(shape, np.dtype(config.dtype))
        if path.startswith("layers."):
            for layer in range(config.n_layers):
                fill(array[layer], file, names, sources[path].of_layer(layer), layer)
        else:
            fill(array, file, names, sources[path], None)
        key = tuple(path.split("."))
        value = on_mesh(array, shardings[key]) if placement else jax.device_put(array)
        # What the host has goes before the next one comes, unless JAX has taken it over.
        loaded[key] = value.block_until_ready()
        del array, value
    return unflatten_dict({path: loaded[path] for path in sorted(loaded)}), ignored


def unstacked_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Shapes of the parameters by dotted path, without the layer axis."""
    table = sorted(parameters.transformer(config).items())
    return {path: p.shape[1:] if path.startswith("layers.") else p.shape for path, p in table}


def _stacked(path: str, shape: Shape, config: ModelConfig) -> Shape:
    return (config.n_layers, *shape) if path.startswith("layers.") else shape


def _aligned(shape: Shape, dtype: np.dtype) -> np.ndarray:
    """An array that JAX can take over on a CPU as it is, which saves holding the largest parameter twice."""
    n_bytes = math.prod(shape) * dtype.itemsize
    memory = np.empty(n_bytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + n_bytes].view(dtype).reshape(shape)


def names_in(file: TensorFile, layout: Layout, wanted: Mapping[str, Shape]) -> dict[str, str]:
    """The file's names by the family's: without the prefix, in today's spelling, a copy for its absent original.

    Raises:
      UserError: if the file has a tensor twice.
    """
    names: dict[str, str] = {}
    for name in file.shapes:
        short = layout.rename(name.removeprefix(layout.prefix))
        if short in names:
            raise UserError(f"{file.path}: tensors {names[short]!r} and {name!r} are the same one twice")
        names[short] = name
    for copy, original in layout.copies.items():
        if copy in names and copy not in wanted and original in wanted and original not in names:
            names[original] = names.pop(copy)
    return names


def wanted_tensors(config: ModelConfig, sources: Mapping[str, Source]) -> dict[str, Shape]:
    """Names and shapes of all tensors that the parameters come from."""
    wanted: dict[str, Shape] = {}
    for path, source in sources.items():
        for layer in range(config.n_layers if path.startswith("layers.") else 1):
            wanted |= {name.format(layer): shape for name, shape in source.of_layer(layer).tensors}
    return wanted


def _check(
    file: TensorFile, layout: Layout, names: Mapping[str, str], wanted: Mapping[str, Shape], config: ModelConfig
) -> dict[str, str]:
    for name, shape in wanted.items():
        if name not in names:
            _refuse_wrapper(file)
            either = f"{name!r} (or {layout.prefix + name!r})" if layout.prefix else repr(name)
            raise UserError(f"{file.path}: tensor {either} is missing; the config asks for it")
        given = file.shapes[names[name]]
        if tuple(given) != shape:
            raise UserError(
                f"{file.path}: tensor {names[name]!r} is {list(given)}, the config that disagrees asks for "
                f"{list(shape)}"
            )
    ignored, patterns = {}, HF_IGNORED | layout.ignored
    for short, name in names.items():
        if short in wanted:
            continue
        reason = next((reason for pattern, reason in patterns.items() if re.fullmatch(pattern, short)), None)
        if reason is None and short in layout.copies and layout.copies[short] in names:
            original = names[layout.copies[short]]
            _check_copy(file, name, original)
            reason = f"equal to {original}"
        if reason is None:
            raise UserError(f"{file.path}: tensor {name!r} is not part of this model ({_summary(config)})")
        ignored[name] = reason
    return ignored


def _refuse_wrapper(file: TensorFile) -> None:
    for prefix, origin in WRAPPERS.items():
        if any(name.startswith(prefix) for name in file.shapes):
            raise UserError(
                f"{file.path}: names of tensors begin with {prefix!r}, which {origin} puts there; save the weights "
                "again without it"
            )


def _summary(config: ModelConfig) -> str:
    biases = ", ".join(name for name in ("qkv_bias", "out_bias", "mlp_bias") if getattr(config, name)) or "no bias"
    return f"{config.n_layers} layers, {biases}, {'tied' if config.tied else 'untied'} embeddings"


def _check_copy(file: TensorFile, name: str, original: str) -> None:
    same = file.shapes[name] == file.shapes[original] and all(
        np.array_equal(file.rows(name, start, stop), file.rows(original, start, stop))
        for start, stop in _chunks(file.shapes[name])
    )
    if not same:
        raise UserError(
            f"{file.path}: tensor {name!r} differs from {original!r}, although the config says that they are one "
            "(tie_word_embeddings)"
        )


def _chunks(shape: Shape) -> Iterator[tuple[int, int]]:
    step = max(1, CHUNK // max(1, math.prod(shape[1:])))
    return ((start, min(start + step, shape[0])) for start in range(0, shape[0], step))


def fill(out: np.ndarray, file: TensorFile, names: Mapping[str, str], source: Source, layer: int | None) -> None:
    """Writes a parameter, or one layer of it, into `out`.

    Raises:
      UserError: if it is not finite.
    """
    tensors = [(names[name.format(layer)], shape) for name, shape in source.tensors]
    if source.combine is None:
        ((name, shape),) = tensors
        for start, stop in _chunks(shape):
            out[start:stop] = _finite(_cast(file.rows(name, start, stop), out.dtype), name, file)
        return
    arrays = [_cast(file.rows(name, 0, shape[0]), working_dtype(out.dtype)) for name, shape in tensors]
    for array, (name, _) in zip(arrays, tensors, strict=True):
        _finite(array, name, file)
    out[...] = source.combine(*arrays)
    if not np.isfinite(out).all():  # finite before, not in the narrower dtype
        _finite(out, tensors[0][0], file)


def working_dtype(dtype: np.dtype) -> np.dtype:
    """Arithmetic on the way (1 + scale, sums of embeddings) is in float32 at least."""
    return np.promote_types(np.float32, dtype) if dtype != jnp.bfloat16 else np.dtype(np.float32)


def _cast(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):
        return array.astype(dtype, copy=False)


def _finite(array: np.ndarray, name: str, file: TensorFile) -> np.ndarray:
    if not np.isfinite(array).all():
        raise UserError(f"{file.path}: tensor {name!r} has values that are not finite in {array.dtype}")
    return array
