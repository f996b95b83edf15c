"""What the parts of a transformer share: norms, rotary positions, constants by layer."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from jaxinterp.models import parameters
from jaxinterp.models.activations import activation
from jaxinterp.models.config import ModelConfig, RopeScaling


class LayerConstants(NamedTuple):
    """What differs from layer to layer besides parameters, with or without a leading layer axis."""

    window: Int[Array, "*L"]  # positions that a query sees, its own included
    frequency: Float[Array, "*L P"]  # rotary angle per position, for each of P pairs of coordinates
    attn_normed: Bool[Array, "*L"] | None = None  # whether attention reads a norm of its input; None is always


def layer_constants(config: ModelConfig) -> LayerConstants:
    """Windows and rotary frequencies of every layer."""
    local = np.isin(np.arange(config.n_layers), config.local_layers)
    window = np.minimum(np.where(local, config.window or 1, config.n_ctx), np.iinfo(np.int32).max)
    theta = np.where(local, config.rope_theta_local or config.rope_theta, config.rope_theta)
    pairs = config.d_rotary // 2
    frequency = theta[:, None] ** (-np.arange(pairs) / max(pairs, 1))
    scaling = config.rope_scaling
    if scaling is not None:
        divided = frequency / scaling.factor
        if scaling.kind == "llama3":
            # Turns that a pair makes over the context of pretraining: few are divided, many are kept.
            turns = scaling.original_n_ctx * frequency / (2 * np.pi)
            keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
            keep = np.clip(keep, 0, 1)
            divided = keep * frequency + (1 - keep) * divided
        elif scaling.kind == "yarn":
            keep = _kept_by_yarn(config.rope_theta, config.d_rotary, scaling)[None]
            divided = keep * frequency + (1 - keep) * divided
        frequency = np.where(local[:, None], frequency, divided)
    exact = "float64" if config.dtype == "float64" else "float32"
    attn_normed = None if config.first_attn_norm else jnp.arange(config.n_layers) > 0
    return LayerConstants(jnp.asarray(window, jnp.int32), jnp.asarray(frequency, exact), attn_normed)


def _kept_by_yarn(theta: float, d_rotary: int, scaling: RopeScaling) -> Float[np.ndarray, " P"]:
    """The share of each pair's frequency that YaRN keeps: its "NTK-by-parts" interpolation (Peng et al. 2023)."""

    def pair(turns: float) -> float:
        """The pair, as a fraction, that turns this often over the context of pretraining."""
        return d_rotary * np.log(scaling.original_n_ctx / (turns * 2 * np.pi)) / (2 * np.log(theta))

    first, last = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.whole_pairs:
        first, last = np.floor(first), np.ceil(last)
    # The upper bound is the last coordinate, not the last pair, as in the code of the authors.
    first, last = max(first, 0), min(last, d_rotary - 1)
    width = last - first if last != first else 0.001
    return 1 - np.clip((np.arange(d_rotary // 2) - first) / width, 0, 1)


def declared(module: nn.Module, table: parameters.Table) -> Mapping[str, Array]:
    """A module's parameters by name, made as the table says if there are none yet."""

    def initialiser(initial: parameters.Normal | float) -> nn.initializers.Initializer:
        draws = isinstance(initial, parameters.Normal)
        return nn.initializers.normal(initial.stddev) if draws else nn.initializers.constant(initial)

    dtype = jnp.dtype(module.config.dtype)
    return {name: module.param(name, initialiser(p.initial), p.shape, dtype) for name, p in table.items()}


def leading(vector: Array, ndim: int) -> Array:
    """The vector with leading axes of length 1: implicit rank promotion hides mistakes, so it is off in the tests."""
    return vector.reshape((1,) * (ndim - vector.ndim) + vector.shape)


def biased(x: Array, bias: Array | None) -> Array:
    """The sum with a bias, if there is one."""
    return x if bias is None else x + leading(bias, x.ndim)


def exact(x: Array) -> Array:
    """The array in float32 at least: norms, angles and softmax lose too much in 16 bits."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def row(x_BS: Array, at_B: Int[Array, " B"]) -> Array:
    """One position of every sequence, [B, 1, ...]."""
    return jnp.take_along_axis(x_BS, at_B.reshape(-1, *(1,) * (x_BS.ndim - 1)), axis=1)


class Norm(nn.Module):
    """LayerNorm or RMSNorm over the last axis, or the last axes together."""

    config: ModelConfig
    axes: str = "embed"  # their logical names

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        config, over = self.config, tuple(range(-len(self.axes.split()), 0))
        w = declared(self, parameters.norm(config, self.axes))
        y = exact(x)
        if config.norm == "layernorm":
            y = y - y.mean(over, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(over, keepdims=True) + config.norm_eps)
        y = y * leading(exact(w["scale"]), y.ndim)
        return (biased(y, exact(w["bias"])) if "bias" in w else y).astype(x.dtype)


def rotate(
    x_BSHK: Float[Array, "B S H K"],
    position_BS: Int[Array, "B S"],
    frequency_P: Float[Array, " P"],
    amplitude: float = 1.0,
) -> Float[Array, "B S H K"]:
    """Rotary positions (Su et al. 2021), halves layout: of the first 2P coordinates, pairs are (i, i + P).

    `amplitude` is YaRN's factor of the coordinates that rotate.
    """
    half = frequency_P.shape[0]
    angle = (position_BS[..., None].astype(frequency_P.dtype) * leading(frequency_P, 3))[:, :, None]
    a, b, rest = (exact(part) for part in jnp.split(x_BSHK, (half, 2 * half), axis=-1))
    if amplitude != 1.0:
        a, b = a * amplitude, b * amplitude
    turned = [a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle), rest]
    return jnp.concatenate(turned, -1).astype(x_BSHK.dtype)


class Head(nn.Module):
    """BERT's transform before the unembedding: dense, activation, norm."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        w = declared(self, parameters.head(self.config))
        return Norm(self.config, name="norm")(activation(self.config, biased(x @ w["w_head"], w["b_head"])))


def batch_devices(n: int) -> int:
    """Devices among which the mesh that is set divides a batch of n, along data and fsdp; 1 if n does not divide."""
    sizes = jax.sharding.get_abstract_mesh().shape
    devices = math.prod(sizes.get(axis, 1) for axis in ("data", "fsdp"))
    return devices if n % devices == 0 else 1


def along_batch(x_BSD: Float[Array, "B *S D"]) -> Float[Array, "B *S D"]:
    """The array with its first axis divided as batches are, if a mesh is set (`jax.set_mesh`) and that divides."""
    if batch_devices(x_BSD.shape[0]) == 1:
        return x_BSD
    return jax.lax.with_sharding_constraint(x_BSD, PartitionSpec(("data", "fsdp"), *(None,) * (x_BSD.ndim - 1)))
