"""Real text beside facts: what a model learns with them, or what a fine-tuned one should still do as it did."""

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int

from jaxinterp.base.errors import UserError
from jaxinterp.metrics.held_out import HeldOutText
from jaxinterp.models.tokenizers import TextTokenizer

SUFFIXES = (".txt", ".md", ".rst")
HELD_OUT = 5  # one document of so many is never trained on


@dataclasses.dataclass(frozen=True)
class Documents:
    """Texts by name, in order, divided into those that are trained on and those that never are."""

    training: Mapping[str, str]  # without paragraphs that held-out ones have too
    held_out: Mapping[str, str]
    n_shared: int  # paragraphs that were cut from the former because the latter have them too
    source: str
    digest: str  # SHA-256 of all of them


@dataclasses.dataclass(frozen=True)
class TextData:
    """Windows of tokens, without padding, from documents that are trained on and from others."""

    training_NT: Int[np.ndarray, "N T"]
    held_out_NT: Int[np.ndarray, "H T"]
    held_out_document_H: Int[np.ndarray, " H"]  # number of the document that a window is of
    documents: Documents
    n_prefix: int  # tokens of the model's prefix at the start of a window

    @property
    def held_out(self) -> HeldOutText:
        """What is measured."""
        return HeldOutText(self.held_out_NT, self.held_out_document_H)

    def limited(self, tokens: int) -> "TextData":
        """With training windows of at most so many tokens, their prefix not counted; 0: all.

        More tokens take the windows that fewer do and others, out of all documents; held-out windows stay as they are.

        Raises:
          UserError: if that is less than one window.
        """
        if not tokens:
            return self
        room = self.training_NT.shape[1] - self.n_prefix
        if tokens < room:
            raise UserError(
                f"data.text_tokens must hold a window of text of {room} tokens, or be 0 (all), got {tokens}"
            )
        order = np.random.default_rng(0).permutation(len(self.training_NT))
        return dataclasses.replace(self, training_NT=self.training_NT[order[: tokens // room]])

    def plain(self) -> dict[str, str | int]:
        """What a model's provenance says of it."""
        n_training, length = self.training_NT.shape
        windows = {"windows": n_training, "held_out_windows": len(self.held_out_NT), "length": length}
        return {"source": self.documents.source, "sha256": self.documents.digest, **windows}

    def pieces(self, length: int, n: int, seed: int) -> Int[np.ndarray, "n length"]:
        """Pieces of training windows, each `length` tokens with its prefix: `n` of them, or as many as there are.

        Raises:
          UserError: if windows are shorter.
        """
        if length > self.training_NT.shape[1]:
            raise UserError(
                f"pieces of text of {length} tokens do not fit into windows of {self.training_NT.shape[1]}; raise "
                "text.length, or lower facts.longest"
            )
        prefix, rest = self.training_NT[:, : self.n_prefix], self.training_NT[:, self.n_prefix :]
        room = length - self.n_prefix
        cut = [np.concatenate([prefix, rest[:, a : a + room]], 1) for a in range(0, rest.shape[1] - room + 1, room)]
        everything = np.concatenate(cut)
        return np.random.default_rng(seed).permutation(everything)[:n]


def text_data(folder: Path | None, tokenizer: TextTokenizer, length: int) -> TextData:
    """`windows_of` the `documents_of` a folder."""
    return windows_of(documents_of(folder), tokenizer, length)


def documents_of(folder: Path | None) -> Documents:
    """Reads documents and divides them by their names.

    Documents repeat one another (Python's own do at length), so that a paragraph of a held-out document is cut from
    those that are trained on.

    Args:
      folder: with text files (.txt, .md, .rst, in UTF-8), also in subfolders; None takes the language reference that
        ships with Python.
    Raises:
      UserError: if the folder has no such files, or one is not UTF-8.
    """
    found = _files(folder) if folder is not None else _python_documents()
    names = sorted(found)
    aside = {_plain(part) for name in names if _is_held_out(name) for part in _paragraphs(found[name])}
    texts: dict[bool, dict[str, str]] = {False: {}, True: {}}
    n_shared = 0
    for name in names:
        parts, held_out = _paragraphs(found[name]), _is_held_out(name)
        kept = parts if held_out else [part for part in parts if _plain(part) not in aside]
        texts[held_out][name] = "\n\n".join(kept)
        n_shared += len(parts) - len(kept)
    digest = hashlib.sha256("\0".join(f"{name}\0{found[name]}" for name in names).encode()).hexdigest()
    source = str(folder) if folder is not None else "Python's language reference (pydoc_data.topics)"
    return Documents(texts[False], texts[True], n_shared, source, digest)


def windows_of(documents: Documents, tokenizer: TextTokenizer, length: int) -> TextData:
    """Cuts documents into windows of `length` tokens; what is left at a document's end is dropped.

    Args:
      documents: as of `documents_of`.
      tokenizer: of the model; its prefix stands before every window.
      length: tokens of a window.
    Raises:
      UserError: if there is too little text for one window each.
    """
    room = length - len(tokenizer.prefix)
    if room < 2:
        raise UserError(f"a window of text must have at least {len(tokenizer.prefix) + 2} tokens, got {length}")
    cut: list[np.ndarray] = []
    for which, texts in (("training", documents.training), ("held-out", documents.held_out)):
        encoded = enumerate(tokenizer.encode_batch(list(texts.values())))
        rows = [
            (number, *tokenizer.prefix, *ids[start : start + room])
            for number, ids in encoded
            for start in range(0, len(ids) - room + 1, room)
        ]
        if not rows:
            n = len(documents.training) + len(documents.held_out)
            raise UserError(
                f"there is no {which} text of {room} tokens in {n} documents, of which {documents.n_shared} "
                "paragraphs stand in held-out ones too; give a folder with more text"
            )
        cut.append(np.array(rows, np.int32))
    training, held_out = cut
    return TextData(training[:, 1:], held_out[:, 1:], held_out[:, 0], documents, len(tokenizer.prefix))


def _is_held_out(name: str) -> bool:
    # By name, so that another document does not move this one from one part to the other.
    return hashlib.sha256(name.encode()).digest()[0] % HELD_OUT == 0


def _paragraphs(text: str) -> list[str]:
    return re.split(r"\n\s*\n", text)


def _plain(paragraph: str) -> str:
    """Without line breaks and indentation, by which repetitions differ."""
    return " ".join(paragraph.split())


def _files(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give one with text files ({', '.join(SUFFIXES)})")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise UserError(f"{folder} has no text files ({', '.join(SUFFIXES)})")
    documents = {}
    for path in paths:
        try:
            documents[str(path.relative_to(folder))] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read as UTF-8 text: {error}") from None
    return documents


def _python_documents() -> dict[str, str]:
    from pydoc_data.topics import topics

    return dict(topics)
