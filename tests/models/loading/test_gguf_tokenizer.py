"""Tokenizers from GGUF metadata: against golden lists, by hand on tiny vocabularies, and on damaged files.

The golden files hold the part of a published vocabulary that can occur in their texts, and the ids that an independent
implementation (named in the file) gives with the whole vocabulary.
"""

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.models.loading import gguf_metadata
from jaxinterp.models.loading.gguf_metadata import read_metadata
from jaxinterp.models.loading.gguf_tokenizer import SPLITTINGS, gguf_tokenizer
from jaxinterp.models.loading.tokenizer_files import load_tokenizer, save_tokenizer
from jaxinterp.models.tokenizers import byte_alphabet

ROOT = Path(__file__).parents[3]
GOLDEN = {"smollm2": "smollm2-135m-instruct-q4", "gemma3": "gemma3-270m-q4"}  # the golden file, the model's folder
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
BYTES = sorted(byte_alphabet())


def metadata(**fields) -> dict[str, object]:
    arrays = {"token_type": np.int32, "scores": np.float32}
    fields = {name: np.array(value, arrays[name]) if name in arrays else value for name, value in fields.items()}
    return {f"tokenizer.ggml.{name}": value for name, value in fields.items()}


def byte_level(
    merges: list[str], pre: str | None = "gpt-2", extra: tuple[str, ...] = (), **fields
) -> dict[str, object]:
    """A vocabulary of all bytes and what the merges make, <end> as its only control token, and extra tokens."""
    tokens = ["<end>", *BYTES, *(merge.replace(" ", "") for merge in merges), *extra]
    types = [CONTROL] + [NORMAL] * (len(tokens) - 1)
    default = {"model": "gpt2", "pre": pre, "tokens": tokens, "token_type": types, "merges": merges, "eos_token_id": 0}
    return metadata(**{**default, **fields})


def scored(pieces: dict[str, float], **fields) -> dict[str, object]:
    """A sentencepiece vocabulary of <unk>, <s>, two spaces as a user-defined token, and pieces with scores."""
    tokens = ["<unk>", "<s>", "  ", *pieces]
    types = [2, CONTROL, USER_DEFINED] + [NORMAL] * len(pieces)
    scores = [0.0, 0.0, -1000.0, *pieces.values()]
    default = {"model": "llama", "tokens": tokens, "token_type": types, "scores": scores, "unknown_token_id": 0}
    return metadata(**{**default, "bos_token_id": 1, **fields})


def tokens(tokenizer, text):
    return [tokenizer.token(id) for id in tokenizer.encode(text)]


def golden(name: str) -> tuple[dict, dict[str, object]]:
    data = json.loads((ROOT / "tests" / "golden" / f"tokenizers_{name}.json").read_text(encoding="utf-8"))
    return data, metadata(**{key.removeprefix("tokenizer.ggml."): value for key, value in data["metadata"].items()})


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_lists(name):
    data, fields = golden(name)
    tokenizer = gguf_tokenizer(fields)
    whole = data["ids_in_the_whole_vocabulary"]
    assert len(data["texts"]) > 40
    for case in data["texts"]:
        assert [whole[id] for id in tokenizer.encode(case["text"])] == case["ids"], case["text"]
        if "▁" not in case["text"] or name == "smollm2":  # to sentencepiece that sign is a space
            assert tokenizer.text(tokenizer.encode(case["text"])) == case["text"]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_lists_with_the_whole_vocabulary(name):
    path = ROOT / "checkpoints" / "models" / GOLDEN[name] / "model.gguf"
    if not path.is_file():
        pytest.skip(f"needs `jaxinterp models fetch {GOLDEN[name]}`")
    tokenizer = gguf_tokenizer(read_metadata(path), path)
    for case in golden(name)[0]["texts"]:
        assert tokenizer.encode(case["text"]) == case["ids"], case["text"]


