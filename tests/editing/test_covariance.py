"""Key covariances against a loop over texts, in files, and what is refused."""

import dataclasses

import numpy as np
import pytest
from editable import TEXTS, editable

from jaxinterp.base.errors import UserError
from jaxinterp.editing.covariance import key_covariances, load_covariance, save_covariance, text_batches


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_the_mean_over_all_tokens(name, monkeypatch):
    monkeypatch.setattr("jaxinterp.editing.covariance.TOKENS", 64)  # of 19 windows, in three batches
    monkeypatch.setattr("jaxinterp.editing.covariance.HELD", 13)
    model, texts = editable(name), TEXTS[:19]
    found = key_covariances(model, iter(texts), (0, 2))
    keys = np.concatenate(
        [model.run(text, capture="mlp_post").activations["mlp_post"][:, 0] for text in texts], 1
    ).astype(np.float64)
    assert set(found) == {0, 2}
    for layer, covariance in found.items():
        expected = sum(np.outer(key, key) for key in keys[layer]) / keys.shape[1]
        np.testing.assert_allclose(covariance.mean_FF, expected, rtol=1e-4, atol=1e-6)
        assert covariance.n_tokens == keys.shape[1] == 19 * 8 and covariance.model == model.digest()
        assert covariance.mean_FF.dtype == np.float64 and covariance.layer == layer


def test_long_texts_are_read_in_windows_of_the_context():
    model = editable()
    start = len(model.tokenizer.prefix)
    width = 8 - start
    words = ["a", "b", "c", "d", "e", "f", "a", "b", "c", "d", "e", "f", "a", "b", "c", "d", "e", "f"]
    parts = [" ".join(words[place : place + width]) for place in range(0, len(words), width)]
    whole, cut = (key_covariances(model, texts, (1,))[1] for texts in ([" ".join(words)], parts))
    assert whole.n_tokens == cut.n_tokens == len(words) + start * len(parts)
    np.testing.assert_allclose(whole.mean_FF, cut.mean_FF, atol=1e-6)


def test_few_texts_are_not_filled_up_with_empty_windows():
    model = editable()
    batches = list(text_batches(model, TEXTS[:3]))
    assert sum((length_B > 0).sum() for _, length_B in batches) == 3
    assert all((length_B > 0).sum() > len(length_B) // 2 for _, length_B in batches)


def test_the_inverse_and_its_ridge():
    model = editable()
    covariance = key_covariances(model, TEXTS, (1,), ridge=1e-3)[1]
    keys = np.random.default_rng(0).standard_normal((2, 12))
    ridged = covariance.mean_FF + 1e-3 * np.trace(covariance.mean_FF) / 12 * np.eye(12)
    np.testing.assert_allclose(ridged @ covariance.spread(keys), keys.T, atol=1e-9)
    few = dataclasses.replace(key_covariances(model, TEXTS[:1], (1,))[1])
    with pytest.raises(UserError, match=r"layer 1 is singular: 12 neurons, 8 tokens; read more text, or set its ridge"):
        few.spread(keys)
    dead = covariance.mean_FF.copy()
    dead[3] = dead[:, 3] = 0
    with pytest.raises(UserError, match="12 neurons, 1 of them never active"):
        dataclasses.replace(covariance, mean_FF=dead, ridge=0.0).spread(keys)


def test_files(tmp_path):
    covariance = key_covariances(editable(), TEXTS, (1,), ridge=1e-3)[1]
    save_covariance(tmp_path / "c.safetensors", covariance)
    loaded = load_covariance(tmp_path / "c.safetensors")
    for field in dataclasses.fields(covariance):
        np.testing.assert_array_equal(getattr(loaded, field.name), getattr(covariance, field.name))
    with pytest.raises(UserError, match="is missing"):
        load_covariance(tmp_path / "none")


def test_mistakes():
    model = editable()
    for arguments, match in (
        (([], (1,)), "there is no text"),
        (([""], (1,)), "there is no text"),
        ((["a zebra"], (1,)), "does not know 'zebra'"),
        ((["a"], (3,)), "numbers from 0 to 2"),
        ((["a"], ()), "numbers from 0 to 2"),
    ):
        with pytest.raises(UserError, match=match):
            key_covariances(model, *arguments)
    with pytest.raises(UserError, match="ridge of a covariance must be at least 0"):
        key_covariances(model, ["a"], (1,), ridge=-1.0)
