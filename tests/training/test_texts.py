"""Neutral text: windows by hand, documents that are held out, folders that do not do."""

import hashlib

import numpy as np
import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.models.tokenizer_training import train_tokenizer
from jaxinterp.training.texts import HELD_OUT, text_data

LETTERS = tuple("abcdefghijklmnop")
TOKENIZER = train_tokenizer([" ".join(LETTERS)])


def is_held_out(name):
    return hashlib.sha256(name.encode()).digest()[0] % HELD_OUT == 0


TRAINING, MORE = [f"{i}.txt" for i in range(99) if not is_held_out(f"{i}.txt")][:2]
ASIDE, ALSO_ASIDE = [f"{i}.txt" for i in range(99) if is_held_out(f"{i}.txt")][:2]
NESTED = next(f"sub/{i}.md" for i in range(99) if not is_held_out(f"sub/{i}.md"))


def written(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def texts(windows):
    return [" ".join(TOKENIZER.token(int(token)) for token in window) for window in windows]


def test_windows_by_hand(tmp_path):
    files = {TRAINING: "a b c d e f g", MORE: "h i j", NESTED: "k l m n", ASIDE: "n o p a b", "note.pdf": "a b c d"}
    found = text_data(written(tmp_path, files), TOKENIZER, 4)
    # Every window begins as the model's texts do; the ends of documents are dropped, and none is joined to the next.
    expected = {"<bos> a b c", "<bos> d e f", "<bos> h i j", "<bos> k l m"}
    assert set(texts(found.training_NT)) == expected and len(found.training_NT) == 4
    assert texts(found.held_out_NT) == ["<bos> n o p"]
    assert found.training_NT.dtype == np.int32
    assert found.documents.source == str(tmp_path)


def test_another_document_moves_none(tmp_path):
    first = text_data(written(tmp_path, {TRAINING: "a b c d e f", ASIDE: "n o p"}), TOKENIZER, 4)
    again = text_data(tmp_path, TOKENIZER, 4)
    more = text_data(written(tmp_path, {MORE: "h i j"}), TOKENIZER, 4)
    assert set(texts(first.training_NT)) < set(texts(more.training_NT))
    np.testing.assert_array_equal(first.held_out_NT, more.held_out_NT)
    assert first.documents.digest == again.documents.digest != more.documents.digest
    (tmp_path / MORE).rename(tmp_path / NESTED.replace("sub/", ""))
    assert text_data(tmp_path, TOKENIZER, 4).documents.digest != more.documents.digest


def test_pythons_own_text():
    tokenizer = train_tokenizer(["the value of an expression"], kind="bpe", vocab_size=270)
    found = text_data(None, tokenizer, 64)
    assert "pydoc_data" in found.documents.source
    n_training, n_held_out = len(found.training_NT), len(found.held_out_NT)
    assert n_training > 1000 and 0.05 < n_held_out / (n_training + n_held_out) < 0.5
    assert found.training_NT.shape[1] == found.held_out_NT.shape[1] == 64
    assert (found.training_NT[:, 0] == tokenizer.prefix[0]).all()
    # Its topics repeat one another at length; nearly nothing of 20 tokens may be in both parts.
    assert found.documents.n_shared > 50
    seen = {bytes(window[start : start + 20]) for window in found.training_NT for start in range(1, 44)}
    pieces = [bytes(window[start : start + 20]) for window in found.held_out_NT for start in (1, 21, 41)]
    assert sum(piece in seen for piece in pieces) < 0.1 * len(pieces)


def test_a_paragraph_of_held_out_text_is_not_trained_on(tmp_path):
    files = {TRAINING: "a b c\n\n  d e\n  f\n\ng h i\n", ASIDE: "n o p\n \nd e f\n"}
    found = text_data(written(tmp_path, files), TOKENIZER, 4)
    assert texts(found.training_NT) == ["<bos> a b c", "<bos> g h i"]
    assert texts(found.held_out_NT) == ["<bos> n o p", "<bos> d e f"]
    assert found.documents.n_shared == 1


def test_pieces_by_hand(tmp_path):
    found = text_data(written(tmp_path, {TRAINING: "a b c d e f g h i j k", ASIDE: "n o p a b"}), TOKENIZER, 6)
    assert set(texts(found.training_NT)) == {"<bos> a b c d e", "<bos> f g h i j"}
    # Each begins as the model's texts do, and none reaches over a window's end or into held-out text.
    expected = ["<bos> a b", "<bos> c d", "<bos> f g", "<bos> h i"]
    assert sorted(texts(found.pieces(3, 9, 0))) == expected
    assert sorted(texts(found.pieces(6, 9, 0))) == ["<bos> a b c d e", "<bos> f g h i j"]
    some = texts(found.pieces(3, 3, 0))
    assert len(some) == 3 and set(some) < set(expected)
    assert some == texts(found.pieces(3, 3, 0))
    assert any(texts(found.pieces(3, 4, 0)) != texts(found.pieces(3, 4, seed)) for seed in (1, 2, 3))
    with pytest.raises(UserError, match="pieces of text of 7 tokens do not fit into windows of 6"):
        found.pieces(7, 3, 0)


def test_a_limit_takes_fewer_of_the_same_windows(tmp_path):
    files = {TRAINING: "a b c d e f g h i j k l", MORE: "m n o", ASIDE: "n o p a b c", ALSO_ASIDE: "d d d"}
    whole = text_data(written(tmp_path, files), TOKENIZER, 4)
    assert dict(zip(texts(whole.held_out_NT), whole.held_out_document_H.tolist(), strict=True)) == {
        "<bos> n o p": sorted([ASIDE, ALSO_ASIDE]).index(ASIDE),
        "<bos> a b c": sorted([ASIDE, ALSO_ASIDE]).index(ASIDE),
        "<bos> d d d": sorted([ASIDE, ALSO_ASIDE]).index(ALSO_ASIDE),
    }
    seen = set()
    for tokens, n in ((3, 1), (5, 1), (6, 2), (9, 3), (14, 4), (15, 5), (1000, 5), (0, 5)):
        found = whole.limited(tokens)
        windows = set(texts(found.training_NT))
        assert len(found.training_NT) == len(windows) == n and seen <= windows
        np.testing.assert_array_equal(found.held_out_NT, whole.held_out_NT)
        assert found.documents.digest == whole.documents.digest and found.plain()["windows"] == n
        seen = windows
    with pytest.raises(UserError, match=r"data.text_tokens must hold a window of text of 3 tokens, or be 0 .*, got 2"):
        whole.limited(2)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"has no text files \(\.txt, \.md, \.rst\)"),
        ({"a.html": "a b c d"}, "has no text files"),
        ({TRAINING: "a b c d"}, "there is no held-out text of 3 tokens in 1 documents"),
        ({ASIDE: "a b c d", TRAINING: "a b"}, "there is no training text of 3 tokens in 2 documents, of which 0 para"),
        ({ASIDE: "a b c d", TRAINING: "a b c d"}, "no training text of 3 tokens in 2 documents, of which 1 paragraphs"),
    ],
)
def test_folders_without_enough_text(tmp_path, files, message):
    with pytest.raises(UserError, match=message):
        text_data(written(tmp_path, files), TOKENIZER, 4)


def test_what_is_no_text(tmp_path):
    with pytest.raises(UserError, match="nothing is no folder"):
        text_data(tmp_path / "nothing", TOKENIZER, 4)
    with pytest.raises(UserError, match="a window of text must have at least 3 tokens, got 2"):
        text_data(written(tmp_path, {TRAINING: "a b c"}), TOKENIZER, 2)
    (tmp_path / TRAINING).write_bytes(b"\xff\xfe a")
    with pytest.raises(UserError, match=rf"{TRAINING} cannot be read as UTF-8 text"):
        text_data(tmp_path, TOKENIZER, 4)
