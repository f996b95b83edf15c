"""Models in the layout of transformers: what was read is written bit for bit, and what is written is read so."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import published
import pytest
from safetensors.numpy import save_file
from tiny import ARCHITECTURES, tiny_config, tiny_params
from transformers import AutoConfig

from jaxinterp.base.errors import UserError
from jaxinterp.models.config import PRESETS, RopeScaling, preset
from jaxinterp.models.families import gpt2, llama
from jaxinterp.models.families.registry import FAMILIES, hf_family
from jaxinterp.models.families.writing import inverse_square
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.loading import export, expressing
from jaxinterp.models.loading.export import export_model
from jaxinterp.models.loading.expressing import canonical, family_for, inexpressible
from jaxinterp.models.loading.load import pretrained_parameters
from jaxinterp.models.loading.safetensors_file import SafetensorsFile
from jaxinterp.models.loading.weights import names_in, unstacked_shapes, wanted_tensors
from jaxinterp.models.model import Model
from jaxinterp.models.tokenizer_training import train_tokenizer
from jaxinterp.models.transformer import forward

TOKENIZER = train_tokenizer(["a b c d e f g h i j"])
SECOND = dataclasses.replace(TOKENIZER, pad=1)  # RoBERTa counts positions from the padding's id
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def write(folder, name, dtype="float32"):
    """The folder of a case, with every second tensor in another type than the first where two are given."""
    record, types = published.golden(name), [DTYPES[kind] for kind in dtype.split("+")]
    named = published.shapes(record)
    published.write_checkpoint(folder, record["config"], named)
    values = {
        name: published.seeded(name, shape).astype(types[i % len(types)])
        for i, (name, shape) in enumerate(named.items())
    }
    save_file(values, folder / "model.safetensors")
    return folder


def loaded(folder, dtype="float32"):
    config, params, provenance = pretrained_parameters(folder, dtype=dtype)
    masked = json.loads((folder / "config.json").read_text())["model_type"] == "roberta"
    return LanguageModel(Model(config, params), SECOND if masked else TOKENIZER, provenance)


def own(**fields):
    config = tiny_config(d_vocab=TOKENIZER.n_tokens, **fields)
    return LanguageModel(Model(config, tiny_params(config)), TOKENIZER, {})


def with_params(model, params):
    return dataclasses.replace(model, model=Model(model.config, params))


def assert_same_bits(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert (a.dtype, a.shape, np.asarray(a).tobytes()) == (b.dtype, b.shape, np.asarray(b).tobytes())


def assert_same_model(model, folder):
    config, params, provenance = pretrained_parameters(folder, dtype=model.config.dtype)
    assert_same_bits(model.params, params)
    assert canonical(config) == canonical(model.config)
    assert provenance["fields_not_read"] == []


def assert_transformers_reads(folder, config):
    read = AutoConfig.from_pretrained(folder)
    n_before = 2 if read.model_type == "roberta" else 0  # rows of positions before the first
    sizes = (read.hidden_size, read.num_hidden_layers, read.num_attention_heads, read.vocab_size)
    assert sizes == (config.d_model, config.n_layers, config.n_heads, config.d_vocab)
    assert read.max_position_embeddings == config.n_ctx + n_before
    assert read.tie_word_embeddings == config.tied


def tensors(folder):
    file = SafetensorsFile(folder)
    return {name: (file.tensors[name].dtype, file.rows(name, 0, shape[0])) for name, shape in file.shapes.items()}


def names_of(folder, config):
    """The folder's names of the tensors that parameters come from, by those of the family."""
    layout = hf_family(json.loads((folder / "config.json").read_text()), "").hf
    wanted = wanted_tensors(config, layout.sources(config, unstacked_shapes(config)))
    names = names_in(SafetensorsFile(folder), layout, wanted)
    return {short: names[short] for short in wanted}


CASES = [(name, "float32") for name in published.CASES]
CASES += [("gemma2", "bfloat16"), ("bert", "float16"), ("gptj", "float16"), ("phi3", "bfloat16+float32")]


