"""Edits and the masks that suppression is compared with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import fast_readout, tiny_batch, tiny_config, tiny_params

from jaxinterp.attribution.edits import amplify, control_mask, random_mask, set_to, suppress

MASK = jnp.array([[[1.0, 0.0], [0.0, 0.25]], [[0.0, 1.0], [0.0, 0.0]]])


def test_gates_by_hand():
    np.testing.assert_array_equal(suppress(MASK).gates, [[[0, 1], [1, 0.75]], [[1, 0], [1, 1]]])
    np.testing.assert_array_equal(amplify(MASK).gates, [[[2, 1], [1, 1.25]], [[1, 2], [1, 1]]])
    assert suppress(MASK).shift is None
    assert amplify(MASK).shift is None
    edit = set_to(MASK, 3.0)
    np.testing.assert_array_equal(edit.gates, suppress(MASK).gates)
    np.testing.assert_array_equal(edit.shift, 3 * MASK)
    values = jnp.arange(8.0).reshape(2, 2, 2)
    np.testing.assert_array_equal(set_to(MASK, values).shift, [[[0, 0], [0, 0.75]], [[0, 5], [0, 0]]])


def test_control_mask_takes_another_rows_mask():
    mask = jnp.arange(12.0).reshape(2, 3, 2)
    found = control_mask(mask, jnp.array([2, 0, 0]))
    np.testing.assert_array_equal(found, [[[4, 5], [0, 1], [0, 1]], [[10, 11], [6, 7], [6, 7]]])


@pytest.fixture(scope="module")
def random_masks():
    rng = np.random.default_rng(0)
    count = np.array([[0, 1, 5, 20], [3, 0, 20, 7]])
    mask = (rng.random((2, 4, 20)).argsort(-1) < count[..., None]).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 2000)
    return mask, np.asarray(jax.jit(jax.vmap(random_mask, (0, None)))(keys, mask)), count


def test_random_mask_has_as_many_neurons_in_every_row_and_layer(random_masks):
    mask, found, count = random_masks
    np.testing.assert_array_equal(mask.sum(-1), count)
    assert set(np.unique(found)) == {0, 1}
    np.testing.assert_array_equal(found.sum(-1), np.broadcast_to(count, (2000, 2, 4)))
    assert found.dtype == mask.dtype


def test_random_mask_is_uniform_and_differs_by_key_row_and_layer(random_masks):
    _, found, _ = random_masks
    assert (found[0] != found[1]).any()
    # 5 of 20 neurons: each one is drawn in a quarter of the masks, 500 ± 19 of 2000.
    assert np.abs(found[:, 0, 2].sum(0) - 500).max() < 5 * 19.4
    # Independent of another row's draw: 1 of 20 and 5 of 20 meet in a quarter of the masks.
    assert abs((found[:, 0, 1] * found[:, 0, 2]).sum() - 500) < 5 * 19.4
    assert abs((found[:, 1, 0] * found[:, 0, 2]).sum() / 3 - 500) < 5 * 19.4
    again = jax.jit(random_mask)(jax.random.key(1), jnp.ones((1, 1, 3)).at[0, 0, 0].set(0.0))
    assert float(again.sum()) == 2


def test_random_mask_draws_from_the_active_neurons(random_masks):
    mask, _, count = random_masks
    # Of 20 neurons 9 are active in every layer and row, others in each.
    active = (np.random.default_rng(1).random(mask.shape).argsort(-1) < 9).astype(np.float32)
    keys = jax.random.split(jax.random.key(2), 500)
    found = np.asarray(jax.jit(jax.vmap(random_mask, (0, None, None)))(keys, mask, active))
    np.testing.assert_array_equal(found.sum(-1), np.broadcast_to(count, (500, 2, 4)))
    # Others are taken only where there are too few.
    np.testing.assert_array_equal((found * active).sum(-1), np.broadcast_to(np.minimum(count, 9), (500, 2, 4)))
    # 5 of 9: each of them in 278 ± 11 of 500.
    drawn = found[:, 0, 2][:, active[0, 2] > 0].sum(0)
    assert np.abs(drawn - 500 * 5 / 9).max() < 5 * 11.1
    assert (found[:, 0, 2] != found[0, 0, 2]).any()


def test_suppression_is_what_zeroed_rows_of_w_out_do_at_a_first_position(float64):
    config = tiny_config(n_layers=2, dtype="float64")
    params = tiny_params(config)
    batch = tiny_batch(3, 4)
    batch = batch._replace(
        rows=batch.rows._replace(position_R=np.zeros_like(batch.rows.position_R))
    )  # nothing before it can change
    off = np.zeros((2, 6))
    off[0, [1, 4]] = off[1, 0] = 1

    @jax.jit
    def both(params, off_LF):
        readout = fast_readout(config, params, batch)
        edited = readout(*suppress(jnp.broadcast_to(off_LF[:, None], readout.shape)))
        layers = {**params["layers"], "w_out": params["layers"]["w_out"] * (1 - off_LF)[..., None]}
        return edited, fast_readout(config, {**params, "layers": layers}, batch).untouched(), readout.untouched()

    edited, zeroed, untouched = both(params, off)
    np.testing.assert_allclose(edited, zeroed, atol=1e-14)
    assert float(jnp.abs(edited - untouched).max()) > 1e-3
