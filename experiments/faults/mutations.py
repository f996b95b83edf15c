"""Broken files made of good ones, as Hypothesis draws them: other types, absurd sizes, deep nesting, flips, cuts.

`broken(name, content)` mends the structure around a change where the format has one, so that what is behind it is
reached: the length of a safetensors header, the pairs of a GGUF file, the cells of a table.
"""

import csv
import dataclasses
import io
import json
import struct
from collections.abc import Callable, Sequence

import hypothesis.strategies as st

DEEP, LESS_DEEP, LONG = "@deep@", "@less@", "@long@"  # stand in JSON for what its writer cannot write
SPELLED = {
    f'"{DEEP}"': "[" * 100_000 + "]" * 100_000,
    f'"{LESS_DEEP}"': '{"a":' * 880 + "1" + "}" * 880,  # which Python can parse, but hardly walk through
    f'"{LONG}"': "9" * 5_000,
}
NUMBERS = (0, -1, 1, 2, 3, 7, 0.5, -0.0, 2**31 - 1, 2**31, 2**63 - 1, 2**64, 10**6, 10**12, 10**30, 10**400, 1e-320)
NUMBERS += (1e308, -1e308, float("nan"), float("inf"), 1.5)
TEXTS = (
    "",
    "x",
    " ",
    "1",
    "1e5",
    "nan",
    "a" * 5_000,
    "\x1b]0;title\x07",
    "\x00",
    "\ud800",
    "\uffff",
    "\u202e",
    "é" * 300,
)
TEXTS += ("../x", "[X] [Y]", "{subject} {answer}", "{0.__class__}", "%s%n", "</script><script>alert(1)</script>", DEEP)
NESTED = ([], {}, [[]], [{}], {"": None}, {"a": {"b": [0]}}, [None], [True], ["a", 1], [0, 0, 0], {"dtype": []})
STRANGE = st.sampled_from([None, True, False, LONG, LESS_DEEP, *NUMBERS, *TEXTS, *NESTED])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES, lambda of: st.lists(of, max_size=4) | st.dictionaries(st.text(max_size=6), of, max_size=4), max_leaves=12
)


@dataclasses.dataclass(frozen=True)
class Gguf:
    """A GGUF file in parts."""

    pairs: tuple[tuple[str, int, object], ...]  # key, type, value; an array's value is (type, items)
    tensors: tuple[tuple[str, tuple[int, ...], int, int], ...]  # name, axes (innermost first), type, offset
    data: bytes

    def written(self) -> bytes:
        """The file."""
        head = b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.pairs))
        head += b"".join(_text(key) + struct.pack("<I", kind) + _value(kind, value) for key, kind, value in self.pairs)
        for name, axes, kind, offset in self.tensors:
            head += _text(name) + struct.pack("<I", len(axes)) + b"".join(_number("Q", axis) for axis in axes)
            head += _number("I", kind) + _number("Q", offset)
        return head + bytes(-len(head) % 32) + self.data


_FORMS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def _text(text: str) -> bytes:
    content = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(content)) + content


def _number(form: str, value: object) -> bytes:
    """A number, or the nearest that the form has."""
    if form == "?":
        return struct.pack("<B", int(bool(value)))
    if form in "fd":
        try:
            return struct.pack(f"<{form}", value)
        except (OverflowError, struct.error):
            return struct.pack(f"<{form}", float("inf"))
    size = 8 * struct.calcsize(form)
    return (int(value) % (1 << size)).to_bytes(size // 8, "little")


def _value(kind: int, value: object) -> bytes:
    if kind == 8:
        return _text(value)
    if kind == 9:
        inner, items = value
        return struct.pack("<IQ", inner, len(items)) + b"".join(_value(inner, item) for item in items)
    return _number(_FORMS[kind], value)


def broken(name: str, content: bytes | Gguf) -> st.SearchStrategy[bytes]:
    """Strategy of broken versions of a file, by the ending of its name."""
    if isinstance(content, Gguf):
        return st.one_of(_broken_gguf(content), _broken_gguf(content), _bytes(content.written()))
    suffix = name.rsplit(".", 1)[-1]
    structured: dict[str, Callable[[bytes], st.SearchStrategy[bytes]]] = {
        "json": _document,
        "jsonl": _lines,
        "csv": _table,
        "safetensors": _safetensors,
    }
    scratch = VALUES.map(_written) if suffix in ("json", "jsonl") else st.binary(max_size=200) | st.text().map(_encoded)
    if suffix not in structured:
        return st.one_of(_bytes(content), scratch)
    own = structured[suffix](content)
    return st.one_of(own, own, own, own, _bytes(content), scratch)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _written(value: object) -> bytes:
    text = json.dumps(value)
    for mark, spelled in SPELLED.items():
        text = text.replace(mark, spelled)
    return text.encode()


@st.composite
def _bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Flipped bits, cuts, lost and doubled pieces, and numbers of eight bytes in the middle of things."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        match draw(st.integers(0, 5)):
            case 0 | 1 if content:
                bit = 1 << draw(st.integers(0, 7))
                content = content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]
            case 2:
                content = content[:place]
            case 3:
                content = content[:place] + content[place + draw(st.integers(1, 16)) :]
            case 4:
                content = content[:place] + content[max(place - draw(st.integers(1, 64)), 0) :]
            case _:
                number = draw(st.sampled_from((0, 1, 2**31 - 1, 2**32, 2**40, 2**63, 2**64 - 1)))
                content = content[:place] + number.to_bytes(8, "little") + content[place + 8 :]
    return content