def test_the_golden_list_can_tell_how_digits_are_split():
    data, fields = golden("smollm2")
    other = gguf_tokenizer({**fields, "tokenizer.ggml.pre": "gpt-2"})
    whole = data["ids_in_the_whole_vocabulary"]
    differing = [
        case["text"] for case in data["texts"] if [whole[i] for i in other.encode(case["text"])] != case["ids"]
    ]
    assert differing == ["the  1 and   22", "٣٤٥ and ½ and x²"]


def test_frames_of_the_published_models():
    smollm2, gemma3 = (gguf_tokenizer(golden(name)[1]) for name in GOLDEN)
    assert (smollm2.prefix, smollm2.suffix, smollm2.token(smollm2.pad)) == ((), (), "<|im_end|>")
    assert ([gemma3.token(id) for id in gemma3.prefix], gemma3.suffix, gemma3.pad) == (["<bos>"], (), 0)
    assert smollm2.mask is gemma3.mask is gemma3.unk is None
    assert smollm2.token(smollm2.unk) == "<|endoftext|>"  # its vocabulary lacks some bytes


@pytest.mark.parametrize("name", GOLDEN)
def test_an_answer_after_a_space_leaves_the_prompt_alone(name):
    tokenizer = gguf_tokenizer(golden(name)[1])
    before = tokenizer.encode("The capital of France is")
    whole = tokenizer.encode("The capital of France is Paris")
    assert whole[: len(before)] == before
    assert [tokenizer.token(id) for id in whole[len(before) :]] == [" Paris"]


@pytest.mark.parametrize(
    ("pre", "split"),
    [
        ("gpt-2", ["In", " 1984", ",", " it", "'s", " DON", "'", "T", " ", " x"]),
        ("olmo", ["In", " 1984", ",", " it", "'s", " DON", "'", "T", " ", " x"]),
        ("smollm", ["In", " ", "1", "9", "8", "4", ",", " it", "'s", " DON", "'", "T", " ", " x"]),
        ("llama-bpe", ["In", " ", "198", "4", ",", " it", "'s", " DON", "'T", " ", " x"]),
        ("qwen2", ["In", " ", "1", "9", "8", "4", ",", " it", "'s", " DON", "'T", " ", " x"]),
    ],
)
def test_words_by_hand(pre, split):
    backend = gguf_tokenizer(byte_level([], pre, bos_token_id=0)).backend
    words = backend.pre_tokenizer.pre_tokenize_str("In 1984, it's DON'T  x")
    assert [word.replace("Ġ", " ") for word, _ in words] == split


def test_every_splitting_makes_a_tokenizer_that_gives_texts_back():
    for pre in SPLITTINGS:
        tokenizer = gguf_tokenizer(byte_level(["Ġ P", "a r"], pre, bos_token_id=0))
        text = " Paris\n\n  12 é 日本\t\x04 <end>"
        assert tokenizer.text(tokenizer.encode(text)) == text
        assert tokenizer.unk is None


def test_merges_in_their_order():
    assert tokens(gguf_tokenizer(byte_level(["b c", "a b"])), "abc") == ["a", "bc"]
    assert tokens(gguf_tokenizer(byte_level(["a b", "b c"])), "abc") == ["ab", "c"]


def test_whole_words_where_the_merges_do_not_reach_them():
    hello = {"merges": ["l l"], "extra": ("Ġhello",), "bos_token_id": 0}
    assert tokens(gguf_tokenizer(byte_level(pre="llama-bpe", **hello)), " hello") == [" hello"]
    assert tokens(gguf_tokenizer(byte_level(pre="qwen2", **hello)), " hello") == [" ", "h", "e", "ll", "o"]


def test_qwen2_and_olmo_compose_unicode():
    for pre in SPLITTINGS:
        tokenizer = gguf_tokenizer(byte_level([], pre, bos_token_id=0))
        composed = pre in ("qwen2", "deepseek-r1-qwen", "olmo")
        assert tokenizer.text(tokenizer.encode("e\u0301")) == ("é" if composed else "e\u0301"), pre


