"""A model in a folder: bit-exact, or an error that says what is wrong with it."""

import dataclasses
import hashlib
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save
from tiny import ARCHITECTURES, tiny_config, tiny_params

from jaxinterp.base.errors import UserError
from jaxinterp.models.config import RopeScaling
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.loading.bundle import load_model, save_model
from jaxinterp.models.loading.pinned import pin, verify
from jaxinterp.models.model import Model, parameter_shapes
from jaxinterp.models.tokenizer_training import train_tokenizer

PROVENANCE = {"seed": 3, "git": {"revision": "abc", "dirty": False}}


@pytest.fixture(scope="module")
def model():
    # Every field that JSON could change: a tuple, a nested dataclass, None.
    changes = {"rope_scaling": RopeScaling("llama3", 4.0, original_n_ctx=16), "window": 2, "local_layers": (0, 2)}
    config = tiny_config(**ARCHITECTURES["llama"] | changes)
    return LanguageModel(Model(config, tiny_params(config)), train_tokenizer(["a b c d e f é 東"]), PROVENANCE)


@pytest.fixture
def folder(model, tmp_path):
    save_model(tmp_path / "model", model)
    return tmp_path / "model"


@pytest.fixture
def unpinned(folder):
    """A folder without digests, as of earlier versions: what is wrong with a file is told by who reads it."""
    (folder / "digests.json").unlink()
    return folder


def rewrite(folder, change):
    """Changes the tensors, with the hash in provenance.json made to fit."""
    arrays = load_file(folder / "model.safetensors")
    change(arrays)
    weights = save(arrays)
    (folder / "model.safetensors").write_bytes(weights)
    provenance = json.loads((folder / "provenance.json").read_text())
    provenance["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    (folder / "provenance.json").write_text(json.dumps(provenance))


def test_round_trip_is_bit_exact(model, folder):
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "model.safetensors", "tokenizer.json", "frame.json", "provenance.json", "digests.json"),
    }
    loaded = load_model(folder)
    assert loaded.config == model.config
    assert loaded.provenance == PROVENANCE
    assert loaded.tokenizer.backend.to_str() == model.tokenizer.backend.to_str()
    assert dataclasses.replace(loaded.tokenizer, backend=model.tokenizer.backend) == model.tokenizer
    assert jax.tree.structure(loaded.params) == jax.tree.structure(model.params)
    for before, after in zip(jax.tree.leaves(model.params), jax.tree.leaves(loaded.params), strict=True):
        assert before.dtype == after.dtype
        assert np.asarray(before).tobytes() == np.asarray(after).tobytes()


def test_saving_again_replaces_the_folder_and_leaves_nothing_else(model, folder):
    (folder / "stray").write_text("old")
    changed = jax.tree.map(lambda leaf: leaf + 1, model.params)
    save_model(folder, LanguageModel(Model(model.config, changed), model.tokenizer, {}))
    assert not (folder / "stray").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    np.testing.assert_array_equal(load_model(folder).params["embedding"], changed["embedding"])


def test_nothing_is_half_written_when_saving_fails(model, folder):
    broken = LanguageModel(Model(model.config, model.params), model.tokenizer, {"loss": float("nan")})
    for target in (folder, folder.parent / "new"):
        with pytest.raises(ValueError, match="JSON"):
            save_model(target, broken)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert load_model(folder).provenance == PROVENANCE  # the older one is untouched


def test_a_dtype_and_a_place_can_be_asked_for(model, folder):
    loaded = load_model(folder, dtype="bfloat16")
    assert loaded.config == dataclasses.replace(model.config, dtype="bfloat16")
    for before, after in zip(jax.tree.leaves(model.params), jax.tree.leaves(loaded.params), strict=True):
        np.testing.assert_array_equal(np.asarray(before.astype("bfloat16")), np.asarray(after))
    with pytest.raises(UserError, match="float64 needs JAX_ENABLE_X64=1"):
        load_model(folder, dtype="float64")
    second = jax.sharding.SingleDeviceSharding(jax.devices()[1])
    loaded = load_model(folder, placement=lambda config: jax.tree.map(lambda _: second, parameter_shapes(config)))
    assert {leaf.sharding for leaf in jax.tree.leaves(loaded.params)} == {second}


def test_bfloat16_is_stored_as_it_is(model, tmp_path):
    params = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), model.params)
    narrow = dataclasses.replace(model, model=Model(dataclasses.replace(model.config, dtype="bfloat16"), params))
    save_model(tmp_path / "model", narrow)
    jax.tree.map(np.testing.assert_array_equal, params, load_model(tmp_path / "model").params)


