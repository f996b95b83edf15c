"""GGUF files: every quantisation by hand, every family from its own layout, and what is wrong with a file."""

import hashlib
import json
import struct

import gguf
import jax
import numpy as np
import published
import pytest
from gguf import GGMLQuantizationType as Kind

from jaxinterp.base.errors import UserError
from jaxinterp.models.config import RopeScaling
from jaxinterp.models.families import llama
from jaxinterp.models.loading.bundle import load_model
from jaxinterp.models.loading.gguf_file import SUPPORTED, GgufFile
from jaxinterp.models.loading.load import pretrained_parameters
from jaxinterp.models.sources.fetch import resolve
from jaxinterp.models.tokenizers import byte_alphabet


def half(two_bytes) -> float:
    return float(np.frombuffer(bytes(two_bytes), "<f2")[0])


def q4_0(block):
    scale = half(block[:2])
    return [scale * ((block[2 + i % 16] >> 4 * (i // 16) & 15) - 8) for i in range(32)]


def q4_1(block):
    scale, least = half(block[:2]), half(block[2:4])
    return [scale * (block[4 + i % 16] >> 4 * (i // 16) & 15) + least for i in range(32)]


def q5_0(block):
    scale, high = half(block[:2]), int.from_bytes(block[2:6], "little")
    return [scale * ((block[6 + i % 16] >> 4 * (i // 16) & 15 | (high >> i & 1) << 4) - 16) for i in range(32)]


def q8_0(block):
    return [half(block[:2]) * (byte - 256 if byte > 127 else byte) for byte in block[2:]]


def packed_six_bits(twelve, j):
    """Scale and minimum of the j-th 32 weights in Q4_K and Q5_K: six bits each, those of 4 … 7 in two places."""
    if j < 4:
        return twelve[j] & 63, twelve[j + 4] & 63
    return (
        twelve[j + 4] & 15 | (twelve[j - 4] >> 6) << 4,
        twelve[j + 4] >> 4 | (twelve[j] >> 6) << 4,
    )


def q4_k(block):
    scale, least, twelve, low = half(block[:2]), half(block[2:4]), block[4:16], block[16:]
    found = []
    for i in range(256):
        group, nibbles = i // 32, low[i // 64 * 32 + i % 32]
        a, b = packed_six_bits(twelve, group)
        found.append(scale * a * (nibbles >> 4 * (group % 2) & 15) - least * b)
    return found


def q5_k(block):
    scale, least, twelve, high, low = half(block[:2]), half(block[2:4]), block[4:16], block[16:48], block[48:]
    found = []
    for i in range(256):
        group = i // 32
        value = low[i // 64 * 32 + i % 32] >> 4 * (group % 2) & 15 | (high[i % 32] >> group & 1) << 4
        a, b = packed_six_bits(twelve, group)
        found.append(scale * a * value - least * b)
    return found


def q6_k(block):
    low, high, scales, scale = block[:128], block[128:192], block[192:208], half(block[208:])
    found = []
    for i in range(256):
        half_, rest = divmod(i, 128)
        part, place = divmod(rest, 32)  # four parts of 32 weights share bytes
        four = low[half_ * 64 + place + 32 * (part % 2)] >> 4 * (part // 2) & 15
        value = (four | (high[half_ * 32 + place] >> 2 * part & 3) << 4) - 32
        each = scales[i // 16]
        found.append(scale * (each - 256 if each > 127 else each) * value)
    return found


# The 16 values of IQ4's code, from the format's definition.
IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def iq4_nl(block):
    return [half(block[:2]) * IQ4[block[2 + i % 16] >> 4 * (i // 16) & 15] for i in range(32)]


def iq4_xs(block):
    """Eight groups of 32 weights; a group's scale has four low bits in one place and two high ones in another."""
    scale, high, low, codes = half(block[:2]), int.from_bytes(block[2:4], "little"), block[4:8], block[8:]
    found = []
    for i in range(256):
        group, place = divmod(i, 32)
        six = low[group // 2] >> 4 * (group % 2) & 15 | (high >> 2 * group & 3) << 4
        found.append(scale * (six - 32) * IQ4[codes[16 * group + place % 16] >> 4 * (place // 16) & 15])
    return found


def bf16(block):
    return [struct.unpack("<f", b"\0\0" + bytes(block))[0]]


BY_HAND = {"Q4_0": q4_0, "Q4_1": q4_1, "Q5_0": q5_0, "Q8_0": q8_0, "Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k}
BY_HAND |= {"IQ4_NL": iq4_nl, "IQ4_XS": iq4_xs}
BY_HAND |= {"BF16": bf16, "F16": lambda block: [half(block)], "F32": lambda block: struct.unpack("<f", block)}
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
HALVES |= {"IQ4_NL": [0], "IQ4_XS": [0]}


def random_blocks(kind: str, n_rows: int, n_blocks: int) -> np.ndarray:
    """Any bytes are a valid block, but for scales, which have to be numbers."""
    _, size = gguf.GGML_QUANT_SIZES[Kind[kind]]
    rng = np.random.default_rng(0)
    if kind in ("F32", "F16", "BF16"):
        numbers = rng.standard_normal((n_rows, n_blocks)).astype("<f4" if kind != "F16" else "<f2")
        raw = numbers.view(np.uint8).reshape(n_rows, n_blocks, -1)
        return raw if kind != "BF16" else np.ascontiguousarray(raw[..., 2:])
    blocks = rng.integers(0, 256, (n_rows, n_blocks, size), dtype=np.uint8)
    for start in HALVES[kind]:
        scales = rng.standard_normal((n_rows, n_blocks, 1)).astype("<f2")
        blocks[..., start : start + 2] = scales.view(np.uint8)
    return blocks


def write(path, architecture, fields, tensors, kinds=None):
    """A GGUF file; `kinds` has the types of tensors that are given as raw bytes."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in fields.items():
        if name == "tokenizer.ggml.token_type":
            writer.add_array(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, list):
            writer.add_array(name, value)
        else:
            (writer.add_uint32 if isinstance(value, int) else writer.add_float32)(name, value)
    for name, value in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(value), raw_dtype=None if kinds is None else kinds[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", BY_HAND)
def test_rows_of_every_type(kind, tmp_path):
    blocks = random_blocks(kind, 5, 2)
    expected = np.array([[x for block in row for x in BY_HAND[kind](block.tobytes())] for row in blocks], np.float32)
    raw = blocks.reshape(5, -1)
    if kind in ("F32", "F16"):  # which the writer knows from the array
        raw = raw.view("<f4" if kind == "F32" else "<f2")
    path = write(tmp_path / "x.gguf", "llama", {}, {"first": raw, "x": raw}, dict.fromkeys(("first", "x"), Kind[kind]))
    file = GgufFile(path)
    assert file.shapes == {"first": expected.shape, "x": expected.shape}
    for start, stop in [(0, 5), (2, 3), (3, 5)]:
        np.testing.assert_allclose(file.rows("x", start, stop), expected[start:stop], rtol=2e-6, atol=1e-4)
    assert np.isfinite(expected).all() and expected.std() > 0.5


def test_the_types_that_are_promised():
    promised = {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K", "Q5_0", "IQ4_NL", "IQ4_XS"}
    assert promised <= set(SUPPORTED)


# Names in GGUF of the tensors of a checkpoint, from llama.cpp's documentation.
DECODER = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers.": "blk.",
}
NAMES = {
    "llama": DECODER | {"post_attention_layernorm": "ffn_norm"},
    "gemma": DECODER
    | {
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
    "olmo": DECODER
    | {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"},
    "gpt2": {
        "transformer.wte": "token_embd",
        "transformer.wpe": "position_embd",
        "transformer.ln_f": "output_norm",
        "transformer.h.": "blk.",
        "ln_1": "attn_norm",
        "ln_2": "ffn_norm",
        "attn.c_attn": "attn_qkv",
        "attn.c_proj": "attn_output",
        "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
    },
    "neox": {
        "gpt_neox.embed_in": "token_embd",
        "gpt_neox.final_layer_norm": "output_norm",
        "embed_out": "output",
        "gpt_neox.layers.": "blk.",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "attention.query_key_value": "attn_qkv",
        "attention.dense": "attn_output",
        "mlp.dense_h_to_4h": "ffn_up",
        "mlp.dense_4h_to_h": "ffn_down",
    },
}
SIZES = {"context_length": 16, "embedding_length": 8, "block_count": 2, "feed_forward_length": 12}
SIZES |= {"attention.head_count": 2, "vocab_size": 13}
GEMMA = SIZES | {"attention.head_count_kv": 1, "attention.key_length": 6, "attention.value_length": 6}
GEMMA |= {"attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 1000.0, "attention.sliding_window": 3}
LLAMA = SIZES | {"attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 100.0}
# case: names, architecture, metadata, and what of our config the file cannot say
FAMILIES = {
    "llama": ("llama", "llama", LLAMA | {"rope.dimension_count": 4}, {}),
    "llama_grouped": ("llama", "llama", LLAMA | {"attention.head_count": 4, "attention.head_count_kv": 2}, {}),
    "qwen2": (
        "llama",
        "qwen2",
        SIZES | {"attention.head_count_kv": 1, "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 1000.0},
        {},
    ),
    "qwen3": (
        "llama",
        "qwen3",
        {key: value for key, value in GEMMA.items() if key != "attention.sliding_window"},
        {},
    ),
    "gemma2": (
        "gemma",
        "gemma2",
        GEMMA | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
        {"attn_scale": 5**-0.5},
    ),
    "gemma3": (
        "gemma",
        "gemma3",
        GEMMA
        | {"block_count": 3, "attention.sliding_window_pattern": 3, "rope.scaling.type": "linear"}
        | {"rope.scaling.factor": 8.0, "rope.freq_base_swa": 10.0},
        {"attn_scale": 5**-0.5},
    ),
    "olmo2": (
        "olmo",
        "olmo2",
        SIZES | {"attention.head_count_kv": 1, "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 100.0},
        {},
    ),
    "gpt2": ("gpt2", "gpt2", SIZES | {"feed_forward_length": 32, "attention.layer_norm_epsilon": 1e-5}, {}),
    "neox": (
        "neox",
        "gptneox",
        SIZES
        | {"attention.layer_norm_epsilon": 1e-5, "rope.dimension_count": 2, "rope.freq_base": 100.0}
        | {"use_parallel_residual": True},
        {},
    ),
}


def converted(case, name, value):
    """A checkpoint's tensor as llama.cpp's converter stores it, in loops."""
    names, _, fields, _ = FAMILIES[case]
    short = name
    for old, new in NAMES[names].items():
        short = short.replace(old, new)
    kind = short.split(".")[-2]
    if case.startswith("llama") and kind in ("attn_q", "attn_k"):
        n_heads = fields["attention.head_count" + "_kv" * (kind == "attn_k" and case == "llama_grouped")]
        width = len(value) // n_heads
        order = [h * width + r + width // 2 * two for h in range(n_heads) for r in range(width // 2) for two in (0, 1)]
        value = value[order]
    if case.startswith("gemma") and "norm" in kind:
        value = value + np.float32(1)
    if case == "gpt2" and value.ndim == 2 and kind in ("attn_qkv", "attn_output", "ffn_up", "ffn_down"):
        value = value.T
    if case == "neox" and kind == "attn_qkv":
        heads = fields["attention.head_count"]
        width = len(value) // (3 * heads)
        value = value[
            [h * 3 * width + part * width + i for part in range(3) for h in range(heads) for i in range(width)]
        ]
    assert short != name
    return short, value


def tensors_of(case):
    named = published.shapes(published.golden(case))
    return dict(converted(case, name, published.seeded(name, shape)) for name, shape in named.items())


def metadata(case, **changes):
    _, architecture, fields, _ = FAMILIES[case]
    return {f"{architecture}.{key}": value for key, value in (fields | changes).items() if value is not None}


def write_case(path, case, tensors=None, **changes):
    return write(path, FAMILIES[case][1], metadata(case, **changes), tensors_of(case) if tensors is None else tensors)


@pytest.mark.parametrize("case", FAMILIES)
def test_a_file_gives_the_same_model_as_safetensors(case, tmp_path):
    record = published.golden(case)
    folder = published.write_checkpoint(tmp_path / "hf", record["config"], published.shapes(record))
    expected, params, _ = pretrained_parameters(folder)
    config, found, provenance = pretrained_parameters(write_case(tmp_path / "model.gguf", case))
    jax.tree.map(np.testing.assert_array_equal, params, found)
    assert provenance["fields_not_read"] == []
    assert provenance["format"] == "gguf" and provenance["types"] == ["F32"]
    unsaid = FAMILIES[case][3]
    for field in expected.__dataclass_fields__:
        if field not in unsaid:
            wanted = getattr(expected, field)
            wanted = pytest.approx(wanted, rel=1e-6) if isinstance(wanted, float) else wanted
            assert getattr(config, field) == wanted, field


def test_scaling_of_llama_3_is_recognised_and_checked(tmp_path, monkeypatch):
    wavelength = 2 * np.pi * 500_000.0 ** (np.arange(32) / 32)
    smooth = np.clip((8192 / wavelength - 1) / 3, 0, 1)
    divisors = (1 / ((1 - smooth) / 32 + smooth)).astype(np.float32)
    fields = {"embedding_length": 128, "rope.dimension_count": 64, "rope.freq_base": 500_000.0}
    d, f = 128, 12
    shapes = {"token_embd": (13, d), "output_norm": (d,)}
    for layer in range(2):
        of_layer = {"attn_norm": (d,), "ffn_norm": (d,), "ffn_gate": (f, d), "ffn_up": (f, d), "ffn_down": (d, f)}
        of_layer |= {name: (d, d) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in of_layer.items()}
    tensors = {f"{name}.weight": published.seeded(name, shape) for name, shape in shapes.items()}
    path = write_case(tmp_path / "a.gguf", "llama", tensors | {"rope_freqs.weight": divisors}, **fields)
    config, _, provenance = pretrained_parameters(path)
    assert config.rope_scaling == RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)
    assert provenance["ignored_tensors"] == {"rope_freqs.weight": "read with the config"}
    assert (divisors > 1.01).any() and (divisors < 1.01).any()
    wide = dict.fromkeys(("attention.key_length", "attention.value_length", "rope.dimension_count"), 2**31 - 2)
    divisors[20] *= 1.1
    for own in (fields, fields | wide):
        path = write_case(tmp_path / "b.gguf", "llama", tensors | {"rope_freqs.weight": divisors}, **own)
        with pytest.raises(UserError, match=r"'rope_freqs\.weight' is not the scaling of Llama 3"):
            pretrained_parameters(path)
        monkeypatch.setattr(llama, "layer_constants", None)  # the wide ones would be frequencies of 16 GB


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        (
            "llama",
            {"rope.scaling.type": "longrope"},
            r"llama\.rope\.scaling\.type .*'longrope'; known: linear, none, yarn",
        ),
        ("llama", {"rope.scaling.attn_factor": 2.0}, r"llama\.rope\.scaling\.attn_factor is 2\.0"),
        ("llama", {"rope.scaling.yarn_log_multiplier": 0.1}, r"rope\.scaling\.yarn_log_multiplier is 0\.1"),
        (
            "llama",
            {"attention.causal": False},
            r"llama\.attention\.causal is False, which is not supported; supported: True",
        ),
        ("gpt2", {"attention.causal": False}, r"gpt2\.attention\.causal is False"),
        ("neox", {"attention.causal": False}, r"gptneox\.attention\.causal is False"),
        ("gemma3", {"final_logit_softcapping": 0.0}, "final_logit_softcapping must be a number above 0"),
        ("llama", {"expert_count": 4}, r"llama\.expert_count is 4, which is not supported"),
        ("llama", {"rope.dimension_count": 2}, r"llama\.rope\.dimension_count is 2"),
        ("llama", {"vocab_size": 14}, r"llama\.vocab_size is 14, which is not supported; supported: 13"),
        ("llama", {"vocab_size": [13, 13]}, r"llama\.vocab_size is \[13, 13\], which is not supported"),
        ("llama", {"block_count": None}, r"lacks the field 'llama\.block_count'"),
        ("llama", {"feed_forward_length": [12, 12]}, r"feed_forward_length must be a whole number"),
        ("llama", {"block_count": 3}, r"tensor 'blk\.2\.\w+\.weight' is missing; the config asks for it"),
        ("llama", {"block_count": 1}, r"tensor 'blk\.1\.\w+\.weight' is not part of this model \(1 layers"),
        (
            "llama",
            {"feed_forward_length": 13},
            r"'blk\.0\.ffn_\w+\.weight' is \[12, 8\], .* asks for \[13, 8\]",
        ),
        ("gemma2", {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}, "sliding windows is not supported"),
        ("gemma3", {"attn_logit_softcapping": 2.0}, "attn_logit_softcapping is 2.0"),
    ],
)
def test_metadata_that_cannot_be_honoured(case, changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        pretrained_parameters(write_case(tmp_path / "model.gguf", case, **changes))


YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rope.scaling.factor": 4.0}, RopeScaling("linear", 4.0)),  # the missing type means linear
        ({"rope.scale_linear": 2.0}, RopeScaling("linear", 2.0)),
        ({"rope.scale_linear": 2.0, "rope.scaling.factor": 4.0}, RopeScaling("linear", 4.0)),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, RopeScaling("linear", 4.0)),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, None),
        ({"rope.scaling.type": "none", "rope.scale_linear": 4.0}, None),
        ({"rope.scaling.factor": 0.0}, None),  # how files say that there is none
        ({"rope.scaling.factor": 1.0}, None),
        ({"rope.scaling.finetuned": True, "rope.scaling.attn_factor": 1.0}, None),
        (
            YARN | {"rope.scaling.original_context_length": 4},
            RopeScaling("yarn", 4.0, original_n_ctx=4, amplitude=1 + 0.1 * np.log(4)),
        ),
        (
            YARN | {"rope.scaling.yarn_beta_fast": 8.0, "rope.scaling.yarn_beta_slow": 2.0},
            RopeScaling("yarn", 4.0, original_n_ctx=16, beta_fast=8.0, beta_slow=2.0, amplitude=1 + 0.1 * np.log(4)),
        ),
    ],
)
def test_scaled_rotary_positions(changes, expected, tmp_path):
    for case in ("llama", "qwen2", "qwen3", "neox"):
        config, _, provenance = pretrained_parameters(write_case(tmp_path / f"{case}.gguf", case, **changes))
        assert config.rope_scaling == expected
        assert provenance["fields_not_read"] == []


def test_the_end_of_the_name_in_capitals(path):
    config, _, _ = pretrained_parameters(path)
    capitals = path.rename(path.with_name("MODEL.GGUF"))
    assert pretrained_parameters(capitals)[0] == config
    assert resolve(str(capitals)) == capitals
    with pytest.raises(
        UserError, match=r"config\.json is missing; .* or a \.gguf file; give the file itself: MODEL\.GGUF"
    ):
        load_model(path.parent)


def test_a_pointer_instead_of_the_file(path):
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 98362432\n")
    with pytest.raises(UserError, match=r"model\.gguf is a Git LFS pointer, not the file itself; run `git lfs pull`"):
        pretrained_parameters(path)


def test_absurd_sizes_are_compared_with_the_file_first(tmp_path):
    for case in ("llama", "gemma3", "gpt2"):
        path = write_case(tmp_path / f"{case}.gguf", case, block_count=2**31 - 1)
        with pytest.raises(UserError, match=r"block_count is 2147483647, but there are only \d\d tensors in"):
            pretrained_parameters(path)
    path = write_case(tmp_path / "wide.gguf", "llama", feed_forward_length=2**31 - 1)
    with pytest.raises(
        UserError, match=r"the FFN width is 2147483647, but the largest tensor in .* has only 104 numbers"
    ):
        pretrained_parameters(path)


def split(folder, n_parts=2):
    """A file in parts, as gguf-split writes them: metadata in the first one alone."""
    tensors = tensors_of("llama")
    folder.mkdir()
    for part in range(n_parts):
        fields = metadata("llama") if part == 0 else {}
        fields |= {"split.no": part, "split.count": n_parts, "split.tensors.count": len(tensors)}
        own = {name: value for i, (name, value) in enumerate(sorted(tensors.items())) if i % n_parts == part}
        write(folder / f"model-{part + 1:05}-of-{n_parts:05}.gguf", "llama", fields, own)
    return [folder / f"model-{part + 1:05}-of-{n_parts:05}.gguf" for part in range(n_parts)]


@pytest.mark.parametrize("n_parts", [1, 2, 3])
def test_parts_are_one_model(n_parts, path, tmp_path):
    config, expected, _ = pretrained_parameters(path)
    found_config, found, provenance = pretrained_parameters(split(tmp_path / "parts", n_parts)[0])
    jax.tree.map(np.testing.assert_array_equal, expected, found)
    assert (found_config, provenance["fields_not_read"]) == (config, [])


def test_parts_that_do_not_fit(tmp_path):
    first, second = split(tmp_path / "parts")
    with pytest.raises(
        UserError, match=r"-00002-of-00002\.gguf is not the first of its 2 parts; give model-00001-of-00002"
    ):
        pretrained_parameters(second)
    whole = second.read_bytes()
    second.unlink()
    with pytest.raises(UserError, match=r"is the first of 2 parts, and model-00002-of-00002\.gguf is not beside it"):
        pretrained_parameters(first)
    second.write_bytes(first.read_bytes())
    with pytest.raises(
        UserError, match=r"00002-of-00002\.gguf is damaged: it has the tensor '.*', which another part has"
    ):
        pretrained_parameters(first)
    write(second, "llama", {"split.no": 1, "split.count": 2}, {"x": np.zeros((2, 2), np.float32)})
    with pytest.raises(UserError, match=r"says that all parts have 20 tensors; they have 11"):
        pretrained_parameters(first)
    second.write_bytes(whole)
    pretrained_parameters(first)
    other = first.rename(first.with_name("model.gguf"))
    with pytest.raises(
        UserError, match=r"model\.gguf is one of 2 parts; give them their names back, which end in -00001"
    ):
        pretrained_parameters(other)


def test_the_largest_gemmas_scale_by_the_residual_width(tmp_path):
    record = published.golden("gemma3")
    named = {name.format(i): shape for name, shape in record["tensors"].items() for i in range(62)}
    tensors = dict(converted("gemma3", name, published.seeded(name, tuple(shape))) for name, shape in named.items())
    config, _, _ = pretrained_parameters(write_case(tmp_path / "model.gguf", "gemma3", tensors, block_count=62))
    assert config.attn_scale == (8 / 2) ** -0.5
    config, _, _ = pretrained_parameters(write_case(tmp_path / "small.gguf", "gemma3"))
    assert config.attn_scale == 6**-0.5


@pytest.fixture
def path(tmp_path):
    return write_case(tmp_path / "model.gguf", "llama")


def test_a_truncated_file(path):
    whole = path.read_bytes()
    for end in (len(whole) - 40, len(whole) // 2, 200, 20, 3):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"model\.gguf is (truncated|no GGUF file)"):
            pretrained_parameters(path)
    path.write_bytes(whole)
    pretrained_parameters(path)


def test_damage_that_shows(path):
    whole = path.read_bytes()
    name = whole.index(b"blk.0.attn_norm.weight")
    axes = name + len(b"blk.0.attn_norm.weight")
    for place, value, message in [
        (0, b"GGML", "is no GGUF file"),
        (name, b"blk.1", r"it has the tensor 'blk\.1\.attn_norm\.weight' twice"),
        (axes, struct.pack("<I", 9), "has 9 axes"),
        (axes + 4, struct.pack("<Q", 1 << 50), r"has the shape \[1125899906842624\]"),
        (axes + 12, struct.pack("<I", 999), "is of type number 999; supported: F32"),
        (axes + 12, struct.pack("<I", Kind.IQ2_XXS), "is of type IQ2_XXS; supported: F32"),
        (axes + 12, struct.pack("<I", Kind.Q8_0), "does not fit the blocks of Q8_0"),
        (axes + 16, struct.pack("<Q", 1 << 40), "is truncated: tensor 'blk.0.attn_norm.weight' should end at byte"),
    ]:
        path.write_bytes(whole[:place] + value + whole[place + len(value) :])
        with pytest.raises(UserError, match=message):
            pretrained_parameters(path)


def test_tensors_that_are_not_finite_are_named(tmp_path):
    tensors = tensors_of("llama")
    tensors["blk.1.ffn_up.weight"][3, 2] = np.inf
    with pytest.raises(UserError, match=r"'blk\.1\.ffn_up\.weight' has values that are not finite in float32"):
        pretrained_parameters(write_case(tmp_path / "model.gguf", "llama", tensors))


def test_other_architectures_and_files_are_refused(tmp_path):
    path = write(tmp_path / "bert.gguf", "bert", {}, {"x": np.zeros((2, 2), np.float32)})
    with pytest.raises(UserError, match=r"general\.architecture in .*'bert'; known: gemma2, gemma3, gpt2, gptneox"):
        pretrained_parameters(path)
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"neither a folder nor a \.gguf file"):
        pretrained_parameters(tmp_path / "x.bin")
    with pytest.raises(UserError, match=r"missing\.gguf cannot be read: No such file"):
        pretrained_parameters(tmp_path / "missing.gguf")


@pytest.mark.parametrize("kind", ["adapter", "mmproj"])
def test_what_goes_with_a_model_is_no_model(kind, tmp_path):
    fields = metadata("llama") | {"general.type": kind}
    path = write(tmp_path / "x.gguf", "llama", fields, tensors_of("llama"))
    with pytest.raises(UserError, match=rf"holds no whole model: its general\.type is '{kind}'; give the file of"):
        pretrained_parameters(path)
    pretrained_parameters(write(path, "llama", fields | {"general.type": "model"}, tensors_of("llama")))


def test_a_record_beside_the_file_is_checked(path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    record = path.with_name("source.json")
    record.write_text(json.dumps({"source": {"sha256": digest}}))
    assert pretrained_parameters(path)[2]["sha256"] == digest
    damaged = bytearray(path.read_bytes())
    damaged[-100] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"model\.gguf is damaged: its SHA-256 is not the one in source\.json"):
        pretrained_parameters(path)
    record.unlink()
    assert "sha256" not in pretrained_parameters(path)[2]


def test_load_model_takes_a_file_with_its_tokenizer(tmp_path):
    letters = sorted(byte_alphabet())
    tokenizer = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2"}
    tokenizer |= {"tokenizer.ggml.tokens": ["<end>", *letters], "tokenizer.ggml.token_type": [3] + [1] * 256}
    tokenizer |= {"tokenizer.ggml.merges": ["a b"], "tokenizer.ggml.eos_token_id": 0}
    tokenizer["tokenizer.ggml.tokens"].append("ab")
    tokenizer["tokenizer.ggml.token_type"].append(1)
    tensors = tensors_of("llama") | {"token_embd.weight": published.seeded("embedding", (260, 8))}
    fields = metadata("llama", vocab_size=260)
    model = load_model(write(tmp_path / "model.gguf", "llama", fields | tokenizer, tensors))
    assert (model.config.d_vocab, model.tokenizer.n_tokens) == (260, 258)
    assert model.tokenizer.encode("ab") == [257]
    assert model.provenance["family"] == "llama"
    small = tensors_of("llama")
    model = load_model(write(tmp_path / "small.gguf", "llama", metadata("llama") | tokenizer, small))
    assert model.tokenizer.encode("!") == [1]
    with pytest.raises(
        UserError, match=r"'ab' needs the token 'ab' with id 257, but the model's embedding has 13 rows"
    ):
        model.tokenizer.encode("ab")
