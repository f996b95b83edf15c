"""Checkpoints: round trip, damage, foreign contents."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.training.checkpoint import Checkpoints
from jaxinterp.training.state import TrainState

# Orbax leaves coroutines behind when a restore fails.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning")


@pytest.fixture(autouse=True)
def collected():
    """Those coroutines are told of when they are collected: here, and not in whatever test runs then."""
    yield
    gc.collect()


def state(step=3, scale=1.0, dtype="float32"):
    params = {"w_in": scale * jnp.linspace(0.1, 1.7, 4096, dtype=dtype).reshape(64, 64), "norm": {"scale": jnp.ones(4)}}
    of_key = jnp.int32(step), jax.random.key(5)
    return TrainState(params, {"count": jnp.int32(step)}, *of_key, jnp.float32(0.5), jnp.int32(step))


@pytest.fixture
def folder(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, state(step, step))
    assert checkpoints.steps() == [2, 3]
    checkpoints.close()
    return tmp_path / "c"


def restored(folder, like=None):
    checkpoints = Checkpoints(folder, keep=2)
    try:
        return checkpoints.restore(like or state(0, 0.0))[1]
    finally:
        checkpoints.close()


def test_the_newest_state_comes_back_bit_for_bit(folder):
    found = restored(folder)
    assert int(found.step) == 3
    np.testing.assert_array_equal(found.params["w_in"], state(3, 3).params["w_in"])
    np.testing.assert_array_equal(jax.random.key_data(found.key), jax.random.key_data(jax.random.key(5)))


def test_any_pytree_is_saved_under_the_step_that_is_given(tmp_path):
    """Such as an ensemble's states, of which some stand still."""
    mine = {"states": (jnp.arange(3), jax.random.split(jax.random.key(1), 2)), "other": jnp.ones(())}
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    assert checkpoints.describe() == "there is no checkpoint"
    checkpoints.save(7, mine)
    assert checkpoints.describe() == f"the last good checkpoint is {tmp_path / 'c' / '7'}"
    step, found = checkpoints.restore(jax.tree.map(jnp.zeros_like, mine))
    checkpoints.close()
    assert step == 7
    np.testing.assert_array_equal(found["states"][0], mine["states"][0])
    np.testing.assert_array_equal(*(jax.random.key_data(x["states"][1]) for x in (found, mine)))


def test_another_structure_or_dtype_is_refused(folder):
    with pytest.raises(UserError, match=r"step 3 .*remove .* to resume from step 2"):
        restored(folder, state(0)._replace(params={"w_in": jnp.zeros((64, 32)), "norm": {"scale": jnp.ones(4)}}))
    as_integers = {"w_in": jnp.zeros((64, 64), jnp.int32), "norm": {"scale": jnp.ones(4)}}
    with pytest.raises(UserError, match=r"w_in.* is damaged|cannot be read"):
        restored(folder, state(0)._replace(params=as_integers))


def test_every_flipped_bit_in_the_arrays_is_noticed(folder):
    data = [path for path in (folder / "3" / "state").rglob("*") if path.is_file() and path.stat().st_size > 1000]
    assert data
    rng = np.random.default_rng(0)
    for path in data:
        before = path.read_bytes()
        for _ in range(3):
            flipped = bytearray(before)
            flipped[rng.integers(len(before))] ^= 1 << rng.integers(8)
            path.write_bytes(flipped)
            # A bit that nothing reads may flip; a state that differs may not come back.
            try:
                found = restored(folder)
            except UserError as error:
                assert "remove" in str(error)
            else:
                np.testing.assert_array_equal(found.params["w_in"], state(3, 3).params["w_in"])
        path.write_bytes(before)
    assert int(restored(folder).step) == 3


def test_damaged_values_are_named(folder, monkeypatch):
    monkeypatch.setattr("jaxinterp.training.checkpoint.array_digest", lambda array: "other")
    with pytest.raises(UserError, match=r"array \['begun'\] of the checkpoint of step 3 is damaged"):
        restored(folder)


def test_an_empty_step_is_not_taken_for_the_newest(folder):
    (folder / "9").mkdir()
    with pytest.raises(UserError, match="is not complete; remove that folder"):
        restored(folder)


def test_nothing_to_restore(tmp_path):
    with pytest.raises(UserError, match="no checkpoint in"):
        restored(tmp_path / "new")
