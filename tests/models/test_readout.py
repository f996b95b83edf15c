"""The readout of a language model."""

import jax
import jax.numpy as jnp
import pytest
from tiny import ARCHITECTURES, fast_readout, tiny_batch, tiny_config, tiny_params


@pytest.mark.parametrize(("name", "numbers"), [("gpt", 3 * 16 + 2 * 84), ("bert", 3 * 16 + 8 * 2 * 84)])
def test_evaluations_at_once_by_hand(name, numbers):
    config = tiny_config(n_layers=2, d_vocab=16, d_mlp=4, d_model=8, **ARCHITECTURES[name])
    readout = fast_readout(config, tiny_params(config), jax.tree.map(jnp.asarray, tiny_batch()))
    # Three arrays of logits, and 5 F + 8 D numbers of each layer, at one position or at all eight; 4 bytes each.
    assert readout.evaluations_at_once(4 * numbers * 5) == 5
    assert readout.evaluations_at_once(4 * numbers * 5 - 1) == 4
    assert readout.evaluations_at_once(1) == 1
