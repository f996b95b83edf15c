"""The rule of Dai et al. 2021 for knowledge neurons, by hand."""

import numpy as np
import pytest

from jaxinterp.attribution.refining import recurring_neurons, relation_neurons, strong_neurons
from jaxinterp.base.errors import UserError


def fact(*strong_in, prompts=10):
    """Scores of one fact with one layer: neuron i has score 1 in the first `strong_in[i]` prompts, 0 in the others."""
    scores = (np.arange(prompts)[:, None] < np.array(strong_in)[None]).astype(float)
    # In a prompt without a strong neuron one that is strong in no other prompt has the highest score.
    lonely = np.diag((scores.max(1) == 0).astype(float))
    return np.concatenate([scores, lonely], axis=1)[:, None]


def test_strong_is_a_fifth_of_the_highest_score_over_all_layers():
    scores = np.array([[[1.0, 0.2, 0.19], [0.05, -3.0, 0.5]], [[0.5, 0.1, 0.0], [0.0, 0.09, 0.11]]])
    expected = [[[1, 1, 0], [0, 0, 1]], [[1, 1, 0], [0, 0, 1]]]
    np.testing.assert_array_equal(strong_neurons(scores), np.array(expected, bool))
    np.testing.assert_array_equal(strong_neurons(scores, 0.5)[0], np.array([[1, 0, 0], [0, 0, 1]], bool))


def test_a_prompt_without_a_positive_score_has_none():
    assert not strong_neurons(np.array([[[0.0, 0.0]], [[-1.0, -0.1]]])).any()


def test_recurring_is_in_seven_tenths_of_the_prompts_and_in_three_at_least():
    def recurring(prompts, counts):
        strong = np.arange(prompts)[:, None] < np.array(counts)[None]
        return recurring_neurons(strong[:, None])[0].tolist()

    assert recurring(10, [6, 7, 8]) == [False, True, True]
    assert recurring(11, [7, 8]) == [False, True]  # 7.7
    assert recurring(20, [13, 14]) == [False, True]
    assert recurring(4, [2, 3]) == [False, True]  # 2.8, but 3 at least
    assert recurring(3, [2, 3]) == [False, True]  # 2.1, but 3 at least
    assert recurring(2, [1, 2]) == [False, False]  # fewer than 3 prompts: none
    strong = np.ones((2, 1, 3), bool)
    assert recurring_neurons(strong, at_least=2).all()


def test_the_share_stays_where_the_mean_count_fits():
    found = relation_neurons([fact(10, 9, 5), fact(7, 7, 3)])
    assert found.share == 0.7
    np.testing.assert_array_equal(found.masks_NLF.sum((1, 2)), [2, 2])
    np.testing.assert_array_equal(found.masks_NLF[0, 0, :3], [True, True, False])


def test_the_bounds_of_the_mean_count_are_included():
    # Means of 2 and of 5; and of 2.5 over facts with 5 and 0 neurons.
    for facts in ([fact(10, 10)], [fact(*[10] * 5)], [fact(*[10] * 5), fact(*[0] * 5)]):
        assert relation_neurons(facts).share == 0.7


def test_too_few_neurons_lower_the_share_step_by_step():
    # Neurons in 10, 6 and 6 of 10 prompts: 1 at 0.7 and at 0.65 (6.5 prompts), 3 at 0.6.
    found = relation_neurons([fact(10, 6, 6)])
    assert found.share == 0.6
    assert found.masks_NLF.sum() == 3


def test_too_many_neurons_raise_the_share_step_by_step():
    # Six neurons in 7 of 10 prompts and three in 9: 9 at 0.7, 3 at 0.75 (7.5 prompts).
    found = relation_neurons([fact(*[7] * 6, *[9] * 3)])
    assert found.share == 0.75
    assert found.masks_NLF.sum() == 3


def test_the_share_moves_at_most_six_times():
    # Neurons in 4 of 10 prompts are found at a share of 0.4, the sixth step down; those in 3 would take 0.35 or less.
    found = relation_neurons([fact(10, 4)])
    assert (found.share, found.masks_NLF.sum()) == (0.4, 2)
    found = relation_neurons([fact(10, 3)])
    assert (found.share, found.masks_NLF.sum()) == (0.4, 1)
    found = relation_neurons([fact(*[10] * 6)])
    assert (found.share, found.masks_NLF.sum()) == (1.0, 6)


def test_the_share_is_tuned_for_the_relation_not_for_the_fact():
    # 6 and 0 neurons: a mean of 3, nothing to tune, though neither fact is in [2, 5].
    found = relation_neurons([fact(*[10] * 6), fact(*[0] * 6)])
    assert found.share == 0.7
    np.testing.assert_array_equal(found.masks_NLF.sum((1, 2)), [6, 0])


def test_facts_of_few_prompts_or_without_positive_scores_have_no_neurons():
    few, silent = np.ones((2, 2, 2)), -np.ones((5, 2, 2))
    strong = np.zeros((3, 2, 2))
    strong[:, 0] = 1.0
    found = relation_neurons([few, silent, strong], mean_count=(0.0, 5.0))
    np.testing.assert_array_equal(found.masks_NLF.sum((1, 2)), [0, 0, 2])


def test_no_facts():
    with pytest.raises(UserError, match="at least one fact, got none"):
        relation_neurons([])
