"""Every family reads config.json as transformers does, or refuses it; its own classes are the reference."""

import importlib.util
import itertools
import json
import re
from pathlib import Path

import published
import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from jaxinterp.base.errors import UserError
from jaxinterp.models.config import RopeScaling
from jaxinterp.models.families.common import refuse_what_no_family_has
from jaxinterp.models.families.family import TensorFile
from jaxinterp.models.families.fields import INERT, Fields
from jaxinterp.models.families.registry import FAMILIES, hf_family
from jaxinterp.models.loading.load import pretrained_parameters

MODEL_TYPES = sorted(model_type for family in FAMILIES for model_type in family.model_types)
# A case of tests/published.py for each model type.
CASES = {config["model_type"]: config for config in reversed(published.CASES.values())}


def read(config):
    """Our config, and the fields it was read from."""
    family = hf_family(config, "config.json")
    fields = Fields(json.loads(json.dumps(config)), "config.json", aliases=family.hf.aliases)
    found = family.hf.config(fields, TensorFile())
    refuse_what_no_family_has(fields, found.attention)
    return found, fields


LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FLAT = [
    None,
    {},
    {"rope_type": "default", "rope_theta": 5e5},
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "linear", "factor": 8.0, "rope_theta": 7.0},
    {"type": "linear", "factor": 4.0},
    {"type": "linear", "rope_type": "default", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "default", "partial_rotary_factor": 0.5},
    LLAMA3,
    LLAMA3 | {"original_max_position_embeddings": 8},
    {"type": "yarn", "factor": 4.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "attention_factor": 1.5},
]
BY_LAYER_TYPE = [
    {"full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 9.0}, "sliding_attention": {}},
    {"full_attention": {"rope_type": "default"}, "sliding_attention": {"rope_type": "default", "rope_theta": 3.0}},
    {"sliding_attention": {"rope_type": "default", "rope_theta": 3.0}},
    {"full_attention": None, "sliding_attention": None},
]


def theirs(config):
    """Kind, base, base of local layers, factor, context of pretraining and share that rotates, as transformers has it.

    None if transformers cannot read the config.
    """
    config = json.loads(json.dumps(config))
    try:
        rope = AutoConfig.for_model(config.pop("model_type"), **config).rope_parameters
        local = rope["sliding_attention"] if "full_attention" in rope else None
        rope = rope if local is None else rope["full_attention"]
        kind = rope["rope_type"]
        context = rope["original_max_position_embeddings"] if kind in ("llama3", "yarn") else None
        theta_local = None if local is None else local["rope_theta"]
        factor = None if kind == "default" else rope["factor"]
    except (KeyError, AttributeError, StrictDataclassClassValidationError):
        return None
    return kind, rope["rope_theta"], theta_local, factor, context, rope.get("partial_rotary_factor", 1.0)


@pytest.mark.parametrize("case", ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "neox", "mistral", "phi3", "olmo2"])
def test_rotary_fields_mean_what_they_mean_in_transformers(case):
    """All combinations of the base beside and inside, `rope_parameters` and `rope_scaling`: the same, or refused."""
    gone = ("rope_theta", "rope_scaling", "rope_local_base_freq", "rotary_emb_base", "rotary_pct")
    gone += ("sliding_window_pattern",)
    base = {name: value for name, value in published.CASES[case].items() if name not in gone}
    if case in ("mistral", "phi3"):
        base["sliding_window"] = None  # scaled windows are refused
    if case == "neox":
        base["num_attention_heads"] = 1  # so that a quarter of a head is even
    n_obeyed, of_kind = 0, set()
    for theta, new, old in itertools.product((None, 100.0), FLAT + BY_LAYER_TYPE, FLAT):
        given = {"rotary_emb_base" if case == "neox" else "rope_theta": theta, "rope_parameters": new}
        given |= {"rope_scaling": old}
        config = base | {name: value for name, value in given.items() if value is not None}
        try:
            found, _ = read(config)
        except UserError:
            continue
        expected = theirs(config)
        if expected is None:
            continue
        scaling = found.rope_scaling
        kind = scaling.kind if scaling else "dynamic" if expected[0] == "dynamic" else "default"
        factor = scaling.factor if scaling else expected[3]
        context = scaling.original_n_ctx if kind in ("llama3", "yarn") else None
        ours = (kind, found.rope_theta, found.rope_theta_local, factor, context, found.rope_share)
        assert ours == expected, given
        n_obeyed, of_kind = n_obeyed + 1, of_kind | {kind}
    # What would show that the loop is empty: Gemma 2 has windows, which are never scaled, Gemma 3 has no yarn.
    least = {"gemma2": 60, "gemma3": 40, "phi3": 40}.get(case, 300)
    assert n_obeyed >= least
    kinds = {"phi3": {"default"}, "gemma2": {"default", "dynamic"}, "gemma3": {"default", "linear", "llama3"}}
    assert of_kind == kinds.get(case, {"default", "dynamic", "linear", "llama3", "yarn"})


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_other_names_of_sizes_are_those_of_transformers(model_type):
    family = next(family for family in FAMILIES if model_type in family.model_types)
    of_images = {"image_token_id", "boi_token_id", "eoi_token_id"}
    expected = {alias: name for alias, name in CONFIG_MAPPING[model_type].attribute_map.items()}
    assert {alias: name for alias, name in expected.items() if alias not in of_images} == family.hf.aliases


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_what_transformers_computes_with_is_read(model_type):
    """Every field that the source of its model names, but those of other heads, of training and of speed."""
    where = CONFIG_MAPPING[model_type].__module__.replace(".configuration_", ".modeling_")
    *folders, name = where.split(".")[1:]
    root = Path(importlib.util.find_spec("transformers").submodule_search_locations[0])
    source = root.joinpath(*folders, f"{name}.py").read_text(encoding="utf-8")
    named = {a or b for a, b in re.findall(r'config\.([a-z]\w*)|getattr\((?:self\.)?config, "(\w+)"', source)}
    assert {"vocab_size", "hidden_size"} <= named
    named -= {"num_labels", "problem_type", "get_text_config"}  # of classifiers; a method
    if model_type == "gemma3_text":
        named -= {"text_config", "vision_config", "mm_tokens_per_image"}  # of the model of images in the same file
    _, fields = read(CASES[model_type])
    asked = fields.names_read() | set(fields.part("text_config").names_read())
    aliases = CONFIG_MAPPING[model_type].attribute_map
    missing = {name for name in named if aliases.get(name, name) not in asked and not INERT.fullmatch(name)}
    assert missing == set()


