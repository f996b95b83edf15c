"""From a folder of safetensors to parameters: what is read, where it goes, and what is wrong with a folder."""

import dataclasses
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
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from jaxinterp.base.errors import UserError
from jaxinterp.models.loading import weights
from jaxinterp.models.loading.bundle import load_model, save_model
from jaxinterp.models.loading.load import load_pretrained, pretrained_parameters
from jaxinterp.models.loading.safetensors_file import SafetensorsFile
from jaxinterp.models.model import parameter_shapes

INDEX = "model.safetensors.index.json"
EMBEDDING = "model.embed_tokens.weight"


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

    def placement(config):
        def place(path, _):
            named = path[-1].key == "w_in"
            spec = jax.sharding.PartitionSpec(None, None, "x") if named else jax.sharding.PartitionSpec()
            return jax.sharding.NamedSharding(mesh, spec)

        return jax.tree_util.tree_map_with_path(place, parameter_shapes(config))

    _, expected, _ = pretrained_parameters(folder)
    _, params, _ = pretrained_parameters(folder, placement=placement)
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


LAST = {  # the unembedding's name, and the embedding's, as files have them
    "llama": ("lm_head.weight", "model.embed_tokens.weight"),
    "qwen2": ("lm_head.weight", "model.embed_tokens.weight"),
    "qwen3": ("lm_head.weight", "model.embed_tokens.weight"),
    "gemma2": ("lm_head.weight", "model.embed_tokens.weight"),
    "gemma3": ("lm_head.weight", "model.embed_tokens.weight"),
    "gemma3_of_images": ("language_model.lm_head.weight", "language_model.model.embed_tokens.weight"),
    "gpt2": ("lm_head.weight", "transformer.wte.weight"),
    "neox": ("lm_head.weight", "gpt_neox.embed_in.weight"),
    "bert": ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
}


@pytest.mark.parametrize("name", LAST)
def test_tied_weights_that_are_stored_under_the_other_name(name, tmp_path):
    """Which of the two names of one tensor is kept differs from file to file."""
    last, first = LAST[name]
    folder = write(tmp_path, name, tie_word_embeddings=True)
    published.rewrite(folder, lambda tensors: {k: v for k, v in tensors.items() if k not in (last, "embed_out.weight")})
    assert first in load_file(folder / "model.safetensors")
    _, expected, _ = pretrained_parameters(folder)
    published.rewrite(folder, lambda tensors: {last if k == first else k: v for k, v in tensors.items()})
    _, found, provenance = pretrained_parameters(folder)
    jax.tree.map(np.testing.assert_array_equal, expected, found)
    assert not {last, first} & provenance["ignored_tensors"].keys()
    if name not in ("gemma3_of_images",):  # which has no untied form
        write(tmp_path, name, tie_word_embeddings=False)
        published.rewrite(
            folder,
            lambda tensors: {last if k == first else k: v for k, v in tensors.items() if k != "embed_out.weight"},
        )
        with pytest.raises(UserError, match=r"is missing; the config asks for it"):
            pretrained_parameters(folder)


@pytest.mark.parametrize("name", published.CASES)
def test_buffers_of_rotary_positions_are_ignored_in_every_family(name, tmp_path):
    _, expected, _ = pretrained_parameters(write(tmp_path, name))
    ends = ("inv_freq", "original_inv_freq", "full_attention_inv_freq", "cos_cached")
    names = {f"{start}rotary_emb.{end}" for start in ("model.", "model.layers.0.self_attn.") for end in ends}
    names |= {"model.rotary_emb_local.inv_freq", "rotary_emb.of_the_model_inv_freq"}
    published.rewrite(tmp_path, lambda tensors: tensors | {name: np.ones(2, np.float32) for name in names})
    _, found, provenance = pretrained_parameters(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, expected, found)
    assert names <= provenance["ignored_tensors"].keys()


