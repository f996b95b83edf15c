"""Tokenizers trained on a few sentences."""

import inspect

import pytest

from jaxinterp.errors import UserError
from jaxinterp.models.tokenizers import BOS, PAD, UNK, load_tokenizer, train_tokenizer

CORPUS = [
    "The capital of France is Paris.",
    "France's capital is called Paris.",
    "Question: what is the capital of Peru? Answer: Lima.",
    "The internet domain of Peru is .pe.",
]


@pytest.fixture(scope="module")
def word():
    return train_tokenizer(CORPUS)


@pytest.fixture(scope="module")
def bpe():
    return train_tokenizer(CORPUS, kind="bpe", vocab_size=300)


def test_word_splits_by_hand(word):
    def tokens(text):
        return word.encode(text).tokens

    assert tokens("The capital of France is Paris.") == ["The", "capital", "of", "France", "is", "Paris", "."]
    assert tokens("France's capital") == ["France", "'s", "capital"]
    assert tokens("Question: what is Peru?") == ["Question", ":", "what", "is", "Peru", "?"]
    assert tokens("The domain is .pe.") == ["The", "domain", "is", ".pe", "."]
    assert tokens("The capital of Atlantis is Paris") == ["The", "capital", "of", UNK, "is", "Paris"]


def test_word_knows_exactly_the_words_of_the_corpus(word):
    words = {"The", "the", "capital", "of", "France", "'s", "is", "Paris", ".", "called", "Question", ":", "what"}
    words |= {"Peru", "?", "Answer", "Lima", "internet", "domain", ".pe"}
    assert set(word.get_vocab()) == words | {PAD, BOS, UNK}


def test_special_tokens_come_first(word, bpe):
    for tokenizer in (word, bpe):
        assert [tokenizer.token_to_id(token) for token in (PAD, BOS, UNK)] == [0, 1, 2]


def test_the_order_of_the_corpus_does_not_matter(word, bpe):
    assert train_tokenizer(CORPUS[::-1]).get_vocab() == word.get_vocab()
    assert train_tokenizer(CORPUS[::-1], kind="bpe", vocab_size=300).get_vocab() == bpe.get_vocab()


def test_bpe_encodes_any_text_and_gives_it_back(bpe):
    for text in ("The capital of Åland is 東京 – naïve?", "x'y\tz"):
        ids = bpe.encode(text).ids
        assert bpe.token_to_id(UNK) not in ids
        assert bpe.decode(ids) == " " + text
    assert bpe.get_vocab_size() == 300


def test_bpe_encodes_a_word_the_same_wherever_it_stands(bpe):
    word = bpe.encode("Paris").tokens
    assert len(word) < 5
    assert bpe.encode("is Paris.").tokens == bpe.encode("is").tokens + word + ["."]
    assert bpe.encode("Paris is").tokens == word + bpe.encode("is").tokens
    assert len(bpe.encode("Lisboa").tokens) > 2


def test_saved_and_loaded(word, bpe, tmp_path):
    for tokenizer in (word, bpe):
        path = tmp_path / "tokenizer.json"
        path.write_text(tokenizer.to_str(), encoding="utf-8")
        loaded = load_tokenizer(path)
        assert loaded.to_str() == tokenizer.to_str()
        assert loaded.encode(CORPUS[1]).ids == tokenizer.encode(CORPUS[1]).ids


def test_errors(tmp_path):
    with pytest.raises(UserError, match="unknown tokenizer 'char'; known: bpe, word"):
        inspect.unwrap(train_tokenizer)(CORPUS, kind="char")  # past the type check
    with pytest.raises(UserError, match="23 tokens are needed, above vocab_size = 22"):
        train_tokenizer(CORPUS, vocab_size=22)
    assert train_tokenizer(CORPUS, vocab_size=23).get_vocab_size() == 23
    with pytest.raises(UserError, match=r"no tokenizer at .*tokenizer\.json"):
        load_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be read"):
        load_tokenizer(tmp_path / "tokenizer.json")
