"""The tuned lens: it begins as the logit lens, comes nearer to the end on held-out text, and leaves the model alone."""

import jax.numpy as jnp
import numpy as np
import pytest
from memory_models import run, tiny_corpus
from tiny import ARCHITECTURES, tiny_config, tiny_params

from jaxinterp.base.errors import UserError
from jaxinterp.memories.lens import Lens
from jaxinterp.memories.lenses.tuned import TunedConfig, lens_divergence, tuned_lens
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import unembed


@pytest.mark.parametrize("family", ["gpt", "bert"])
def test_the_divergence_falls_on_held_out_text(family):
    config = tiny_config(**ARCHITECTURES[family])
    model = Model(config, tiny_params(config))
    fitted = tuned_lens(model, tiny_corpus(64), TunedConfig(steps=150, batch=16, learning_rate=1e-2))
    held_out = tiny_corpus(32, seed=1)
    before, after = (lens_divergence(model, lens, held_out) for lens in (Lens("norm_folded"), fitted))
    assert (after[:-1] < 0.6 * before[:-1]).all(), (before, after)
    # The last layer has nothing to learn.
    np.testing.assert_allclose([before[-1], after[-1]], 0, atol=1e-5)
    np.testing.assert_allclose(fitted.matrix_LDD[-1], np.eye(8), atol=0.02)


def test_the_divergence_by_hand():
    config = tiny_config(n_layers=2)
    model, corpus = Model(config, tiny_params(config)), tiny_corpus(5)
    result = run(model, corpus, capture=("resid_post",))
    final, early = (
        np.asarray(x, np.float64) for x in (result.logits_BTV, unembed(model, result.activations["resid_post"][0]))
    )
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (final, early))
    kl = (p * np.log(p / q)).sum(-1)
    position = np.arange(8)[None]
    counts = (position >= 2) & (position < corpus.length_N[:, None])
    found = lens_divergence(model, Lens("norm_folded"), corpus, skip=2, batch=2)
    np.testing.assert_allclose(found, [kl[counts].mean(), 0], rtol=1e-4, atol=1e-6)


def test_what_cannot_be_fitted():
    with pytest.raises(UserError, match=r"learning_rate above 0"):
        TunedConfig(learning_rate=0.0)
    with pytest.raises(UserError, match=r"tuned.learning_rate must be a finite number"):
        TunedConfig(learning_rate=float("nan"))
    config = tiny_config(n_layers=1)
    with pytest.raises(UserError, match=r"no text of the corpus has more than 8 tokens"):
        tuned_lens(Model(config, {"embedding": jnp.zeros((11, 8))}), tiny_corpus(3), TunedConfig(skip=8))
