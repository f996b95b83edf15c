"""How much of a readout each neuron is responsible for. All scores are in units of probability, [L, R, F]."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxinterp.attribution.quadrature import Quadrature
from jaxinterp.attribution.readout import Branches, Readout, TokenReadout
from jaxinterp.base.errors import UserError, unknown

Path = Literal["per_layer", "joint"]
PATHS = ("per_layer", "joint")

# Of the per-layer path: most groups of branches that are run one after another where memory is no matter (a group runs
# all its branches through the layers that the first of them needs), and evaluations of P in a group at least (a group
# reads the layers' weights anew).
GROUPS = 8
LEAST = 100


class Attribution(NamedTuple):
    """Scores and how far they are from complete."""

    scores_LRF: Float[Array, "L R F"]
    # Σ scores − (P at the path's end − P at its start): a row a layer on the per-layer path, one row on the joint path.
    residual_PR: Float[Array, "P R"]


def integrated_gradients(readout: Readout, rule: Quadrature, *, path: Path, at_once: int | None = None) -> Attribution:
    """Attributes a readout to its gates along a straight path from zero to one.

    A = ∫₀¹ ∂P/∂g dα by `rule`; Dai et al. 2021, eq. 4, after Sundararajan et al. 2017. On the "per_layer" path (the
    paper's) the gates of one layer are α while all others are 1, layer by layer; on the "joint" path all gates are α,
    which takes one pass for all layers and is complete over the whole network. The result is differentiable, to any
    order, with respect to whatever the readout closes over.

    Args:
      readout: P, gates [L, R, F] -> probability [R].
      rule: points and weights on [0, 1]; time grows with their number.
      path: "per_layer" or "joint".
      at_once: evaluations of P, a row and a point (and on the "per_layer" path a layer) each, in memory at a time, at
        least one a row. They are then computed again for a derivative of the scores, so that the memory of that does
        not grow with the number of points either, at about 4/3 of the time. None is all of them, for speed.
    Returns:
      Scores [L, R, F] and the completeness residual, [L, R] on the per-layer path and [1, R] on the joint path.
    Raises:
      UserError: if the path is unknown, or `at_once` is below 1.
    """
    if at_once is not None and at_once < 1:
        raise UserError(f"at_once must be at least 1, got {at_once}")
    if path == "joint":
        return _joint(readout, rule, at_once)
    if path == "per_layer":
        return _per_layer(readout, rule, at_once)
    raise unknown("path", path, PATHS)


def _joint(readout: Readout, rule: Quadrature, at_once: int | None) -> Attribution:
    end_R = readout.untouched()
    dtype = end_R.dtype
    zeros = jnp.zeros(readout.shape, dtype)

    def scores_of(points_MR: Array, weights_M: Array) -> Array:
        # The gradient of the weighted sum over points with respect to one shared displacement is the integral: the
        # sum over points happens inside the one backward pass.
        def total(delta: Array) -> Array:
            return (
                weights_M[:, None] * jax.vmap(lambda alpha_R: readout(alpha_R[None, :, None] + delta))(points_MR)
            ).sum()

        return jax.grad(total)(zeros)

    nodes = _points(rule, readout.shape[1], dtype), jnp.asarray(rule.weights_M, dtype)
    if at_once is None:
        scores = scores_of(*nodes)
    else:
        # Points that fill the last chunk up have weight 0.
        chunks = _chunked(nodes, max(1, at_once // readout.shape[1]))
        add = jax.checkpoint(lambda total, chunk: (total + scores_of(*chunk), None))
        scores, _ = jax.lax.scan(add, zeros, chunks)
    return Attribution(scores, (scores.sum((0, 2)) - (end_R - readout(zeros)))[None])


def _per_layer(readout: Readout, rule: Quadrature, at_once: int | None) -> Attribution:
    n_layers, n_rows, _ = readout.shape
    end_R = readout.untouched()
    points_MR, weights = _points(rule, n_rows, end_R.dtype), jnp.asarray(rule.weights_M, end_R.dtype)
    n_points = points_MR.shape[0]
    layers, one_layer = jnp.arange(n_layers), readout.branches()
    branches = _for_rows(jnp.repeat(layers, n_points), n_rows), jnp.tile(points_MR, (n_layers, 1))
    # In the order of their layers, so that the branches of a chunk have most later layers in common.
    evaluations = n_layers * n_points * n_rows
    n_groups = min(GROUPS, max(1, evaluations // LEAST))
    together = -(-n_layers * n_points // n_groups)
    if at_once is not None:
        together = min(together, max(1, at_once // n_rows))
    slopes = lambda chunk: branch_slopes(one_layer, *chunk)  # noqa: E731
    _, slope = _mapped(slopes, branches, together, again=at_once is not None)
    slope_LRC = jnp.einsum("m,lmrc->lrc", weights, slope.reshape(n_layers, n_points, *slope.shape[1:]))

    def starts(chunk: tuple[Array]) -> Array:
        layer_NR = _for_rows(chunk[0], n_rows)
        alpha_NR = jnp.zeros(layer_NR.shape, end_R.dtype)
        return one_layer(layer_NR, alpha_NR, one_layer.zeros(layer_NR.shape[0]))

    start_LR = _mapped(starts, (layers,), together, again=at_once is not None)
    by_rule_LR = one_layer.scores(_for_rows(layers, n_rows), slope_LRC)
    return Attribution(one_layer.neuron_scores(slope_LRC), by_rule_LR - (end_R[None] - start_LR))


def branch_slopes(
    branches: Branches, layer_NR: Int[Array, "N R"], alpha_NR: Float[Array, "N R"]
) -> tuple[Float[Array, "N R"], Float[Array, "N R C"]]:
    """P of branches and its gradient in the space C, in one forward and one backward pass."""
    zeros = branches.zeros(layer_NR.shape[0])
    p_NR, backward = jax.vjp(lambda delta: branches(layer_NR, alpha_NR, delta), zeros)
    return p_NR, backward(jnp.ones_like(p_NR))[0]


def _points(rule: Quadrature, n_rows: int, dtype: jnp.dtype) -> Float[Array, "M R"]:
    points = jnp.asarray(rule.points_M, dtype)
    return points if points.ndim == 2 else _for_rows(points, n_rows)


def _for_rows(x_N: Array, n_rows: int) -> Array:
    return jnp.broadcast_to(x_N[:, None], (x_N.shape[0], n_rows))


def _chunked(arrays: tuple[Array, ...], size: int) -> tuple[Array, ...]:
    """Leading axes cut into chunks of `size`; the last is filled up with zeros."""
    short = -arrays[0].shape[0] % size
    filled = (jnp.pad(x, ((0, short), *((0, 0),) * (x.ndim - 1))) for x in arrays)
    return tuple(x.reshape(-1, size, *x.shape[1:]) for x in filled)


def _mapped(function: Callable, arrays: tuple[Array, ...], size: int, *, again: bool):
    """`function` of chunks of the arrays one after another; computed again in a backward pass if `again`."""
    n = arrays[0].shape[0]
    size = min(size, n)
    # Filled up with the last branch, which runs fewest layers.
    short = -n % size
    filled = (jnp.concatenate([x, jnp.repeat(x[-1:], short, axis=0)]) for x in arrays)
    chunks = tuple(x.reshape(-1, size, *x.shape[1:]) for x in filled)
    found = jax.lax.map(jax.checkpoint(function) if again else function, chunks)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], found)


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


def projection(readout: Readout) -> Float[Array, "L R F"]:
    """activation · ⟨value vector, unembedding of what is read⟩: Geva et al. 2021. In logits, up to a scale a row.

    Raises:
      UserError: if the readout does not know what its neurons write.
    """
    if not isinstance(readout, TokenReadout):
        raise UserError("projection needs a readout that knows its neurons' value vectors; this one does not")
    return readout.logit_contributions()


def neuron_ablation(readout: Readout, *, chunk: int = 16) -> Float[Array, "L R F"]:
    """P(1) − P(gate of one neuron = 0), exactly, for every neuron: L·F evaluations a row.

    Args:
      readout: P.
      chunk: neurons of each layer evaluated at once; memory grows with it, the result does not depend on it.
    """
    (n_layers, n_rows, n_neurons), untouched_R = readout.shape, readout.untouched()
    branches = readout.branches()

    def effect_NLR(neuron_N: Array) -> Array:
        n = neuron_N.shape[0]
        # By layer first, as the branches of a chunk then have most later layers in common.
        delta = -branches.neuron_outputs(neuron_N).transpose(1, 0, 2, 3)

        def of_layer(layer: Array) -> Array:
            layer_NR = jnp.full((n, n_rows), layer)
            return branches(layer_NR, jnp.ones((n, n_rows), untouched_R.dtype), delta[layer])

        return untouched_R[None, None] - jax.lax.map(of_layer, jnp.arange(n_layers)).transpose(1, 0, 2)

    n_chunks = -(-n_neurons // chunk)
    neurons = jnp.minimum(jnp.arange(n_chunks * chunk), n_neurons - 1).reshape(n_chunks, chunk)
    effects = jax.lax.map(effect_NLR, neurons).reshape(-1, n_layers, n_rows)[:n_neurons]
    return jnp.moveaxis(effects, 0, -1)


def random_scores(key: PRNGKeyArray, shape: tuple[int, int, int]) -> Float[Array, "L R F"]:
    """Uniform scores in [0, 1), the baseline that any attribution must beat. Consumes `key`."""
    return jax.random.uniform(key, shape)
