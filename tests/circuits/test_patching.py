"""Patching, cell by cell, against runs with one edit each."""

import numpy as np
import pytest
from small import CAUSAL, masked_model, small_model

import jaxinterp as ji
from jaxinterp.base.errors import UserError
from jaxinterp.circuits.patching import Patching
from jaxinterp.models.places import PLACES

CLEAN, CORRUPTED = "a b c d", "a e c f"


@pytest.fixture(scope="module")
def model():
    return small_model()


def score(model, run, right, wrong=None):
    log_p = run.log_probabilities()[0]
    token = lambda text: model.tokenizer.encode(text)[0]  # noqa: E731
    return float(log_p[token(right)] - (0 if wrong is None else log_p[token(wrong)]))


@pytest.mark.parametrize("place", PLACES)
def test_every_cell_is_a_run_with_one_edit(model, place):
    clean = model.run(CLEAN, capture=(place,))
    found = ji.patching(model, CLEAN, CORRUPTED, "b", wrong="c", place=place)
    base = model.run(CORRUPTED)
    assert found.base == pytest.approx(score(model, base, "b", "c"), abs=1e-5)
    assert found.source == pytest.approx(score(model, clean, "b", "c"), abs=1e-5)
    assert found.by == ("head" if "H" in PLACES[place] or "G" in PLACES[place] else "position")
    n_layers = 1 if place == "embed" else 3
    assert found.scores_LN.shape[0] == n_layers and len(found.columns) == found.scores_LN.shape[1]
    for layer in range(n_layers):
        for column in range(found.scores_LN.shape[1]):
            edit = ji.Edit(place, layer=None if place == "embed" else layer, **{found.by: column}, patch=clean)
            expected = score(model, model.run(CORRUPTED, edit=edit), "b", "c")
            assert found.scores_LN[layer, column] == pytest.approx(expected, abs=1e-5), (layer, column)
    assert np.abs(found.scores_LN - found.base).max() > 1e-2


def test_directions_and_what_is_moved(model):
    denoised = ji.patching(model, CLEAN, CORRUPTED, "b")
    noised = ji.patching(model, CLEAN, CORRUPTED, "b", direction="noise")
    assert (denoised.base, denoised.source) == pytest.approx((noised.source, noised.base), abs=1e-6)
    assert denoised.unit == "log P"
    # The last position's residual stream before the first layer is its token; texts differ at positions 2 and 4.
    np.testing.assert_allclose(denoised.moved_LN[0, [0, 1, 3]], 0, atol=1e-4)
    by_position = ji.patching(model, CLEAN, CORRUPTED, "b", place="resid_post")
    assert by_position.moved_LN[2, -1] == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(by_position.moved_LN[2, :-1], 0, atol=1e-4)
    layer, column, moved = by_position.best(1)[0]
    assert abs(moved) == np.abs(by_position.moved_LN).max() == abs(by_position.moved_LN[layer, column])
    heads = ji.patching(model, CLEAN, CORRUPTED, "b", place="attn_out", by="position")
    assert heads.columns[2] == "2 'b' ← 'e'" or heads.columns[2] == "2 'e' ← 'b'"


def test_many_cells_are_run_in_batches(model, monkeypatch):
    whole = ji.patching(model, CLEAN, CORRUPTED, "b")
    monkeypatch.setattr("jaxinterp.circuits.cells.MOST", 4)
    np.testing.assert_allclose(ji.patching(model, CLEAN, CORRUPTED, "b").scores_LN, whole.scores_LN, atol=1e-6)


def slow_path(model, base, source, sender, receivers, through_ffns):
    """A path by its definition: everything that is not on it is held, edit by edit."""
    heads, layers = model.config.n_heads, model.config.n_layers
    own, other = (model.run(text, capture=("attn_z", "mlp_out")) for text in (base, source))
    edits = [
        ji.Edit("attn_z", layer=layer, head=head, patch=other if (layer, head) == sender else own)
        for layer in range(layers)
        for head in range(heads)
    ]
    if not through_ffns:
        edits.append(ji.Edit("mlp_out", patch=own))
    places = tuple({place for place, _, _ in receivers})
    found = model.run(base, capture=places, edit=edits)
    if not receivers:
        return found
    ends = [ji.Edit(place, layer=layer, head=head, patch=found) for place, layer, head in receivers]
    return model.run(base, edit=ends)


