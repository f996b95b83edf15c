"""The loss on held-out text: by hand on two windows, its interval over documents, and its limits."""

import jax
import numpy as np
import pytest
from tiny import tiny_config, tiny_params

from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.held_out import TEXT_LOSS, HeldOutText, text_estimates
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward

CONFIG = tiny_config(n_layers=1)
T = 8


def text(n, documents):
    rng = np.random.default_rng(0)
    return HeldOutText(rng.integers(1, 11, (n, T)).astype(np.int32), np.array(documents))


def loss_of(model, held_out, **fields):
    return text_estimates(model, held_out, MeasureConfig(**{"rows": 4, "replicates": 20, **fields}))[TEXT_LOSS]


def losses_by_hand(model, tokens_HT):
    """Mean −log P of the tokens of each window but its first, by a softmax over all logits."""
    logits = np.asarray(forward(model, jax.numpy.asarray(tokens_HT)).logits_BTV, np.float64)[:, :-1]
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return [
        -np.mean([np.log(p[row, place, token]) for place, token in enumerate(window[1:])])
        for row, window in enumerate(tokens_HT.tolist())
    ]


def test_two_windows_by_hand():
    model, held_out = Model(CONFIG, tiny_params(CONFIG)), text(2, [4, 7])
    one, other = losses_by_hand(model, held_out.tokens_HT)
    found = loss_of(model, held_out)
    assert found.overall.value == pytest.approx((one + other) / 2, rel=1e-5)
    assert abs(one - other) > 0.01 and found.overall.n == 2
    # Student's t with one degree of freedom is 12.706; a ratio's interval has n / (n − 1) = 2 times the width.
    half = 2 * 12.706 * abs(one - other) / 2
    assert found.overall.high == pytest.approx(found.overall.value + half, rel=1e-3)
    assert found.overall.low == 0
    # Replicates draw documents: the one twice, the other twice, or both.
    drawn = {round(float(value), 4) for value in found.samples}
    assert drawn == {round(value, 4) for value in (one, other, (one + other) / 2)}


def test_documents_count_by_their_windows_and_are_drawn_whole():
    model, held_out = Model(CONFIG, tiny_params(CONFIG)), text(5, [0, 0, 0, 0, 1])  # batches of 4 and 1
    losses = losses_by_hand(model, held_out.tokens_HT)
    found = loss_of(model, held_out)
    assert found.overall.value == pytest.approx(np.mean(losses), rel=1e-5) and found.overall.n == 2
    possible = (np.mean(losses), np.mean(losses[:4]), losses[4])
    assert all(min(abs(value - one) for one in possible) < 1e-4 for value in found.samples)
    sampled = loss_of(model, held_out, ability_queries=2, seed=1).overall.value
    pairs = [(losses[a] + losses[b]) / 2 for a in range(5) for b in range(a)]
    assert min(abs(sampled - pair) for pair in pairs) < 1e-5 < abs(sampled - found.overall.value)
    assert loss_of(model, held_out, ability_queries=0).overall == found.overall


def test_a_model_that_knows_nothing_has_the_entropy_of_its_vocabulary():
    nothing = Model(CONFIG, jax.tree.map(np.zeros_like, tiny_params(CONFIG)))
    found = loss_of(nothing, text(3, [0, 1, 2])).overall
    assert found.value == pytest.approx(np.log(CONFIG.d_vocab), rel=1e-6)
    assert np.isnan(found.low) and np.isnan(found.high)  # documents do not differ
