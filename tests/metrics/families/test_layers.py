"""After how many layers the answer is there."""

import jax.numpy as jnp
import numpy as np

from jaxinterp.metrics.families.layers import share_needed


def test_layers_until_the_answer_by_hand():
    # Rows: there from the first layer; from the last; from the third; there once, and gone again.
    top_LR = jnp.array([[5, 1, 1, 7], [5, 2, 1, 2], [5, 3, 6, 4], [5, 4, 6, 7]])
    np.testing.assert_allclose(share_needed(top_LR), [1 / 4, 1, 3 / 4, 1], rtol=1e-6)
    np.testing.assert_array_equal(share_needed(top_LR[:1]), [1, 1, 1, 1])
