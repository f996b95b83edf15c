"""The step: arithmetic in bfloat16 with everything that is kept in float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from tiny import tiny_batch, tiny_config, tiny_grid, tiny_grid_batch, tiny_params

from jaxinterp.models.model import Model
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training.config import OptimiserConfig
from jaxinterp.training.routing import Routing, route_of
from jaxinterp.training.state import initial_state
from jaxinterp.training.step import loss, train_step

OPTIMISER = OptimiserConfig(learning_rate=1e-2, warmup_steps=1)


def run(dtype: str, steps: int = 8):
    config = tiny_config(n_layers=1)
    step = train_step(dataclasses.replace(config, dtype=dtype), ObjectiveConfig(k=2), OPTIMISER, steps)
    state, batch, losses = initial_state(config, OPTIMISER, steps, 0), jax.tree.map(jnp.asarray, tiny_batch()), []
    for number in range(steps):
        state, metrics = step(state, batch, number)
        losses.append(float(metrics["lm"]))
        assert bool(metrics["finite"])
    return state, np.array(losses)


def test_bfloat16_trains_like_float32_and_keeps_float32():
    state, losses = run("float32")
    short, short_losses = run("bfloat16")
    for leaf, same in zip(jax.tree.leaves(short[:2]), jax.tree.leaves(state[:2]), strict=True):
        assert leaf.dtype == same.dtype and leaf.dtype in (jnp.float32, jnp.int32)
    # Logits and loss are in float32 of numbers with 8 bits: near, but not the same.
    assert 1e-5 < np.abs(losses - short_losses).max() < 2e-2
    assert losses[-1] < losses[0] - 0.03 and short_losses[-1] < short_losses[0] - 0.03
    # Updates are smaller than what bfloat16 can add to most parameters, so that they need float32.
    embedding = np.asarray(short.params["embedding"])
    assert (embedding != np.asarray(jnp.asarray(embedding, jnp.bfloat16), np.float32)).mean() > 0.9


def test_the_terms_compute_in_bfloat16_too():
    config, objective = tiny_config(n_layers=1), ObjectiveConfig(weights={"suppression": "1", "control": "1"}, k=2)
    losses = {}
    for dtype in ("float32", "bfloat16"):
        step = train_step(dataclasses.replace(config, dtype=dtype), objective, OPTIMISER, 4)
        state = initial_state(config, OPTIMISER, 4, 0)
        state, metrics = step(state, jax.tree.map(jnp.asarray, tiny_batch()), 0)
        assert bool(metrics["finite"]) and all(leaf.dtype != jnp.bfloat16 for leaf in jax.tree.leaves(state[:2]))
        losses[dtype] = float(metrics["loss"])
    assert abs(losses["float32"] - losses["bfloat16"]) < 2e-2


def test_routing_is_of_language_modelling_alone(float64):
    """Values are the same, and so is what the terms teach, while the language model teaches other neurons less."""
    config, objective = tiny_config(n_layers=2, dtype="float64"), ObjectiveConfig(k=2, points=1, select="stop_gradient")
    params = jax.tree.map(lambda x: x.astype("float64"), tiny_params(config))
    routing = Routing(2, config.n_layers, config.d_mlp, seed=0)
    plain = jax.tree.map(jnp.asarray, tiny_grid_batch())
    route = jax.tree.map(jnp.asarray, route_of(routing, tiny_grid(), np.array([True] * 4 + [False] * 2)))

    @jax.jit
    def gradient(batch, weight):
        weights = {"suppression": weight}
        of_params = lambda params: loss(Model(config, params), objective, batch, weights, jax.random.key(0))  # noqa: E731
        return jax.value_and_grad(of_params, has_aux=True)(params)

    (lm, lm_gradient), (total, total_gradient) = (gradient(plain, jnp.float64(weight)) for weight in (0, 2))
    (routed_lm, routed_lm_gradient), (routed, routed_gradient) = (
        gradient(plain._replace(route=route), jnp.float64(weight)) for weight in (0, 2)
    )
    np.testing.assert_array_equal(routed_lm[0], lm[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), routed, total)
    terms, routed_terms = (
        jax.tree.map(jnp.subtract, of_all, of_lm)
        for of_all, of_lm in ((total_gradient, lm_gradient), (routed_gradient, routed_lm_gradient))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12), terms, routed_terms)
    for name in ("w_in", "w_out"):
        assert jnp.abs(terms["layers"][name]).max() > 1e-3
        assert jnp.abs(routed_lm_gradient["layers"][name] - lm_gradient["layers"][name]).max() > 1e-3
