"""Gradient routing inside a forward: which neurons a position may teach.

Cloud et al. 2024, "Gradient Routing: Masking Gradients to Localize Computation in Neural Networks".
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


class Route(NamedTuple):
    """The neurons of each sequence that learn from its routed positions, with or without a leading layer axis.

    No value of a forward changes. Of the gradient that reaches the neurons h of a routed position, with m = 1 for the
    sequence's own neurons and 0 for the others, only the own neurons' part goes on:

        h ← m ⊙ h + (1 − m) ⊙ sg(h), and for W_out's gradient h ← m ⊙ h

    The parameters of other neurons that this shields are their columns of W_in (and W_gate), their entries of b_in
    (and b_gate), and their rows of W_out. The stop on h alone would not shield the rows of W_out, whose gradient is the
    outer product of the value of h with what comes from above: so W_out's gradient is masked as well.

    Everything that no single neuron owns learns from a routed position as it does anywhere: attention, norms,
    embeddings and b_out. So do neurons at other positions, such as the subject's, to which a routed one attends.
    """

    neurons: Int[Array | np.ndarray, "*L B n"]  # n different ones of each sequence
    routed: Bool[Array | np.ndarray, "*L B T"]  # where no others learn; elsewhere all do


def learns(route: Route, d_mlp: int) -> Bool[Array, "B T F"]:
    """Whether a neuron learns from a position, for one layer's route."""
    neurons, routed = jnp.asarray(route.neurons), jnp.asarray(route.routed)
    rows = jnp.arange(neurons.shape[0])[:, None]
    own_BF = jnp.zeros((neurons.shape[0], d_mlp), bool).at[rows, neurons].set(True)
    return own_BF[:, None] | ~routed[..., None]


@jax.custom_vjp
def routed_product(
    mlp_post: Float[Array, "B T F"], w_out: Float[Array, "F D"], learns_BTF: Bool[Array, "B T F"]
) -> Float[Array, "B T D"]:
    """h @ W_out, whose gradients for h and for W_out are those of (learns ⊙ h) @ W_out with a constant for the rest."""
    return mlp_post @ w_out


def _forward(mlp_post: Array, w_out: Array, learns_BTF: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return mlp_post @ w_out, (mlp_post, w_out, learns_BTF)


def _backward(kept: tuple[Array, Array, Array], slope: Array) -> tuple[Array, Array, None]:
    mlp_post, w_out, learns_BTF = kept
    to_post, to_w_out = jax.vjp(jnp.matmul, jnp.where(learns_BTF, mlp_post, 0), w_out)[1](slope)
    return jnp.where(learns_BTF, to_post, 0), to_w_out, None


routed_product.defvjp(_forward, _backward)
