"""Edits in words, against the changes that a loop makes of them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_config, tiny_params

import jaxinterp as ji
from jaxinterp.base.errors import UserError
from jaxinterp.models.edit import changes_of
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.places import PLACES
from jaxinterp.models.run import Run
from jaxinterp.models.tokenizer_training import train_tokenizer
from jaxinterp.models.transformer import forward

CONFIG = tiny_config(n_layers=3, d_mlp=5, n_heads=2, n_kv_heads=1)
LENGTH, T = np.array([3, 5]), 6
SIZES = {"L": 3, "B": 2, "S": T, "T": T, "D": 8, "F": 5, "H": 2, "G": 1, "K": CONFIG.d_head}


def applied(edits, place, x):
    """The place's values after its change."""
    change = changes_of(edits, CONFIG, LENGTH, T).get(place)
    gates = 1.0 if change.gates is None else change.gates
    return np.asarray(x * gates + (0.0 if change.shift is None else change.shift))


def values(place, seed=0):
    axes = PLACES[place] if place == "embed" else ("L", *PLACES[place])
    return np.random.default_rng(seed).normal(size=[SIZES[axis] for axis in axes])


def made_run(lengths, place, x):
    """A run of texts of these lengths, that captured x."""
    tokens, logits = np.zeros((len(lengths), max(lengths)), np.int32), jnp.zeros((len(lengths), max(lengths), 1))
    return Run((), tokens, np.array(lengths), logits, {place: jnp.asarray(x)})


def numbers(selector, size):
    return range(size) if selector is None else [n % size for n in np.atleast_1d(selector).tolist()]


def looped(place, x, function, layer=None, position=None, head=None, unit=None, source=None):
    """x after function(value, place within what is selected) at every selected place."""
    x, axes = x.copy(), PLACES[place] if place == "embed" else ("L", *PLACES[place])
    by = {"L": layer, "H": head, "G": head, axes[-1]: unit, "S": position, "T": source}
    for row in range(2):
        here = {axis: numbers(by.get(axis), SIZES[axis]) for axis in axes} | {"B": [row]}
        for axis, selector in (("S", position), ("T", source)):
            if axis in axes and selector is not None:
                here[axis] = numbers(selector, LENGTH[row])
        for index in itertools.product(*(enumerate(here[axis]) for axis in axes)):
            within = tuple(row if axis == "B" else n for axis, (n, _) in zip(axes, index, strict=True))
            at = tuple(number for _, number in index)
            x[at] = function(x[at], within)
    return x


CASES = [
    ("mlp_post", {}),
    ("mlp_post", {"layer": 2, "unit": [0, 3]}),
    ("mlp_post", {"layer": [0, -1], "position": -1, "unit": -2}),
    ("resid_post", {"position": [0, 2]}),
    ("resid_mid", {"layer": 1, "position": [1, -1]}),
    ("embed", {"position": 1, "unit": 4}),
    ("embed", {}),
    ("attn_z", {"layer": 1, "head": 1}),
    ("attn_k", {"head": 0, "position": -2}),
    ("attn_pattern", {"layer": 0, "head": 1, "source": 1}),
    ("attn_pattern", {"position": -1, "source": [0, -1]}),
    ("attn_pattern", {"source": -1}),
]


@pytest.mark.parametrize(("place", "where"), CASES)
def test_what_is_selected_is_scaled_set_or_added_to(place, where, float64):
    x = values(place)
    for how, function in (
        ({"scale": 0.25}, lambda value, _: 0.25 * value),
        ({"set_to": 7.0}, lambda value, _: 7.0),
        ({"add": -2.0}, lambda value, _: value - 2.0),
    ):
        found = applied(ji.Edit(place, **where, **how), place, x)
        np.testing.assert_allclose(found, looped(place, x, function, **where), rtol=1e-12)


