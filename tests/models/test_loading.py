"""From a folder of safetensors to parameters: what is read, where it goes, and what is wrong with a folder."""

import json
import struct
import tracemalloc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import published
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from jaxinterp.errors import UserError
from jaxinterp.models.bundle import load_model
from jaxinterp.models.language_model import flat
from jaxinterp.models.loading import weights
from jaxinterp.models.loading.load import load_pretrained, pretrained_parameters
from jaxinterp.models.loading.safetensors_file import SafetensorsFile

INDEX = "model.safetensors.index.json"


def write(folder, name="llama", **changes):
    record = published.golden(name)
    return published.write_checkpoint(folder, record["config"] | changes, published.shapes(record))


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "model")


def shard(folder, n=3):
    """Splits model.safetensors; returns the index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-{i % n + 1:05}-of-{n:05}.safetensors" for i, name in enumerate(tensors)}
    for file in sorted(set(places.values())):
        save_file({name: tensors[name] for name in tensors if places[name] == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index))
    return index


def test_shards_are_one_model(folder):
    _, expected, _ = pretrained_parameters(folder)
    shard(folder)
    _, found, _ = pretrained_parameters(folder)
    jax.tree.map(np.testing.assert_array_equal, expected, found)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_every_type_of_safetensors(dtype, folder):
    published.rewrite(folder, lambda tensors: {name: value.astype(dtype) for name, value in tensors.items()})
    stored = load_file(folder / "model.safetensors")["model.norm.weight"]
    assert stored.dtype == dtype
    _, params, _ = pretrained_parameters(folder)
    np.testing.assert_array_equal(params["norm_final"]["scale"], stored.astype(np.float32))


def test_rows_are_those_of_the_safetensors_library(folder):
    file, expected = SafetensorsFile(folder), load_file(folder / "model.safetensors")
    assert file.shapes == {name: value.shape for name, value in expected.items()}
    for name, value in expected.items():
        np.testing.assert_array_equal(file.rows(name, 1, 3), value[1:3])


def test_float64_needs_to_be_enabled(folder):
    with pytest.raises(UserError, match="float64 needs JAX_ENABLE_X64=1"):
        pretrained_parameters(folder, dtype="float64")
    with pytest.raises(UserError, match="unknown dtype 'int8'; known: bfloat16, float32, float64"):
        pretrained_parameters(folder, dtype="int8")


def test_parameters_go_where_they_are_told(folder):
    mesh = jax.make_mesh((2,), ("x",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    asked = {}

    def placement(path, shape):
        asked[path] = shape
        spec = jax.sharding.PartitionSpec(None, None, "x") if path[-1] == "w_in" else jax.sharding.PartitionSpec()
        return jax.sharding.NamedSharding(mesh, spec)

    _, expected, _ = pretrained_parameters(folder)
    _, params, _ = pretrained_parameters(folder, placement=placement)
    assert asked == {path: leaf.shape for path, leaf in flat(params).items()}
    assert {s.data.shape for s in params["layers"]["w_in"].addressable_shards} == {(2, 8, 6)}
    assert len(params["embedding"].sharding.device_set) == 2
    jax.tree.map(np.testing.assert_array_equal, expected, params)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_stays_near_the_size_of_the_model(dtype, tmp_path, monkeypatch):
    sizes = {"num_hidden_layers": 6, "hidden_size": 128, "intermediate_size": 512, "vocab_size": 4000}
    config = published.CASES["llama"] | sizes
    layer = {name: shape for name, shape in published.golden("llama")["tensors"].items() if "{}" in name}
    scale = {8: 128, 12: 512}
    named = {name.format(i): tuple(scale[n] for n in shape) for name, shape in layer.items() for i in range(6)} | {
        "model.embed_tokens.weight": (4000, 128),
        "model.norm.weight": (128,),
    }
    published.write_checkpoint(tmp_path, config, named)
    monkeypatch.setattr(weights, "CHUNK", 1 << 14)
    pretrained_parameters(tmp_path, dtype=dtype)  # what is imported and traced once
    tracemalloc.start()
    try:
        _, params, _ = pretrained_parameters(tmp_path, dtype=dtype)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert size > 4_000_000
    # The arrays on the host, which JAX may take over as they are: at most all, and one parameter more.
    assert peak < 1.3 * size


def removed(tensors):
    return {name: value for name, value in tensors.items() if name != "model.layers.1.mlp.up_proj.weight"}


def added(tensors):
    return tensors | {"model.layers.0.self_attn.q_proj.bias": np.zeros(8, np.float32)}


def another_layer(tensors):
    return tensors | {"model.layers.2.mlp.up_proj.weight": tensors["model.layers.1.mlp.up_proj.weight"]}


def transposed(tensors):
    name = "model.layers.1.mlp.up_proj.weight"
    return tensors | {name: np.ascontiguousarray(tensors[name].T)}


def with_value(value, dtype=np.float32):
    def change(tensors):
        name = "model.layers.1.mlp.up_proj.weight"
        tensors = tensors | {name: tensors[name].astype(dtype)}
        tensors[name][2, 3] = value
        return tensors

    return change


def twice(tensors):
    return tensors | {"norm.weight": tensors["model.norm.weight"]}


def head(factor):
    return lambda tensors: tensors | {"lm_head.weight": factor * tensors["model.embed_tokens.weight"]}


def integers(tensors):
    return tensors | {"model.norm.weight": np.ones(8, np.int32)}


UP = r"'model\.layers\.1\.mlp\.up_proj\.weight'"
WRONG = [
    (removed, r"tensor 'layers\.1\.mlp\.up_proj\.weight' \(or " + UP + r"\) is missing; the config asks for it"),
    (added, r"'model\.layers\.0\.self_attn\.q_proj\.bias' is not part of this model \(2 layers, no bias, tied"),
    (another_layer, r"'model\.layers\.2\.mlp\.up_proj\.weight' is not part of this model \(2 layers"),
    (transposed, UP + r" is \[8, 12\], the config that disagrees asks for \[12, 8\]"),
    (with_value(np.nan), UP + " has values that are not finite in float32"),
    (with_value(-np.inf), UP + " has values that are not finite in float32"),
    (with_value(1e300, np.float64), UP + " has values that are not finite in float32"),
    (twice, r"tensors 'model\.norm\.weight' and 'norm\.weight' are the same one twice|'norm\.weight' and 'model"),
    (head(2), r"'lm_head\.weight' differs from 'model\.embed_tokens\.weight', although .*tie_word_embeddings"),
    (integers, r"tensor 'model\.norm\.weight' is of type I32; supported: F64, F32, F16, BF16"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=lambda value: getattr(value, "__name__", ""))
def test_a_wrong_tensor_is_named(change, message, folder):
    published.rewrite(folder, change)
    with pytest.raises(UserError, match=message):
        pretrained_parameters(folder)


def test_a_copy_of_the_embedding_is_no_surprise(folder):
    published.rewrite(folder, head(1))
    _, _, provenance = pretrained_parameters(folder)
    assert provenance["ignored_tensors"] == {"lm_head.weight": "equal to model.embed_tokens.weight"}


def test_a_config_that_disagrees(folder):
    write(folder, num_key_value_heads=1)
    with pytest.raises(UserError, match=r"k_proj\.weight' is \[8, 8\], the config that disagrees asks for \[4, 8\]"):
        pretrained_parameters(folder)


@pytest.mark.parametrize(
    "place", ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", "", "a\\b", "C:x"]
)
def test_an_index_cannot_point_elsewhere(place, folder):
    save_file({"model.norm.weight": np.ones(8, np.float32)}, folder.parent / "x.safetensors")
    index = shard(folder)
    index["weight_map"]["model.norm.weight"] = place
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(
        UserError, match=r"index\.json: 'model\.norm\.weight' lies in .*; only files of the folder itself"
    ):
        pretrained_parameters(folder)


def test_an_index_that_does_not_fit(folder):
    index = shard(folder)
    first = index["weight_map"]["model.norm.weight"]
    other = next(file for file in index["weight_map"].values() if file != first)
    for change, message in [
        ({"model.norm.weight": other}, r"tensor 'model\.norm\.weight' is (missing, the index|not in the index)"),
        ({"more": other}, "tensor 'more' is missing, the index puts it there"),
        ({"more": "gone.safetensors"}, r"gone\.safetensors is missing"),
    ]:
        (folder / INDEX).write_text(json.dumps({"weight_map": index["weight_map"] | change}))
        with pytest.raises(UserError, match=message):
            pretrained_parameters(folder)
    for text in ("{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}'):
        (folder / INDEX).write_text(text)
        with pytest.raises(UserError, match=r"index\.json has no weight_map of tensors to files"):
            pretrained_parameters(folder)


def test_pickle_is_never_read(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no weights: neither model\.safetensors nor model\.safetensors\.index"):
        pretrained_parameters(folder)
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(
        UserError, match=r"pickle \(pytorch_model\.bin\), which is never read.*convert it to safetensors"
    ):
        pretrained_parameters(folder)


def test_a_truncated_or_damaged_file(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    n = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + n])
    name = "model.norm.weight"

    def with_header(change):
        text = json.dumps(header | change).encode()
        return struct.pack("<Q", len(text)) + text + whole[8 + n :]

    start, end = header[name]["data_offsets"]
    for data, message in [
        (whole[:5], "is truncated or no safetensors file"),
        (whole[: n // 2], "is truncated or no safetensors file: its header should have"),
        (whole[:-4], "is truncated or damaged: it should have"),
        (whole + b"\0", "is truncated or damaged: it should have"),
        (struct.pack("<Q", 1 << 60) + whole[8:], "is truncated or no safetensors file"),
        (whole[:8] + b"]" + whole[9:], "is damaged: its header is not JSON"),
        (struct.pack("<Q", n) + b"\xff" + whole[9:], "is damaged: its header is not JSON"),
        (struct.pack("<Q", 2) + b"[]", "is damaged: its header is a JSON list"),
        (with_header({name: 3}), f"the header's entry for tensor '{name}' is 3"),
        (with_header({name: {**header[name], "shape": [-8]}}), f"entry for tensor '{name}' is"),
        (with_header({name: {**header[name], "shape": [9]}}), f"tensor '{name}' .F32 .9.. does not fit its 32 bytes"),
        (with_header({name: {**header[name], "dtype": "F31"}}), f"tensor '{name}' is of type 'F31'; supported: F64"),
        (with_header({name: {**header[name], "data_offsets": [0, 32]}}), "begins at byte"),
    ]:
        path.write_bytes(data)
        with pytest.raises(UserError, match=message):
            pretrained_parameters(folder)
    path.write_bytes(whole)
    pretrained_parameters(folder)
    assert end - start == 32


def test_a_folder_without_a_config(folder):
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"holds no model: config\.json is missing"):
        pretrained_parameters(folder)
    with pytest.raises(
        UserError, match=r"holds no model: config\.json is missing; give a folder that `jaxinterp train`"
    ):
        load_model(folder)


@pytest.fixture
def with_tokenizer(folder):
    words = {word: id for id, word in enumerate(["<unk>", "<end>", "a", "b"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.add_special_tokens(["<end>"])
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_a_folder_with_its_tokenizer(with_tokenizer):
    model = load_pretrained(with_tokenizer, revision="0123")
    assert model.tokenizer.encode("a b") == [2, 3]
    assert model.config.d_vocab == 13  # rows that pad the vocabulary are no mistake
    assert model.provenance == {
        "source": str(with_tokenizer),
        "format": "safetensors",
        "family": "llama",
        "ignored_tensors": {},
        "fields_not_read": [],
        "revision": "0123",
    }
    again = load_model(with_tokenizer, dtype="bfloat16")
    assert (again.config.dtype, again.params["embedding"].dtype) == ("bfloat16", jnp.bfloat16)


def test_a_folder_without_a_tokenizer(folder):
    with pytest.raises(UserError, match="tokenizer"):
        load_pretrained(folder)
