"""Bridges: of a model with itself, with another one, and hybrids against edits that say the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import masked_model, small_model

from jaxinterp.base.errors import UserError
from jaxinterp.models.places import Change
from jaxinterp.models.transformer import forward, unembed
from jaxinterp.training.bridges import BridgeConfig, bridge_scores, continued, streams, train_bridges

CONFIG = BridgeConfig(steps=20, windows=4, learning_rate=1e-3)


def windows(model, n, seed):
    return np.random.default_rng(seed).integers(0, model.config.d_vocab, (n, 8)).astype(np.int32)


@pytest.fixture(scope="module")
def model():
    return small_model("gpt", n_layers=2)


def test_a_model_is_bridged_to_itself_and_not_to_a_random_one(model):
    text, held_out = windows(model, 40, 0), windows(model, 6, 1)
    _, same = train_bridges(model, model, text, held_out, CONFIG)
    for explained in (same.explained_sparse, same.explained_dense):
        assert explained.shape == (3,) and explained.min() > 0.999
    assert max(same.kl_sparse_above.max(), same.kl_dense_above.max()) < 5e-3
    assert abs(same.kl_sparse) < 1e-5
    other = small_model("gpt", seed=8, n_layers=2, d_model=6)
    _, apart = train_bridges(model, other, text, held_out, CONFIG)
    assert max(apart.explained_sparse[1:].max(), apart.explained_dense[1:].max()) < 0.9
    assert min(apart.kl_sparse_above.min(), apart.kl_dense_above.min()) > 0.05 and apart.kl_sparse > 0.1


def test_training_lowers_what_it_is_for(model):
    other, text = small_model("gpt", seed=8, n_layers=2), windows(model, 16, 0)
    more = {"windows": 4, "learning_rate": 1e-2, "mse": 0.0}
    found = [train_bridges(model, other, text, text, BridgeConfig(steps, **more))[1] for steps in (0, 40)]
    for before, after in zip(*((of.kl_sparse_above, of.kl_dense_above) for of in found), strict=True):
        assert after.mean() < 0.9 * before.mean()
    # Least squares are best for the squares, all windows at once.
    assert found[1].explained_sparse.mean() < found[0].explained_sparse.mean()


def test_hybrids_are_edits_of_what_the_layer_before_leaves(model, float64):
    model, tokens = small_model("llama", n_layers=2), jnp.asarray(windows(model, 3, 2))
    resid, logits = streams(model.model, tokens)
    np.testing.assert_allclose(continued(model.model, tokens, resid), jnp.stack([logits] * 3), atol=1e-10)
    given = jnp.asarray(np.random.default_rng(0).standard_normal(resid.shape))
    found = continued(model.model, tokens, given)
    at_start = forward(model.model, tokens, edit={"embed": Change(0.0 * given[0], given[0])}).logits_BTV
    np.testing.assert_allclose(found[0], at_start, atol=1e-10)
    first = jnp.array([0.0, 1.0])[:, None, None, None]
    after_one = Change(first, (1 - first) * given[1][None])
    np.testing.assert_allclose(
        found[1], forward(model.model, tokens, edit={"resid_post": after_one}).logits_BTV, atol=1e-10
    )
    np.testing.assert_allclose(found[2], unembed(model.model, given[2]), atol=1e-10)


def test_scores_by_hand(model):
    other, text = small_model("gpt", seed=8, n_layers=2), windows(model, 5, 3)
    bridges, _ = train_bridges(model, other, text, text, BridgeConfig(steps=0))
    scores = bridge_scores(model, other, bridges, text, 5)
    (dense, logits), (sparse, _) = (jax.device_get(streams(of.model, jnp.asarray(text))) for of in (model, other))
    for maps, x, y, explained, end, kl in (
        (bridges.encoder, dense, sparse, scores.explained_sparse, other, scores.kl_sparse_above),
        (bridges.decoder, sparse, dense, scores.explained_dense, model, scores.kl_dense_above),
    ):
        for at in range(3):
            made = x[at] @ np.asarray(maps.weight[at]) + np.asarray(maps.bias[at])
            left = ((y[at] - made) ** 2).sum() / ((y[at] - y[at].mean((0, 1))) ** 2).sum()
            assert explained[at] == pytest.approx(1 - left, abs=1e-4)
            np.testing.assert_allclose(made.mean((0, 1)), y[at].mean((0, 1)), atol=1e-4)
        last = unembed(end.model, jnp.asarray(made))
        log_p, log_q = (np.asarray(jax.nn.log_softmax(of)) for of in (logits, last))
        assert kl[2] == pytest.approx((np.exp(log_p) * (log_p - log_q)).sum(-1).mean(), rel=1e-3)
    # Batches of 4 and 1 count by their windows.
    parts = [bridge_scores(model, other, bridges, part, 4).kl_sparse for part in (text[:4], text[4:])]
    assert bridge_scores(model, other, bridges, text, 4).kl_sparse == pytest.approx(0.8 * parts[0] + 0.2 * parts[1])


def test_models_that_cannot_be_bridged(model):
    text, masked = windows(model, 2, 0), masked_model()
    for dense, sparse, message in (
        (model, small_model("gpt", n_layers=3), r"as many layers, got 2 \(dense\) and 3"),
        (model, small_model("gpt", n_layers=2, d_vocab=model.config.d_vocab + 1), "the same tokenizer and vocabulary"),
        (masked, masked, "need causal models"),
    ):
        with pytest.raises(UserError, match=message):
            train_bridges(dense, sparse, text, text)
    with pytest.raises(UserError, match="at least one window"):
        train_bridges(model, model, text, text[:0])
    with pytest.raises(UserError, match=r"bridges.windows must be at least 1, got 0"):
        BridgeConfig(windows=0)
    with pytest.raises(UserError, match=r"bridges.learning_rate must be above 0, got 0"):
        BridgeConfig(learning_rate=0.0)
