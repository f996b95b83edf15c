"""The planner: XLA's figures for programs whose needs are known, and what it chooses by them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_batch, tiny_config, tiny_params

from jaxinterp.attribution.edits import suppress
from jaxinterp.attribution.integrated_gradients import integrated_gradients
from jaxinterp.attribution.quadrature import quadrature
from jaxinterp.attribution.selection import soft_top_k
from jaxinterp.base.errors import UserError
from jaxinterp.models.model import Model
from jaxinterp.models.readout import lm_readout
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training import planner


def test_the_cost_of_a_matrix_product():
    n = 256
    shape = jax.ShapeDtypeStruct((n, n), jnp.float32)
    found = planner.cost(jax.jit(lambda a, b: a @ b).lower(shape, shape).compile())
    assert 3 * 4 * n**2 <= found.peak_bytes <= 5 * 4 * n**2
    assert found.flops == pytest.approx(2 * n**3, rel=0.01)
    # What is donated is not needed twice.
    donated = planner.cost(jax.jit(lambda a: a + 1, donate_argnums=0).lower(shape).compile())
    assert 4 * n**2 <= donated.peak_bytes < 2 * 4 * n**2


def test_something_is_free():
    assert 2**20 < planner.free_bytes() < 2**50


class Recorded:
    """A step whose memory is that of its mode's array."""

    def __init__(self):
        self.made = []

    def __call__(self, objective):
        self.made.append(objective.memory)
        n = {"fast": 2**20, "flat": 2**10}[objective.memory]
        return jax.jit(lambda x: jnp.cumsum(x + jnp.zeros(n)))


@pytest.mark.parametrize(
    ("memory", "budget", "made", "chosen"),
    [
        ("auto", 2**30, ["fast"], "fast"),
        ("auto", 2**20, ["fast", "flat"], "flat"),
        ("flat", 2**30, ["flat"], "flat"),
        ("fast", 2**30, ["fast"], "fast"),
    ],
)
def test_the_fastest_mode_that_fits(memory, budget, made, chosen):
    make = Recorded()
    objective = ObjectiveConfig(weights={"suppression": "1"}, memory=memory)
    found = planner.planned_step(make, objective, (jnp.ones(()),), budget=budget)
    assert make.made == made and found.objective.memory == chosen
    assert found.cost.peak_bytes <= budget
    assert found.describe().startswith(f"plan: {chosen} mode, a step needs ")
    assert np.asarray(found.step(jnp.ones(())))[-1] == {"fast": 2**20, "flat": 2**10}[chosen]


def test_nothing_fits():
    objective = ObjectiveConfig(weights={"suppression": "1"})
    with pytest.raises(UserError, match=r"needs 0\.00 GB in flat mode .* lower the batch's sequences or rows"):
        planner.planned_step(Recorded(), objective, (jnp.ones(()),), budget=10)


@pytest.mark.parametrize("path", ["joint", "per_layer"])
def test_the_flat_mode_is_the_fast_one_in_memory_that_does_not_grow(path, float64):
    """The same scores and meta-gradients; a derivative's memory is that of one point, however many there are."""
    config = tiny_config(n_layers=2, d_model=32, d_mlp=128, dtype="float64")
    params, batch = tiny_params(config), tiny_batch()

    def step(n_points, at_once):
        rule = quadrature("midpoint", n_points)

        def suppressed(params):
            rows = batch.rows
            readout = lm_readout(
                Model(config, params), jnp.asarray(batch.tokens_BT), rows, jnp.asarray(batch.length_B)
            )[1]
            found = integrated_gradients(readout, rule, path=path, at_once=at_once)
            return readout(*suppress(soft_top_k(found.scores_LRF, 3, 1.0))).sum(), found

        return jax.jit(jax.value_and_grad(suppressed, has_aux=True)).lower(params).compile()

    fast, flat, more = step(5, None), step(5, 10), step(40, 10)
    for a, b in zip(jax.tree.leaves(fast(params)), jax.tree.leaves(flat(params)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12 * max(1.0, float(jnp.abs(a).max())))
    memory = [compiled.memory_analysis().temp_size_in_bytes for compiled in (flat, more, step(40, None))]
    assert memory[1] < 1.1 * memory[0]
    assert memory[2] > 2 * memory[1]


def test_at_once_must_be_positive():
    config = tiny_config()
    batch = tiny_batch()
    rows = batch.rows
    readout = lm_readout(Model(config, tiny_params(config)), jnp.asarray(batch.tokens_BT), rows)[1]
    with pytest.raises(UserError, match="at_once must be at least 1, got 0"):
        integrated_gradients(readout, quadrature("left", 2), path="joint", at_once=0)