def test_control_tokens_are_plain_text_and_user_defined_ones_are_not():
    fields = byte_level([], extra=("<tool>", "éé"))
    fields["tokenizer.ggml.token_type"][-2:] = USER_DEFINED
    tokenizer = gguf_tokenizer(fields)
    assert tokens(tokenizer, "a<end><tool>éé") == ["a", *"<end>", "<tool>", "éé"]
    assert tokenizer.special == {0}


def test_a_byte_that_the_vocabulary_lacks_is_unknown_and_not_left_out():
    kept = [character for character, byte in byte_alphabet().items() if byte != 4]
    fields = byte_level([], tokens=["<end>", *sorted(kept)], token_type=[CONTROL] + [NORMAL] * 255)
    tokenizer = gguf_tokenizer(fields)
    assert tokenizer.encode("\x04") == [tokenizer.unk] == [0]
    assert len(tokenizer.encode("a\x04b")) == 3
    assert tokenizer.unknown_word("a\x04b") == "\x04"


def test_the_frame_of_byte_level_tokenizers():
    assert gguf_tokenizer(byte_level([])).prefix == ()
    assert gguf_tokenizer(byte_level([], add_bos_token=True, bos_token_id=3)).prefix == (3,)
    assert gguf_tokenizer(byte_level([], "llama-bpe", bos_token_id=0)).prefix == (0,)
    assert gguf_tokenizer(byte_level([], "llama-bpe", bos_token_id=0, add_bos_token=False)).prefix == ()
    assert gguf_tokenizer(byte_level([], add_eos_token=True)).suffix == (0,)
    assert gguf_tokenizer(byte_level([])).pad == 0
    assert gguf_tokenizer(byte_level([], padding_token_id=9)).pad == 9


PIECES = {"▁": -9.0, "a": -9.0, "b": -9.0, "c": -9.0, "ab": -3.0, "bc": -2.0, "▁ab": -1.0, "▁abc": -4.0}


def test_pieces_of_the_best_score_are_joined_first():
    tokenizer = gguf_tokenizer(scored(PIECES, add_space_prefix=False))
    assert tokens(tokenizer, "abc") == ["a", "bc"]
    assert tokens(tokenizer, "ab") == ["ab"]
    assert tokens(tokenizer, "bc abc") == ["bc", " ", "a", "bc"]
    swapped = gguf_tokenizer(scored({**PIECES, "ab": -2.0, "bc": -3.0}, add_space_prefix=False))
    assert tokens(swapped, "bc abc") == ["bc", " abc"]


def test_merges_of_sentencepiece_by_hand():
    pieces = {"▁": -9.0, "aa": -2.0, "a": -9.0, "aaa": -1.0, "<s>a": -3.0, "▁aa": -2.5}
    backend = gguf_tokenizer(scored(pieces)).backend
    merges = json.loads(backend.to_str())["model"]["merges"]
    # Equal scores: the way with the lower ids is first. Control tokens are no parts.
    assert merges == [["aa", "a"], ["a", "aa"], ["a", "a"], ["▁", "aa"]]


def test_the_space_before_a_text_of_sentencepiece():
    fields = {name: value for name, value in scored(PIECES).items() if "prefix" not in name}
    tokenizer = gguf_tokenizer(fields)
    assert tokens(tokenizer, "ab ab") == [" ab", " ab"]
    assert tokens(tokenizer, " ab") == [" ", " ab"]
    assert tokens(tokenizer, "") == []
    assert tokenizer.text(tokenizer.encode("ab ab")) == "ab ab"
    assert tokenizer.encode("ab ab")[:1] == tokenizer.encode("ab")  # prompt, then answer


def test_user_defined_spaces_of_sentencepiece():
    for prefixed in (False, True):
        tokenizer = gguf_tokenizer(scored(PIECES, add_space_prefix=prefixed))
        assert "  " in tokens(tokenizer, "ab  ab")
        assert "<s>" not in tokens(tokenizer, "ab<s>")
    assert tokens(tokenizer, "ab") == [" ab"]
    without = gguf_tokenizer(scored(PIECES, add_space_prefix=False))
    assert tokens(without, "b   ab") == ["b", "  ", " ab"]


