"""Tokenizers of folders in the layout of the hub, written here with a few tokens each."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from jaxinterp.errors import UserError
from jaxinterp.models.loading.hf_tokenizer import folder_tokenizer
from jaxinterp.models.tokenizers import byte_alphabet

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "The", "capital", "of", "Fr", "##ance", "is", "Paris"]
BERT += [".", "a", "2", "cats", "[", "]", "MASK"]


def write(folder: Path, config: dict, **files: str | dict) -> Path:
    for name, content in {"tokenizer_config.json": config, **files}.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


def tokens(tokenizer, text):
    return [tokenizer.token(id) for id in tokenizer.encode(text)]


def byte_level(left_out: int | None = None) -> Tokenizer:
    """Bytes, two merges, digits one by one; <end> is its only control token."""
    letters = sorted(letter for letter, byte in byte_alphabet().items() if byte != left_out)
    vocabulary = {token: id for id, token in enumerate(["<end>", *letters, "Ġi", "ĠĠ"])}
    backend = Tokenizer(models.BPE(vocabulary, [("Ġ", "i"), ("Ġ", "Ġ")]))
    backend.add_special_tokens(["<end>"])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


@pytest.fixture
def bert(tmp_path):
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": False}
    return write(tmp_path, config, config__json={"model_type": "bert"}, vocab__txt="\n".join(BERT) + "\n")


def test_bert_from_its_vocabulary(bert):
    tokenizer = folder_tokenizer(bert)
    frame = [tokenizer.token(id) for id in (*tokenizer.prefix, *tokenizer.suffix, tokenizer.pad, tokenizer.mask)]
    assert frame == ["[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    assert (tokenizer.token(tokenizer.unk), tokenizer.n_tokens) == ("[UNK]", len(BERT))
    assert tokens(tokenizer, "The capital of France is") == ["The", "capital", "of", "Fr", "##ance", "is"]
    assert tokenizer.text(tokenizer.encode("The capital of France is")) == "The capital of France is"
    assert tokenizer.unknown_word("The capital of Peru is") == "Peru"
    assert tokenizer.special == {0, 2, 3, 4}


def test_a_mask_in_a_text_is_plain_text(bert):
    assert tokens(folder_tokenizer(bert), "is [MASK].") == ["is", "[", "MASK", "]", "."]


def test_an_answer_after_a_space_leaves_the_prompt_of_word_pieces_alone(bert):
    tokenizer = folder_tokenizer(bert)
    before = tokenizer.encode("The capital of France is")
    assert tokenizer.encode("The capital of France is Paris") == [*before, BERT.index("Paris")]


def test_a_published_tokenizer_is_not_rebuilt_for_its_class(tmp_path):
    """Transformers' GPT2Tokenizer, which this folder names, splits no digits from the spaces before them."""
    config = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<end>"}
    tokenizer = folder_tokenizer(write(tmp_path, config, tokenizer__json=byte_level().to_str()))
    assert tokens(tokenizer, "a  12 in<end>") == ["a", "  ", "1", "2", " i", "n", *"<end>"]
    assert (tokenizer.prefix, tokenizer.suffix, tokenizer.pad) == ((), (), 0)
    assert tokenizer.unk is tokenizer.mask is None
    assert tokenizer.encode("a in") == [*tokenizer.encode("a"), *tokenizer.encode(" in")]


def test_a_byte_that_the_vocabulary_lacks_is_unknown_and_not_left_out(tmp_path):
    config = {"tokenizer_class": "GPT2Tokenizer", "unk_token": "<end>", "pad_token": "a"}
    tokenizer = folder_tokenizer(write(tmp_path, config, tokenizer__json=byte_level(left_out=4).to_str()))
    assert (tokenizer.unk, tokenizer.token(tokenizer.pad)) == (0, "a")
    assert tokenizer.encode("\x04") == [0]
    assert len(tokenizer.encode("a\x04a")) == 3
    assert tokenizer.unknown_word("a\x04a") == "\x04"


def test_a_first_token_and_a_mask_without_a_use(tmp_path):
    """A causal family may declare a mask token, as Gemma does; its texts have no end."""
    backend = byte_level()
    backend.post_processor = processors.TemplateProcessing(single="<end> $A", special_tokens=[("<end>", 0)])
    config = {"bos_token": "<end>", "mask_token": "b"}
    tokenizer = folder_tokenizer(write(tmp_path, config, tokenizer__json=backend.to_str()))
    assert (tokenizer.prefix, tokenizer.suffix, tokenizer.mask) == ((0,), (), None)
    assert tokenizer.encode("a") == [backend.token_to_id("a")]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no tokenizer; one of these files is needed: tokenizer.json, vocab.txt, vocab.json with merges.txt"),
        ({"vocab__json": "{}"}, "has no tokenizer"),
        ({"tokenizer__json": "not JSON"}, "cannot be read: Expecting value"),
        ({"tokenizer__json": "{}"}, "cannot be read"),
        ({"tokenizer__json": '{"added_tokens": [], "model": {"type": "BPE"}}'}, "cannot be read"),
        ({"config__json": {"model_type": "none"}, "vocab__txt": ""}, "cannot be read|encodes"),
    ],
)
def test_folders_without_a_usable_tokenizer(tmp_path, files, message):
    with pytest.raises(UserError, match=message) as error:
        folder_tokenizer(write(tmp_path, {}, **files))
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="has no tokenizer"):
        folder_tokenizer(tmp_path / "none")


def test_a_frame_that_depends_on_the_text_is_an_error(tmp_path):
    backend = byte_level()
    backend.post_processor = processors.TemplateProcessing(single="$A $A", special_tokens=[])
    with pytest.raises(UserError, match="within its frame as"):
        folder_tokenizer(write(tmp_path, {}, tokenizer__json=backend.to_str()))