def test_every_family_has_a_way_back():
    written = {published.CASES[name]["model_type"] for name, _ in CASES}
    assert {kind for family in FAMILIES for kind in family.model_types} == written
    assert {family.name for family in expressing.writable_families()} == {family.name for family in FAMILIES}


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_a_published_folder_comes_back_bit_for_bit(name, dtype, tmp_path):
    folder = write(tmp_path / "published", name, dtype)
    model = loaded(folder)
    exported = export_model(tmp_path / "exported", model)
    before, after = tensors(folder), tensors(tmp_path / "exported")
    names, names_after = names_of(folder, model.config), names_of(tmp_path / "exported", model.config)
    for short in names:
        (kind, value), (kind_after, value_after) = before[names[short]], after[names_after[short]]
        assert (kind, value.shape, value.tobytes()) == (kind_after, value_after.shape, value_after.tobytes()), short
    if name != "gemma3_of_images":  # whose text half has other names where it stands alone
        assert after.keys() == before.keys() - model.provenance["ignored_tensors"].keys()
    assert exported.family == model.provenance["family"] and exported.n_tensors == len(after) == len(names)
    assert_same_model(model, tmp_path / "exported")


@pytest.mark.parametrize("name", published.CASES)
def test_a_model_that_has_changed_is_read_as_it_is(name, tmp_path):
    """No tensor is the published one, so that all are made from parameters."""
    model = loaded(write(tmp_path / "published", name))
    params = jax.tree.map(lambda leaf: 0.75 * leaf, model.params)
    if name == "modernbert":  # what the first layer does not have
        params["layers"]["norm_attn"]["scale"] = params["layers"]["norm_attn"]["scale"].at[0].set(1)
    changed = with_params(model, params)
    if name.startswith("gemma"):  # scales near 0 are no 1 + weight; see the test of rounding
        changed = with_params(model, jax.tree.map(lambda leaf: jnp.round(leaf, 2) + 2, model.params))
    assert export_model(tmp_path / "exported", changed).family == model.provenance["family"]
    assert_same_model(changed, tmp_path / "exported")
    assert_transformers_reads(tmp_path / "exported", model.config)


OWN = {"gpt": "gpt2", "llama": "llama", "relu": "opt", "neox": "neox", "bert": "bert", "olmo": "olmo2"}


@pytest.mark.parametrize("name", [*OWN, "modernbert"])
def test_a_model_of_our_own(name, tmp_path):
    model = own(**ARCHITECTURES[name])
    if name == "modernbert":
        model.params["head"]["b_head"] = jnp.zeros_like(model.params["head"]["b_head"])
        model.params["layers"]["norm_attn"]["scale"] = model.params["layers"]["norm_attn"]["scale"].at[0].set(1)
    exported = export_model(tmp_path / "exported", model)
    assert (exported.family, exported.dtype, exported.notes) == (OWN.get(name, name), "float32", ())
    assert_same_model(model, tmp_path / "exported")
    assert_transformers_reads(tmp_path / "exported", model.config)


def test_the_type_of_our_own_parameters(tmp_path):
    model = own(**ARCHITECTURES["llama"], dtype="bfloat16")
    assert export_model(tmp_path / "exported", model).dtype == "bfloat16"
    assert_same_model(model, tmp_path / "exported")


def test_a_file_that_cannot_be_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(export, "save_file", full)
    with pytest.raises(UserError, match=r"cannot write model\.safetensors: No space left on device"):
        export_model(tmp_path / "exported", own())
    assert not list(tmp_path.iterdir())


def test_logits_are_the_same_array(tmp_path):
    model = own()
    export_model(tmp_path / "exported", model)
    config, params, _ = pretrained_parameters(tmp_path / "exported")
    program = jax.jit(forward)
    first, second = (program(m, jnp.array([[1, 5, 3, 2]])).logits_BTV for m in (model.model, Model(config, params)))
    assert np.asarray(first).tobytes() == np.asarray(second).tobytes()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_a_family(name):
    assert family_for(preset(name, d_vocab=50, n_ctx=8)).name == ("llama" if name == "7b" else "gpt2")


LLAMA = ARCHITECTURES["llama"]
GEMMA = ARCHITECTURES["gemma"] | {"rope_theta": 1e6, "embed_scale": 8**0.5}
FOUND = [
    (LLAMA | {"rope_scaling": RopeScaling("yarn", 2.0, original_n_ctx=4, amplitude=1.25)}, "llama"),
    (LLAMA | {"rope_scaling": RopeScaling("llama3", 2.0, original_n_ctx=4, beta_fast=9.0)}, "llama"),
    (LLAMA | {"window": 3, "local_layers": (0, 1, 2)}, "mistral"),
    (LLAMA | {"window": 8, "local_layers": (0, 1, 2)}, "llama"),  # as long as the context, so none
    (LLAMA | {"window": 3, "local_layers": (1,), "qkv_bias": True}, "qwen2"),
    (LLAMA | {"window": 3, "local_layers": (1,), "qk_norm": True}, "qwen3"),
    (LLAMA | {"rope_share": 0.5}, "phi3"),
    (LLAMA | {"attn_scale": 0.5, "norm_bias": False}, "llama"),  # 0.5 = 4^-1/2; no bias in an RMSNorm anyway
    (GEMMA | {"qk_norm": False, "rope_theta_local": None}, "gemma2"),
    (GEMMA | {"attn_softcap": None}, "gemma3"),
    ({"rope_theta": 5.0, "window": 3, "attn_scale": 1.0}, "gpt2"),
    ({"attn_scale": 1.0, "window": 3, "local_layers": (0, 2), "qkv_bias": False}, "gpt_neo"),
    (ARCHITECTURES["neox"] | {"rope_share": 0.7}, "neox"),
]


