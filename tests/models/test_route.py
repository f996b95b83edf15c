"""Gradient routing: values stay, and what others learn from a routed position is nothing at all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import ARCHITECTURES, tiny_config, tiny_params

from jaxinterp.attribution.edits import NeuronEdit
from jaxinterp.base.errors import UserError
from jaxinterp.models import ffn
from jaxinterp.models.model import Model
from jaxinterp.models.route import Route, learns
from jaxinterp.models.transformer import forward

TOKENS = np.random.default_rng(0).integers(1, 11, (2, 6))
QUERY = np.array([3, 5])
OWN = np.array([[[0, 4], [5, 2]], [[1, 3], [0, 1]]])  # [L, B, n]


def route(n_layers, neurons=OWN):
    """Of the query position of each sequence."""
    return Route(neurons[:n_layers], np.stack([np.arange(6)[None] == QUERY[:, None]] * n_layers))


def model_of(name, n_layers, dtype="float64"):
    config = tiny_config(n_layers=n_layers, dtype=dtype, **ARCHITECTURES[name])
    return config, jax.tree.map(lambda x: x.astype(dtype), tiny_params(config))


def test_who_learns_where_by_hand():
    found = learns(Route(np.array([[2, 0]]), np.array([[False, True]])), 4)
    assert found.tolist() == [[[True, True, True, True], [True, False, True, False]]]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["gpt", "gemma"])
def test_no_value_changes(name, dtype):
    config, params = model_of(name, 2, dtype)
    values = jax.jit(
        lambda params, of: forward(Model(config, params), jnp.asarray(TOKENS), route=of, capture=("mlp_post",))
    )
    plain, routed = values(params, None), values(params, route(2))
    assert plain.logits_BTV.std() > 0.1
    jax.tree.map(np.testing.assert_array_equal, plain, routed)


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_other_neurons_learn_nothing_from_a_routed_position(name, float64):
    """In one layer, what is read at a position has passed the neurons of that position alone."""
    config, params = model_of(name, 1)

    def loss(params, of):
        logits_BTV = forward(Model(config, params), jnp.asarray(TOKENS), route=of).logits_BTV
        return jax.nn.log_softmax(logits_BTV[np.arange(2), QUERY])[:, 1].sum()

    gradient = jax.jit(jax.grad(loss))
    own_F = np.isin(np.arange(6), OWN[0])
    assert 0 < own_F.sum() < 6
    plain, routed = (gradient(params, of)["layers"] for of in (None, route(1)))
    columns = ["w_in", *(name for name in ("w_gate", "b_in") if name in plain)]
    by_neuron = {name: (plain[name][0].T, routed[name][0].T) for name in columns}
    by_neuron["w_out"] = plain["w_out"][0], routed["w_out"][0]
    for before, after in by_neuron.values():
        assert (jnp.abs(before).reshape(6, -1).max(1) > 1e-6).all()
        assert (after[~own_F] == 0).all()
        assert (jnp.abs(after[own_F]).reshape(own_F.sum(), -1).max(1) > 1e-6).all()
    # What no neuron owns learns as before.
    if "b_out" in plain:
        np.testing.assert_array_equal(routed["b_out"], plain["b_out"])


def slow_product(mlp_post, w_out, learns_BTF):
    """Every neuron's part of the output by itself, and nothing passes through those that do not learn."""
    parts_BTFD = mlp_post[..., None] * w_out[None, None]
    return jnp.where(learns_BTF[..., None], parts_BTFD, jax.lax.stop_gradient(parts_BTFD)).sum(2)


@pytest.mark.parametrize("name", ["gpt", "llama", "gemma"])
def test_gradients_are_the_slow_ones(name, float64, monkeypatch):
    config, params = model_of(name, 2)

    def gradient(of):
        def loss(params):
            logits_BTV = forward(Model(config, params), jnp.asarray(TOKENS), route=of).logits_BTV
            return jnp.take_along_axis(jax.nn.log_softmax(logits_BTV[:, :-1]), TOKENS[:, 1:, None], -1).mean()

        return jax.jit(jax.grad(loss))(params)

    routed, plain = gradient(route(2)), gradient(None)
    everyone = np.broadcast_to(np.arange(6), (2, 2, 6))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)  # noqa: E731
    jax.tree.map(close, gradient(route(2, everyone)), plain)
    monkeypatch.setattr(ffn, "routed_product", slow_product)
    jax.tree.map(close, routed, gradient(route(2)))
    for key in ("w_in", "w_out", "w_q"):
        assert np.abs(routed["layers"][key] - plain["layers"][key]).max() > 1e-5


def test_a_route_has_positions_of_its_own():
    config, params = model_of("gpt", 2, "float32")
    with pytest.raises(UserError, match="a route has positions of its own; leave out query_B"):
        forward(Model(config, params), jnp.asarray(TOKENS), route=route(2), query_B=jnp.asarray(QUERY))
    forward(
        Model(config, params), jnp.asarray(TOKENS), edit=NeuronEdit(jnp.ones((2, 2, 6))), query_B=jnp.asarray(QUERY)
    )
