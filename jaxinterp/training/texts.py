"""Neutral text: what a fine-tuned model should still do as it did."""

import dataclasses
import hashlib
import re
from pathlib import Path

import numpy as np
from jaxtyping import Int

from jaxinterp.base.errors import UserError
from jaxinterp.models.tokenizers import TextTokenizer

SUFFIXES = (".txt", ".md", ".rst")
HELD_OUT = 5  # one document of so many is never trained on


@dataclasses.dataclass(frozen=True)
class TextData:
    """Windows of tokens, without padding, from documents that are trained on and from others."""

    training_NT: Int[np.ndarray, "N T"]
    held_out_NT: Int[np.ndarray, "H T"]
    n_shared: int  # paragraphs that were cut from the former because the latter have them too
    source: str
    digest: str  # SHA-256 of all documents
    n_prefix: int  # tokens of the model's prefix at the start of a window

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
    """Cuts documents into windows of `length` tokens; what is left at a document's end is dropped.

    Documents repeat one another (Python's own do at length), so that a paragraph of a held-out document is cut from
    those that are trained on.

    Args:
      folder: with text files (.txt, .md, .rst, in UTF-8), also in subfolders; None takes the language reference that
        ships with Python.
      tokenizer: of the model; its prefix stands before every window.
      length: tokens of a window.
    Raises:
      UserError: if the folder has no such files, one is not UTF-8, or there is too little text for one window each.
    """
    documents = _files(folder) if folder is not None else _python_documents()
    windows: dict[bool, list[list[int]]] = {False: [], True: []}
    room = length - len(tokenizer.prefix)
    if room < 2:
        raise UserError(f"a window of text must have at least {len(tokenizer.prefix) + 2} tokens, got {length}")
    names = sorted(documents)
    aside = {_plain(part) for name in names if _is_held_out(name) for part in _paragraphs(documents[name])}
    texts, n_shared = [], 0
    for name in names:
        parts = _paragraphs(documents[name])
        kept = parts if _is_held_out(name) else [part for part in parts if _plain(part) not in aside]
        texts.append("\n\n".join(kept))
        n_shared += len(parts) - len(kept)
    for name, ids in zip(names, tokenizer.encode_batch(texts), strict=True):
        for start in range(0, len(ids) - room + 1, room):
            windows[_is_held_out(name)].append([*tokenizer.prefix, *ids[start : start + room]])
    for held_out, part in windows.items():
        if not part:
            which = "held-out" if held_out else "training"
            raise UserError(
                f"there is no {which} text of {room} tokens in {len(documents)} documents, of which {n_shared} "
                "paragraphs stand in held-out ones too; give a folder with more text"
            )
    digest = hashlib.sha256("\0".join(f"{name}\0{documents[name]}" for name in names).encode()).hexdigest()
    source = str(folder) if folder is not None else "Python's language reference (pydoc_data.topics)"
    training, held_out = (np.array(windows[part], np.int32) for part in (False, True))
    return TextData(training, held_out, n_shared, source, digest, len(tokenizer.prefix))


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
