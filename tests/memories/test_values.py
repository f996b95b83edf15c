"""Readings of value vectors against whole logits, and the moments of the vectors that stand in for them."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config, tiny_params

from jaxinterp.memories.lens import Lens, value_logits
from jaxinterp.memories.values import (
    VALUES,
    gaussian,
    layer_values,
    read_values,
    shuffled,
    standing,
    value_tops,
    vocabulary_moments,
)
from jaxinterp.models.model import Model

CONFIG = tiny_config(d_vocab=40, d_mlp=600)
MODEL = Model(CONFIG, tiny_params(CONFIG))
MATRIX = jnp.asarray(np.random.default_rng(0).standard_normal((3, 8, 8)), jnp.float32)
LENSES = (Lens("raw", normed=False), Lens("norm_folded"), Lens("x", matrix_LDD=MATRIX))


@pytest.mark.parametrize("lens", LENSES, ids=lambda lens: lens.name)
def test_readings_are_those_of_whole_logits(lens):
    value = layer_values(MODEL, 1, "own", 0)
    token = np.random.default_rng(1).integers(0, 40, (600, 3))
    read = read_values(MODEL, lens, 1, value, token)  # two chunks, the second of which is padded
    logits = np.asarray(value_logits(MODEL, lens, 1, value), np.float64)
    order = np.argsort(-logits, 1)
    np.testing.assert_array_equal(read.top_N, order[:, 0])
    np.testing.assert_array_equal(value_tops(MODEL, lens, 1, value), order[:, 0])
    np.testing.assert_array_equal(read.bottom_N, order[:, -1])
    np.testing.assert_array_equal(read.highest_NE, order[:, :10])
    np.testing.assert_array_equal(np.sort(read.lowest_NE), np.sort(order[:, -10:]))
    rows = np.arange(600)[:, None]
    np.testing.assert_array_equal(read.rank_NK, 1 + (logits[:, None] > logits[rows, token][..., None]).sum(-1))
    p = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(read.confidence_N, p.max(1) / p.sum(1), rtol=1e-4)
    z = (logits - logits.mean(1, keepdims=True)) / logits.std(1, keepdims=True)
    np.testing.assert_allclose(read.highest_z_N, -np.sort(-z, 1)[:, :10].mean(1), rtol=1e-4)
    np.testing.assert_allclose(read.lowest_z_N, np.sort(z, 1)[:, :10].mean(1), rtol=1e-4)
    against = standing(MODEL, lens, 1, value, vocabulary_moments(MODEL))
    np.testing.assert_allclose(against.mean_F, logits.mean(1), atol=1e-4)
    np.testing.assert_allclose(against.deviation_F, logits.std(1), rtol=1e-4)


def test_no_neuron_keeps_its_value():
    value = layer_values(MODEL, 0, "own", 0)
    moved = shuffled(value, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(moved, 0), np.sort(value, 0))
    assert (moved != value).any(1).all()
    np.testing.assert_array_equal(layer_values(MODEL, 0, "shuffled", 4), layer_values(MODEL, 0, "shuffled", 4))
    assert (layer_values(MODEL, 0, "shuffled", 4) != layer_values(MODEL, 0, "shuffled", 5)).any()


def test_random_vectors_have_the_moments_of_the_layer():
    rng = np.random.default_rng(0)
    value = rng.standard_normal((4000, 3)) @ np.array([[2.0, 1, 0], [0, 1, 1], [0, 0, 0.1]]) + np.array([[1.0, 2, 3]])
    drawn = gaussian(value, rng)
    np.testing.assert_allclose(drawn.mean(0), value.mean(0), atol=0.12)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(value.T), atol=0.35)
    assert set(VALUES) == {"own", "shuffled", "random"}
