"""What is trained of a pretrained model: nothing is changed at first, and then only what is said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from tiny import ARCHITECTURES, tiny_config, tiny_params

from jaxinterp.base.errors import UserError
from jaxinterp.training.adaptation import adapted, trainable

MATRICES = ("w_q", "w_k", "w_v", "w_o", "w_gate", "w_in", "w_out")


def setting(dtype="float32"):
    config = tiny_config(n_layers=2, dtype=dtype, **ARCHITECTURES["llama"])
    return config, tiny_params(config)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("adapt", ["all", "lora"])
def test_what_is_trained_is_the_model_as_it_was(adapt, dtype):
    _, params = setting(dtype)
    change = trainable(params, adapt, 3, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(change)} == {jnp.dtype("float32")}
    for arithmetic in (dtype, "float32"):
        found = adapted(params, change, adapt, arithmetic)
        assert jax.tree.structure(found) == jax.tree.structure(params)
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(arithmetic)}
        jax.tree.map(np.testing.assert_array_equal, found, params)


def test_all_parameters_are_a_copy():
    _, params = setting()
    before = jax.tree.map(lambda leaf: np.asarray(leaf).copy(), params)
    change = trainable(params, "all", 1, jax.random.key(0))
    # A step donates what is trained; the original has to stay.
    jax.jit(lambda change: jax.tree.map(lambda leaf: leaf * 0, change), donate_argnums=0)(change)
    jax.tree.map(np.testing.assert_array_equal, params, before)


def test_factors_are_those_of_the_layers_matrices():
    config, params = setting()
    change = trainable(params, "lora", 3, jax.random.key(0))
    assert set(change) == set(MATRICES)
    heads, kv, d, f = config.n_heads * config.d_head, config.n_kv_heads * config.d_head, config.d_model, config.d_mlp
    shapes = {"w_q": (d, heads), "w_k": (d, kv), "w_v": (d, kv), "w_o": (heads, d), "w_out": (f, d)}
    for name, factors in change.items():
        n_in, n_out = shapes.get(name, (d, f))
        assert factors["a"].shape == (2, n_in, 3) and factors["b"].shape == (2, 3, n_out)
        assert float(jnp.abs(factors["a"]).min()) > 0 and not factors["b"].any()
    firsts = [float(factors["a"][0, 0, 0]) for factors in change.values()]
    assert len(set(firsts)) == len(firsts)  # no key twice


@pytest.mark.parametrize("name", MATRICES)
def test_a_factor_changes_its_matrix_alone(name):
    _, params = setting()
    change = trainable(params, "lora", 2, jax.random.key(0))
    a, b = (np.asarray(change[name][factor]) for factor in ("a", "b"))
    b = np.random.default_rng(0).standard_normal(b.shape).astype(np.float32)
    found = flatten_dict(
        adapted(params, {**change, name: {"a": jnp.asarray(a), "b": jnp.asarray(b)}}, "lora", "float32")
    )
    for path, before in flatten_dict(params).items():
        if path != ("layers", name):
            np.testing.assert_array_equal(found[path], before)
    before, after = np.asarray(params["layers"][name]), np.asarray(found["layers", name])
    for layer in range(2):
        product = (a[layer] @ b[layer]).reshape(before.shape[1:])
        np.testing.assert_allclose(after[layer] - before[layer], product, atol=1e-5)
        assert np.abs(product).max() > 0.1


def test_a_rank_of_zero():
    with pytest.raises(UserError, match="rank must be at least 1, got 0"):
        trainable(setting()[1], "lora", 0, jax.random.key(0))
