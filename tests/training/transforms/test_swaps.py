"""Swaps against all pairs tried one by one, and that nothing else changes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import tiny_config, tiny_params

from jaxinterp.base.errors import UserError
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward
from jaxinterp.training.config import OptimiserConfig
from jaxinterp.training.state import optimiser
from jaxinterp.training.transforms import swaps

NEURONS = {
    "w_in": 1,
    "w_gate": 1,
    "b_in": 0,
    "b_gate": 0,
    "w_out": 0,
    "w_unit": 0,
    "b_unit": 0,
}  # their axis in a layer


def transform_of(config, every, **more):
    transforms = {**({} if every is None else {"swaps": every}), **more}
    return optimiser(OptimiserConfig(learning_rate=1e-3, warmup_steps=1, transforms=transforms), 8, config)


def cost(layer):
    """Σ |w| |(i + ½) / D − (j + ½) / F| of one layer, weight by weight."""
    total = 0.0
    for name in ("w_in", "w_gate", "w_out"):
        if name in layer:
            w = layer[name].T if name == "w_out" else np.abs(layer[name]).reshape(*layer[name].shape[:2], -1).sum(-1)
            for i, j in np.ndindex(w.shape):
                total += abs(w[i, j]) * abs((i + 0.5) / w.shape[0] - (j + 0.5) / w.shape[1])
    return total


def exchanged(layer, a, b):
    """A layer with two of its neurons at one another's places."""
    order = np.arange(layer["w_out"].shape[0])
    order[[a, b]] = b, a
    return {name: np.take(x, order, NEURONS[name]) if name in NEURONS else x for name, x in layer.items()}


def greedy(layer, pairs):
    """What swaps of the best pair of all lead to."""
    n = 0
    while True:
        best = min((exchanged(layer, *pair) for pair in pairs), key=cost)
        if cost(best) >= cost(layer) * (1 - 1e-9):
            return layer, n
        layer, n = best, n + 1


@pytest.mark.parametrize("fields", [{"ffn": "swiglu"}, {"ffn_units": 2, "experts": 2}])
def test_swaps_are_those_of_the_best_pair_of_all(fields, float64):
    config = tiny_config(n_layers=2, dtype="float64", **fields)
    pairs = [(a, b) for a, b in itertools.combinations(range(6), 2) if a // 3 == b // 3 or config.experts == 1]
    params = jax.tree.map(lambda x: x.astype("float64"), tiny_params(config))
    plain, swapping = transform_of(config, None), transform_of(config, "1")
    gradient = jax.tree.map(lambda x: jnp.sin(9 * x), params)
    after, _ = plain.update(gradient, plain.init(params), params)
    updates, _ = jax.jit(swapping.update)(gradient, swapping.init(params), params)
    found, expected = (optax.apply_updates(params, of)["layers"] for of in (updates, after))
    tokens = jnp.arange(8)[None]
    before, then = (
        forward(Model(config, {**params, "layers": layers}), tokens).logits_BTV for layers in (expected, found)
    )
    for index in range(2):
        layer, new = (
            {name: np.asarray(x[index]) for name, x in of.items() if name in NEURONS} for of in (expected, found)
        )
        best, n = greedy(layer, pairs)
        assert n >= 1 and cost(best) < cost(layer)
        for name, value in new.items():
            np.testing.assert_allclose(value, best[name], rtol=0, atol=1e-14, err_msg=name)
        assert cost(new) == pytest.approx(cost(best), rel=1e-12)
        assert all(cost(exchanged(new, *pair)) >= cost(new) * (1 - 1e-6) for pair in pairs)
    embedded = optax.apply_updates(params, updates)["embedding"]
    np.testing.assert_array_equal(embedded, optax.apply_updates(params, after)["embedding"])
    scale = float(jnp.abs(before).max())
    np.testing.assert_allclose(then, before, rtol=0, atol=1e-12 * max(scale, 1))


def run(config, every, steps=6, **more):
    """Logits and state after each step, of gradients that depend on the function alone."""
    transform, params = (
        transform_of(config, every, **more),
        jax.tree.map(lambda x: x.astype("float64"), tiny_params(config)),
    )
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 11, (3, 8)))

    @jax.jit
    def step(params, state):
        def loss(params):
            logits = forward(Model(config, params), tokens).logits_BTV
            return jnp.square(logits).mean(), logits

        gradient, logits = jax.grad(loss, has_aux=True)(params)
        updates, state = transform.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, logits

    state, found = transform.init(params), []
    for _ in range(steps):
        params, state, logits = step(params, state)
        found.append((logits, jax.device_get(params)))
    return found


