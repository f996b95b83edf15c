"""Parameters to be filled in by hand: zeros, and norms that do nothing."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.models.config import ModelConfig
from jaxinterp.models.model import parameter_shapes

# x · s / sqrt(mean(x²) + s²) is x to rounding where s² is so large that float32 cannot hold the sum's first term. So
# what a neuron writes is what later layers and the unembedding read, whatever else stands in the residual stream.
_SCALE = 2.0**20
IDENTITY_NORM = {"norm": "rmsnorm", "norm_eps": _SCALE**2}


def blank_params(config: ModelConfig) -> dict:
    """Zeros in the shape of fresh parameters as numpy arrays, except norms, which are the identity.

    The config must have the fields of `IDENTITY_NORM`. Residual streams may reach 1e5 (root mean square).
    """

    def blank(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        return np.full(leaf.shape, _SCALE if path[-1].key == "scale" else 0.0, leaf.dtype)

    return jax.tree_util.tree_map_with_path(blank, parameter_shapes(config))


def on_device(params: dict) -> dict:
    """The parameters as JAX's arrays."""
    return jax.tree.map(jnp.asarray, params)
