"""How texts are compared and put together: equal spellings, answers that a prompt gives away, spaces between words."""

import re
import unicodedata

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
    """What equal spellings of a text have in common, for comparing; what is read and shown is the text itself.

    Unicode is composed (NFC), format characters, which nobody sees (a zero-width space, a byte order mark), are left
    out, and white space is one space between words and none around them.
    """
    composed = unicodedata.normalize("NFC", text)
    if not composed.isascii():
        composed = "".join(char for char in composed if unicodedata.category(char) != "Cf")
        composed = unicodedata.normalize("NFC", composed)  # an accent that a format character kept from its letter
    return " ".join(composed.split())


def same_text_caseless(text: str) -> str:
    """`same_text` without case, by `str.casefold`."""
    return unicodedata.normalize("NFC", same_text(text).casefold())


def unspaced(char: str) -> bool:
    """Whether a character belongs to a script that is written without spaces between words."""
    return bool(_UNSPACED_CHARACTER.fullmatch(char))


def space_between(before: str, answer: str) -> str:
    """What a template that does not place its answer puts between the two: a space, or nothing.

    Nothing where there is white space already, or no text, or `before` ends in a script without spaces.
    """
    if not before or before[-1].isspace() or answer[:1].isspace() or unspaced(before[-1]):
        return ""
    return " "


def runs_together(before: str, answer: str) -> bool:
    """Whether two letters of a script with spaces stand side by side where two texts meet, as in "isParis"."""
    return bool(before and answer and _SPACED_LETTER.match(before[-1]) and _SPACED_LETTER.match(answer[0]))


def gives_away(text: str, answer: str) -> bool:
    """Whether a text holds the answer as whole words, without case; in scripts without spaces, anywhere.

    Compared as by `same_text_caseless`. "Oman" is not in "Romania", 北京 is in 北京市, and Tokyo in 東京Tokyo都.
    """
    text, answer = same_text_caseless(text), same_text_caseless(answer)
    if answer not in text:  # nearly always, and a hundred times as fast
        return False
    left = rf"(?<!{_SPACED_WORD})" if answer[:1] and not unspaced(answer[0]) else ""
    right = rf"(?!{_SPACED_WORD})" if answer[-1:] and not unspaced(answer[-1]) else ""
    return re.search(left + re.escape(answer) + right, text) is not None
