"""Integrated gradients with as many points as each layer and row needs: most layers need three, a few need dozens."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.attribution.integrated_gradients import (
    PATHS,
    Attribution,
    Path,
    branch_slopes,
    gradient_x_activation,
    integrated_gradients,
)
from jaxinterp.attribution.quadrature import Adaptive, Integral, Quadrature, integral, quadrature
from jaxinterp.attribution.readout import Branches, Readout
from jaxinterp.base.errors import UserError, unknown

# Points are multiples of 1 / ONE. That fine, as the norm after a layer of Gemma's makes P jump near α = 0.
ONE = 2**16
# Evaluations of P at once, about: enough to keep matrix products busy, few enough that most of a batch's branches are
# near one another and pass over the same layers.
EVALUATIONS = 128
# Points of a layer's path at most. Few need more than dozens; one that jumps would take thousands, round by round.
MOST = 257


class AdaptiveAttribution(NamedTuple):
    """An attribution, and what it took."""

    attribution: Attribution
    evaluations_LR: Int[np.ndarray, "L R"]  # of P and its gradient


def attribution_by(readout: Readout, rule: str, points: int, tolerance: float, path: Path) -> Attribution:
    """Integrated gradients of a readout made of arrays, on either path, by any rule that has a name.

    Args:
      readout: made of arrays; as many values of it at a time are computed as it has memory for.
      rule, points, tolerance: see `jaxinterp.attribution.quadrature.integral`; "adaptive" is for the per_layer path.
      path: "per_layer" or "joint".
    Raises:
      UserError: if the rule or the path is unknown, or they do not go together.
    """
    if path not in PATHS:
        raise unknown("path", path, PATHS)
    if path == "per_layer":
        return per_layer_attribution(readout, integral(rule, points, tolerance))
    if rule == "adaptive":
        raise UserError("the adaptive rule is for the per_layer path; on the joint path choose another rule")
    return _joint(readout, *(jnp.asarray(part) for part in quadrature(rule, points)), readout.evaluations_at_once())


@functools.partial(jax.jit, static_argnums=3)
def _joint(readout: Readout, points_M: Array, weights_M: Array, at_once: int) -> Attribution:
    return integrated_gradients(readout, Quadrature(points_M, weights_M), path="joint", at_once=at_once)


def per_layer_attribution(readout: Readout, how: Integral) -> Attribution:
    """Integrated gradients on the per-layer path of a readout made of arrays, by a fixed rule or adaptively.

    Not to be traced or differentiated; see `attribution.integrated_gradients` for that.

    Args:
      readout: made of arrays; as many values of it at a time are computed as it has memory for.
      how: a fixed rule, or a tolerance.
    """
    at_once = readout.evaluations_at_once()
    if isinstance(how, Adaptive):
        return adaptive_integrated_gradients(readout, how.tolerance, at_once=at_once).attribution
    return _fixed(readout, *(jnp.asarray(part) for part in how), at_once)


@functools.partial(jax.jit, static_argnums=3)
def _fixed(readout: Readout, points_M: Array, weights_M: Array, at_once: int) -> Attribution:
    return integrated_gradients(readout, Quadrature(points_M, weights_M), path="per_layer", at_once=at_once)


def adaptive_integrated_gradients(
    readout: Readout, tolerance: float, *, at_once: int = EVALUATIONS
) -> AdaptiveAttribution:
    """Per-layer integrated gradients whose completeness residual is at most `tolerance` · max P, layer by layer.

    Simpson's rule on intervals that are halved until Σ |∫ₐᵇ dP/dα dα by the rule − (P(b) − P(a))| over a layer's
    intervals is below the tolerance: completeness holds on every interval, so that its local residual says where points
    are missing, and residuals of opposite signs do not hide each other. Both ends of [0, 1] are needed anyway, and at
    α = 1 one backward pass serves all layers; a halving takes two more points and uses all those there are.

    max P is the largest probability that was seen on the layer's path: P(1) of an answer that the layer's neurons
    carry, and P(0) of one that they hold down, whose scores are as large as that. A path that has `MOST` points is left
    as it is.

    The residual bounds the error of a layer's sum. Single neurons' errors can be larger where they cancel.

    Not to be traced or differentiated: which points are evaluated depends on values.

    Args:
      readout: P, gates [L, R, F] -> probability [R].
      tolerance: largest residual of a layer, as a share of the largest probability on its path; above 0.
      at_once: most evaluations of P in memory at a time, at least one a row; not more than `EVALUATIONS` are.
    Returns:
      Scores [L, R, F], the residual [L, R] (above the tolerance where `MOST` points, or points 1 / ONE apart, do not
      reach it), and evaluations.
    Raises:
      UserError: if the tolerance is not above 0.
    """
    if tolerance <= 0:
        raise UserError(f"the tolerance of an adaptive attribution must be above 0, got {tolerance}")
    n_layers, n_rows, _ = readout.shape
    end_LRF, untouched_R = _at_one(readout)
    end_LR, p_end_R = np.asarray(end_LRF).sum(-1), np.asarray(untouched_R)
    paths = {
        (layer, row): _Path(float(p_end_R[row]), float(end_LR[layer, row]))
        for layer in range(n_layers)
        for row in range(n_rows)
    }
    asked = {key: [0, ONE // 2] for key in paths}
    found: list[_Chunk] = []
    while any(asked.values()):
        chunks = _evaluated(readout, asked, min(at_once, EVALUATIONS))
        for chunk in chunks:
            for place, (layer, row, node) in chunk.asked_for():
                paths[layer, row].nodes[node] = float(chunk.p_J[place]), float(chunk.along_J[place])
        found += chunks
        # What has converged is not looked at again.
        asked = {key: paths[key].halved(tolerance) for key, nodes in asked.items() if nodes}
    weights = {key: path.weights() for key, path in paths.items()}
    total = readout.branches().zeros(n_layers)
    for chunk in found:
        weight_J = np.zeros(len(chunk.layer_J))
        for place, (layer, row, node) in chunk.asked_for():
            weight_J[place] = weights[layer, row].get(node, 0.0)
        weight = jnp.asarray(weight_J, total.dtype)
        total = _accumulated(total, chunk.layer_J, chunk.row_J, weight, chunk.slope_JC)

    def grid(value: Callable[[tuple[int, int]], float]) -> np.ndarray:
        return np.array([value(key) for key in paths]).reshape(n_layers, n_rows)

    end_weight = jnp.asarray(grid(lambda key: weights[key][ONE]), total.dtype)
    residual = jnp.asarray(grid(lambda key: paths[key].residual()), total.dtype)
    # The evaluation at α = 1 is shared by all layers.
    n = grid(lambda key: len(paths[key].nodes) - 1)
    return AdaptiveAttribution(Attribution(_scores(readout, total, end_weight, end_LRF), residual), n)


class _Path:
    """What is known of one layer's path of one row: nodes, in units of 1 / ONE, with P and dP/dα; and intervals."""

    def __init__(self, p_end: float, slope_end: float) -> None:
        self.nodes = {ONE: (p_end, slope_end)}
        self.intervals = [(0, ONE)]

    def rule(self, interval: tuple[int, int]) -> float:
        """Simpson's rule for dP/dα on an interval."""
        a, b = interval
        slopes = [self.nodes[node][1] for node in (a, (a + b) // 2, b)]
        return (slopes[0] + 4 * slopes[1] + slopes[2]) * (b - a) / (6 * ONE)

    def local_residual(self, interval: tuple[int, int]) -> float:
        a, b = interval
        return self.rule(interval) - (self.nodes[b][0] - self.nodes[a][0])

    def residual(self) -> float:
        """Of completeness, over the whole path."""
        return sum(self.local_residual(interval) for interval in self.intervals)

    def halved(self, tolerance: float) -> list[int]:
        """Halves the intervals with the largest residuals until the others' sum is small; the new nodes."""
        most = tolerance * max(p for p, _ in self.nodes.values())
        by_size = sorted(((abs(self.local_residual(i)), i) for i in self.intervals), reverse=True)
        left = sum(value for value, _ in by_size)
        if not left > most:
            return []
        nodes: list[int] = []
        for value, (a, b) in by_size:
            # Half the tolerance stays for what is halved now. What cannot be halved would have the others halved in
            # vain.
            if left <= most / 2:
                break
            left -= value
            if b - a >= 4 and len(self.nodes) + len(nodes) + 2 <= MOST:  # the halves need nodes at their middles
                middle = (a + b) // 2
                self.intervals.remove((a, b))
                self.intervals += [(a, middle), (middle, b)]
                nodes += [(a + middle) // 2, (middle + b) // 2]
        return nodes

    def weights(self) -> dict[int, float]:
        """Of the nodes in the integral."""
        found = dict.fromkeys(self.nodes, 0.0)
        for a, b in self.intervals:
            for node, factor in ((a, 1), ((a + b) // 2, 4), (b, 1)):
                found[node] += factor * (b - a) / (6 * ONE)
        return found


class _Chunk(NamedTuple):
    """Branches that were evaluated together."""

    layer_J: Int[np.ndarray, " J"]
    row_J: Int[np.ndarray, " J"]
    node_J: Int[np.ndarray, " J"]  # −1 for what fills the chunk up
    p_J: Float[np.ndarray, " J"]
    along_J: Float[np.ndarray, " J"]  # dP/dα
    slope_JC: Array

    def asked_for(self) -> Iterator[tuple[int, tuple[int, int, int]]]:
        """Place and (layer, row, node) of what was asked for."""
        jobs = zip(self.layer_J.tolist(), self.row_J.tolist(), self.node_J.tolist(), strict=True)
        return ((place, job) for place, job in enumerate(jobs) if job[2] >= 0)


def _evaluated(readout: Readout, asked: Mapping[tuple[int, int], list[int]], at_once: int) -> list[_Chunk]:
    """P and its gradient at the nodes that are asked for, by layer and row."""
    n_layers, n_rows, _ = readout.shape
    alike = len(asked) == n_layers * n_rows and len({tuple(nodes) for nodes in asked.values()}) == 1
    # Rows that need the same share what they attend to; otherwise every branch gets a copy of its row's.
    if alike or n_rows == 1 or not readout.branches().rows_apart:
        queues = [
            [(layer, node) for layer in range(n_layers) for node in asked.get((layer, row), ())]
            for row in range(n_rows)
        ]
        longest = max(len(queue) for queue in queues)
        n, chunks = _sizes(longest, max(1, at_once // n_rows))
        # What fills up runs fewest layers.
        filled = np.array([queue + [(n_layers - 1, -1)] * (n * chunks - len(queue)) for queue in queues], np.int32)
        jobs_CNR3 = np.concatenate([filled, np.indices(filled.shape[:2])[0][..., None]], -1).transpose(1, 0, 2)
        jobs: np.ndarray = jobs_CNR3.reshape(chunks, n, n_rows, 3)
        evaluate = lambda _, layer_NR, alpha_NR: _branches(readout, layer_NR, alpha_NR)  # noqa: E731
    else:
        queue = sorted((layer, node, row) for (layer, row), nodes in asked.items() for node in nodes)
        n, chunks = _sizes(len(queue), max(1, at_once))
        filled = np.array(queue + [(n_layers - 1, -1, 0)] * (n * chunks - len(queue)), np.int32)
        jobs = filled.reshape(chunks, n, 3)
        evaluate = functools.partial(_branches_of_rows, readout)
    found = []
    for chunk in jobs:
        layer, node, row = np.moveaxis(chunk, -1, 0)
        alpha = (np.maximum(node, 0) / ONE).astype(readout.untouched().dtype)
        p, along, slope = evaluate(row, layer, alpha)
        flat = (x.ravel() for x in (layer, row, node, np.asarray(p), np.asarray(along)))
        found.append(_Chunk._make([*flat, slope.reshape(-1, slope.shape[-1])]))
    return found


def _sizes(n: int, most: int) -> tuple[int, int]:
    """Size and number of chunks. Few sizes, so that few programs are compiled: the smallest that has room for n."""
    size = next((size for size in (most // 4, most // 2) if n <= size), most)
    return size, -(-n // size)


@jax.jit
def _at_one(readout: Readout) -> tuple[Float[Array, "L R F"], Float[Array, " R"]]:
    return gradient_x_activation(readout), readout.untouched()


@jax.jit
def _branches(
    readout: Readout, layer_NR: Array, alpha_NR: Array
) -> tuple[Float[Array, "N R"], Float[Array, "N R"], Array]:
    return _along(readout.branches(), layer_NR, alpha_NR)


def _along(
    branches: Branches, layer_NR: Array, alpha_NR: Array
) -> tuple[Float[Array, "N R"], Float[Array, "N R"], Float[Array, "N R C"]]:
    """P of branches, dP/dα, and the gradient in the space C."""
    p_NR, slope_NRC = branch_slopes(branches, layer_NR, alpha_NR)
    return p_NR, branches.scores(layer_NR, slope_NRC), slope_NRC


@jax.jit
def _branches_of_rows(readout: Readout, row_J: Array, layer_J: Array, alpha_J: Array) -> tuple[Array, ...]:
    return tuple(x[0] for x in _along(readout.branches().take(row_J), layer_J[None], alpha_J[None]))


@jax.jit
def _accumulated(total_LRC: Array, layer_J: Array, row_J: Array, weight_J: Array, slope_JC: Array) -> Array:
    return total_LRC.at[layer_J, row_J].add(weight_J[:, None] * slope_JC)


@jax.jit
def _scores(readout: Readout, slope_LRC: Array, weight_LR: Array, end_LRF: Array) -> Float[Array, "L R F"]:
    return readout.branches().neuron_scores(slope_LRC) + weight_LR[..., None] * end_LRF
