"""Logs and records as lines of JSON that each carry a digest of their own: what was changed on the disk is seen."""

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from jaxinterp.base.files import write_bytes

CHECK = "check"  # the field with the digest, the last of a line
DIGITS = 12  # hexadecimal ones of it
_DIGEST = re.compile(rb'": "[0-9a-f]{12}"}$')  # the end of a line that has one, also where its name was changed


def sealed(value: Mapping, *, strict: bool = True) -> str:
    """The value as one line of JSON with its digest, without the line's end; ValueError, if strict, if a number is not
    finite.
    """
    text = json.dumps({**value}, ensure_ascii=False, allow_nan=not strict)
    return json.dumps({**value, CHECK: _digest(text)}, ensure_ascii=False)


def opened(line: bytes) -> dict:
    """The value of a line without its digest; ValueError if the line was changed or has no digest."""
    value = json.loads(line.decode("utf-8"))
    if not isinstance(value, dict):
        raise ValueError("the line holds no object")
    check = value.pop(CHECK, None)
    if check != _digest(json.dumps(value, ensure_ascii=False)):
        raise ValueError("the line is not what was written")
    return value


def with_check(value: Mapping) -> dict:
    """The value with its digest, for a file of its own."""
    return {**value, CHECK: _digest(json.dumps({**value}, ensure_ascii=False))}


def is_as_written(value: Mapping) -> bool:
    """Whether what `with_check` gave was not changed."""
    return dict(value) == with_check({name: of for name, of in value.items() if name != CHECK})


def whole_lines(path: Path) -> tuple[list[tuple[int, bytes, dict]], list[tuple[int, bytes]]]:
    """The lines of a file, each with its number: those that are what was written, with their values, and broken ones.

    A last line without its end was being written when its process ended, and is in neither. A line without a digest is
    whole if it stands before all that have one: files that an earlier version began go on with digests.
    """
    content = path.read_bytes() if path.exists() else b""
    good, broken, sealed_before = [], [], False
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            value = json.loads(line.decode("utf-8"))
            if not isinstance(value, dict):
                raise ValueError("the line holds no object")
            if sealed_before or CHECK in value or _DIGEST.search(line):
                sealed_before = True
                value = opened(line)
            good.append((number, line, value))
        except (ValueError, RecursionError):
            broken.append((number, line))
    return good, broken


def put_aside(path: Path, broken: list[tuple[int, bytes]]) -> None:
    """Keeps broken lines in a file beside theirs, and says so; what is there of earlier ones stays.

    Raises:
      UserError: if it cannot be written.
    """
    if not broken:
        return
    aside = path.with_name(f"{path.name}.broken")
    before = aside.read_bytes() if aside.exists() else b""
    write_bytes(aside, before + b"".join(line + b"\n" for _, line in broken))
    numbers = ", ".join(str(number) for number, _ in broken[:5]) + (", …" if len(broken) > 5 else "")
    print(f"{path}: line {numbers} is not what was written; kept in {aside.name}, and left out", file=sys.stderr)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]
