"""Parts that all readers share: text, records and templates, checked with their place in the file at hand."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from jaxinterp.base.errors import UserError
from jaxinterp.facts.facts import ANSWER, SUBJECT


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises:
      UserError: if the file cannot be read, is empty, or is not UTF-8 (with the line).
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a file of facts") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: byte {content[error.start]:#04x} is not UTF-8; save it as UTF-8"
        ) from error
    if not text.strip():
        raise UserError(f"{path} is empty; give a file that has facts")
    return text


def with_suffix(folder: Path, suffix: str) -> list[Path]:
    """The files of a folder that end in ".jsonl", or ".JSONL", in order."""
    return sorted(file for file in folder.glob("*") if file.suffix.lower() == suffix and file.is_file())


def parsed(text: str, path: Path, first_line: int = 1) -> object:
    """The JSON value of a text that starts at a line of a file.

    Raises:
      UserError: if it is no JSON, or an object has a field twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UserError(
            f"{path}, line {line}: no valid JSON at column {error.colno}: {error.msg}; correct it"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}, line {first_line}: {error}; correct it") from error


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise UserError(f"field {next(name for name in names if names.count(name) > 1)!r} stands twice in an object")
    return fields


def json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The objects of a JSONL file, each with its place for error messages; blank lines hold none.

    Raises:
      UserError: if the file cannot be read or is empty, or a line is no JSON object.
    """
    # Not splitlines(): it cuts at characters that may stand inside a JSON string.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            record = parsed(line, path, number)
            if not isinstance(record, dict):
                raise UserError(f"{path}, line {number}: expected an object, {{...}}, got {type(record).__name__}")
            yield f"{path}, line {number}", record


def field(record: Mapping[str, object], name: str, kind: type, place: str) -> object:
    """A field that must be there, of one type."""
    if name not in record:
        raise UserError(f"{place}: the field {name!r} is missing; there are: {', '.join(record) or 'none'}")
    if not isinstance(record[name], kind):
        raise UserError(f"{place}: the field {name!r} must be a {kind.__name__}, got {type(record[name]).__name__}")
    return record[name]


def text_field(record: Mapping[str, object], name: str, place: str) -> str:
    """A field of text as it stands, white space included: it is part of what a model reads.

    Raises:
      UserError: if the field is missing, is no string, or has half of a surrogate pair, which is no character.
    """
    text = str(field(record, name, str, place))
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{place}: the field {name!r} has half of a surrogate pair; correct its \\u escapes") from error
    return text


def name_field(record: Mapping[str, object], name: str, place: str) -> str:
    """A field that names something, without white space around it; errors as those of `text_field`."""
    return text_field(record, name, place).strip()


def template(pattern: str, place: str, *, subject: str, answer: str | None) -> str:
    """A pattern with marks of its own as a prompt of a Relation.

    Args:
      pattern: text with each mark exactly once.
      place: file and line, for the message.
      subject: the subject's mark, e.g. "[X]".
      answer: the answer's mark, e.g. "[Y]"; None for patterns that end just before the answer.
    Raises:
      UserError: if a mark does not occur exactly once, or a mark of Relation's prompts stands beside it.
    """
    for what, mark in (("subject", subject), ("answer", answer)):
        if mark is not None and pattern.count(mark) != 1:
            raise UserError(
                f"{place}: the template {pattern!r} has {pattern.count(mark)} times the {what}'s mark {mark}; "
                "it must have it once"
            )
    prompt = pattern.replace(subject, SUBJECT)
    prompt = prompt if answer is None else prompt.replace(answer, ANSWER)
    if prompt.count(SUBJECT) > 1 or prompt.count(ANSWER) > (answer is not None):
        raise UserError(
            f"{place}: the template {pattern!r} has {SUBJECT} or {ANSWER} beside its marks; remove it from the text"
        )
    return prompt


def numbered(names: Iterable[str]) -> list[str]:
    """Names such as "P36", by their numbers; names without a number come last."""
    return sorted(
        names, key=lambda name: (not name[1:].isdecimal(), int(name[1:]) if name[1:].isdecimal() else 0, name)
    )
