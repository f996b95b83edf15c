"""The move of activations in which a loss rises most, to first order: adversarial training of any loss."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.models.layers import exact
from jaxinterp.models.places import axes_of


def adversarial_shift(
    loss_of: Callable[[Array], Float[Array, ""]], x: Float[Array, "*L B S D"], radius: float, place: str
) -> Float[Array, "*L B S D"]:
    """δ = ε ‖x‖ · g / ‖g‖ for each token (and layer), with g = ∂loss/∂shift at 0; 0 where g is 0.

    Miyato, Dai and Goodfellow 2017, "Adversarial Training Methods for Semi-Supervised Text Classification", where x are
    embeddings and ε is an absolute length, of embeddings that are normalised. Here ε is a share of the token's own
    length, and the loss's gradient sees that δ grows with x: so larger activations are no way out. The direction
    g / ‖g‖ is a constant of the gradient, as there.

    Args:
      loss_of: shift -> loss, with constant parameters: their gradient must not reach the direction.
      x: what is moved, untouched; differentiable.
      radius: ε, at least 0.
      place: of x, see `jaxinterp.models.places.PLACES`.
    """
    axes = tuple(range(axes_of(place).index("S") + 1, x.ndim))
    slope = jax.lax.stop_gradient(jax.grad(loss_of)(jnp.zeros_like(exact(x))))
    # The gradient of a mean over many tokens is so small that its square may be 0 in float32.
    largest = jnp.abs(slope).max(axes, keepdims=True)
    slope = slope / jnp.where(largest > 0, largest, 1)
    return radius * _length(exact(x), axes) * slope / jnp.where(largest > 0, _length(slope, axes), 1)


def _length(x: Array, axes: tuple[int, ...]) -> Array:
    """Of vectors; where one is 0 its gradient is 0."""
    square = jnp.square(x).sum(axes, keepdims=True)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