def test_sentencepiece_without_byte_pieces_has_unknown_words():
    tokenizer = gguf_tokenizer(scored(PIECES, add_space_prefix=False))
    assert (tokenizer.prefix, tokenizer.unk) == ((1,), 0)
    assert tokenizer.encode("axyb")[1:2] == [0]
    assert tokenizer.unknown_word("ab xy") == "xy"
    whole = gguf_tokenizer(scored({**PIECES, **{f"<0x{byte:02X}>": 0.0 for byte in range(256)}}))
    assert whole.unk is None
    assert tokens(whole, "é") == [" ", "<0xC3>", "<0xA9>"]
    assert tokens(whole, "\n") == [" ", "\n"]
    assert whole.text(whole.encode("日 é")) == "日 é"


def test_saved_and_loaded(tmp_path):
    for fields in (byte_level(["a b"], padding_token_id=9), scored(PIECES), scored(PIECES, add_space_prefix=False)):
        tokenizer = gguf_tokenizer(fields)
        save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
        loaded = load_tokenizer(tmp_path / "tokenizer.json")
        for text in ("ab abc", "", "a  b <s> <end>"):
            assert loaded.encode(text) == tokenizer.encode(text)
            assert tokens(loaded, text) == tokens(tokenizer, text)
        assert (loaded.prefix, loaded.pad, loaded.unk) == (tokenizer.prefix, tokenizer.pad, tokenizer.unk)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "tokenizer.ggml.model is missing"),
        (byte_level([], model="bert"), "unknown kind of tokenizer in a.gguf: 'bert'; known: gpt2, llama"),
        (byte_level([], pre="poro"), "unknown tokenizer.ggml.pre in a.gguf: 'poro'; known: .*smollm"),
        (byte_level([], pre=None), "unknown tokenizer.ggml.pre in a.gguf: 'default'"),
        (byte_level([], tokens=None), "a.gguf: tokenizer.ggml.tokens is missing"),
        (byte_level([], tokens="abc"), "tokenizer.ggml.tokens is a str, not a list"),
        (byte_level([], tokens=["a", "a"]), "the token 'a' stands in the vocabulary twice"),
        (byte_level([], tokens=[], token_type=[]), "id 0, which its vocabulary does not have|has 0 tokens"),
        (byte_level([], token_type=[1, 1]), "there are 2 token types for 257 tokens"),
        (byte_level([], token_type=[9] * 257), "token 0 has the type 9"),
        (byte_level(["ab"]), "the merge 'ab' is not two tokens"),
        (byte_level(["a b c"]), "the merge 'a b c' is not two tokens"),
        (byte_level(["a b"], tokens=["<end>", "ab!", *BYTES]), "its merges do not fit its vocabulary"),
        (byte_level([]) | {"tokenizer.ggml.merges": None}, "tokenizer.ggml.merges is missing"),
        (byte_level([], bos_token_id=257), "tokenizer.ggml.bos_token_id is 257, the vocabulary has 257 tokens"),
        (byte_level([], bos_token_id=1.0), "tokenizer.ggml.bos_token_id is a float, not a int"),
        (
            byte_level([], add_bos_token=True),
            "bos is to be added to every text, but tokenizer.ggml.bos_token_id is missing",
        ),
        (scored(PIECES, scores=[1.0]), "the scores are not 11 finite numbers"),
        (scored(PIECES, scores=[float("nan")] * 11), "the scores are not 11 finite numbers"),
        (scored(PIECES, unknown_token_id=None), "tokenizer.ggml.unknown_token_id is missing"),
        (scored(PIECES, remove_extra_whitespaces=True), "remove_extra_whitespaces is set"),
    ],
)
def test_metadata_that_do_not_fit(fields, message):
    with pytest.raises(UserError, match=message):
        gguf_tokenizer(fields, "a.gguf")


