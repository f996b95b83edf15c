"""Changes: made, undone bit for bit, one after the other, in files, and never of another model."""

import dataclasses
import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from editable import bits, editable

from jaxinterp.base.errors import UserError
from jaxinterp.editing.change import ancestors, apply, change_of, revert, stack
from jaxinterp.editing.change_file import load_change, save_change
from jaxinterp.editing.deltas import LowRank, Rows, added, removed
from jaxinterp.editing.files import save_arrays
from jaxinterp.editing.places import VALUE_ROWS

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float64": np.float64}


def deltas_of(model, seed, size=1.0):
    """Both kinds, in two layers, with numbers of all sizes."""
    rng = np.random.default_rng(seed)
    f, d = model.params["layers"]["w_out"].shape[1:]
    scale = size * np.exp(rng.uniform(-12, 3, (f, 1)))
    return [
        LowRank(VALUE_ROWS, 1, rng.standard_normal((f, 2)) * scale, rng.standard_normal((2, d))),
        Rows(VALUE_ROWS, 1, np.array([4, 0]), rng.standard_normal((2, d))),
        Rows(VALUE_ROWS, 0, np.array([3]), -np.asarray(model.params["layers"]["w_out"][0, 3:4], np.float64)),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_added_is_removed_bit_for_bit(dtype):
    rng = np.random.default_rng(0)
    old = (rng.standard_normal((50, 40)) * np.exp(rng.uniform(-30, 5, (50, 40)))).astype(DTYPES[dtype])
    old[0, :3] = 0.0, -0.0, 1.0
    delta = LowRank("", 0, np.exp(rng.uniform(-20, 5, (50, 3))), rng.standard_normal((3, 40)))
    new, exceptions = added(old, delta)
    plain = (new.astype(np.float64) - delta.left_FN @ delta.right_ND).astype(old.dtype)
    assert len(exceptions.index_E) > 0 and plain.tobytes() != old.tobytes()  # plain subtraction would not do
    assert removed(new, delta, exceptions).tobytes() == old.tobytes()
    # An edit that is small beside the weights needs next to nothing for the way back.
    small, few = added(old, delta._replace(left_FN=1e-3 * np.abs(old).min() * delta.left_FN))
    assert len(few.index_E) < 0.02 * old.size and removed(small, delta, few).shape == old.shape


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_change_can_be_undone(dtype):
    model = editable(dtype=dtype)
    change = change_of(model, deltas_of(model, 0), [{"method": "by hand"}])
    edited = apply(change, model)
    assert revert(change, edited).digest() == model.digest() == change.model and edited.digest() == change.edited
    assert bits(revert(change, edited)) == bits(model) != bits(edited)
    assert revert(change, edited).provenance == model.provenance
    rows = np.asarray(edited.params["layers"]["w_out"]).astype(np.float64)
    before = np.asarray(model.params["layers"]["w_out"]).astype(np.float64)
    assert not rows[0, 3].any() and (rows[2] == before[2]).all() and (rows[0, 4:] == before[0, 4:]).all()
    low, own, _ = change.deltas
    expected = before[1] + low.left_FN @ low.right_ND
    expected[own.row_K] += own.delta_KD
    np.testing.assert_allclose(rows[1], expected, rtol=2e-2 if dtype == "bfloat16" else 1e-5, atol=1e-6)
    others = {name for name in model.params if name != "layers"} | {"layers"}
    assert set(edited.params) == others and edited.params["embedding"] is model.params["embedding"]


def test_a_change_is_for_one_model_alone():
    model, other = editable(), editable(seed=2)
    change = change_of(model, deltas_of(model, 0))
    for refused in (lambda: apply(change, other), lambda: apply(change, apply(change, model))):
        with pytest.raises(UserError, match=rf"is for a model with digest {change.model[:12]}, this one has"):
            refused()
    with pytest.raises(UserError, match="makes a model with digest"):
        revert(change, model)
    assert ancestors(apply(change, model)) == {change.model, change.edited} and ancestors(other) == {other.digest()}


def test_a_stack_does_what_its_changes_do_one_after_the_other():
    model, changes = editable(), []
    edited = model
    for seed in range(3):
        changes.append(change_of(edited, deltas_of(edited, seed, 0.1), [{"number": seed}]))
        edited = apply(changes[-1], edited)
    whole = stack(changes)
    assert bits(apply(whole, model)) == bits(edited)
    assert bits(revert(whole, apply(whole, model))) == bits(model)
    for change in changes[::-1]:
        edited = revert(change, edited)
    assert bits(edited) == bits(model) and edited.provenance == model.provenance
    assert [about["number"] for about in whole.about] == [0, 1, 2]
    assert bits(apply(stack([change_of(model, [])]), model)) == bits(model)
    with pytest.raises(UserError, match="change 1 of the stack is for model"):
        stack([changes[0], changes[2]])
    with pytest.raises(UserError, match="no change to stack"):
        stack([])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_change_comes_back_from_its_file(tmp_path, dtype):
    model = editable(dtype=dtype)
    change = change_of(model, deltas_of(model, 0), [{"method": "by hand", "requests": ["Zürich"]}])
    save_change(tmp_path / "edit.safetensors", change)
    loaded = load_change(tmp_path / "edit.safetensors")
    assert bits(apply(loaded, model)) == bits(apply(change, model))
    assert bits(revert(loaded, apply(change, model))) == bits(model)
    assert loaded.about == change.about and repr(loaded) == repr(change)
    assert "layers.w_out[0], layers.w_out[1]" in repr(loaded)
    with pytest.raises(UserError, match="is for a model"):
        apply(loaded, editable(seed=2, dtype=dtype))


def test_damaged_files_are_refused(tmp_path):
    model, path = editable(), tmp_path / "edit.safetensors"
    save_change(path, change_of(model, deltas_of(model, 0)))
    content = path.read_bytes()
    for place in (3, 20, len(content) // 2, len(content) - 5):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(UserError, match=r"damaged|holds"):
            load_change(path)
    for broken in (content[:-9], content[:100], b"", b"\x00" * 40):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="damaged"):
            load_change(path)
    save_arrays(path, "key covariance", {"mean": np.eye(2)}, {})
    with pytest.raises(UserError, match="holds 'key covariance', not a change"):
        load_change(path)
    with pytest.raises(UserError, match="is missing"):
        load_change(tmp_path / "none")
    with pytest.raises(UserError, match="is a folder"):
        save_change(tmp_path, change_of(model, []))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_numbers_that_are_not_finite_are_refused():
    model = editable()
    with pytest.raises(UserError, match=r"layers.w_out\[0\] numbers that are not finite"):
        change_of(model, [Rows(VALUE_ROWS, 0, np.array([1]), np.full((1, 16), np.nan))])


def test_provenance_is_json():
    model = editable()
    change = change_of(model, deltas_of(model, 0), [{"method": "by hand"}])
    provenance = apply(change, dataclasses.replace(model, provenance={"from": "here"})).provenance
    assert json.loads(json.dumps(provenance))["original"] == {"from": "here"}
    assert [edit["edited"] for edit in provenance["edits"]] == [change.edited]


def test_parameters_in_float64(float64):
    model = editable()
    assert model.params["embedding"].dtype == jnp.float64
    change = change_of(model, deltas_of(model, 0))
    assert bits(revert(change, apply(change, model))) == bits(model)
