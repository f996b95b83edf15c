"""What of a pretrained model is trained: all of it, or low-rank changes of its matrices."""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from jaxinterp.base.errors import UserError

Adapt = Literal["all", "lora"]


def trainable(params: Mapping, adapt: Adapt, rank: int, key: PRNGKeyArray) -> dict:
    """What an optimiser changes; `adapted(params, trainable(params, ...))` is the model as it was.

    "all" is a copy of all parameters in float32. "lora" (Hu et al. 2021) has factors a [L, n_in, rank] and b
    [L, rank, n_out] for each matrix of the layers, whose product is added to it; a is random and b is 0.

    Args:
      params: of the pretrained model.
      adapt: "all" or "lora".
      rank: of "lora".
      key: of "lora"; consumed.
    Raises:
      UserError: if the rank is below 1.
    """
    if adapt == "all":
        return jax.tree.map(lambda x: jnp.array(x, jnp.float32), params)
    if rank < 1:
        raise UserError(f"rank must be at least 1, got {rank}")
    factors = {}
    for name, weights in params["layers"].items():
        if not name.startswith("w_"):
            continue
        n_layers, n_in, n_out = _matrix_shape(name, weights.shape)
        key, mine = jax.random.split(key)
        a = jax.random.normal(mine, (n_layers, n_in, rank), jnp.float32) / rank**0.5
        factors[name] = {"a": a, "b": jnp.zeros((n_layers, rank, n_out), jnp.float32)}
    return factors


def adapted(params: Mapping, change: Mapping, adapt: Adapt, dtype: str) -> dict:
    """The parameters that the model runs with, in `dtype`.

    Args:
      params: of the pretrained model; not looked at by "all".
      change: as from `trainable`.
      adapt: as given there.
      dtype: of the arithmetic.
    """
    if adapt == "all":
        return jax.tree.map(lambda x: x.astype(dtype), dict(change))
    layers = dict(params["layers"])
    for name, factor in change.items():
        product = jnp.einsum("lir,lro->lio", factor["a"], factor["b"]).reshape(layers[name].shape)
        layers[name] = layers[name] + product.astype(layers[name].dtype)
    return jax.tree.map(lambda x: x.astype(dtype), {**params, "layers": layers})


def _matrix_shape(name: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Layers, inputs and outputs: attention's matrices have their heads' two axes on one side."""
    if len(shape) == 3:
        return shape
    layers, a, b, c = shape
    return (layers, a * b, c) if name == "w_o" else (layers, a, b * c)