@pytest.mark.parametrize("name", published.CASES)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("is_encoder_decoder", True),
        ("per_layer_config", {"1": {"hidden_size": 4}}),
        ("quantization_config", {"bits": 4}),
        ("compression_config", {"format": "int-quantized"}),
    ],
)
def test_what_no_family_computes_is_refused_in_all(name, field, value):
    with pytest.raises(UserError, match=f"{field} is .*which is not supported"):
        read(published.CASES[name] | {field: value})


@pytest.mark.parametrize("name", published.CASES)
def test_causality_is_the_family_s_or_refused(name):
    causal = published.CASES[name]["model_type"] not in ("bert", "distilbert", "roberta", "modernbert")
    read(published.CASES[name] | {"is_causal": causal})
    for wrong in (not causal, "no", 2):
        with pytest.raises(UserError, match=rf"is_causal is {wrong!r}, which is not supported; supported: {causal}"):
            read(published.CASES[name] | {"is_causal": wrong})


def without(name, *fields):
    return {field: value for field, value in published.CASES[name].items() if field not in fields}


def test_the_base_inside_rope_scaling_counts():
    config = without("llama", "rope_theta") | {"rope_scaling": {"rope_type": "default", "rope_theta": 500000.0}}
    assert read(config)[0].rope_theta == 500000.0
    inside = {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0}
    found, fields = read(published.CASES["gemma3"] | {"rope_scaling": inside})
    assert (found.rope_theta, found.rope_theta_local, found.rope_scaling) == (5000.0, 10.0, RopeScaling("linear", 8.0))
    assert fields.unread() == ()


