"""Whose value rows are edited: chosen neurons, counted, and without those that all have."""

import numpy as np
import pytest
from editable import editable, requests_for

from jaxinterp.api.attribute import attribute
from jaxinterp.base.errors import UserError
from jaxinterp.editing.neurons import most_frequent, request_neurons, without_common
from jaxinterp.editing.registry import Neurons


def places(neurons):
    return set(zip(*(np.asarray(part).tolist() for part in neurons), strict=True))


def test_knowledge_neurons_are_those_of_attribute():
    model = editable()
    for asked, own in zip(requests_for(model), request_neurons(model, requests_for(model), 4), strict=True):
        found = attribute(model, asked.prompt, asked.old, rule="gauss_legendre", points=6)
        best = np.argsort(-np.asarray(found.scores_LRF).sum(1).ravel())[:4]
        assert places(own) == {divmod(int(index), 12) for index in best}


def test_controls_by_name():
    model = editable()
    (asked,) = requests_for(model, 1)
    (active,) = request_neurons(model, [asked], 3, "activation")
    post_LF = np.asarray(model.run(asked.prompt, capture="mlp_post").activations["mlp_post"][:, 0, -1])
    assert places(active) == {divmod(int(index), 12) for index in np.argsort(-post_LF.ravel())[:3]}
    one, again, other = (places(request_neurons(model, [asked], 3, "random", seed)[0]) for seed in (0, 0, 1))
    assert one == again != other
    with pytest.raises(UserError, match="unknown attribution method"):
        request_neurons(model, [asked], 3, "none")
    with pytest.raises(UserError, match="k must be at least 1"):
        request_neurons(model, [asked], 0)


def test_counting():
    sets = [
        Neurons(np.array(layers), np.array(numbers)) for layers, numbers in (([0, 1], [5, 2]), ([1], [2]), ([0], [1]))
    ]
    assert places(most_frequent(sets, 1)) == {(1, 2)} and places(most_frequent(sets, 2)) == {(1, 2), (0, 1)}
    assert [places(own) for own in without_common(sets, 0.4)] == [{(0, 5)}, set(), {(0, 1)}]
    assert len(most_frequent([], 3).layer_k) == 0
