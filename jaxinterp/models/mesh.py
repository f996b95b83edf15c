"""Many devices: which axis of which array lies on which axis of the mesh. JAX divides the work by that.

Axes of a mesh: "data" divides batches; "fsdp" divides batches and, between steps, parameters and optimiser state along
d_model; "tensor" divides heads, neurons and the vocabulary. Axes are `AxisType.Auto`, under which XLA finds the
collectives.

`--mesh data=2,fsdp=4` on a command line, or JAXINTERP_MESH, says which mesh; without it all devices share the work.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from jaxinterp.base.errors import UserError
from jaxinterp.base.mesh_asked import AXES, asked_mesh, parse_mesh
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.model import logical_axes, parameter_shapes

# Logical axis of a parameter -> axis of the mesh; those that are not named are on every device.
RULES = {"embed": "fsdp", "mlp": "tensor", "heads": "tensor", "kv_heads": "tensor", "vocab": "tensor"}
BATCH = ("data", "fsdp")  # what divides sequences, and the rows at which answers are read


def make_mesh(text: str | None = None, auto: Callable[[int], str] = lambda n: f"data={n}") -> Mesh | None:
    """A mesh of devices; None if it is one device.

    Args:
      text: see `parse_mesh`; None is what the command line or the environment asks for.
      auto: number of devices -> the text that "auto" stands for; all along data by default.
    Raises:
      UserError: if the text is no mesh, there are not as many devices, or a process would have nothing to do.
    """
    text = asked_mesh() if text is None else text
    n_devices = jax.device_count()
    sizes = parse_mesh(text) or parse_mesh(auto(n_devices))
    n = math.prod(sizes.values())
    if n > n_devices:
        raise UserError(f"the mesh {text!r} needs {n} devices, and there are {n_devices}")
    if jax.process_count() > 1 and n < n_devices:
        raise UserError(f"the mesh {text!r} has {n} of the {n_devices} devices; with several processes it needs all")
    if n == 1:
        return None
    devices = np.array(jax.devices()[:n]).reshape(tuple(sizes.values()))
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_of(tree: Any) -> Mesh | None:
    """The mesh that a tree's arrays lie on; None if they are on one device."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer):
            sharding = leaf.sharding
            return sharding.mesh if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1 else None
    return None


def on_mesh(tree: Any, shardings: Any) -> Any:
    """The arrays as the shardings have them. Each process puts what its own devices need there, and nothing else."""

    def placed(leaf: Any, sharding: Sharding) -> jax.Array:
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(sharding, leaf.ndim):
            return leaf
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = np.asarray(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(jax.make_array_from_callback(data.shape, sharding, data.__getitem__))
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(placed, tree, shardings)


def beside(params: Any, batch: Any) -> Any:
    """A batch's arrays on the devices of a model: divided where the model lies on a mesh."""
    mesh = mesh_of(params)
    return jax.tree.map(jnp.asarray, batch) if mesh is None else on_mesh(batch, batch_shardings(mesh, batch))


def seeing(mesh: Mesh, function: Callable) -> Callable:
    """The function, in which models see the mesh and keep activations divided as batches are; to be jitted.

    Without, XLA divides activations along d_model where parameters are, and computes the whole batch on every device.
    """

    @functools.wraps(function)
    def on_the_mesh(*arguments: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return on_the_mesh


def placement(mesh: Mesh | None) -> Callable[[ModelConfig], dict] | None:
    """Where `load_model` puts a model's parameters; None is JAX's default device."""
    return None if mesh is None else lambda config: parameter_shardings(mesh, config)


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


def batch_shardings(mesh: Mesh, batch: Any, axis: int = 0) -> Any:
    """Where each array of a batch lies: divided along an axis where that divides, else everywhere."""
    n = math.prod(mesh.shape[name] for name in BATCH)

    def placed(leaf: Any) -> NamedSharding:
        shape = np.shape(leaf)
        divides = len(shape) > axis and shape[axis] % n == 0
        return NamedSharding(mesh, PartitionSpec(*axis * [None], BATCH) if divides else PartitionSpec())

    return jax.tree.map(placed, batch)


def along_all(mesh: Mesh, tree: Any) -> Any:
    """Where each array of models that are trained side by side lies: divided among all devices along its first axis."""

    def placed(leaf: Any) -> NamedSharding:
        divides = np.ndim(leaf) > 0 and np.shape(leaf)[0] % mesh.size == 0
        return NamedSharding(mesh, PartitionSpec(AXES) if divides else PartitionSpec())

    return jax.tree.map(placed, tree)


def everywhere(mesh: Mesh, tree: Any) -> Any:
    """A copy of each array on every device."""
    return jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), tree)


def _names(path: tuple) -> tuple[str, ...]:
    return tuple(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def describe(mesh: Mesh | None) -> str:
    """In words."""
    if mesh is None:
        return "one device"
    sizes: Mapping[str, int] = mesh.shape
    return f"{mesh.size} devices: " + ", ".join(f"{name} {size}" for name, size in sizes.items() if size > 1)
