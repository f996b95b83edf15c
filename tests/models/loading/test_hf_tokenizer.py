"""Tokenizers of folders in the layout of the hub, written here with a few tokens each."""

import json
from pathlib import Path

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from jaxinterp.base.errors import UserError
from jaxinterp.models.loading import hf_tokenizer
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
    tokenizer = folder_tokenizer(bert, masked=True)
    frame = [tokenizer.token(id) for id in (*tokenizer.prefix, *tokenizer.suffix, tokenizer.pad, tokenizer.mask)]
    assert frame == ["[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    assert (tokenizer.token(tokenizer.unk), tokenizer.n_tokens) == ("[UNK]", len(BERT))
    assert tokens(tokenizer, "The capital of France is") == ["The", "capital", "of", "Fr", "##ance", "is"]
    assert tokenizer.text(tokenizer.encode("The capital of France is")) == "The capital of France is"
    assert tokenizer.unknown_word("The capital of Peru is") == "Peru"
    assert tokenizer.special == {0, 2, 3, 4}


def word_pieces(vocabulary=BERT, lowercase=False, **steps):
    """BERT's tokenizer.json, as the hub has it."""
    backend = Tokenizer(models.WordPiece({token: id for id, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase, **steps)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    frame = [(token, vocabulary.index(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=frame)
    backend.add_special_tokens([token for token in vocabulary if token.startswith("[") and token.endswith("]")])
    return backend.to_str()


@pytest.mark.parametrize("config", [{"do_lower_case": False, "model_max_length": 512}, {}])
def test_bert_as_the_hub_has_it(config, tmp_path):
    """Its tokenizer_config.json names no tokens: they are the class's, which the vocabulary has."""
    others = {"config__json": {"model_type": "bert"}, "tokenizer__json": word_pieces()}
    tokenizer = folder_tokenizer(write(tmp_path, config, **others), masked=True)
    frame = (*tokenizer.prefix, *tokenizer.suffix, tokenizer.pad, tokenizer.mask, tokenizer.unk)
    assert [tokenizer.token(id) for id in frame] == ["[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]"]
    assert tokenizer.unknown_word("The capital of Peru is") == "Peru"
    assert folder_tokenizer(tmp_path).mask is None  # of a causal model


def test_a_mask_is_found_by_its_declared_name_first(tmp_path):
    vocabulary = [*BERT, "<mask>", "[M]"]
    folder = write(tmp_path, {"mask_token": "[M]"}, tokenizer__json=word_pieces(vocabulary))
    assert folder_tokenizer(folder, masked=True).mask == len(BERT) + 1
    write(tmp_path, {}, tokenizer__json=word_pieces([token for token in vocabulary if token != "[MASK]"]))
    assert folder_tokenizer(folder, masked=True).mask == len(BERT) - 1


def test_a_masked_model_without_a_mask_is_refused(tmp_path):
    backend = word_pieces([token for token in BERT if token != "[MASK]"])
    with pytest.raises(UserError, match=r"masked language model, but its tokenizer has no mask: neither a mask_token"):
        folder_tokenizer(write(tmp_path, {}, tokenizer__json=backend), masked=True)


def test_a_masked_model_s_texts_have_a_frame(tmp_path):
    bare = json.loads(word_pieces()) | {"post_processor": None}
    with pytest.raises(
        UserError, match=r"tokenizer\.json puts no \[CLS\] and \[SEP\] around texts, which a masked model"
    ):
        folder_tokenizer(write(tmp_path, {}, tokenizer__json=bare), masked=True)


def test_what_the_backend_names_is_unknown_whatever_is_declared(tmp_path):
    folder = write(tmp_path, {"unk_token": "[SEP]"}, tokenizer__json=word_pieces())
    assert folder_tokenizer(folder).unk == BERT.index("[UNK]")


@pytest.mark.parametrize(
    ("declared", "done"),
    [
        ({"do_lower_case": False}, word_pieces(lowercase=True)),
        ({"do_lower_case": True}, word_pieces(lowercase=False)),
        ({"strip_accents": False}, word_pieces(strip_accents=True)),
        ({"strip_accents": True}, word_pieces(strip_accents=False)),
        ({"tokenize_chinese_chars": False}, word_pieces(handle_chinese_chars=True)),
        ({"tokenize_chinese_chars": True}, word_pieces(handle_chinese_chars=False)),
        ({"add_prefix_space": True}, byte_level().to_str()),
    ],
)
def test_two_files_that_contradict_one_another_are_refused(declared, done, tmp_path):
    ((name, value),) = declared.items()
    folder = write(tmp_path, declared, tokenizer__json=done)
    with pytest.raises(
        UserError, match=rf"tokenizer_config\.json: {name} is {value}, but the steps of tokenizer\.json"
    ):
        folder_tokenizer(folder)
    folder_tokenizer(write(tmp_path, {name: not value}, tokenizer__json=done))
    folder_tokenizer(write(tmp_path, {name: None}, tokenizer__json=done))


@pytest.mark.parametrize("framed", [True, False])
@pytest.mark.parametrize(("bos", "eos"), [(True, False), (False, True), (False, False)])
def test_what_stands_around_texts_is_tokenizer_json_s_as_in_transformers(bos, eos, framed, tmp_path):
    backend = byte_level()
    if framed:
        backend.post_processor = processors.TemplateProcessing(single="<end> $A", special_tokens=[("<end>", 0)])
    config = {"bos_token": "<end>", "eos_token": "<end>", "add_bos_token": bos, "add_eos_token": eos}
    files = {"tokenizer__json": backend.to_str(), "config__json": {"model_type": "llama"}}
    tokenizer = folder_tokenizer(write(tmp_path, config, **files))
    reference = transformers.AutoTokenizer.from_pretrained(str(tmp_path))("a 2")["input_ids"]
    assert [*tokenizer.prefix, *tokenizer.encode("a 2"), *tokenizer.suffix] == reference
    assert (tokenizer.prefix, tokenizer.suffix) == ((0,) * framed, ())


def test_sentencepiece_alone_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(hf_tokenizer, "_has_sentencepiece", lambda: False)
    folder = write(tmp_path, {}, config__json={"model_type": "llama"}, tokenizer__model="binary")
    with pytest.raises(
        UserError, match=r"tokenizer\.model alone, .* pip install sentencepiece`, or put the model's tok"
    ):
        folder_tokenizer(folder)
    folder_tokenizer(write(folder, {}, tokenizer__json=byte_level().to_str()))


def test_sentencepiece_alone_is_read_where_it_is_installed(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    corpus = ["The capital of France is Paris.", "The 2 cats sat on the mat in 1984."] * 20
    options = {"model_type": "bpe", "byte_fallback": True, "character_coverage": 1.0, "vocab_size": 330}
    options |= {"remove_extra_whitespaces": False, "normalization_rule_name": "identity", "minloglevel": 2}
    with (tmp_path / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(corpus), model_writer=file, **options)
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = folder_tokenizer(
        write(tmp_path, config | {"add_bos_token": True}, config__json={"model_type": "llama"})
    )
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert tokenizer.prefix == (reference.bos_id(),)
    for text in ("The 2 cats.", "Paris  is é", "hello", "a\nb"):
        assert tokenizer.encode(text) == reference.encode(text)
    for unnamed in ({}, {"tokenizer_class": "LLaMATokenizer"}):  # the latter in files of 2023
        with pytest.raises(UserError, match=r"splits 'a' otherwise than sentencepiece .* name the tokenizer_class in"):
            folder_tokenizer(write(tmp_path, unnamed))


@pytest.mark.parametrize("name", ["tokenizer__json", "tokenizer_config__json", "vocab__txt", "tokenizer__model"])
def test_a_pointer_instead_of_a_tokenizer(name, tmp_path):
    pointer = {name: "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n"}
    files = {"vocab__txt": "a", **pointer}
    with pytest.raises(UserError, match=rf"{name.replace('__', '[.]')} is a Git LFS pointer, not the file itself; run"):
        folder_tokenizer(write(tmp_path, {}, **files))


def test_a_mask_in_a_text_is_plain_text(bert):
    assert tokens(folder_tokenizer(bert), "is [MASK].") == ["is", "[", "MASK", "]", "."]


def test_an_answer_after_a_space_leaves_the_prompt_of_word_pieces_alone(bert):
    tokenizer = folder_tokenizer(bert, masked=True)
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


PLAIN = byte_level().to_str()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no tokenizer; one of these files is needed: tokenizer.json, vocab.txt, vocab.json with merges.txt"),
        ({"vocab__json": "{}"}, "has no tokenizer"),
        ({"tokenizer__json": "not JSON"}, "cannot be read: Expecting value"),
        ({"tokenizer__json": "{}"}, "cannot be read"),
        (
            {"tokenizer_config__json": {"model_max_length": []}, "tokenizer__json": PLAIN},
            "cannot be read: .* between inst",
        ),
        ({"tokenizer__json": '{"added_tokens": [], "model": {"type": "BPE"}}'}, "cannot be read"),
        ({"config__json": {"model_type": "none"}, "vocab__txt": ""}, "the tokenizer in .* cannot|encodes"),
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
