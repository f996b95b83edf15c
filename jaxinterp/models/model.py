"""A model as one value: what it is, which is static, and its parameters, which are arrays."""

from collections.abc import Mapping

import flax.struct
import jax
from flax.traverse_util import unflatten_dict

from jaxinterp.models import parameters
from jaxinterp.models.config import ModelConfig


@flax.struct.dataclass
class Model:
    """A transformer. A pytree whose leaves are the parameters, so that `jit`, `grad` and `vmap` take it whole."""

    config: ModelConfig = flax.struct.field(pytree_node=False)
    params: Mapping  # as from `jaxinterp.models.transformer.init`


def parameter_shapes(config: ModelConfig) -> dict:
    """The shape and dtype of every parameter, as a tree like that of the parameters."""
    dtype = jax.dtypes.canonicalize_dtype(config.dtype)
    return _tree({path: jax.ShapeDtypeStruct(p.shape, dtype) for path, p in parameters.transformer(config).items()})


def logical_axes(config: ModelConfig) -> dict:
    """The logical axis names of every parameter, as a tree of `PartitionSpec`, for sharding rules."""
    return _tree({path: jax.sharding.PartitionSpec(*p.axes) for path, p in parameters.transformer(config).items()})


def _tree(leaves: Mapping[str, object]) -> dict:
    return unflatten_dict(leaves, sep=".")
