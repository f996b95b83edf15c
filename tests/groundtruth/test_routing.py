"""Gradient routing: gradients by hand, and what a trained model knows where."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.groundtruth.routing import Neurons, RoutingConfig, relation_effects, routed, routed_gradient
from jaxinterp.groundtruth.table import fact_table


@functools.cache
def trained():
    table = fact_table(0)
    return table, routed(table, RoutingConfig(), jax.random.key(0))


def test_gradients_reach_their_own_neurons_alone():
    own_QF = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    # Two relations, a layer, D = 1: gradients 1 … 3 of the first and 10 … 30 of the second.
    w_in = jnp.array([[[[1.0, 2.0, 3.0]]], [[[10.0, 20.0, 30.0]]]])
    found = routed_gradient(Neurons(w_in, w_in.transpose(0, 1, 3, 2)), own_QF)
    np.testing.assert_array_equal(found.w_in, [[[1, 20, 30]]])
    np.testing.assert_array_equal(found.w_out, [[[1], [20], [30]]])


def test_a_relation_goes_with_its_neurons():
    table, model = trained()
    assert np.asarray(model.readout().untouched()).mean() > 0.9
    effects = relation_effects(model, table)
    own = np.eye(table.n_relations, dtype=bool)
    # What is not trained favours some answer or other, so that a little is left.
    assert effects[own].max() < 0.3
    assert effects[own].mean() < 0.15
    assert effects[~own].min() > 0.9


def test_the_truth_is_the_relations_neurons_that_are_on():
    table, model = trained()
    place = np.arange(model.model.config.d_mlp) // RoutingConfig().neurons
    neurons = np.asarray(model.readout().neurons_LRF)
    expected = (place[None] == table.relation_N[:, None])[None] & (neurons > 0)
    np.testing.assert_array_equal(np.asarray(model.mask_LRF) > 0, expected)
    assert (expected.sum((0, 2)) > 0).all()


def test_mistakes_are_told():
    with pytest.raises(UserError, match="steps must be at least 1, got 0"):
        RoutingConfig(steps=0)
    with pytest.raises(UserError, match="silence must be at least 0"):
        RoutingConfig(silence=-1.0)