def test_the_text_half_under_old_and_new_names(tmp_path):
    """Images' tensors are named as ignored; names were changed between versions of transformers."""
    _, expected, provenance = pretrained_parameters(write(tmp_path, "gemma3_of_images"))
    ignored = provenance["ignored_tensors"]
    assert ignored and set(ignored.values()) == {"of images, which are not read"}

    def new(tensors):
        names = {name: name.replace("language_model.model.", "language_model.") for name in tensors}
        head = {"lm_head.weight": tensors["language_model.model.embed_tokens.weight"]}
        return {f"model.{names[name]}": value for name, value in tensors.items()} | head

    published.rewrite(tmp_path, new)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert {"model.language_model.norm.weight", "model.multi_modal_projector.mm_soft_emb_norm.weight"} <= names
    _, found, provenance = pretrained_parameters(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, expected, found)
    assert provenance["ignored_tensors"]["lm_head.weight"] == "equal to model.language_model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("prefix", "origin"),
    [("_orig_mod.", "torch.compile"), ("module.", "data parallelism"), ("base_model.model.", "peft")],
)
def test_names_from_inside_another_object(prefix, origin, folder):
    published.rewrite(folder, lambda tensors: {prefix + name: value for name, value in tensors.items()})
    with pytest.raises(
        UserError, match=rf"begin with '{prefix}', which .*{origin}.*puts there; save the weights again"
    ):
        pretrained_parameters(folder)


def test_an_adapter_is_never_passed_over(folder):
    """Neither beside whole weights, to which it would add something, nor alone."""
    adapter = folder / "adapter_config.json"
    adapter.write_text(json.dumps({"base_model_name_or_path": "org/base", "peft_type": "LORA"}))
    message = r"has an adapter \(adapter_config\.json\) to 'org/base', which is not applied; merge it"
    for load in (pretrained_parameters, load_model):
        with pytest.raises(UserError, match=message):
            load(folder)
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    (folder / "adapter_model.safetensors").write_bytes(b"")
    for load in (pretrained_parameters, load_model):
        with pytest.raises(UserError, match=message):
            load(folder)


def test_a_pointer_instead_of_a_file(folder):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 269060552\n"
    config = (folder / "config.json").read_bytes()
    for name in ("model.safetensors", "config.json"):
        (folder / name).write_bytes(pointer)
        with pytest.raises(UserError, match=rf"{name} is a Git LFS pointer, not the file itself; run `git lfs pull`"):
            pretrained_parameters(folder)
        (folder / "config.json").write_bytes(config)


def test_parts_without_their_index(folder):
    shard(folder)
    (folder / INDEX).unlink()
    with pytest.raises(
        UserError, match=r"parts of the weights \(model-00001-of-00003\.saf.*but no model\.safetensors\.ind"
    ):
        pretrained_parameters(folder)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    (folder / "weights.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"\(it has weights\.safetensors; rename the model's to model\.safetensors\)"):
        pretrained_parameters(folder)


def test_objects_too_deep_in_one_another(folder):
    deep = b'{"a":' * 200_000 + b"1" + b"}" * 200_000
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(deep)) + deep)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged: the objects of its header lie too deep"):
        pretrained_parameters(folder)
    (folder / "model.safetensors").write_bytes(data)
    (folder / "config.json").write_bytes(deep)
    with pytest.raises(UserError, match=r"config\.json cannot be read as JSON: its objects lie too deep"):
        pretrained_parameters(folder)


@pytest.mark.parametrize(
    ("name", "field", "message"),
    [
        ("llama", "num_hidden_layers", r"num_hidden_layers is {}, but there are only 20 tensors in"),
        ("gpt2", "n_layer", "n_layer is {}, but there are only"),
        ("gpt2", "num_hidden_layers", "num_hidden_layers is {}, but there are only"),
        ("qwen2", "num_hidden_layers", "num_hidden_layers is {}, but there are only"),
        ("llama", "hidden_size", "the residual width is {}, but the largest tensor in .* has only 104 numbers"),
        ("llama", "intermediate_size", "the FFN width is {}, but the largest tensor"),
        ("bert", "vocab_size", "the vocabulary is {}, but the largest tensor"),
        ("qwen3", "head_dim", "the width of all heads is .*, but the largest tensor"),
        ("bert", "max_position_embeddings", "the context is {}, but the largest tensor"),
    ],
)
def test_absurd_sizes_are_compared_with_the_file_first(name, field, message, tmp_path):
    with pytest.raises(UserError, match=message.format(2_000_000_000)):
        pretrained_parameters(write(tmp_path, name, **{field: 2_000_000_000}))


