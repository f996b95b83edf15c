"""What the formula of a metric must hold to by itself, as a function of means or of other metrics' values."""

import math
import warnings
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from jaxinterp.metrics.registry import METRICS, Metric

TOLERANCE = 1e-4  # of comparisons in float32, relative to max(1, |value|)


def equal(metric: Metric, what: str, first: ArrayLike, second: ArrayLike) -> None:
    """AssertionError, which says what a metric changes with, unless two values, or all of two arrays, are equal."""
    for a, b in zip(np.ravel(first).tolist(), np.ravel(second).tolist(), strict=True):
        close = math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE) or (math.isnan(a) and math.isnan(b))
        assert close, f"{metric.name} changes with {what}: {a} and {b}"


def check_values(metric: Metric, world: int) -> None:
    """Shape, missing values and differentiability of the formula of a derived metric."""
    rng = np.random.default_rng(world)
    values = {name: rng.uniform(*_bounds(METRICS[name]), (4, 2)) for name in metric.of}
    found = _derived(metric, values)
    assert found.shape == (4, 2), f"{metric.name} turns values of the shape (4, 2) into {found.shape}"
    nothing = _derived(metric, {name: np.full((4, 2), np.nan) for name in metric.of})
    assert np.isnan(nothing).all(), f"{metric.name} has a value where nothing was measured"
    alone = [_derived(metric, {name: x[row : row + 1] for name, x in values.items()}) for row in range(4)]
    equal(metric, "the number of samples", found, np.concatenate(alone))
    for name in metric.of:
        holed = {key: x.copy() for key, x in values.items()}
        holed[name][0, 0] = np.nan
        rest = _derived(metric, holed).ravel()[1:]
        equal(metric, f"a missing value of {name} in another sample", found.ravel()[1:], rest)
        if not metric.every:
            only = _derived(metric, {name: values[name]})
            assert np.isfinite(only).all(), f"{metric.name} has no value where {name} alone was measured"
            there = np.isfinite(_derived(metric, holed)).all() or len(metric.of) == 1
            assert there, f"{metric.name} has no value in a sample where {name} has none and others have"
        if metric.differentiable:
            moved = ((_derived(metric, {**values, name: values[name] + step}), step) for step in (1e-6, -1e-6))
            slopes = [(value - found) / step for value, step in moved]
            equal(metric, f"the side from which {name} is differentiated", *slopes)


def _bounds(metric: Metric) -> tuple[float, float]:
    """Inside a metric's range, around 0.5."""
    low, high = metric.range
    return max(low, min(high, 1.0) - 1.0), min(high, max(low, 0.0) + 1.0)


def _derived(metric: Metric, values: Mapping[str, np.ndarray]) -> np.ndarray:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = np.asarray(metric.formula(values))
    assert not caught, f"{metric.name} warns: {caught[0].message}"
    return found


def check_means(metric: Metric, columns: Mapping[str, np.ndarray]) -> None:
    """jit, dtype and gradients of the formula as a function of means."""
    means = {key: float(columns[key].mean()) for key in metric.needs}

    def formula(values: Mapping[str, jax.Array]) -> jax.Array:
        return jnp.sum(metric.formula(lambda column: values[column][None, None]))

    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            values = {key: jnp.asarray(value, dtype) for key, value in means.items()}
            found = formula(values)
            assert found.dtype == dtype, f"{metric.name} turns {dtype} into {found.dtype}"
            equal(metric, f"jit, in {dtype}", float(found), float(jax.jit(formula)(values)))
    if metric.differentiable:
        _gradients(metric, formula, means)


def _gradients(metric: Metric, formula: Callable, means: Mapping[str, float]) -> None:
    with jax.enable_x64(True):
        values = {key: jnp.asarray(value, "float64") for key, value in means.items()}
        slope = jax.grad(formula)(values)
        for key in values:
            step = 1e-5 * max(1.0, abs(means[key]))
            above, below = (float(formula({**values, key: values[key] + sign * step})) for sign in (1, -1))
            equal(metric, f"how it is differentiated by {key}", float(slope[key]), (above - below) / (2 * step))
