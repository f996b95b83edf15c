"""Which neurons a fact has of its own, and where they alone learn."""

import dataclasses

import numpy as np
from tiny import tiny_queries

from jaxinterp.training.routing import Routing, own_neurons, route_of

ROUTING = Routing(4, n_layers=3, d_mlp=20, seed=1)


def test_a_facts_neurons_are_a_function_of_its_number_and_the_seed():
    own = [own_neurons(ROUTING, fact) for fact in range(500)]
    assert all(neurons.shape == (3, 4) for neurons in own)
    assert all(len(set(layer)) == 4 for neurons in own for layer in neurons.tolist())
    # Each neuron has 1 fact in 5, in every layer; layers are drawn apart.
    counts = np.stack([np.bincount(np.stack(own)[:, layer].ravel(), minlength=20) for layer in range(3)])
    assert counts.shape == (3, 20) and counts.min() > 60 and counts.max() < 140
    assert not any(np.array_equal(np.sort(neurons[0]), np.sort(neurons[1])) for neurons in own[:20])
    own_neurons.cache_clear()
    np.testing.assert_array_equal(own_neurons(ROUTING, 7), own[7])
    other = own_neurons(dataclasses.replace(ROUTING, seed=2), 7)
    assert not np.array_equal(np.sort(other), np.sort(own[7]))


def test_routed_positions_by_hand():
    # Answers of 1 and 2 tokens that start at 4, 4 and 6 of 8 positions; fact 1 is outside the objective.
    route = route_of(ROUTING, tiny_queries(3), np.array([True, False, True]))
    assert tiny_queries(3).answer_start_N.tolist() == [4, 4, 6]
    expected = np.zeros((3, 8), bool)
    expected[0, 3] = expected[2, 5] = True
    np.testing.assert_array_equal(route.routed, np.stack([expected] * 3))
    longer = route_of(ROUTING, tiny_queries(3), np.array([True, True, True])).routed
    expected[1, [3, 4]] = True  # both tokens of the answer
    np.testing.assert_array_equal(longer, np.stack([expected] * 3))
    np.testing.assert_array_equal(route.neurons[:, 2], own_neurons(ROUTING, 2))
