"""Mean Jacobians against finite differences and against a sum over positions one by one."""

import jax.numpy as jnp
import numpy as np
import pytest
from memory_models import run, tiny_corpus
from tiny import ARCHITECTURES, tiny_config, tiny_params

from jaxinterp.base.errors import UserError
from jaxinterp.memories.lenses.jacobian import JacobianConfig, mean_jacobian
from jaxinterp.models.model import Model
from jaxinterp.models.places import Change

CORPUS = tiny_corpus(5)


def model_of(family):
    config = tiny_config(n_layers=2, dtype="float64", **ARCHITECTURES[family])
    return Model(config, tiny_params(config))


def moved(model, layer, coordinate, position, size):
    """The final stream after a change of the stream at one position of every window."""
    shift = jnp.zeros((2, 1, 8, 8)).at[layer, 0, position, coordinate].set(size)
    changes = {"resid_post": Change(shift=shift)}
    return np.asarray(run(model, CORPUS, edit=changes).resid_final_BTD)


@pytest.mark.parametrize("family", ["gpt", "bert"])
def test_the_published_estimator_against_finite_differences(family, float64):
    model = model_of(family)
    found = np.asarray(mean_jacobian(model, CORPUS, JacobianConfig(batch=2, at_once=3)))
    np.testing.assert_allclose(found[1], np.eye(8), atol=1e-12)
    size, total, n = 1e-5, np.zeros(8), 0
    for position in range(1, 8):
        slope = (moved(model, 0, 2, position, size) - moved(model, 0, 2, position, -size)) / (2 * size)
        for window, length in enumerate(CORPUS.length_N):
            if position < length:
                # Targets are all positions of the text but the first; a causal model's earlier ones do not move.
                total += slope[window, 1:length].sum(0)
                n += 1
    np.testing.assert_allclose(found[0, 2], total / n, atol=1e-8)


def test_same_position_against_finite_differences(float64):
    model = model_of("llama")
    config = JacobianConfig(targets="same", batch=2)
    found = np.asarray(mean_jacobian(model, CORPUS, config, seed=3))
    rng = np.random.default_rng([3, 0])
    windows = rng.permutation(5)
    drawn = rng.integers(1, CORPUS.length_N[windows])
    size, total = 1e-5, np.zeros(8)
    for window, position in zip(windows, drawn, strict=True):
        slope = (moved(model, 0, 4, position, size) - moved(model, 0, 4, position, -size)) / (2 * size)
        total += slope[window, position] * (CORPUS.length_N[window] - 1)
    np.testing.assert_allclose(found[0, 4], total / (CORPUS.length_N - 1).sum(), atol=1e-8)


def test_batches_do_not_matter(float64):
    model = model_of("gpt")
    one, other = (mean_jacobian(model, CORPUS, JacobianConfig(batch=n, at_once=n)) for n in (1, 4))
    np.testing.assert_allclose(one, other, atol=1e-12)
    assert np.abs(np.asarray(one[0]) - np.eye(8)).max() > 0.1


def test_what_cannot_be_averaged():
    with pytest.raises(UserError, match=r"jacobian.skip at least 0"):
        JacobianConfig(skip=-1)
    with pytest.raises(UserError, match=r"no text of the corpus has more than 8 tokens"):
        mean_jacobian(Model(tiny_config(), {}), CORPUS, JacobianConfig(skip=8))
