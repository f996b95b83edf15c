"""Checkpoints: round trip, damage, foreign contents."""

import contextlib
import gc
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.training.checkpoint import Checkpoints, damage_of
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


def test_what_is_kept(tmp_path):
    """The newest two, every fourth, and those that the caller names, whatever was saved after them."""
    with contextlib.closing(Checkpoints(tmp_path / "c", keep=2, every=4, also=lambda steps: {3} & set(steps))) as found:
        for step in range(1, 10):
            found.save(step, state(step))
        assert found.steps() == [3, 4, 8, 9]
        assert int(found.restore(state(0), last=7)[1].step) == 4


def test_a_thread_writes_a_copy(tmp_path, monkeypatch):
    """The state may change while it is being written, and what goes wrong is told by whoever waits."""
    with contextlib.closing(Checkpoints(tmp_path / "c", keep=2)) as checkpoints:
        write, go_on = checkpoints._write, threading.Event()
        monkeypatch.setattr(checkpoints, "_write", lambda *given: (go_on.wait(60), write(*given)))
        array = np.zeros(3, np.float32)
        checkpoints.save(1, {"x": array})
        array += 1  # before anything is written
        go_on.set()
        assert checkpoints.steps() == [1]
        np.testing.assert_array_equal(checkpoints.restore({"x": jnp.zeros(3)})[1]["x"], np.zeros(3))


def test_another_structure_or_dtype_is_no_damage(folder):
    for params, message in (
        ({"w_in": jnp.zeros((64, 32))}, r"\['w_in'\] is float32\[64, 64\] in it, and float32\[64, 32\] here"),
        ({"w_in": jnp.zeros((64, 64), jnp.int32)}, r"\['w_in'\] is float32\[64, 64\] in it, and int32\[64, 64\] here"),
        ({"w_out": jnp.zeros((64, 64))}, r"array .*w_in'\] is float32\[64, 64\] in it, and not there here"),
    ):
        like = state(0)._replace(params={**params, "norm": {"scale": jnp.ones(4)}})
        with pytest.raises(UserError, match=f"step 3 is of another run, and not damaged: .*{message}"):
            restored(folder, like)
    assert int(restored(folder).step) == 3  # nothing was moved


def test_any_flipped_bit_gives_the_newest_state_that_is_whole(folder, tmp_path, capsys):
    files = [path for path in (folder / "3").rglob("*") if path.is_file()]
    rng = np.random.default_rng(0)
    seen = set()
    for number, path in enumerate(files):
        copy = shutil.copytree(folder, tmp_path / f"copy{number}")
        target = copy / path.relative_to(folder)
        flipped = bytearray(target.read_bytes())
        if not flipped:
            continue
        flipped[rng.integers(len(flipped))] ^= 1 << rng.integers(8)
        target.write_bytes(flipped)
        found = restored(copy)
        step = int(found.step)
        seen.add(step)
        # A bit that nothing reads may flip; a state that differs may not come back.
        np.testing.assert_array_equal(found.params["w_in"], state(step, step).params["w_in"])
        told = capsys.readouterr().err
        assert ("the checkpoint of step 3 is damaged" in told and (copy / "damaged-3").is_dir()) == (step == 2)
    assert seen == {2, 3}


def test_a_step_that_was_damaged_is_saved_again(folder):
    for path in (folder / "3" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-9])
    checkpoints = Checkpoints(folder, keep=2)
    assert checkpoints.restore(state(0))[0] == 2 and checkpoints.steps() == [2]
    checkpoints.save(3, state(3, 3))
    assert checkpoints.steps() == [2, 3]
    checkpoints.save(4, state(4, 4))
    assert checkpoints.steps() == [3, 4] and checkpoints.restore(state(0))[0] == 4
    checkpoints.close()


def test_digests_of_earlier_versions_have_none_over_all_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxinterp.training.checkpoint.sealed", lambda digests: digests)
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    checkpoints.save(3, state(3, 3))
    checkpoints.close()
    monkeypatch.undo()
    assert int(restored(tmp_path / "c").step) == 3 and damage_of(tmp_path / "c", 3) == ""


def test_damaged_values_are_named_and_no_good_state_is_an_error(folder, monkeypatch, capsys):
    monkeypatch.setattr("jaxinterp.training.array_digests.array_digest", lambda array: "other")
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole;"):
        restored(folder)
    assert "step 3 is damaged: array ['begun'] is not what was saved" in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == {"damaged-2", "damaged-3"}
    checkpoints = Checkpoints(folder, keep=2)
    assert checkpoints.damaged() and not checkpoints.steps()  # asked again, it does not start from nothing
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole;"):
        checkpoints.restore(state(0))
    checkpoints.close()


def test_an_incomplete_step_is_not_taken_for_the_newest(folder, capsys):
    (folder / "9").mkdir()
    (folder / "²").mkdir()
    assert int(restored(folder).step) == 3
    assert "the checkpoint of step 9 is damaged: it is not complete" in capsys.readouterr().err


def test_a_deletion_that_is_cut_in_two_is_no_damage(folder, monkeypatch, capsys):
    """As where the process is killed: some files of an old checkpoint are gone, and it is neither kept nor told of."""

    def killed(path):
        next(file for file in path.rglob("_CHECKPOINT_METADATA")).unlink()
        raise KeyboardInterrupt

    checkpoints = Checkpoints(folder, keep=2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("jaxinterp.training.checkpoint.shutil.rmtree", killed)
        checkpoints.save(4, state(4, 4))
        checkpoints.wait()
    checkpoints.close()
    checkpoints = Checkpoints(folder, keep=2)
    assert checkpoints.steps() == [3, 4] and checkpoints.restore(state(0))[0] == 4
    checkpoints.save(5, state(5, 5))
    assert checkpoints.steps() == [4, 5]
    checkpoints.close()
    assert {path.name for path in folder.iterdir()} == {"4", "5"} and capsys.readouterr().err == ""


def test_a_disk_that_is_full_is_one_line(folder, monkeypatch):
    checkpoints = Checkpoints(folder, keep=2)

    def full(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing x\nsecond line")

    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(UserError, match=r"step 4 cannot be written .*RESOURCE_EXHAUSTED: Error writing x; the last"):
        checkpoints.save(4, state(4))
        checkpoints.wait()
    checkpoints.close()


def test_nothing_to_restore(tmp_path):
    with pytest.raises(UserError, match="no checkpoint in"):
        restored(tmp_path / "new")
