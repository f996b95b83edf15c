"""The two files of a tokenizer in a folder of ours: tokenizer.json and, beside it, frame.json."""

import dataclasses
from pathlib import Path

from tokenizers import Tokenizer

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json, write_json, write_text
from jaxinterp.models.tokenizer_training import framed
from jaxinterp.models.tokenizers import Chat, TextTokenizer

FRAME = ("prefix", "suffix", "pad", "unk", "mask")  # of frame.json; "chat" stands there, too, if there is one


def save_tokenizer(tokenizer: TextTokenizer, path: Path) -> None:
    """Writes the backend to `path` (a tokenizer.json, as the `tokenizers` library reads it) and frame.json beside it.

    Raises:
      UserError: if a file cannot be written.
    """
    write_text(path, tokenizer.backend.to_str(pretty=False))
    frame = {name: getattr(tokenizer, name) for name in FRAME}
    chat = {} if tokenizer.chat is None else {"chat": dataclasses.asdict(tokenizer.chat)}
    write_json(path.with_name("frame.json"), frame | chat)


def load_tokenizer(path: Path) -> TextTokenizer:
    """The tokenizer saved at `path`; without a frame.json beside it, it has to be one that `train_tokenizer` made.

    Raises:
      UserError: if a file is missing or damaged.
    """
    try:
        backend = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no tokenizer at {path}; is this the folder of a model?") from None
    except Exception as error:  # the library raises bare Exception for anything it cannot parse
        raise UserError(f"the tokenizer at {path} cannot be read: {error}") from None
    frame_path = path.with_name("frame.json")
    try:
        return TextTokenizer(backend, **_frame(frame_path)) if frame_path.exists() else framed(backend)
    except UserError as error:
        raise UserError(f"the tokenizer at {path} cannot be used: {error}") from None


def _frame(path: Path) -> dict[str, object]:
    frame = read_json(path)
    chat = _chat(frame.pop("chat", None), path)
    valid = {"prefix": _are_ids, "suffix": _are_ids, "pad": _is_id, "unk": _is_id_or_none, "mask": _is_id_or_none}
    if frame.keys() != valid.keys():
        raise UserError(f"{path} has the fields {', '.join(sorted(frame)) or 'none'}, not {', '.join(FRAME)}")
    for name, value in frame.items():
        if not valid[name](value):
            raise UserError(f"{path}: {name} is {value!r}, which is no token id")
    return frame | {name: tuple(frame[name]) for name in ("prefix", "suffix")} | {"chat": chat}


def _chat(value: object, path: Path) -> Chat | None:
    if value is None:
        return None
    tokens = value.get("tokens") if isinstance(value, dict) else None
    texts = [value.get("template"), *tokens, *tokens.values()] if isinstance(tokens, dict) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"{path}: chat must be an object of a template and its tokens, got {str(value)[:100]}")
    return Chat(value["template"], tokens)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_id_or_none(value: object) -> bool:
    return value is None or _is_id(value)


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_id, value))