def packed(value: object) -> bytes:
    """A value of the file with its type before it."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, list):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    code, form = {bool: (7, "?"), int: (4, "I"), float: (6, "f")}[type(value)]
    return struct.pack(f"<I{form}", code, value)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def file_bytes(pairs: list[tuple[str, bytes]], version: int = 3) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, 0, len(pairs))
    return head + b"".join(text(key) + value for key, value in pairs)


VALUES = {"name": "Ünï", "rope": 0.5, "layers": 30, "add": True, "tokens": ["Ġ", "", "日本", "x" * 40], "none": []}
NUMBERS = [("i1", 1), ("u2", 2), ("i2", 3), ("i4", 5), ("f4", 6), ("u8", 10), ("i8", 11), ("f8", 12), ("u1", 0)]


@pytest.fixture
def gguf(tmp_path):
    def write(content: bytes) -> Path:
        path = tmp_path / "a.gguf"
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("chunk", [1, 7, 1 << 24])
def test_metadata_come_back(gguf, monkeypatch, chunk):
    monkeypatch.setattr(gguf_metadata, "CHUNK", chunk)
    content = file_bytes([(key, packed(value)) for key, value in VALUES.items()])
    found = read_metadata(gguf(content + b"tensors"))
    assert found == VALUES
    assert {key: type(value) for key, value in found.items()} == {key: type(value) for key, value in VALUES.items()}


@pytest.mark.parametrize(("dtype", "code"), NUMBERS)
def test_numbers_of_every_type(gguf, dtype, code):
    values = np.array([1, 100, 7], f"<{dtype}")
    array = struct.pack("<IIQ", 9, code, 3) + values.tobytes()
    found = read_metadata(gguf(file_bytes([("array", array), ("one", struct.pack("<I", code) + values[1].tobytes())])))
    assert found["array"].dtype == values.dtype
    assert found["array"].tolist() == values.tolist()
    assert found["one"] == 100


def test_a_file_cut_anywhere_is_an_error(gguf):
    content = file_bytes([(key, packed(value)) for key, value in VALUES.items()])
    assert read_metadata(gguf(content)) == VALUES
    for size in range(len(content)):
        with pytest.raises(UserError, match=r"a\.gguf"):
            read_metadata(gguf(content[:size]))


HUGE = struct.pack("<Q", (1 << 64) - 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no GGUF file: it begins with b''"),
        (b"PK\x03\x04" + bytes(40), r"is no GGUF file: it begins with b'PK"),
        (file_bytes([], version=1), "GGUF file of version 1; versions 2 and 3"),
        (b"GGUF\x00\x00\x00\x03" + bytes(40), "big-endian"),
        (
            b"GGUF" + struct.pack("<IQ", 3, 0) + HUGE,
            "truncated or damaged: key-value pairs should have 18446744073709551615",
        ),
        (file_bytes([("a", struct.pack("<I", 8) + HUGE)]), "truncated or damaged"),
        (
            file_bytes([("a", struct.pack("<II", 9, 8) + HUGE)]),
            "truncated or damaged: 'a' should have 18446744073709551615",
        ),
        (
            file_bytes([("a", struct.pack("<II", 9, 12) + HUGE)]),
            "truncated or damaged: 'a' should have 18446744073709551615",
        ),
        (file_bytes([("a", struct.pack("<I", 13) + HUGE)]), "'a' has the value type 13"),
        (file_bytes([("a", struct.pack("<II", 9, 99) + HUGE)]), "'a' is an array of type 99"),
        (file_bytes([("a", struct.pack("<II", 9, 9) + HUGE)]), "array of arrays"),
        (file_bytes([("a", packed(1)), ("a", packed(2))]), "it has the key 'a' twice"),
        (file_bytes([("a", struct.pack("<IQ", 8, 2) + b"\xff\xfe")]), "'a' is not valid UTF-8"),
    ],
)
def test_damaged_files(gguf, content, message):
    with pytest.raises(UserError, match=message) as error:
        read_metadata(gguf(content))
    assert re.search(r"a\.gguf", str(error.value))


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"none\.gguf cannot be read: No such file"):
        read_metadata(tmp_path / "none.gguf")