def test_arrays_broadcast_against_what_is_selected(float64):
    x, rng = values("resid_post"), np.random.default_rng(1)
    direction = rng.normal(size=8)
    found = applied(ji.Edit("resid_post", layer=1, position=[0, -1], add=direction), "resid_post", x)
    np.testing.assert_allclose(
        found, looped("resid_post", x, lambda v, at: v + direction[at[3]], 1, [0, -1]), rtol=1e-12
    )
    # For each layer, text and position.
    of_each = rng.normal(size=(2, 2, 3, 1))
    found = applied(ji.Edit("resid_post", layer=[0, 2], position=[0, 1, -1], set_to=of_each), "resid_post", x)
    expected = looped("resid_post", x, lambda v, at: of_each[at[0], at[1], at[2], 0], [0, 2], [0, 1, -1])
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    # For each text, at all positions; and for each position of all texts.
    by_text, by_position = rng.normal(size=(2, 1, 1)), rng.normal(size=(T, 1))
    found = applied(ji.Edit("resid_post", scale=by_text), "resid_post", x)
    np.testing.assert_allclose(found, x * by_text, rtol=1e-12)
    found = applied(ji.Edit("resid_post", layer=0, add=by_position), "resid_post", x)
    np.testing.assert_allclose(found, x + by_position * np.array([1, 0, 0]).reshape(3, 1, 1, 1), rtol=1e-12)


def test_edits_of_one_place_follow_each_other(float64):
    x = values("mlp_post")
    edits = [
        ji.Edit("mlp_post", layer=1, scale=3.0),
        ji.Edit("mlp_post", add=1.0),
        ji.Edit("mlp_post", unit=2, scale=0.5),
        ji.Edit("attn_out", set_to=0.0),
        ji.Edit("mlp_post", position=-1, unit=4, set_to=9.0),
    ]
    expected = x.copy()
    for edit in edits:
        if edit.place == "mlp_post":
            expected = applied(edit, "mlp_post", expected)
    np.testing.assert_allclose(applied(edits, "mlp_post", x), expected, rtol=1e-12)
    assert set(changes_of(edits, CONFIG, LENGTH, T)) == {"mlp_post", "attn_out"}


def test_values_of_another_run_at_its_own_positions(float64):
    place, source = "resid_pre", np.random.default_rng(5).normal(size=(3, 2, 9, 8))
    run = made_run([9, 4], place, source)
    x = values(place)
    found = applied(ji.Edit(place, layer=[2, 0], position=[1, -1], unit=[3, 5], patch=run), place, x)
    expected = x.copy()
    for row, layer, unit in itertools.product(range(2), (0, 2), (3, 5)):
        expected[layer, row, 1, unit] = source[layer, row, 1, unit]
        expected[layer, row, LENGTH[row] - 1, unit] = source[layer, row, run.length_B[row] - 1, unit]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    # One text for all of the batch.
    one = made_run([9], place, source[:, :1])
    found = applied(ji.Edit(place, layer=1, position=2, patch=one), place, x)
    expected = x.copy()
    expected[1, :, 2] = source[1, 0, 2]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_patching_everything_gives_the_other_run():
    tokenizer = train_tokenizer(["a b c d e f"])
    config = tiny_config(n_layers=3, d_vocab=tokenizer.n_tokens)
    model = LanguageModel(Model(config, tiny_params(config)), tokenizer, {})
    clean, corrupted = "a b c", "d b e"
    run = model.run(clean, capture=tuple(PLACES))
    other = model.run(corrupted)
    assert np.abs(np.asarray(run.logits_BTV - other.logits_BTV)).max() > 1e-2
    for edit in (
        ji.Edit("embed", patch=run),
        ji.Edit("resid_pre", layer=1, patch=run),
        ji.Edit("resid_post", patch=run),
    ):
        np.testing.assert_allclose(model.run(corrupted, edit=edit).logits_BTV, run.logits_BTV, atol=1e-5)
    # At one position, what comes before it stays, and what stands there is the other run's.
    part = model.run(corrupted, capture=("resid_mid",), edit=ji.Edit("resid_mid", layer=2, position=2, patch=run))
    np.testing.assert_array_equal(part.logits_BTV[0, :2], other.logits_BTV[0, :2])
    np.testing.assert_array_equal(part.activations["resid_mid"][2, 0, 2], run.activations["resid_mid"][2, 0, 2])
    # A knockout is a pattern without that source; nothing else changes in the layer's pattern.
    edit = ji.Edit("attn_pattern", layer=1, source=1, scale=0)
    found = model.run(corrupted, capture=("attn_pattern",), edit=edit).activations["attn_pattern"]
    assert float(jnp.abs(found[1, ..., 1]).max()) == 0 and float(found[0, 0, 0, 1, 1]) > 0


