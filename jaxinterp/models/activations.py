"""Activation functions of FFNs, by the name in `ModelConfig.ffn`: what makes neurons of their arguments."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.models.config import ModelConfig

Activation = Callable[[Array], Array]


def activation(config: ModelConfig, x: Float[Array, "*B F"]) -> Float[Array, "*B F"]:
    """The FFN's activation function; of the gate, if the FFN is gated.

    solu and topk look at all neurons of a token and layer, the others at one.
    """
    of_layer: Mapping[str, Activation] = {
        "solu": functools.partial(solu, eps=config.norm_eps),
        "topk": functools.partial(above_next, k=config.ffn_k or 0),
    }
    return {**_OF_ONE, **of_layer}[config.ffn](x)


def relu_squared(x: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """max(x, 0)² (So et al. 2021, Primer)."""
    return jnp.square(jax.nn.relu(x))


def solu(x: Float[Array, "*B F"], eps: float) -> Float[Array, "*B F"]:
    """LayerNorm(x · softmax(x)) over the neurons of a token and layer (Elhage et al. 2022).

    The paper's LayerNorm has a scale and a shift for each neuron. Here w_out and b_out have them: what the FFN writes
    is linear in the neurons, so that both can say the same functions.

    Args:
      x: arguments of the neurons.
      eps: added to the variance.
    """
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    y = y * jax.nn.softmax(y)
    y = y - y.mean(-1, keepdims=True)
    return (y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + eps)).astype(x.dtype)


def above_next(x: Float[Array, "*B F"], k: int) -> Float[Array, "*B F"]:
    """max(x − max(x₍ₖ₊₁₎, 0), 0), with x₍ₖ₊₁₎ the argument that comes next after the token's k largest of the layer.

    At most k neurons are active, as in a k-sparse layer (Makhzani and Frey 2013). That one keeps the arguments as they
    are, and so jumps where two change places: gradients, and attribution along a path, do not see a jump.

    Args:
      x: arguments of the neurons.
      k: 1 … F − 1.
    """
    next_largest = jax.lax.top_k(x, k + 1)[0][..., -1:]
    return jax.nn.relu(x - jax.nn.relu(next_largest))


_OF_ONE: Mapping[str, Activation] = {
    "gelu": jax.nn.gelu,
    "gelu_exact": functools.partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
    "relu2": relu_squared,
    "swiglu": jax.nn.silu,
    "geglu": jax.nn.gelu,
    "geglu_exact": functools.partial(jax.nn.gelu, approximate=False),
    "bilinear": lambda x: x,  # gate · up (Shazeer 2020; Pearce et al. 2025)
}
