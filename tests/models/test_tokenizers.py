"""Tokenizers trained on a few sentences, their frames and files."""

import inspect

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json, write_json
from jaxinterp.models.loading.tokenizer_files import load_tokenizer, save_tokenizer
from jaxinterp.models.sources.fetch import resolve
from jaxinterp.models.tokenizer_training import BOS, PAD, UNK, train_tokenizer
from jaxinterp.models.tokenizers import TextTokenizer, byte_alphabet

CORPUS = [
    "The capital of France is Paris.",
    "France's capital is called Paris.",
    "Question: what is the capital of Peru? Answer: Lima.",
    "The internet domain of Peru is .pe.",
]
SHIPPED = [resolve(f"reference-{name}") / "tokenizer.json" for name in ("plain", "suppressable")]


@pytest.fixture(scope="module")
def word():
    return train_tokenizer(CORPUS)


@pytest.fixture(scope="module")
def bpe():
    return train_tokenizer(CORPUS, kind="bpe", vocab_size=300)


def tokens(tokenizer, text):
    return [tokenizer.token(id) for id in tokenizer.encode(text)]


def test_word_splits_by_hand(word):
    assert tokens(word, "The capital of France is Paris.") == ["The", "capital", "of", "France", "is", "Paris", "."]
    assert tokens(word, "France's capital") == ["France", "'s", "capital"]
    assert tokens(word, "Question: what is Peru?") == ["Question", ":", "what", "is", "Peru", "?"]
    assert tokens(word, "The domain is .pe.") == ["The", "domain", "is", ".pe", "."]
    assert tokens(word, "The capital of Atlantis is Paris") == ["The", "capital", "of", UNK, "is", "Paris"]


def test_word_knows_exactly_the_words_of_the_corpus(word):
    words = {"The", "the", "capital", "of", "France", "'s", "is", "Paris", ".", "called", "Question", ":", "what"}
    words |= {"Peru", "?", "Answer", "Lima", "internet", "domain", ".pe"}
    assert {word.token(id) for id in range(word.n_tokens)} == words | {PAD, BOS, UNK}
    assert word.unknown_word("The capital of Atlantis is Ys") == "Atlantis"
    assert word.unknown_word("The capital of France") is None


def test_the_frame_of_trained_tokenizers(word, bpe):
    for tokenizer in (word, bpe):
        assert [tokenizer.token(id) for id in range(3)] == [PAD, BOS, UNK]
        assert (tokenizer.prefix, tokenizer.suffix, tokenizer.pad, tokenizer.mask) == ((1,), (), 0, None)
    assert (word.unk, bpe.unk) == (2, None)  # bytes spell anything


def test_the_order_of_the_corpus_does_not_matter(word, bpe):
    assert train_tokenizer(CORPUS[::-1]).backend.get_vocab() == word.backend.get_vocab()
    again = train_tokenizer(CORPUS[::-1], kind="bpe", vocab_size=300)
    assert again.backend.get_vocab() == bpe.backend.get_vocab()


def test_bpe_encodes_any_text_and_gives_it_back(bpe):
    for text in ("The capital of Åland is 東京 – naïve?", "x'y\tz", "<bos> is <unk> <pad>"):
        ids = bpe.encode(text)
        assert not {0, 1, 2} & set(ids)
        assert bpe.text(ids) == " " + text
        assert bpe.unknown_word(text) is None
    assert bpe.n_tokens == 300


def test_bpe_encodes_a_word_the_same_wherever_it_stands(bpe):
    word = tokens(bpe, "Paris")
    assert len(word) < 5
    assert tokens(bpe, "is Paris.") == [*tokens(bpe, "is"), *word, "."]
    assert tokens(bpe, "Paris is") == [*word, *tokens(bpe, "is")]
    assert len(tokens(bpe, "Lisboa")) > 2


def test_tokens_as_a_person_reads_them(bpe):
    byte = {byte: bpe.backend.token_to_id(character) for character, byte in byte_alphabet().items()}
    assert [bpe.token(byte[value]) for value in (0x41, 0x20, 0x0A, 0xE2)] == ["A", " ", "\n", "<0xE2>"]
    assert bpe.token(bpe.n_tokens) == "<id 300>"
    assert bpe.token(-1) == "<id -1>"
    assert tokens(bpe, "the")[0].startswith(" ")
    assert "".join(tokens(bpe, "is Åland")) == " is <0xC3><0x85>land"


def test_the_byte_alphabet_is_that_of_the_library():
    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))
    ((word, _),) = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str("ÿé\u0100")
    assert bytes(byte_alphabet()[character] for character in word) == "ÿé\u0100".encode()


def test_batches_equal_single_texts(word):
    texts = [*CORPUS, ""]
    assert word.encode_batch(texts) == [word.encode(text) for text in texts]
    assert word.encode_batch([]) == []
    assert word.encode("") == []


def test_a_control_token_in_a_text_is_an_error_where_it_cannot_be_plain_text(word):
    with pytest.raises(UserError, match="'The <bos> of' holds '<bos>', a control token"):
        word.encode("The <bos> of")
    with pytest.raises(UserError, match="<pad>"):
        word.encode_batch(["The", "is <pad>."])


