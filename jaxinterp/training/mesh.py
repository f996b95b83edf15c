"""Many devices: which axis of which array lies on which axis of the mesh. JAX divides the work by that.

Axes of a mesh: "data" divides batches; "fsdp" divides batches and, between steps, parameters and optimiser state along
d_model; "tensor" divides heads, neurons and the vocabulary. Axes are `AxisType.Auto`, under which XLA finds the
collectives.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.model import logical_axes, parameter_shapes

AXES = ("data", "fsdp", "tensor")
# Logical axis of a parameter -> axis of the mesh; those that are not named are on every device.
RULES = {"embed": "fsdp", "mlp": "tensor", "heads": "tensor", "kv_heads": "tensor", "vocab": "tensor"}
BATCH = ("data", "fsdp")  # what divides sequences, and the rows at which answers are read


def parse_mesh(text: str, n_devices: int | None = None) -> dict[str, int]:
    """ "data=2,fsdp=4" as sizes by axis, 1 where none is named; "" is one device, "auto" all of them along data.

    Args:
      text: what a user gives.
      n_devices: that there are; None is those of this machine.

    Raises:
      UserError: if an axis is unknown or named twice, a size is no whole number above 0, or there are not as many
        devices.
    """
    n_devices = jax.device_count() if n_devices is None else n_devices
    if text == "auto":
        return {"data": n_devices, "fsdp": 1, "tensor": 1}
    sizes: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, number = part.partition("=")
        if name not in AXES:
            raise unknown("axis of a mesh", name, AXES)
        if name in sizes:
            raise UserError(f"the mesh {text!r} names {name} twice")
        if not (number.isascii() and number.isdigit() and int(number) > 0):
            raise UserError(f"the mesh {text!r} must give whole numbers above 0, as in data=2,fsdp=4")
        sizes[name] = int(number)
    found = {name: sizes.get(name, 1) for name in AXES}
    if (wanted := math.prod(found.values())) > n_devices:
        raise UserError(f"the mesh {text!r} needs {wanted} devices, and there are {n_devices}")
    return found


def make_mesh(text: str) -> Mesh | None:
    """The mesh of a text, see `parse_mesh`; None if it is one device."""
    sizes = parse_mesh(text)
    n = math.prod(sizes.values())
    if n == 1:
        return None
    devices = np.array(jax.devices()[:n]).reshape(tuple(sizes.values()))
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def parameter_shardings(mesh: Mesh | AbstractMesh, config: ModelConfig) -> dict:
    """Where each parameter lies, as a tree like that of the parameters; what does not divide lies everywhere."""

    def placed(axes: PartitionSpec, shape: jax.ShapeDtypeStruct) -> NamedSharding:
        taken: set[str] = set()
        found: list[str | None] = []
        for name, size in zip(axes, shape.shape, strict=True):
            axis = RULES.get(name)
            fits = axis is not None and axis not in taken and size % mesh.shape[axis] == 0
            found.append(axis if fits else None)
            taken |= {axis} if fits else set()
        return NamedSharding(mesh, PartitionSpec(*found))

    return jax.tree.map(
        placed, logical_axes(config), parameter_shapes(config), is_leaf=lambda x: isinstance(x, PartitionSpec)
    )


def state_shardings(mesh: Mesh | AbstractMesh, config: ModelConfig, state: Any) -> Any:
    """Where each array of a training state lies: what is kept for a parameter, as the optimiser's means, lies as it."""
    of_parameters = {
        _names(path): x for path, x in jax.tree_util.tree_leaves_with_path(parameter_shardings(mesh, config))
    }
    everywhere = NamedSharding(mesh, PartitionSpec())

    def placed(path: tuple, leaf: Any) -> NamedSharding:
        names = _names(path)
        ends = (names[start:] for start in range(len(names)))
        return next((of_parameters[end] for end in ends if end in of_parameters and np.ndim(leaf)), everywhere)

    return jax.tree_util.tree_map_with_path(placed, state)


def batch_shardings(mesh: Mesh, batch: Any) -> Any:
    """Where each array of a batch lies: divided along its first axis where that divides, else everywhere."""
    n = math.prod(mesh.shape[name] for name in BATCH)

    def placed(leaf: Any) -> NamedSharding:
        shape = np.shape(leaf)
        return NamedSharding(mesh, PartitionSpec(BATCH) if shape and shape[0] % n == 0 else PartitionSpec())

    return jax.tree.map(placed, batch)


def _names(path: tuple) -> tuple[str, ...]:
    return tuple(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def describe(mesh: Mesh | None) -> str:
    """In words."""
    if mesh is None:
        return "one device"
    sizes: Mapping[str, int] = mesh.shape
    return f"{mesh.size} devices: " + ", ".join(f"{name} {size}" for name, size in sizes.items() if size > 1)