def test_rope_scaling_replaces_rope_parameters_and_what_is_lost_is_told():
    both = {
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    }
    found, fields = read(published.CASES["llama"] | both)
    assert (found.rope_theta, found.rope_scaling) == (100.0, RopeScaling("linear", 4.0))
    assert fields.unread() == ("rope_parameters.rope_theta", "rope_parameters.rope_type")
    both["rope_parameters"] = {"rope_theta": 3.0, **both["rope_scaling"]}
    assert read(published.CASES["llama"] | both)[1].unread() == ("rope_parameters.rope_theta",)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama", {"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "rope_scaling: partial"),
        ("qwen2", {"rope_scaling": {"rope_type": "linear", "factor": 0}}, "factor must be a number above 0, got 0.0"),
        ("qwen3", {"rope_parameters": {"sliding_attention": {}}}, "sliding_attention is given, but layers of this"),
        ("llama", {"rope_theta": -1}, "rope_theta must be a number above 0, got -1.0"),
        ("llama", {"rms_norm_eps": 10**400}, "rms_norm_eps must be a number, got 1000"),
        ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps must be a number, got nan"),
        ("gemma3", {"rope_parameters": {"rope_theta": 5.0}}, "rope_theta is given for all layers; this family has"),
        ("gemma3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "type is 'linear'; implementations read"),
        ("gemma3", {"sliding_window": None}, "sliding_window must be a whole number, got None"),
        ("gemma2", {"attn_logit_softcapping": 0}, "attn_logit_softcapping must be a number above 0, or null"),
        ("neox", {"head_dim": 6}, "head_dim is 6, which is not supported; supported: 4"),
        ("llama", {"architectures": "LlamaForCausalLM"}, "architectures must be a list of names, got 'LlamaFor"),
        ("llama", {"architectures": True}, "architectures must be a list of names, got True"),
        ("llama", {"architectures": [3]}, r"architectures must be a list of names, got \[3\]"),
        ("gemma3_of_images", {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ("gemma3_of_images", {"text_config": 3}, "text_config must be an object, got 3"),
    ],
)
def test_what_is_refused_by_name(name, changes, message):
    with pytest.raises(UserError, match=message):
        read(published.CASES[name] | changes)


def test_yarn_by_its_fields():
    full = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 8, "beta_slow": 2}
    found = read(published.CASES["llama"] | {"rope_scaling": full | {"truncate": False, "attention_factor": 1.5}})
    expected = RopeScaling(
        "yarn", 4.0, original_n_ctx=16, beta_fast=8.0, beta_slow=2.0, whole_pairs=False, amplitude=1.5
    )
    assert found[0].rope_scaling == expected
    # 0.1 ln 4 + 1, and with both of DeepSeek's factors their ratio; with one of them it does not count.
    assert read(published.CASES["llama"] | {"rope_scaling": full})[0].rope_scaling.amplitude == 1.138629436111989
    both = full | {"mscale": 2.0, "mscale_all_dim": 1.0}
    scaling = read(published.CASES["llama"] | {"rope_scaling": both})[0].rope_scaling
    assert scaling.amplitude == pytest.approx(1.277258872223978 / 1.138629436111989, abs=1e-15)
    one = read(published.CASES["llama"] | {"rope_scaling": full | {"mscale": 2.0}})[0].rope_scaling
    assert one.amplitude == 1.138629436111989
    # What stands beside the nested object comes before what stands in it.
    beside = {"rope_scaling": full, "original_max_position_embeddings": 8}
    assert read(published.CASES["llama"] | beside)[0].rope_scaling.original_n_ctx == 8


SIZES = {"n_embd": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"}
SIZES |= {"n_positions": "max_position_embeddings"}


@pytest.mark.parametrize("name", SIZES)
def test_an_alias_counts(name, tmp_path):
    record = published.golden("gpt2")
    config = {field: value for field, value in record["config"].items() if field != name}
    changed = config | {SIZES[name]: record["config"][name]}
    expected, _, _ = pretrained_parameters(
        published.write_checkpoint(tmp_path / "a", record["config"], published.shapes(record))
    )
    found, _, provenance = pretrained_parameters(
        published.write_checkpoint(tmp_path / "b", changed, published.shapes(record))
    )
    assert found == expected
    assert provenance["fields_not_read"] == []
    with pytest.raises(UserError, match=f"{name} is .*, {SIZES[name]} is 17, but they mean the same; keep one"):
        read(record["config"] | {SIZES[name]: 17})
    with pytest.raises(UserError, match=f"{SIZES[name]} must be a whole number, got 'x'"):
        read(config | {SIZES[name]: "x"})


def test_an_alias_of_heads_changes_what_is_computed():
    """Heads alone leave all shapes as they are, so that nothing but the number itself shows."""
    assert read(without("gpt2", "n_head") | {"num_attention_heads": 4})[0].n_heads == 4


def test_the_first_llamas_have_no_context_and_another_name():
    old = without("llama", "max_position_embeddings") | {"architectures": ["LLaMAForCausalLM"]}
    assert read(old)[0].n_ctx == 2048
    found, fields = read(old | {"max_sequence_length": 512, "pad_token_id": -1})
    assert (found.n_ctx, fields.unread()) == (512, ())
    assert read(published.CASES["llama"] | {"max_sequence_length": 512})[0].n_ctx == 16


def test_the_text_half_takes_the_defaults_of_transformers():
    """Published models of text and images leave most sizes out."""
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34, "sliding_window": 1024}
    config = {"model_type": "gemma3", "text_config": text | {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}}}
    found, fields = read(config)
    reference = AutoConfig.for_model("gemma3", text_config=config["text_config"]).text_config
    assert (found.d_vocab, found.n_heads, found.n_kv_heads) == (262_208, 8, 4)
    assert (found.d_vocab, found.n_heads, found.n_kv_heads, found.d_head, found.d_mlp, found.n_ctx, found.norm_eps) == (
        reference.vocab_size,
        reference.num_attention_heads,
        reference.num_key_value_heads,
        reference.head_dim,
        reference.intermediate_size,
        reference.max_position_embeddings,
        reference.rms_norm_eps,
    )
    layers = [layer for layer, kind in enumerate(reference.layer_types) if kind == "sliding_attention"]
    assert (found.local_layers, found.rope_theta, found.rope_theta_local) == (tuple(layers), 1e6, 1e4)
    assert fields.unread() == ()
    text["of_the_future"] = 1
    assert read(config | {"text_config": text})[1].unread() == ("text_config.of_the_future",)