def test_what_does_not_fit():
    run = made_run([4, 4], "resid_pre", np.zeros((3, 2, 4, 8)))
    for arguments, message in (
        (("neurons",), "unknown place 'neurons'"),
        (("mlp_post", {}), "an edit has one of scale, set_to, add, patch; this one has none"),
        (("mlp_post", {"scale": 0, "add": 1}), "this one has scale and add"),
        (("embed", {"layer": 0, "scale": 0}), "embed has no layer"),
        (("mlp_post", {"head": 0, "scale": 0}), "mlp_post has no head"),
        (("resid_pre", {"source": 0, "scale": 0}), "resid_pre has no source"),
        (("attn_pattern", {"unit": 0, "scale": 0}), "attn_pattern has no unit"),
        (("mlp_post", {"patch": run}), "has not captured mlp_post"),
        (("mlp_post", {"layer": 3, "scale": 0}), "layer 3 of an edit is out of range: the model has 3 of them"),
        (("mlp_post", {"layer": -4, "scale": 0}), "layer -4 of an edit is out of range"),
        (("mlp_post", {"unit": 5, "scale": 0}), "unit 5 of an edit is out of range: the model has 5"),
        (("attn_k", {"head": 1, "scale": 0}), "head 1 of an edit is out of range: the model has 1"),
        (("mlp_post", {"position": 3, "scale": 0}), "position 3 of an edit is out of range: text 0 has 3 tokens"),
        (("mlp_post", {"position": -4, "scale": 0}), "position -4 of an edit is out of range: text 0 has 3 tokens"),
        (("mlp_post", {"scale": np.ones(4)}), r"an array of shape \[1, 1, 1, 4\] does not fit"),
        (("mlp_post", {"unit": [1, 2], "scale": np.ones(5)}), "does not fit what the edit of mlp_post selects"),
        (("mlp_post", {"scale": np.ones((1, 1, 1, 1, 5))}), "has 5 axes; mlp_post has 4: L B S F"),
        (("resid_pre", {"patch": run}), "texts of other lengths; name the positions"),
        (("resid_pre", {"position": 4, "patch": run}), "position 4 of an edit is out of range"),
    ):
        with pytest.raises(UserError, match=message):
            place, *rest = arguments
            changes_of(ji.Edit(place, **(rest[0] if rest else {"scale": 0})), CONFIG, LENGTH, T)
    wide = made_run([4, 4], "resid_pre", np.zeros((3, 2, 4, 9)))
    with pytest.raises(UserError, match="is of another model"):
        changes_of(ji.Edit("resid_pre", position=0, patch=wide), CONFIG, LENGTH, T)
    three = made_run([4, 4, 4], "resid_pre", np.zeros((3, 3, 4, 8)))
    with pytest.raises(UserError, match="has 3 texts; give one, or 2"):
        changes_of(ji.Edit("resid_pre", position=0, patch=three), CONFIG, LENGTH, T)


def test_edits_have_gradients():
    model = Model(CONFIG, tiny_params(CONFIG))
    tokens = jnp.array([[1, 2, 3]])

    @jax.jit
    def logit(direction):
        changes = changes_of(ji.Edit("resid_post", layer=1, add=direction), CONFIG, np.array([3]), 3)
        return forward(model, tokens, edit=changes).logits_BTV[0, -1, 4]

    at, step = jnp.zeros(8), 1e-2
    slope = jax.grad(logit)(at)
    for axis in range(8):
        moved = step * jnp.eye(8)[axis]
        assert float(slope[axis]) == pytest.approx(float(logit(moved) - logit(-moved)) / (2 * step), abs=2e-3)
