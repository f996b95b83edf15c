"""Comparing texts and joining them: equal spellings, answers that a prompt gives away, spaces between words."""

import re
import unicodedata
from collections.abc import Iterable

# Scripts that are written without spaces between words, as character ranges of a regular expression: Thai, Lao,
# Tibetan, Myanmar, Khmer, Tai Tham, Balinese, Javanese; Chinese and Japanese with their marks and full-width forms.
_UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f\ua980-\ua9df"
    "\u2e80-\u312f\u31a0-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\uf900-\ufaff\ufe30-\ufe4f\uff01-\uff9f"
    "\U00016fe0-\U0003ffff"
)
_UNSPACED_CHARACTER = re.compile(f"[{_UNSPACED}]")
_SPACED_WORD = rf"[^\W{_UNSPACED}]"  # a letter or digit of a script with spaces
_SPACED_LETTER = re.compile(_SPACED_WORD)


def same_text(text: str) -> str:
    """The common form of equal spellings of a text, for comparing; the text itself is read and shown.

    Unicode is composed (NFC), format characters, which nobody sees (a zero-width space, a byte order mark), are left
    out, and white space is one space between words and none around them.
    """
    if not text.isascii():
        text = "".join(char for char in text if unicodedata.category(char) != "Cf")
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.split())


def same_text_caseless(text: str) -> str:
    """`same_text` without case, by `str.casefold`."""
    folded = same_text(text).casefold()
    return folded if folded.isascii() else unicodedata.normalize("NFC", folded)


def unspaced(char: str) -> bool:
    """Whether a character belongs to a script that is written without spaces between words."""
    return bool(_UNSPACED_CHARACTER.fullmatch(char))


def space_between(before: str, answer: str) -> str:
    """The text between a template and an answer that it does not place: a space, or nothing.

    It is nothing where there is white space already, or no text, or `before` ends in a script without spaces.
    """
    if not before or before[-1].isspace() or answer[:1].isspace() or unspaced(before[-1]):
        return ""
    return " "


def runs_together(before: str, answer: str) -> bool:
    """Whether two letters of a script with spaces stand side by side where two texts meet, as in "isParis"."""
    return bool(before and answer and _SPACED_LETTER.match(before[-1]) and _SPACED_LETTER.match(answer[0]))


def gives_away(texts: Iterable[str], answer: str) -> bool:
    """Whether one of the texts holds the answer as whole words, without case; in scripts without spaces, anywhere.

    Compared as by `same_text_caseless`. "Oman" is not in "Romania", 北京 is in 北京市, and Tokyo in 東京Tokyo都.
    """
    answer = same_text_caseless(answer)
    return any(_holds(text, answer) for text in map(same_text_caseless, texts) if answer in text)


def _holds(text: str, answer: str) -> bool:
    # Not by a regular expression of each answer: classes of so many characters take long to compile.
    start = text.find(answer)
    while start >= 0:
        end = start + len(answer)
        if not _goes_on(answer[0], text[:start][-1:]) and not _goes_on(answer[-1], text[end : end + 1]):
            return True
        start = text.find(answer, start + 1)
    return False


def _goes_on(edge: str, neighbour: str) -> bool:
    """Whether a text's word goes on beyond its edge, with a letter or digit of a script with spaces."""
    return bool(neighbour) and not unspaced(edge) and bool(_SPACED_LETTER.match(neighbour))