def _places(value: object, path: tuple = ()) -> list[tuple]:
    """The paths of all values inside a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, child in items for place in [(*path, key), *_places(child, (*path, key))]]


@st.composite
def changed(draw: st.DrawFn, value: object) -> object:
    """A JSON value with one to three of its parts changed, lost, renamed, doubled, moved or wrapped."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 3))):
        places = _places(value)
        if not places:
            return draw(STRANGE)
        *above, key = places[draw(st.integers(0, len(places) - 1))]
        owner = value
        for step in above:
            owner = owner[step]
        match draw(st.integers(0, 8)):
            case 0:
                del owner[key]
            case 1 if isinstance(owner, dict):
                owner[str(draw(STRANGE))[:5_000]] = owner.pop(key)
            case 2:
                owner[key] = [owner[key]]
            case 3:
                other = value
                for step in places[draw(st.integers(0, len(places) - 1))]:
                    other = other[step]
                owner[key] = json.loads(json.dumps(other))
            case 4:
                owner[key] = draw(VALUES)
            case _:
                owner[key] = json.loads(json.dumps(draw(STRANGE)))
    return value


def _document(content: bytes) -> st.SearchStrategy[bytes]:
    return changed(json.loads(content)).map(_written)


@st.composite
def _lines(draw: st.DrawFn, content: bytes) -> bytes:
    lines = content.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        number = draw(st.integers(0, len(lines) - 1))
        lines[number] = draw(changed(json.loads(lines[number])).map(_written) | _bytes(lines[number]))
        if not lines[number].startswith(b"{"):
            break
        try:
            json.loads(lines[number])
        except (ValueError, RecursionError):
            break
    return b"".join(line + b"\n" for line in lines)


@st.composite
def _table(draw: st.DrawFn, content: bytes) -> bytes:
    rows = list(csv.reader(io.StringIO(content.decode(), newline="")))
    for _ in range(draw(st.integers(1, 3))):
        row = rows[draw(st.integers(0, len(rows) - 1))]
        column = draw(st.integers(0, max(len(row) - 1, 0)))
        match draw(st.integers(0, 3)):
            case 0:
                row[column : column + 1] = []
            case 1:
                row.insert(column, draw(st.sampled_from(TEXTS)))
            case _:
                row[column : column + 1] = [draw(st.sampled_from(TEXTS) | st.text(max_size=8))]
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return _encoded(text.getvalue())


@st.composite
def _safetensors(draw: st.DrawFn, content: bytes) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    head = _written(draw(changed(json.loads(content[8 : 8 + length]))))
    return struct.pack("<Q", len(head)) + head + content[8 + length :]


@st.composite
def _broken_gguf(draw: st.DrawFn, file: Gguf) -> bytes:
    pairs, tensors = list(file.pairs), list(file.tensors)
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.integers(0, 3)) and pairs:
            number = draw(st.integers(0, len(pairs) - 1))
            pairs[number : number + 1] = draw(_pairs(pairs[number]))
        elif tensors:
            number = draw(st.integers(0, len(tensors) - 1))
            tensors[number : number + 1] = draw(_tensors(tensors[number]))
    return dataclasses.replace(file, pairs=tuple(pairs), tensors=tuple(tensors)).written()


_WHOLE = tuple(number for number in NUMBERS if isinstance(number, int) and number < 2**64)
_NAMES = st.sampled_from(("", "x", "a" * 300, "\x1b[2J", "\uffff", "token_embd.weight"))


@st.composite
def _pairs(draw: st.DrawFn, pair: tuple[str, int, object]) -> Sequence[tuple[str, int, object]]:
    key, kind, value = pair
    match draw(st.integers(0, 7)):
        case 0:
            return ()
        case 1:
            return (pair, pair)
        case 2:
            return ((draw(_NAMES), kind, value),)
        case 3:
            return ((key, 8, draw(st.sampled_from([text for text in TEXTS if text != DEEP]))),)
        case 4 if kind == 9 and value[1]:
            items = list(value[1])
            place = draw(st.integers(0, len(items) - 1))
            texts = st.sampled_from(("", " ", "a b", "<0x41>", "▁", "\x1b", items[0]))
            items[place : place + 1] = [draw(texts if value[0] == 8 else st.sampled_from(_WHOLE))]
            if draw(st.booleans()):
                items = items[: draw(st.integers(0, len(items)))]
            return ((key, kind, (value[0], items)),)
        case 5:
            return ((key, 9, (draw(st.sampled_from((5, 6, 7))), [draw(st.sampled_from(_WHOLE)) for _ in range(3)])),)
        case _:
            return ((key, draw(st.sampled_from((4, 5, 6, 7, 10, 11, 12))), draw(st.sampled_from(_WHOLE))),)


@st.composite
def _tensors(draw: st.DrawFn, tensor: tuple[str, tuple[int, ...], int, int]) -> Sequence[tuple]:
    name, axes, kind, offset = tensor
    match draw(st.integers(0, 5)):
        case 0:
            return ()
        case 1:
            return (tensor, tensor)
        case 2:
            return ((draw(_NAMES), axes, kind, offset),)
        case 3:
            return ((name, tuple(draw(st.lists(st.sampled_from((*_WHOLE, *axes)), max_size=5))), kind, offset),)
        case 4:
            return ((name, axes, draw(st.integers(0, 40)), offset),)
        case _:
            return ((name, axes, kind, draw(st.sampled_from((*_WHOLE, offset + 1)))),)