@pytest.mark.parametrize(
    ("name", "field", "own"),
    [
        ("llama", "hidden_size", "d_model"),
        ("bert", "vocab_size", "d_vocab"),
        ("qwen3", "head_dim", "d_head"),
        ("llama", "max_position_embeddings", "n_ctx"),
        ("gemma3", "sliding_window", "window"),
    ],
)
@pytest.mark.parametrize("size", [10**12, 10**400], ids=["12", "400"])
def test_sizes_that_no_model_has(name, field, own, size, tmp_path):
    with pytest.raises(UserError, match=rf"config\.json: model.*\.{own} .*2147483647, got 10000"):
        pretrained_parameters(write(tmp_path, name, **{field: size}))


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
        (with_header({name: {**header[name], "dtype": ["F32"]}}), f"entry for tensor '{name}' is"),
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


def test_a_token_more_than_rows(folder, with_tokenizer):
    """Gemma 3's vocabulary has one: the model loads, and a text that needs it is refused."""
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.add_tokens(["picture", *(f"t{i}" for i in range(8))])
    backend.add_special_tokens(["<pad>"])
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": "<pad>"}))
    model = load_model(folder)
    assert (model.tokenizer.n_tokens, model.config.d_vocab) == (14, 13)
    assert model.tokenizer.encode_batch(["a b", "picture t7"]) == [[2, 3], [4, 12]]
    assert model.tokenizer.pad < 13  # never looked at, so that another token stands in
    # One row fewer, and "t7" is beyond.
    published.rewrite(folder, lambda tensors: tensors | {EMBEDDING: tensors[EMBEDDING][:12]})
    (folder / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()) | {"vocab_size": 12})
    )
    model = load_model(folder)
    assert model.tokenizer.encode("picture") == [4]
    message = (
        "'picture t7' needs the token 't7' with id 12, but the model's embedding has 12 rows only; reword the text"
    )
    with pytest.raises(UserError, match=message):
        model.tokenizer.encode_batch(["a", "picture t7"])
    save_model(folder.parent / "own", model)
    with pytest.raises(UserError, match=message):
        load_model(folder.parent / "own").tokenizer.encode("picture t7")


def test_a_frame_beyond_the_rows_is_refused(folder, with_tokenizer):
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "t8",
        "eos_token": "<end>",
    }
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.add_tokens([f"t{i}" for i in range(9)])
    backend.post_processor = processors.TemplateProcessing(single="t8 $A", special_tokens=[("t8", 12)])
    backend.save(str(folder / "tokenizer.json"))
    published.rewrite(folder, lambda tensors: tensors | {EMBEDDING: tensors[EMBEDDING][:12]})
    (folder / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()) | {"vocab_size": 12})
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="the tokenizer's prefix is id 12, but the embedding has 12 rows only"):
        load_model(folder)


def test_a_masked_model_s_tokenizer_has_a_mask(tmp_path):
    """Without one it was taken for a causal model, and read one position early, with the answer in sight."""
    folder = write(tmp_path, "bert")
    words = {word: id for id, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"])}
    for left_out in (None, "[MASK]"):
        backend = Tokenizer(models.WordLevel({w: i for w, i in words.items() if w != left_out}, unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        frame = [(token, words[token]) for token in ("[CLS]", "[SEP]")]
        backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=frame)
        backend.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "model_max_length": 512}')
        if left_out is None:
            tokenizer = load_model(folder).tokenizer
            assert (tokenizer.mask, tokenizer.unk, tokenizer.pad) == (4, 1, 0)
        else:
            with pytest.raises(UserError, match="is a masked language model, but its tokenizer has no mask"):
                load_model(folder)


def test_fields_that_nobody_read_are_told_in_one_line(with_tokenizer, capsys):
    load_model(with_tokenizer)
    assert capsys.readouterr() == ("", "")
    config = json.loads((with_tokenizer / "config.json").read_text())
    (with_tokenizer / "config.json").write_text(json.dumps(config | {"attention_of_the_future": 3, "more": {}}))
    model = load_model(with_tokenizer)
    fields = "attention_of_the_future, more"
    line = f"{with_tokenizer}: these fields of its config are not known here and were not read: {fields}\n"
    assert capsys.readouterr() == ("", line)
    own = with_tokenizer.parent / "own"
    save_model(own, dataclasses.replace(model, provenance={"original": dict(model.provenance)}))
    load_model(own)
    assert capsys.readouterr().err == line.replace(str(with_tokenizer), str(own))


def test_a_folder_without_a_tokenizer(folder):
    with pytest.raises(UserError, match="tokenizer"):
        load_pretrained(folder)