@pytest.mark.parametrize("through_ffns", [True, False])
@pytest.mark.parametrize("receivers", [(), (("attn_q", 2, 1),), (("attn_k", 2, 0), ("attn_v", 1, 1), ("attn_v", 2, 0))])
def test_paths_are_runs_in_which_all_else_is_held(receivers, through_ffns, float64):
    model = small_model("gpt")
    found = ji.path_patching(model, CLEAN, CORRUPTED, "b", wrong="d", receivers=receivers, through_ffns=through_ffns)
    assert found.scores_LN.shape == (3, 2)
    for layer in range(3):
        for head in range(2):
            run = slow_path(model, CLEAN, CORRUPTED, (layer, head), receivers, through_ffns)
            assert found.scores_LN[layer, head] == pytest.approx(score(model, run, "b", "d"), abs=1e-9)
    if receivers:
        # A sender in the last layer comes after every receiver.
        np.testing.assert_allclose(found.scores_LN[2], found.base, atol=1e-9)
    assert np.abs(found.scores_LN - found.base).max() > 1e-4


def test_paths_from_all_heads_differ_from_patching_them():
    """Patching a head lets later heads answer to it; a path does not."""
    model = small_model("gpt")
    whole = ji.patching(model, CLEAN, CORRUPTED, "b", place="attn_z", direction="noise")
    direct = ji.path_patching(model, CLEAN, CORRUPTED, "b")
    np.testing.assert_allclose(whole.scores_LN[2], direct.scores_LN[2], atol=1e-5)
    assert np.abs(whole.scores_LN - direct.scores_LN)[:2].max() > 1e-3


@pytest.mark.parametrize("name", CAUSAL)
def test_architectures(name):
    model = small_model(name)
    found = ji.patching(model, CLEAN, CORRUPTED, "b", place="resid_mid")
    run = model.run(
        CORRUPTED, edit=ji.Edit("resid_mid", layer=1, position=2, patch=model.run(CLEAN, capture="resid_mid"))
    )
    assert found.scores_LN[1, 2] == pytest.approx(score(model, run, "b"), abs=1e-5)


def test_it_shows_itself(model):
    found = ji.patching(model, CLEAN, CORRUPTED, "b", wrong="c")
    assert repr(found) == "Patching(resid_pre, 3 layers × 5 positions, logit difference)"
    assert "resid_pre: logit difference" in str(found) and "moved" in str(found)
    chart = found.chart().to_dict()
    assert len(chart["data"]["values"]) == 15 and isinstance(found, Patching)


def test_a_masked_model_is_read_at_its_one_mask():
    model = masked_model()
    found = ji.patching(model, "a b [MASK]", "a e [MASK]", "d", place="resid_pre")
    clean = model.run("a b [MASK]", capture=("resid_pre",), control_tokens=True)
    edit = ji.Edit("resid_pre", layer=1, position=2, patch=clean)
    run = model.run("a e [MASK]", edit=edit, control_tokens=True)
    token = model.tokenizer.encode("d")[0]
    assert found.scores_LN[1, 2] == pytest.approx(float(run.log_probabilities(3)[0, token]), abs=1e-5)
    for text in ("a b", "[MASK] b [MASK]"):
        with pytest.raises(UserError, match=r"must have \[MASK\] once"):
            ji.patching(model, text, text, "d")


def test_what_cannot_be_patched(model):
    for arguments, message in (
        ({"corrupted": "a b"}, r"as many tokens.* has 5, and .* 3|as many tokens.* has 3, and .* 5"),
        ({"answer": "a b"}, r"one token that the model knows; 'a b' has 2: 'a', 'b'"),
        ({"answer": "z"}, "one token that the model knows; 'z'"),
        ({"wrong": "b"}, "right and wrong answer are the same token"),
        ({"place": "neurons"}, "unknown place 'neurons'"),
        ({"by": "head"}, "resid_pre has no heads"),
        ({"corrupted": CLEAN}, "both texts have the same log P"),
    ):
        with pytest.raises(UserError, match=message):
            ji.patching(model, **{"clean": CLEAN, "corrupted": CORRUPTED, "answer": "b", **arguments})
    for receiver, message in (
        (("attn_z", 0, 0), "unknown input of a head 'attn_z'"),
        (("attn_q", 3, 0), "attn_q of layer 3, head 0 does not exist"),
        (("attn_k", 0, 9), "attn_k of layer 0, head 9 does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            ji.path_patching(model, CLEAN, CORRUPTED, "b", receivers=[receiver])
