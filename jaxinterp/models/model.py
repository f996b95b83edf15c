"""A model as one value: what it is, which is static, and its parameters, which are arrays."""

from collections.abc import Mapping

import flax.struct

from jaxinterp.models.config import ModelConfig


@flax.struct.dataclass
class Model:
    """A transformer. A pytree whose leaves are the parameters, so that `jit`, `grad` and `vmap` take it whole."""

    config: ModelConfig = flax.struct.field(pytree_node=False)
    params: Mapping  # as from `jaxinterp.models.transformer.init`