@pytest.mark.parametrize(("fields", "name"), FOUND)
def test_the_family_of_a_config(fields, name):
    assert family_for(tiny_config(**fields)).name == name


REFUSED = [
    (GEMMA, r"has all that this model has; the nearest, gemma[23], lacks model\.(qk_norm True|attn_softcap 5\.0)"),
    (ARCHITECTURES["gemma"], r"no family of transformers has model\.embed_scale 2\.0; such a model cannot be exported"),
    ({"n_kv_heads": 1}, r"the nearest, gpt2, lacks model\.n_kv_heads 1$"),
    ({"attn_softcap": 3.0}, r"the nearest, gpt2, lacks model\.attn_softcap 3\.0$"),
    ({"n_heads": 3, "n_kv_heads": 3}, "a width of 8 cannot be divided among 3 heads; the nearest"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_a_config_that_no_family_can_express(fields, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        export_model(tmp_path / "exported", own(**fields))
    assert len(str(caught.value)) <= 300
    assert not (tmp_path / "exported").exists()


def test_a_family_by_name(tmp_path):
    model = own(**LLAMA)
    assert export_model(tmp_path / "exported", model, family="phi3").family == "phi3"
    assert_same_model(model, tmp_path / "exported")
    with pytest.raises(
        UserError, match=r"the family gpt2 cannot express this model: it does not have model\.n_kv_heads"
    ):
        export_model(tmp_path / "other", model, family="gpt2")
    with pytest.raises(UserError, match="the family opt cannot express this model: a width of 8 cannot be divided"):
        export_model(tmp_path / "other", own(n_heads=3, n_kv_heads=3), family="opt")
    with pytest.raises(UserError, match=r"unknown family 'lama'; known: bert, .*did you mean llama\?"):
        export_model(tmp_path / "other", model, family="lama")


def test_padding_that_a_family_counts_positions_from(tmp_path):
    model = own(**ARCHITECTURES["bert"])
    with pytest.raises(UserError, match="the padding's id, which has to be 1; the tokenizer's is 0"):
        export_model(tmp_path / "exported", model, family="roberta")
    export_model(tmp_path / "exported", dataclasses.replace(model, tokenizer=SECOND), family="roberta")
    assert_same_model(model, tmp_path / "exported")


def test_a_folder_with_files_is_left_alone(tmp_path):
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(UserError, match="exists and has files; give a new folder"):
        export_model(tmp_path, own())
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_parameters_that_are_one_tensor_have_to_agree(tmp_path):
    model = loaded(write(tmp_path / "published", "gptj"))
    model.params["layers"]["norm_mlp"]["scale"] = model.params["layers"]["norm_mlp"]["scale"].at[1, 0].add(1)
    with pytest.raises(
        UserError, match=r"of layer 1 cannot be exported to the family gptj: its tensor there, h\.1\.ln_1"
    ):
        export_model(tmp_path / "exported", model)
    assert not (tmp_path / "exported").exists()


def test_parameters_that_a_family_lacks(tmp_path):
    model = own(**ARCHITECTURES["modernbert"])
    with pytest.raises(
        UserError, match=r"head\.b_head cannot .* modernbert, which has no such parameter: all of it is 0"
    ):
        export_model(tmp_path / "exported", model)
    model.params["head"]["b_head"] = jnp.zeros_like(model.params["head"]["b_head"])
    notes = export_model(tmp_path / "exported", model).notes
    assert notes == ("left out, as nothing computes with it: layers.norm_attn.scale of layer 0",)


def test_a_family_without_a_way_back(tmp_path, monkeypatch):
    """A layout that combines tensors by copying, and says nothing else."""

    def copying(config, shapes):
        found = llama.FAMILY.hf.sources(config, shapes)
        found["layers.w_q"] = dataclasses.replace(
            found["layers.w_q"], combine=lambda x, shape=shapes["layers.w_q"]: x.T.reshape(shape).copy()
        )
        return found

    family = dataclasses.replace(llama.FAMILY, hf=dataclasses.replace(llama.FAMILY.hf, sources=copying))
    monkeypatch.setattr(expressing, "all_families", lambda: (family,))
    message = r"the family llama does not say how layers\.w_q becomes layers\.0\.self_attn\.q_proj\.weight"
    with pytest.raises(UserError, match=message):
        export_model(tmp_path / "exported", own(**LLAMA))
    readable = dataclasses.replace(gpt2.FAMILY, hf=dataclasses.replace(gpt2.FAMILY.hf, fields=None))
    with pytest.raises(UserError, match="models of the family gpt2 are read alone"):
        inexpressible(tiny_config(), readable)


def test_the_type_of_the_file_as_long_as_it_holds_the_numbers(tmp_path):
    model = loaded(write(tmp_path / "published", "llama", "bfloat16"))
    assert export_model(tmp_path / "same", model).dtype == "bfloat16"
    assert json.loads((tmp_path / "same" / "config.json").read_text())["dtype"] == "bfloat16"
    changed = with_params(model, {**model.params, "embedding": model.params["embedding"].at[0, 0].set(1 + 2.0**-20)})
    assert export_model(tmp_path / "changed", changed).dtype == "float32"
    assert_same_model(changed, tmp_path / "changed")
    narrow = loaded(write(tmp_path / "wide", "llama"), "bfloat16")
    assert export_model(tmp_path / "narrow", narrow).dtype == "float32"
    assert_same_model(narrow, tmp_path / "narrow")


def test_scales_that_no_weight_gives_are_named(tmp_path):
    """In float32 no w has 1 + w = 0.1: those that there are between -1 and -0.5 lie 2^-24 apart."""
    model = loaded(write(tmp_path / "published", "gemma2"))
    model.params["norm_final"]["scale"] = model.params["norm_final"]["scale"].at[3].set(0.1)
    made, rounded = export_model(tmp_path / "exported", model).notes
    assert made == "made anew from parameters that have changed: norm.weight"
    assert re.fullmatch(r"rounded, by at most \S+e-0[89]: norm_final\.scale", rounded)
    _, params, _ = pretrained_parameters(tmp_path / "exported")
    off = np.abs(params["norm_final"]["scale"] - model.params["norm_final"]["scale"])
    assert 0 < off.max() < 2.0**-24 and (off > 0).sum() == 1


def test_the_folder_that_a_model_is_from_may_be_gone(tmp_path):
    folder = write(tmp_path / "published", "bert")
    model = loaded(folder)
    (tmp_path / "published").rename(tmp_path / "elsewhere")
    (note,) = export_model(tmp_path / "exported", model).notes
    assert note == f"made anew from parameters, where these do not hold all of a tensor: {folder} is gone"
    assert_same_model(model, tmp_path / "exported")


def test_a_fine_tuned_model_goes_back_to_the_family_of_its_original(tmp_path):
    model = loaded(write(tmp_path / "published", "phi3"))
    tuned = dataclasses.replace(model, provenance={"original": {"original": dict(model.provenance)}})
    assert export_model(tmp_path / "exported", tuned).family == "phi3"
    from_gguf = dataclasses.replace(model, provenance={"format": "gguf", "family": "llama", "source": "model.gguf"})
    assert export_model(tmp_path / "llama", from_gguf).family == "llama"
    assert_same_model(model, tmp_path / "llama")


def test_what_was_not_read_is_named(tmp_path):
    exported = export_model(tmp_path / "exported", loaded(write(tmp_path / "published", "gemma3_of_images")))
    (note,) = exported.notes
    assert re.fullmatch(r"left out, as it was not read \(of images, .*\): (multi_modal|vision_tower).* more", note)


def test_both_names_of_an_unembedding_s_bias(tmp_path):
    """transformers asks for both where they are not tied, and reads the decoder's."""
    export_model(tmp_path / "exported", own(**ARCHITECTURES["bert"] | {"tied": False}))
    file = tensors(tmp_path / "exported")
    np.testing.assert_array_equal(file["cls.predictions.decoder.bias"][1], file["cls.predictions.bias"][1])


@pytest.mark.parametrize("scale", [256**-0.5, 5**-0.5, 0.3, 0.1234567, 7.0])
def test_inverse_squares_give_the_scale_again(scale):
    assert inverse_square(scale) ** -0.5 == scale


def test_whole_inverse_squares_are_whole_numbers():
    assert isinstance(inverse_square(224**-0.5), int)
    assert inverse_square(0.0) == inverse_square(-1.0) == 1.0  # there is none
