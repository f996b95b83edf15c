"""From masks to edits of neurons, and the masks that a suppression is compared with."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

DEAD = 1e-6  # of a row's largest activation: a neuron below it is not active


class NeuronEdit(NamedTuple):
    """What is done to neurons: `neurons ← gates · neurons + shift`, with or without a leading layer axis."""

    gates: Float[Array, "*L B F"]
    shift: Float[Array, "*L B F"] | None = None  # None is 0


def suppress(mask_LRF: Float[Array, "L R F"]) -> NeuronEdit:
    """Gates 1 − mask: the selected neurons are switched off."""
    return NeuronEdit(1 - mask_LRF)


def amplify(mask_LRF: Float[Array, "L R F"]) -> NeuronEdit:
    """Gates 1 + mask: the selected neurons are doubled (Dai et al. 2021)."""
    return NeuronEdit(1 + mask_LRF)


def set_to(mask_LRF: Float[Array, "L R F"], value: Float[Array, "L R F"] | float) -> NeuronEdit:
    """The selected neurons' activations become `value` (a number, or an activation for each)."""
    return NeuronEdit(1 - mask_LRF, mask_LRF * value)


def control_mask(mask_LRF: Float[Array, "L R F"], control_R: Int[Array, " R"]) -> Float[Array, "L R F"]:
    """Each row gets the mask of row `control_R[r]`: another fact's neurons."""
    return mask_LRF[:, control_R]


def active_neurons(neurons_LRF: Float[Array, "L R F"]) -> Float[Array, "L R F"]:
    """1 for the neurons whose activation is not (nearly) zero at a row."""
    size = jnp.abs(neurons_LRF)
    return (size > DEAD * size.max((0, 2), keepdims=True)).astype(neurons_LRF.dtype)


def random_masks(
    key_R: Key[Array, " R"], mask_LRF: Float[Array, "L R F"], active_LRF: Float[Array, "L R F"]
) -> Float[Array, "L R F"]:
    """`random_mask` with a key for each row, so that a row's neurons do not depend on its batch."""
    one = jax.vmap(
        lambda key, mask_LF, active_LF: random_mask(key, mask_LF[:, None], active_LF[:, None])[:, 0], (0, 1, 1), 1
    )
    return one(key_R, mask_LRF, active_LRF)


def random_mask(
    key: PRNGKeyArray, mask_LRF: Float[Array, "L R F"], active_LRF: Float[Array, "L R F"] | None = None
) -> Float[Array, "L R F"]:
    """As many neurons of each row and layer as the mask has there, at random. For 0/1 masks; consumes `key`.

    Args:
      mask_LRF: whose numbers by layer count.
      active_LRF: 1 for the neurons to draw from; others are taken only where a layer has too few. None: all.
    """
    draw = jax.random.uniform(key, mask_LRF.shape)
    if active_LRF is not None:
        draw = draw + (active_LRF == 0)
    rank = jnp.argsort(jnp.argsort(draw, axis=-1), axis=-1)
    return (rank < jnp.round(mask_LRF.sum(-1, keepdims=True))).astype(mask_LRF.dtype)
