"""How many weights are left, which ones, and that the others are 0."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import ARCHITECTURES, tiny_config, tiny_params

from jaxinterp.base.errors import UserError
from jaxinterp.models.mesh import make_mesh, parameter_shardings, state_shardings
from jaxinterp.training.config import OptimiserConfig
from jaxinterp.training.state import optimiser
from jaxinterp.training.transforms.sparse_weights_topk import largest

STEPS = 8
CONFIG = tiny_config(n_layers=2)  # matrices of 8 · 8 in attention and 8 · 6 in FFNs
# After each step, by hand: 64 − round(26 · t / 4) and 48 − round(19 · t / 4), halves to even; to 0.6 of each.
ATTENTION, FFN = [58, 51, 44, 38, 38, 38, 38, 38], [43, 38, 34, 29, 29, 29, 29, 29]
# To 0.1: 6 of 64; a neuron keeps 4 in each of its matrices, which makes 24 of 48.
SPARSE, NEURONS = [50, 35, 20, 6, 6, 6, 6, 6], [42, 36, 30, 24, 24, 24, 24, 24]


def transform_of(density, config=CONFIG, **more):
    transforms = {} if density is None else {"sparse_weights_topk": density}
    return optimiser(OptimiserConfig(learning_rate=0.5, warmup_steps=1, transforms=transforms, **more), STEPS, config)


def gradients(config=CONFIG, seed=0):
    """Others in every step."""
    rng, params = np.random.default_rng(seed), tiny_params(config)
    return [jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), params) for _ in range(STEPS)]


@functools.cache
def trained(density, narrow=False, gated=False, units=False):
    """State and parameters before each step, and the parameters after the last one."""
    config = tiny_config(n_layers=1, d_model=3) if narrow else CONFIG
    config = tiny_config(n_layers=1, **ARCHITECTURES["llama"]) if gated else config
    config = tiny_config(n_layers=1, ffn_units=2, experts=2) if units else config
    transform, params, found = transform_of(density, config), tiny_params(config), []
    state, update = transform.init(params), jax.jit(transform.update)
    for gradient in gradients(config):
        found.append((state, params))
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return [*found, (state, params)]


def left(params, name):
    """Weights of each layer that are not 0."""
    return [int((layer != 0).sum()) for layer in params["layers"][name]]


@pytest.mark.parametrize(("density", "attention", "ffn"), [("0.6", ATTENTION, FFN), ("0.1", SPARSE, NEURONS)])
def test_so_many_weights_are_left_of_each_matrix_and_layer_after_each_step(density, attention, ffn):
    for (_, params), of_attention, of_ffn in zip(trained(density)[1:], attention, ffn, strict=True):
        for name in ("w_q", "w_k", "w_v", "w_o"):
            assert left(params, name) == [of_attention] * 2, name
        for name, axis in (("w_in", 1), ("w_out", 2)):
            assert left(params, name) == [of_ffn] * 2, name
            assert (params["layers"][name] != 0).sum(axis).min() >= 4
        for name in ("b_in", "b_q"):
            assert (params["layers"][name] != 0).all()
        assert (params["embedding"] != 0).all() and params["layers"]["w_in"].dtype == np.float32


def test_gates_units_and_few_coordinates():
    params = trained("0.05", gated=True)[-1][1]
    assert left(params, "w_gate") == left(params, "w_in") == [24]
    assert (params["layers"]["w_gate"] != 0).sum(1).min() == 4
    assert left(params, "w_k") == [2]  # one head of keys: 0.05 of 8 · 4, rounded
    assert left(trained("0.05", narrow=True)[-1][1], "w_in") == [18]  # a neuron has no more than 3
    params = trained("0.05", units=True)[-1][1]
    assert left(params, "w_in") == left(params, "w_out") == [24]  # 4 in both units together
    assert (params["layers"]["w_in"] != 0).sum((1, 3)).min() == 4
    assert (params["layers"]["w_unit"] != 0).all() and (params["layers"]["w_router"] != 0).all()


# A weight of 0 comes back by one step alone, so that steps are long here.
def test_the_kept_are_the_largest_after_the_step_and_weights_come_back():
    of_plain, run, back = jax.jit(transform_of(None).update), trained("0.6"), 0
    for gradient, (state, before), (_, params) in zip(gradients(), run[:-1], run[1:], strict=True):
        step, _ = of_plain(gradient, state[0], before)
        full = jax.device_get(optax.apply_updates(before, step))["layers"]
        for name in ("w_q", "w_o", "w_in", "w_out"):
            for layer, (w, candidate) in enumerate(zip(np.asarray(params["layers"][name]), full[name], strict=True)):
                own = np.zeros(w.shape, bool)
                if name in ("w_in", "w_out"):
                    axis = ("w_in", "w_out").index(name)
                    first = np.take(np.argsort(-np.abs(candidate), axis=axis), range(4), axis)
                    np.put_along_axis(own, first, True, axis)
                order = np.argsort(-np.where(own, np.inf, np.abs(candidate)).ravel(), kind="stable")
                kept = np.zeros(w.size, bool)
                kept[order[: left(params, name)[layer]]] = True
                np.testing.assert_array_equal(w != 0, kept.reshape(w.shape))
                np.testing.assert_allclose(w[w != 0], candidate[w != 0], rtol=1e-6)
                back += int(((w != 0) & (np.asarray(before["layers"][name][layer]) == 0)).sum())
    assert back > 10


def test_largest_against_sorting():
    rng = np.random.default_rng(0)
    for dtype in (np.float32, jnp.bfloat16):
        size = np.abs(rng.standard_normal((3, 37))).astype(dtype)
        size[0, 10:20], size[1], size[2, :30], size[2, 36] = size[0, 3], 1, 0, np.inf
        of = jax.jit(largest)
        for n in (1, 2, 9, 36, 37):
            expected = np.zeros(size.shape, bool)
            order = np.argsort(-size.astype(np.float64), axis=1, kind="stable")
            np.put_along_axis(expected, order[:, :n], True, 1)
            np.testing.assert_array_equal(of(size, n), expected)


def test_members_side_by_side_are_what_they_are_alone():
    transform, params = transform_of("0.3"), [tiny_params(CONFIG, seed) for seed in (0, 1)]
    gradient = [gradients(seed=seed)[0] for seed in (0, 1)]
    states = [transform.init(one) for one in params]
    # The second one has done more steps.
    states[1] = jax.tree.map(lambda x: x + 2 if x.dtype == jnp.int32 else x, states[1])
    update = jax.jit(transform.update)
    alone = [optax.apply_updates(p, update(*given, p)[0]) for *given, p in zip(gradient, states, params, strict=True)]
    stack = lambda *of: jax.tree.map(lambda *x: jnp.stack(x), *of)  # noqa: E731
    updates, _ = jax.jit(jax.vmap(transform.update))(stack(*gradient), stack(*states), stack(*params))
    found = optax.apply_updates(stack(*params), updates)
    assert left(alone[0], "w_q") == [53, 53] and left(alone[1], "w_q") == [30, 30]
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(stack(*alone)), strict=True):
        np.testing.assert_array_equal(a == 0, b == 0)
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_a_mesh_keeps_the_same_weights():
    transform, params, mesh = transform_of("0.3"), tiny_params(CONFIG), make_mesh("fsdp=2,tensor=2")
    update = jax.jit(lambda g, s, p: optax.apply_updates(p, transform.update(g, s, p)[0]))
    state, gradient = transform.init(params), gradients()[0]
    lies = parameter_shardings(mesh, CONFIG)
    spread = (gradient, lies), (state, state_shardings(mesh, CONFIG, state)), (params, lies)
    found = update(*(jax.device_put(*of) for of in spread))
    assert found["layers"]["w_in"].sharding.num_devices == 4
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(update(gradient, state, params)), strict=True):
        np.testing.assert_array_equal(a == 0, b == 0)
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("density", ["0", "1.5", "-0.1"])
def test_densities_out_of_range(density):
    with pytest.raises(UserError, match=rf"sparse_weights_topk .* above 0 and at most 1, got {density}$"):
        transform_of(density)
    with pytest.raises(UserError, match="sparse_weights_topk must be a number, got 'few'"):
        transform_of("few")
