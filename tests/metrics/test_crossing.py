"""The smallest number at which a value is enough, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.metrics.crossing import doubled, smallest_number


def found(numbers, values, enough):
    numbers, values = (jnp.asarray(x, jnp.float32)[:, None] for x in (numbers, values))
    return float(smallest_number(numbers, values, jnp.full(1, enough, jnp.float32))[0])


def test_the_grid_doubles_up_to_all():
    assert doubled(0) == (0,) and doubled(1) == (0, 1) and doubled(2) == (0, 1, 2)
    assert doubled(12) == (0, 1, 2, 4, 8, 12) and doubled(8) == (0, 1, 2, 4, 8)


@pytest.mark.parametrize(
    ("values", "enough", "expected"),
    [
        ([0.1, 0.2, 0.6, 1.0], 0.8, 2 * 2**0.5),  # half of the way from 2 to 4
        ([0.1, 0.2, 0.6, 1.0], 0.6, 2.0),  # exactly a grid point
        ([0.1, 0.2, 0.6, 1.0], 0.5, 2**0.75),
        ([0.1, 0.8, 0.9, 1.0], 0.5, 1.0),  # nothing lies between none and one
        ([0.7, 0.1, 0.9, 1.0], 0.5, 0.0),
        ([0.1, 0.9, 0.2, 1.0], 0.5, 1.0),  # where it is first reached
        ([0.1, 0.2, 0.2, 0.3], 0.5, 4.0),  # never
        ([0.1, np.nan, 0.2, 1.0], 0.5, np.nan),
        ([0.1, 0.2, 0.2, 1.0], np.nan, np.nan),
    ],
)
def test_by_hand(values, enough, expected):
    np.testing.assert_allclose(found([0, 1, 2, 4], values, enough), expected, rtol=1e-6)


def test_a_grid_that_starts_above_none():
    assert found([1, 2, 5], [0.9, 0.9, 0.9], 0.5) == 1.0
    np.testing.assert_allclose(found([1, 2, 5], [0.0, 0.0, 1.0], 0.5), 10**0.5, rtol=1e-6)