def test_a_folder_that_cannot_be_written(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*file"):
        save_model(tmp_path / "file" / "model", model)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "holds no model: config.json is missing"),
        ("model.safetensors", r"model\.safetensors cannot be read: No such file"),
        ("tokenizer.json", r"no tokenizer at .*tokenizer\.json"),
        ("provenance.json", r"provenance\.json is missing"),
    ],
)
def test_a_missing_file(unpinned, name, message):
    (unpinned / name).unlink()
    with pytest.raises(UserError, match=message):
        load_model(unpinned)


def test_every_file_is_pinned(folder):
    names = [path.name for path in folder.iterdir()]
    for name in names:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
        with pytest.raises(UserError, match=rf"{name} (is damaged|cannot be read)"):
            load_model(folder)
        (folder / name).write_bytes(whole)
        if name not in ("digests.json", "config.json"):
            (folder / name).unlink()
            with pytest.raises(UserError, match=rf"{name} is pinned in digests.json and cannot be read"):
                load_model(folder)
            (folder / name).write_bytes(whole)
    load_model(folder)
    frame = folder / "frame.json"
    frame.write_text(frame.read_text() + " ")
    with pytest.raises(UserError, match=r"if the change is meant, `jaxinterp models pin .*` records it"):
        load_model(folder)
    pin(folder)
    load_model(folder)
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"was not there when it was pinned: tokenizer_config.json"):
        load_model(folder)
    (folder / "tokenizer_config.json").unlink()
    rewrite(folder, lambda arrays: None)
    pin(folder)  # weights that were changed on purpose
    load_model(folder)


def test_all_parts_of_a_split_file_are_pinned(tmp_path):
    parts = [tmp_path / f"a-0000{n}-of-00002.gguf" for n in (1, 2)]
    for part in parts:
        part.write_bytes(b"GGUF")
    pin(parts[0])
    assert verify(parts[0])
    parts[1].write_bytes(b"GGUX")
    with pytest.raises(UserError, match=r"00002-of-00002.gguf is damaged"):
        verify(parts[0])


def test_a_damaged_file(unpinned):
    folder = unpinned
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for place in (len(whole) - 1, len(whole) // 2):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
            load_model(folder)
    path.write_bytes(whole[:100])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        load_model(folder)
    path.write_bytes(whole)
    load_model(folder)
    for name, text, message in [
        ("config.json", "{", r"config\.json cannot be read as JSON"),
        ("config.json", '{"d_vocab": 11}', r"config\.json does not hold a config of this version: .*n_ctx"),
        (
            "config.json",
            '{"d_vocab": 11, "n_ctx": 8, "width": 3}',
            r"config\.json does not hold a config of this version: .*width",
        ),
        ("provenance.json", "[1]", r"provenance\.json holds a JSON list, not an object"),
    ]:
        before = (folder / name).read_text()
        (folder / name).write_text(text)
        with pytest.raises(UserError, match=message):
            load_model(folder)
        (folder / name).write_text(before)


def remove(arrays):
    del arrays["layers.w_out"]


def add(arrays):
    arrays["layers.b_out"] = np.zeros((3, 8), np.float32)


def transpose(arrays):
    arrays["layers.w_out"] = np.ascontiguousarray(arrays["layers.w_out"].transpose(0, 2, 1))


def round_off(arrays):
    arrays["layers.w_out"] = arrays["layers.w_out"].astype(np.float16)


def poison(arrays):
    arrays["layers.w_out"][1, 2, 3] = np.nan


def overflow(arrays):
    arrays["layers.norm_attn.scale"][0, 0] = np.inf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove, "tensor 'layers.w_out' is missing"),
        (add, "tensor 'layers.b_out' is not part of this model"),
        (transpose, r"tensor 'layers.w_out' is float32\[3, 8, 6\], the config asks for float32\[3, 6, 8\]"),
        (round_off, r"tensor 'layers.w_out' is float16\[3, 6, 8\], the config asks for float32\[3, 6, 8\]"),
        (poison, "tensor 'layers.w_out' has values that are not finite"),
        (overflow, "tensor 'layers.norm_attn.scale' has values that are not finite"),
    ],
)
def test_a_wrong_tensor_is_named(unpinned, change, message):
    folder = unpinned
    rewrite(folder, lambda arrays: None)
    load_model(folder)
    rewrite(folder, change)
    with pytest.raises(UserError, match=message):
        load_model(folder)
