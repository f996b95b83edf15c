"""Quadrature rules on [0, 1] for the integral of integrated gradients."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxinterp.attribution.config import INTEGRALS
from jaxinterp.base.errors import UserError, unknown
from jaxinterp.base.numbers_given import check_number

RULES = tuple(rule for rule in INTEGRALS if rule != "adaptive")


class Quadrature(NamedTuple):
    """∫₀¹ f(α) dα ≈ Σ_m weights[m] f(points[m]), the points the same for all rows of a readout or its own for each."""

    # In [0, 1]; [M, R] if each row has its own
    points_M: Float[Array, " M"] | Float[np.ndarray, " M"] | Float[Array, "M R"]
    weights_M: Float[Array, " M"] | Float[np.ndarray, " M"]  # sum to 1


class Adaptive(NamedTuple):
    """As many points as each layer and row needs; see `jaxinterp.attribution.adaptive`."""

    tolerance: float  # of a layer's completeness residual, as a share of the largest probability on its path


Integral = Quadrature | Adaptive


def integral(rule: str, n_points: int, tolerance: float) -> Integral:
    """What `rule` names: "adaptive" to a tolerance, or a `quadrature` of `n_points` points.

    Raises:
      UserError: if the rule is unknown or has no points, or the tolerance is not above 0.
    """
    if rule != "adaptive":
        return quadrature(rule, n_points)
    check_number("the tolerance of an adaptive attribution", tolerance)
    if tolerance <= 0:
        raise UserError(f"the tolerance of an adaptive attribution must be above 0, got {tolerance}")
    return Adaptive(tolerance)


def quadrature(rule: str, n_points: int) -> Quadrature:
    """A fixed rule of `n_points` points.

    "left" is Σ f(m/M)/M, the sum in the code of Dai et al. 2021; "right" is Σ f((m+1)/M)/M, the sum in their text;
    "midpoint" is Σ f((m+½)/M)/M; "gauss_legendre" is exact for polynomials of degree 2M − 1.

    Raises:
      UserError: if the rule is unknown or has no points.
    """
    if n_points < 1:
        raise UserError(f"a quadrature rule needs at least 1 point, got {n_points}")
    if rule == "gauss_legendre":
        points, weights = np.polynomial.legendre.leggauss(n_points)
        return Quadrature((points + 1) / 2, weights / 2)
    if rule not in RULES:
        raise unknown("quadrature rule", rule, INTEGRALS)
    offset = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[rule]
    return Quadrature((np.arange(n_points) + offset) / n_points, np.full(n_points, 1 / n_points))


def random_offset(key: PRNGKeyArray, n_points: int, n_rows: int) -> Quadrature:
    """Equally spaced points with a uniform offset for each row: unbiased estimates of their integrals, for training.

    Consumes `key`. Cranley and Patterson 1976. Rows with offsets of their own err independently, so that their mean
    errs less than with one offset for all.

    Returns:
      A rule whose points are [M, R].
    """
    if n_points < 1:
        raise UserError(f"a quadrature rule needs at least 1 point, got {n_points}")
    points_MR = (jnp.arange(n_points)[:, None] + jax.random.uniform(key, (1, n_rows))) / n_points
    return Quadrature(points_MR, jnp.full(n_points, 1 / n_points))