def test_training_goes_on_as_if_nothing_had_moved(float64):
    config = tiny_config(n_layers=2, dtype="float64")
    plain, swapping = run(config, None), run(config, "2")
    order = lambda params: np.argsort(params["layers"]["b_in"], axis=1)  # noqa: E731
    for number, ((a, params), (b, other)) in enumerate(zip(plain, swapping, strict=True), 1):
        # Without the optimiser's means of its own, a neuron would go another way from the third step on.
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-10)
        assert (order(params) == order(other)).all() == (number < 2)
    assert np.abs(plain[-1][0] - plain[0][0]).max() > 1e-3


def test_a_neuron_takes_its_units_along(float64):
    config = tiny_config(n_layers=1, dtype="float64", ffn_units=2)
    plain, swapping = run(config, None, steps=3), run(config, "1", steps=3)
    for (a, _), (b, _) in zip(plain, swapping, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-10)
    one, other = (np.argsort(found[-1][1]["layers"]["b_unit"]) for found in (plain, swapping))
    assert (one != other).any()


def test_zeros_stay_zeros_where_they_go(float64):
    config = tiny_config(n_layers=2, dtype="float64")
    found = run(config, "1", sparse_weights_topk="0.5")
    for _, params in found[-2:]:
        for name in ("w_in", "w_out"):
            assert [(layer != 0).sum() for layer in params["layers"][name]] == [24, 24]
            assert (params["layers"][name] != 0).sum(1 if name == "w_in" else 2).min() >= 4


def test_members_swap_by_themselves_when_it_is_time():
    config = tiny_config(n_layers=2)
    transform, params = transform_of(config, "2"), [tiny_params(config, seed) for seed in (0, 1, 2)]
    states = [transform.init(one) for one in params]
    states = [of._replace(count=of.count + n) for of, n in zip(states, (0, 1, 1), strict=True)]
    update = jax.jit(transform.update)
    stack = lambda of: jax.tree.map(lambda *x: jnp.stack(x), *of)  # noqa: E731
    together, then = jax.jit(jax.vmap(transform.update))(stack(params), stack(states), stack(params))
    for index, (one, state) in enumerate(zip(params, states, strict=True)):
        alone, after = update(one, state, one)
        moved = np.abs(alone["layers"]["w_in"]).max() > 0.1
        assert moved == (index > 0)  # the step itself is 1e-3 long
        for tree, of in ((together, alone), (then, after)):
            for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(of), strict=True):
                np.testing.assert_allclose(a[index], b, rtol=1e-5, atol=1e-7)


def test_at_most_so_many_swaps_at_a_time(monkeypatch):
    cost_FF = jnp.asarray(np.random.default_rng(0).uniform(size=(6, 6)).astype(np.float32))
    identity = jnp.arange(6)
    assert (swaps._order(cost_FF, jnp.asarray(False)) == identity).all()
    monkeypatch.setattr(swaps, "MOST", 1)
    assert (swaps._order(cost_FF, jnp.asarray(True)) != identity).sum() == 2


@pytest.mark.parametrize("every", ["0", "2.5", "-3"])
def test_steps_out_of_range(every):
    with pytest.raises(UserError, match=rf"swaps is a number of steps: whole and at least 1, got {every}$"):
        transform_of(tiny_config(), every)
