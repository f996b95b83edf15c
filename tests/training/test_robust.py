"""Adversarial moves of activations: their length and direction, and that the loss rises by them."""

import dataclasses
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from tiny import tiny_config, tiny_grid_batch, tiny_params

from jaxinterp.base.errors import UserError
from jaxinterp.models.model import Model
from jaxinterp.models.places import PLACES, Change
from jaxinterp.models.transformer import forward
from jaxinterp.training.noise_config import NoiseConfig, RobustConfig, TokenPlace
from jaxinterp.training.robust import adversarial_shift
from jaxinterp.training.step import next_token_loss, noisy_loss

MODEL = tiny_config(n_layers=2)


def test_by_hand(float64):
    """ℓ = Σ c · (x + shift) has the direction c, so that moved by ε ‖x‖ c/‖c‖ it is ℓ + ε ‖x‖ ‖c‖ for each token."""
    c = jnp.array([[[3.0, 4.0], [0.0, 0.0], [-1e-30, 0.0]]])
    x = jnp.array([[[0.0, 2.0], [1.0, 1.0], [5.0, 12.0]]])
    move = lambda x: adversarial_shift(lambda shift: (c * shift).sum(), x, 0.5, "embed")  # noqa: E731
    np.testing.assert_allclose(move(x), [[[0.6, 0.8], [0, 0], [-6.5, 0]]], rtol=1e-12)
    check_grads(lambda x: (c * (x + move(x))).sum(), (x,), order=1, modes=["rev"])
    assert np.isfinite(jax.grad(lambda x: move(x).sum())(jnp.zeros_like(x))).all()


@pytest.mark.parametrize("place", ["embed", "resid_pre", "mlp_post"])
def test_the_move_has_its_length_and_raises_the_loss(place, float64):
    config = dataclasses.replace(MODEL, dtype="float64")
    model = Model(config, jax.tree.map(lambda x: x.astype("float64"), tiny_params(config)))
    batch = jax.tree.map(jnp.asarray, tiny_grid_batch())
    x = forward(model, batch.tokens_BT, capture=(place,)).activations[place]
    of_shift = jax.jit(
        lambda shift: next_token_loss(model, forward(model, batch.tokens_BT, edit={place: Change(None, shift)}), batch)
    )
    plain, slope = jax.value_and_grad(of_shift)(jnp.zeros_like(x))
    rises = []
    for radius in (1e-4, 0.05):
        shift = np.asarray(adversarial_shift(of_shift, x, radius, place))
        length, of_x = (np.linalg.norm(v, axis=-1) for v in (shift, np.asarray(x)))
        # The last token is before nothing, and so is padding: they have no direction.
        there = np.abs(np.asarray(slope)).max(-1) > 0
        assert there[..., :5].all() and not there[..., -1].any()
        np.testing.assert_allclose(length, np.where(there, radius * of_x, 0), rtol=1e-9)
        noise = NoiseConfig(robust=RobustConfig(radius, place, share=0.25))
        total, metrics = noisy_loss(model, batch, jax.random.key(0), noise)
        assert float(metrics["lm"]) == pytest.approx(float(plain), rel=1e-12)
        assert float(metrics["adversarial"]) == pytest.approx(float(of_shift(jnp.asarray(shift))), rel=1e-12)
        assert float(total) == pytest.approx(0.75 * float(plain) + 0.25 * float(metrics["adversarial"]), rel=1e-12)
        rises.append(float(metrics["adversarial"] - plain))
        random = np.random.default_rng(0).standard_normal(x.shape)
        random *= (length / np.linalg.norm(random, axis=-1))[..., None]
        assert rises[-1] > float(of_shift(jnp.asarray(random)) - plain)
    # To first order a token of vector x adds ε ‖x‖ ‖g‖.
    first = (np.linalg.norm(np.asarray(x), axis=-1) * np.linalg.norm(np.asarray(slope), axis=-1)).sum()
    assert rises[0] == pytest.approx(1e-4 * first, rel=2e-2) and rises[1] > 20 * rises[0]


def test_the_direction_is_a_constant_of_the_gradient(float64):
    """With the move's direction held, differences of the loss are its gradient."""
    config = dataclasses.replace(MODEL, dtype="float64")
    params = jax.tree.map(lambda x: x.astype("float64"), tiny_params(config))
    batch, robust = jax.tree.map(jnp.asarray, tiny_grid_batch()), RobustConfig(0.1, "resid_mid", share=1.0)

    def neurons(scale):
        return {**params, "layers": {**params["layers"], "w_out": scale * params["layers"]["w_out"]}}

    def read(scale):
        model = Model(config, neurons(scale))
        return model, forward(model, batch.tokens_BT, capture=(robust.place,)).activations[robust.place]

    model, x = read(1.0)
    of_shift = lambda model, shift: next_token_loss(  # noqa: E731
        model, forward(model, batch.tokens_BT, edit={robust.place: Change(None, shift)}), batch
    )
    shift = adversarial_shift(lambda shift: of_shift(model, shift), x, robust.radius, robust.place)
    direction = shift / jnp.linalg.norm(x, axis=-1, keepdims=True)

    @jax.jit
    def held(scale):
        model, x = read(scale)
        return of_shift(model, direction * jnp.linalg.norm(x, axis=-1, keepdims=True))

    of_scale = lambda scale: noisy_loss(  # noqa: E731
        Model(config, neurons(scale)), batch, jax.random.key(0), NoiseConfig(robust=robust)
    )[0]
    value, slope = jax.jit(jax.value_and_grad(of_scale))(1.0)
    assert float(value) == pytest.approx(float(held(1.0)), rel=1e-12)
    assert float(slope) == pytest.approx(float((held(1 + 1e-5) - held(1 - 1e-5)) / 2e-5), rel=1e-6)


def test_places_are_those_of_a_forward():
    assert all(PLACES[place] in (("B", "S", "D"), ("B", "S", "F")) for place in get_args(TokenPlace))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"radius": -1.0}, "robust.radius must be at least 0"),
        ({"place": "attn_pattern"}, "unknown robust.place 'attn_pattern'"),
        ({"share": 0.0}, "robust.share must be above 0 and at most 1, got 0.0"),
    ],
)
def test_what_is_no_robust_config(fields, message):
    with pytest.raises(UserError, match=message):
        RobustConfig(**fields)
