"""Neurons by which an answer can be changed at the least cost, against trying all of them."""

import itertools

import numpy as np
import pytest
from editable import editable, requests_for

from jaxinterp.base.errors import UserError
from jaxinterp.editing.keys import prompt_keys
from jaxinterp.editing.specific import leverage_greedy, specific_neurons


def leverage(key_PF, cost_FF, chosen):
    chosen = list(chosen)
    return sum(key_F[chosen] @ np.linalg.inv(cost_FF[np.ix_(chosen, chosen)]) @ key_F[chosen] for key_F in key_PF)


@pytest.mark.parametrize("n_prompts", [1, 3])
def test_each_is_the_best_beside_those_before(n_prompts):
    rng = np.random.default_rng(0)
    for _ in range(5):
        samples = rng.normal(size=(30, 7))
        cost_FF = samples.T @ samples + 0.1 * np.eye(7)
        key_PF = rng.normal(size=(n_prompts, 7)) * (rng.random((n_prompts, 7)) < 0.8)
        there_F = (key_PF != 0).any(0)
        chosen = leverage_greedy(key_PF, cost_FF, 4).tolist()
        for number, index in enumerate(chosen):
            left = [j for j in np.flatnonzero(there_F) if j not in chosen[:number]]
            assert index == max(left, key=lambda j: leverage(key_PF, cost_FF, [*chosen[:number], j]))
        assert leverage_greedy(key_PF, cost_FF, 99).size == there_F.sum()


def test_two_together_may_be_worth_more_than_the_strongest():
    # Two neurons that others have together are worth more than one that is strong everywhere.
    cost = np.array([[1.0, 0.99, 0.0], [0.99, 1.0, 0.0], [0.0, 0.0, 9.0]])
    key_PF = np.array([[1.0, -1.0, 2.5]])
    assert sorted(leverage_greedy(key_PF, cost, 2).tolist()) == [0, 1]
    assert max(itertools.combinations(range(3), 2), key=lambda c: leverage(key_PF, cost, c)) == (0, 1)


def test_they_are_active_where_the_answer_is_read():
    model = editable()
    (asked,) = requests_for(model, 1)
    kept = [["c b", "c d"], ["e a", "f a"], []]
    found = specific_neurons(model, asked, kept, 1, k=3)
    key_F = prompt_keys(model, [asked.prompt], 1)[0]
    assert found.layer_k.tolist() == [1, 1, 1] and len(set(found.neuron_k.tolist())) == 3
    assert (key_F[found.neuron_k] != 0).all()
    run = model.run(asked.prompt, capture="mlp_post").activations["mlp_post"][1, 0, -1]
    np.testing.assert_allclose(key_F, run, atol=1e-6)
    (other,) = requests_for(model, 1, "d {subject}")
    both = specific_neurons(model, asked, kept, 1, k=12, rephrased=[other])
    keys_PF = prompt_keys(model, [asked.prompt, other.prompt], 1)
    assert sorted(both.neuron_k.tolist()) == np.flatnonzero((keys_PF != 0).any(0)).tolist()
    with pytest.raises(UserError, match="no prompt to keep"):
        specific_neurons(model, asked, [[], []], 1)
    with pytest.raises(UserError, match="more tokens than the model's context of 8"):
        prompt_keys(model, ["a " * 9], 1)
