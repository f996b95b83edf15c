"""How much of a readout each neuron is responsible for. All scores are in units of probability, [L, R, F]."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxinterp.errors import UserError, unknown
from jaxinterp.quadrature import Quadrature
from jaxinterp.readout import Readout

Path = Literal["per_layer", "joint"]
PATHS = ("per_layer", "joint")


class Attribution(NamedTuple):
    """Scores and how far they are from complete."""

    scores_LRF: Float[Array, "L R F"]
    # Σ scores − (P at the path's end − P at its start): a row a layer on the per-layer path, one row on the joint path.
    residual_PR: Float[Array, "P R"]


def integrated_gradients(readout: Readout, rule: Quadrature, *, path: Path) -> Attribution:
    """Attributes a readout to its gates along a straight path from zero to one.

    A = ∫₀¹ ∂P/∂g dα by `rule`; Dai et al. 2021, eq. 4, after Sundararajan et al. 2017. On the "per_layer" path (the
    paper's) the gates of one layer are α while all others are 1, layer by layer; on the "joint" path all gates are α,
    which takes one pass for all layers and is complete over the whole network. The result is differentiable, to any
    order, with respect to whatever the readout closes over.

    Args:
      readout: P, gates [L, R, F] -> probability [R].
      rule: points and weights on [0, 1]; time and memory grow with their number.
      path: "per_layer" or "joint".
    Returns:
      Scores [L, R, F] and the completeness residual, [L, R] on the per-layer path and [1, R] on the joint path.
    Raises:
      UserError: if the path is unknown.
    """
    end_R = readout.untouched()
    dtype = end_R.dtype
    points, weights = jnp.asarray(rule.points_M, dtype), jnp.asarray(rule.weights_M, dtype)

    def integral(at_point, delta: Array) -> Array:
        # The gradient of the weighted sum over points with respect to one shared displacement is the integral: the
        # sum over points happens inside the one backward pass.
        return jnp.tensordot(weights, jax.vmap(at_point, (0, None))(points, delta), 1).sum()

    if path == "joint":
        scores = jax.grad(lambda delta: integral(lambda a, d: readout(a + d), delta))(jnp.zeros(readout.shape, dtype))
        start_R = readout(jnp.zeros(readout.shape, dtype))
        return Attribution(scores, (scores.sum((0, 2)) - (end_R - start_R))[None])
    if path != "per_layer":
        raise unknown("path", path, PATHS)
    zeros = jnp.zeros(readout.shape, dtype)
    scores = jax.grad(lambda delta: integral(readout.scaled_layers, delta))(zeros)
    start_LR = readout.scaled_layers(jnp.zeros((), dtype), zeros)
    return Attribution(scores, scores.sum(-1) - (end_R[None] - start_LR))


def gradient_x_activation(readout: Readout) -> Float[Array, "L R F"]:
    """∂P/∂g at g = 1, which is activation · ∂P/∂activation: the first-order estimate of an ablation's effect."""
    return jax.grad(lambda gates: readout(gates).sum())(jnp.ones(readout.shape, readout.untouched().dtype))


def activation(readout: Readout) -> Float[Array, "L R F"]:
    """The activation itself, the baseline of Dai et al. 2021. Not in units of probability.

    Raises:
      UserError: if the readout does not know its activations.
    """
    if readout.neurons_LRF is None:
        raise UserError("activation attribution needs a readout that knows its neurons' activations; this one does not")
    return readout.neurons_LRF


def neuron_ablation(readout: Readout, *, chunk: int = 16) -> Float[Array, "L R F"]:
    """P(1) − P(gate of one neuron = 0), exactly, for every neuron: L·F evaluations a row.

    Args:
      readout: P.
      chunk: neurons of each layer evaluated at once; memory grows with it, the result does not depend on it.
    """
    n_neurons, untouched_R = readout.shape[2], readout.untouched()
    one = jnp.ones((), untouched_R.dtype)

    def effect_LR(neuron: Array) -> Array:
        off = -jax.nn.one_hot(neuron, n_neurons, dtype=untouched_R.dtype)
        return untouched_R[None] - readout.scaled_layers(one, jnp.broadcast_to(off[None, None], readout.shape))

    return jnp.moveaxis(jax.lax.map(effect_LR, jnp.arange(n_neurons), batch_size=chunk), 0, -1)


def random_scores(key: PRNGKeyArray, shape: tuple[int, int, int]) -> Float[Array, "L R F"]:
    """Uniform scores in [0, 1), the baseline that any attribution must beat. Consumes `key`."""
    return jax.random.uniform(key, shape)
