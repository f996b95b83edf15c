"""Dropout as random gates at places of a forward, and its two parts without it, for any loss of what is done there.

Srivastava et al. 2014; Wei, Kakade and Ma 2020, "The Implicit and Explicit Regularization Effects of Dropout".
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray

from jaxinterp.models.config import ModelConfig
from jaxinterp.models.layers import batch_devices
from jaxinterp.models.places import PLACES, Change, axes_of
from jaxinterp.training.noise_config import DropoutConfig

NOISE = 4  # folded into a step's key; the terms of the objective fold other numbers in


def noise_key(key: PRNGKeyArray, number: int | Array) -> PRNGKeyArray:
    """The key of the mask of that number, or of what stands in for masks; does not consume the step's."""
    return jax.random.fold_in(jax.random.fold_in(key, NOISE), number)


def gate_shape(model: ModelConfig, place: str, shape: tuple[int, int]) -> tuple[int, ...]:
    """The shape of one gate for each number at a place.

    Args:
      model: config.
      place: see `PLACES`.
      shape: sequences, and positions of each.
    """
    sizes = {"L": model.n_layers, "B": shape[0], "S": shape[1], "T": shape[1]}
    sizes |= {"D": model.d_model, "F": model.d_mlp, "H": model.n_heads}
    return tuple(sizes[axis] for axis in axes_of(place))


def dropout_changes(
    config: DropoutConfig, model: ModelConfig, shape: tuple[int, int], key: PRNGKeyArray
) -> dict[str, Change]:
    """One mask of dropout: gates 1 / (1 − q) with probability 1 − q, else 0, for every number by itself.

    They are in float32 at least: in bfloat16 1 / (1 − q) would be rounded, and their mean not be 1.

    Args:
      config: its rates; a place's gates do not depend on other places' rates.
      model: config.
      shape: sequences, and positions of each.
      key: consumed.
    Returns:
      Changes for `jaxinterp.models.transformer.forward`.
    """
    rates = {"mlp_post": config.ffn, "attn_pattern": config.attention}
    rates |= dict.fromkeys(("embed", "attn_out", "mlp_out"), config.residual)
    changes = {}
    for number, place in enumerate(PLACES):
        if rate := rates.get(place):
            of_place = jax.random.fold_in(key, number)
            kept = jax.random.bernoulli(of_place, 1 - rate, gate_shape(model, place, shape))
            changes[place] = Change(_divided(kept / (1 - rate), axes_of(place).index("B")))
    return changes


def mean_over_masks(
    loss_of: Callable[[dict[str, Change]], Float[Array, ""]],
    draw: Callable[[PRNGKeyArray], dict[str, Change]],
    key: PRNGKeyArray,
    n: int,
) -> Float[Array, ""]:
    """(1/n) Σᵢ loss(maskᵢ), DROPOUT_k of the paper with k = n.

    Masks come one after another, each with a forward that the backward pass makes again: memory is that of one.

    Args:
      loss_of: changes -> loss.
      draw: key -> changes.
      key: of the step.
      n: masks; the first ones are those of a smaller n.
    """

    def of_mask(number: int | Array) -> Float[Array, ""]:
        return loss_of(draw(noise_key(key, number)))

    return of_mask(0) if n == 1 else jax.lax.map(jax.checkpoint(of_mask), jnp.arange(n)).mean()


def dropout_parts(
    losses_of: Callable[[Float[Array, "L B T F"]], tuple[Float[Array, ""], Float[Array, ""]]],
    shape: tuple[int, ...],
    config: DropoutConfig,
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, Array]]:
    """The explicit and the implicit part of what dropout of neurons does at small rates, without dropout.

        R = ½ q/(1−q) Σ_i <J_iᵀ H J_i, diag(h_i²)> ≈ ½ q/(1−q) Σ_i ‖h_i ⊙ ∂ℓ̂/∂h_i‖²
        ξ = ∇_θ Σ_i <∂ℓ/∂h_i, √(q/(1−q)) s_i ⊙ h_i>,  s ∈ {±1}

    i counts layers and tokens, J = ∂logits/∂h, and H = diag(p) − ppᵀ, of which the mean over the tokens that are
    predicted is taken. ℓ̂ is a loss of labels drawn from p, for which E[(∂ℓ̂/∂h)²] is the diagonal of that mean of JᵀHJ.
    Gates g on the neurons give h ⊙ ∂ℓ/∂h = ∂ℓ/∂g at g = 1, so that two gradients with respect to gates are all that is
    needed; training differentiates them again.

    Wei, Kakade and Ma 2020. The true mean effect of dropout has the second derivatives of the logits besides; R leaves
    them out, as theirs does. The drawn labels are constants of R's gradient.

    Args:
      losses_of: gates -> (ℓ, ℓ̂).
      shape: of the gates.
      config: rate, q; explicit, λ₁; implicit, λ₂.
      key: of the signs s; consumed.
    Returns:
      ℓ; λ₁ R, with a gradient that has λ₂ ξ besides; and metrics of what is on, in nats: "dropout_penalty", R, and
      "dropout_noise", the standard deviation of the sum of which ξ is the gradient.
    """
    gates = _divided(jnp.ones(shape), 1)
    (loss, drawn), backward = jax.vjp(losses_of, gates)
    variance, added, metrics = config.rate / (1 - config.rate), jnp.zeros_like(loss), {}
    if config.explicit:
        (slope,) = backward((jnp.zeros_like(loss), jnp.ones_like(drawn)))
        metrics["dropout_penalty"] = 0.5 * variance * jnp.square(slope).sum()
        added = added + config.explicit * metrics["dropout_penalty"]
    if config.implicit:
        (slope,) = backward((jnp.ones_like(loss), jnp.zeros_like(drawn)))
        change = variance**0.5 * (_divided(jax.random.rademacher(key, shape, slope.dtype), 1) * slope).sum()
        # Its value says nothing: only its gradient is added.
        added = added + config.implicit * (change - jax.lax.stop_gradient(change))
        metrics["dropout_noise"] = jax.lax.stop_gradient(variance**0.5 * jnp.sqrt(jnp.square(slope).sum()))
    return loss, added, metrics


def _divided(x: Array, axis: int) -> Array:
    """The array with its axis of sequences divided as batches are, if a mesh is set and that divides."""
    if batch_devices(x.shape[axis]) == 1:
        return x
    axes = [PartitionSpec.UNCONSTRAINED] * x.ndim
    axes[axis] = ("data", "fsdp")
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))
