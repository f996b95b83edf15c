"""Activation functions by hand, the forward against the plain one, gradients, and attribution through them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from plain_transformer import plain_forward
from tiny import arrays_of, tiny_batch, tiny_config, tiny_params

from jaxinterp.attribution.integrated_gradients import integrated_gradients
from jaxinterp.attribution.quadrature import quadrature
from jaxinterp.base.errors import UserError
from jaxinterp.models.activations import above_next, relu_squared, solu
from jaxinterp.models.config import ModelConfig, parsed_fields
from jaxinterp.models.loading.expressing import family_for
from jaxinterp.models.model import Model
from jaxinterp.models.readout import lm_readout
from jaxinterp.models.transformer import forward

NEW = {"relu2": {}, "solu": {}, "topk": {"ffn_k": 2}, "bilinear": {"mlp_bias": False}}
TOKENS = np.array([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])


def test_relu_squared_by_hand():
    np.testing.assert_array_equal(relu_squared(jnp.array([-3.0, 0.0, 0.5, 3.0])), [0, 0, 0.25, 9])


def test_solu_by_hand(float64):
    # softmax of (0, log 3) is (1/4, 3/4): x · softmax is (0, ¾ log 3), which is (−1, 1) once it is normed.
    np.testing.assert_allclose(solu(jnp.array([0.0, np.log(3)]), 0.0), [-1, 1], atol=1e-14)
    # The largest of arguments that are far apart is left, the others are 0 before the norm.
    np.testing.assert_allclose(solu(jnp.array([50.0, 0, 0, 0]), 0.0), np.array([3, -1, -1, -1]) / 3**0.5, atol=1e-12)


def test_above_next_by_hand():
    x = jnp.array([[5.0, 1, 3, -2], [5, -1, -3, -2], [-1, -1, -2, -3], [2, 2, 2, 1]])
    np.testing.assert_array_equal(above_next(x, 1), [[2, 0, 0, 0], [5, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(above_next(x, 2), [[4, 0, 2, 0], [5, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(above_next(x, 3), [[5, 1, 3, 0], [5, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]])


@pytest.mark.parametrize("ffn", NEW)
def test_forward_gradient_and_attribution(ffn, float64):
    config = tiny_config(n_layers=2, dtype="float64", ffn=ffn, **NEW[ffn])
    params, batch = tiny_params(config), tiny_batch()
    direction = tiny_params(config, seed=1)

    @jax.jit
    def found(params, t):
        moved = jax.tree.map(lambda leaf, way: leaf + 1e-3 * t * way, params, direction)
        result = forward(Model(config, moved), jnp.asarray(TOKENS), capture=("mlp_post",))
        return result.logits_BTV, result.activations["mlp_post"]

    logits_BTV, neurons_LBTF = found(params, 0.0)
    for row, tokens in enumerate(TOKENS):
        expected, activations = plain_forward(config, params, tokens)
        np.testing.assert_allclose(logits_BTV[row], expected, rtol=0, atol=1e-10)
        np.testing.assert_allclose(neurons_LBTF[:, row], activations["mlp_post"], rtol=0, atol=1e-10)
    if ffn == "topk":
        active = (np.asarray(neurons_LBTF) != 0).sum(-1)
        assert active.max() == 2 and np.median(active) == 2
    check_grads(lambda t: found(params, t)[0].sum(0), (0.0,), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)

    readout = lm_readout(Model(config, params), *arrays_of(batch))[1]
    nodes = quadrature("midpoint", 256) if ffn == "topk" else quadrature("gauss_legendre", 12)
    attribution = jax.jit(lambda readout: integrated_gradients(readout, nodes, path="joint"))(readout)
    # Completeness: scores add up to P − P(all neurons off). topk has kinks, which no rule is exact at.
    off = readout(jnp.zeros(readout.shape))
    total = attribution.scores_LRF.sum((0, 2))
    np.testing.assert_allclose(total, readout.untouched() - off, atol=2e-4 if ffn == "topk" else 1e-5)
    assert np.abs(total).max() > 0.03


def test_above_next_has_no_jumps(float64):
    """The k largest change places along the path: values go on, as those of arguments that are kept would not."""
    x, way = np.random.default_rng(0).standard_normal((2, 6))
    path = x[None] + np.linspace(-3, 3, 6001)[:, None] * way[None]
    found = np.asarray(above_next(jnp.asarray(path), 2))
    assert len({tuple(row) for row in (found > 0).tolist()}) > 3
    assert np.abs(np.diff(found, axis=0)).max() < 0.01


def test_what_a_config_refuses():
    sizes = {"d_vocab": 10, "n_ctx": 8}
    for fields, message in (
        ({"ffn": "topk"}, "model.ffn topk and model.ffn_k go together, got ffn topk and ffn_k None"),
        ({"ffn_k": 3}, "go together, got ffn gelu and ffn_k 3"),
        ({"ffn": "topk", "ffn_k": 384}, r"model.ffn_k must lie in 1 … d_mlp − 1 = 383, got 384"),
        ({"ffn": "topk", "ffn_k": 0}, r"model.ffn_k must lie in"),
        ({"ffn": "solu", "head": "transform"}, "has no activation of its own and cannot take model.ffn solu"),
    ):
        with pytest.raises(UserError, match=message):
            ModelConfig(**sizes, **fields)
    assert parsed_fields({"ffn": "topk", "ffn_k": "16", "attn_scale": "0.5"}) == {
        "ffn": "topk",
        "ffn_k": 16,
        "attn_scale": 0.5,
    }
    with pytest.raises(UserError, match=r"model\.ffn_k must be of type int, got 'few'"):
        parsed_fields({"ffn_k": "few"})
    with pytest.raises(UserError, match="no family of transformers has"):
        family_for(tiny_config(ffn="solu"))