def test_lone_surrogates_are_an_error(word):
    with pytest.raises(UserError, match="lone surrogates"):
        word.encode_batch(["The", "a\ud800b"])


def test_text_of_an_unknown_id_is_an_error(word):
    assert word.text(word.encode("France is")) == "France is"
    for id in (23, -1):
        with pytest.raises(UserError, match=f"id {id} is not in the tokenizer's vocabulary of 23 tokens"):
            word.text([3, id])


def test_nothing_is_truncated_or_padded():
    backend = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.enable_truncation(2)
    backend.enable_padding(length=5)
    assert len(backend.encode("a a a").ids) == 5
    assert TextTokenizer(backend, (), (), 0, 1).encode_batch(["a a a", "a"]) == [[0, 0, 0], [0]]


def test_a_vocabulary_with_holes():
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 7}, unk_token="a"))
    backend.add_tokens([AddedToken("c")])
    tokenizer = TextTokenizer(backend, (), (), 0, None)
    assert tokenizer.n_tokens == 8
    assert tokenizer.token(5) == "<id 5>"


@pytest.mark.parametrize("name", ["prefix", "suffix", "pad", "unk", "mask"])
def test_a_frame_outside_the_vocabulary_is_an_error(word, name):
    frame = {"prefix": (1,), "suffix": (), "pad": 0, "unk": 2, "mask": None}
    frame[name] = (23,) if name in ("prefix", "suffix") else 23
    with pytest.raises(UserError, match=f"the tokenizer's {name} is id 23"):
        TextTokenizer(word.backend, **frame)


def test_saved_and_loaded(word, bpe, tmp_path):
    masked = TextTokenizer(word.backend, (1, 4), (5,), 3, None, 6)
    for tokenizer in (word, bpe, masked):
        path = tmp_path / "tokenizer.json"
        save_tokenizer(tokenizer, path)
        loaded = load_tokenizer(path)
        assert loaded.backend.to_str() == tokenizer.backend.to_str()
        assert loaded.encode(CORPUS[1]) == tokenizer.encode(CORPUS[1])
        for name in ("prefix", "suffix", "pad", "unk", "mask"):
            assert getattr(loaded, name) == getattr(tokenizer, name)


def test_without_a_frame_the_names_of_the_tokens_tell_it(word, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(word.backend.to_str(), encoding="utf-8")
    loaded = load_tokenizer(path)
    assert (loaded.prefix, loaded.suffix, loaded.pad, loaded.unk, loaded.mask) == ((1,), (), 0, 2, None)
    path.write_text(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).to_str(), encoding="utf-8")
    with pytest.raises(UserError, match=r"no frame\.json beside it and lacks one of <pad>, <bos>, <unk>"):
        load_tokenizer(path)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_shipped_tokenizers_load(path):
    tokenizer = load_tokenizer(path)
    assert (tokenizer.prefix, tokenizer.pad, tokenizer.unk) == ((1,), 0, 2)
    assert tokenizer.text(tokenizer.encode("The capital of France is Paris")) == "The capital of France is Paris"


def test_there_are_shipped_tokenizers():
    assert len(SHIPPED) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pad": "0"}, "pad is '0', which is no token id"),
        ({"pad": None}, "pad is None"),
        ({"unk": True}, "unk is True"),
        ({"prefix": 1}, "prefix is 1"),
        ({"suffix": ["a"]}, "suffix is"),
        ({"pad": 99}, "the tokenizer's pad is id 99"),
        ({"pad": 1 << 40}, "the tokenizer's pad is id 1099511627776"),
        ({"eos": 1}, "has the fields eos, mask, pad, prefix, suffix, unk, not prefix, suffix, pad, unk, mask"),
    ],
)
def test_damaged_frames(word, tmp_path, change, message):
    path = tmp_path / "tokenizer.json"
    save_tokenizer(word, path)
    write_json(tmp_path / "frame.json", {**read_json(tmp_path / "frame.json"), **change})
    with pytest.raises(UserError, match=message):
        load_tokenizer(path)


def test_errors(tmp_path):
    with pytest.raises(UserError, match="unknown tokenizer 'char'; known: bpe, word"):
        inspect.unwrap(train_tokenizer)(CORPUS, kind="char")  # past the type check
    with pytest.raises(UserError, match="23 tokens are needed, above vocab_size = 22"):
        train_tokenizer(CORPUS, vocab_size=22)
    assert train_tokenizer(CORPUS, vocab_size=23).n_tokens == 23
    with pytest.raises(UserError, match=r"no tokenizer at .*tokenizer\.json"):
        load_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be read"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_a_vocabulary_that_lacks_its_own_token_for_unknown_words():
    tokenizer = TextTokenizer(Tokenizer(models.WordLevel({"a": 0}, "[UNK]")), (), (), 0, None)
    assert tokenizer.encode("a") == [0]
    with pytest.raises(UserError, match=r"the tokenizer cannot encode a text: .*UNK.*; its vocabulary may be damaged"):
        tokenizer.encode("b")
