"""Plain English spellings, and the pieces that every domain module is written with."""

import re
import unicodedata
from collections import Counter

from jaxinterp.facts.facts import Fact, Relation

# What a domain module's `candidates()` returns: facts in any order, and what it left out, by reason.
Candidates = tuple[list[Fact], Counter[str]]

# Letters and marks that Unicode does not decompose into an ASCII letter and an accent.
_ASCII = str.maketrans(
    {
        **dict(zip("øØłŁđĐðÐıħĦŧ", "oOlLdDdDihHt", strict=True)),
        **{"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "þ": "th", "Þ": "Th", "ə": "e", "Ə": "E"},
        **dict.fromkeys("\u2018\u2019\u02bb\u02bc`\u00b4\u02b9\u02bf\u02be", "'"),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
    }
)


def plain(text: str) -> str:
    """The text without accents, brackets, typographic marks and double spaces, and without marks at its ends."""
    bare = text.translate(_ASCII)
    if not bare.isascii():
        bare = "".join(char for char in unicodedata.normalize("NFKD", bare) if not unicodedata.combining(char))
    if "(" in bare or "[" in bare:
        bare = re.sub(r"\s*[(\[][^)\]]*[)\]]", "", bare)
    return " ".join(bare.split()).strip(" .,;'")


def same(*spellings: str) -> bool:
    """Whether all spellings name one thing: equal without accents, case, spaces, marks, and with "St" as "Saint"."""
    keys = {re.sub(r"[^a-z0-9]", "", re.sub(r"\bst\b\.?", "saint", plain(text).lower())) for text in spellings}
    return len(keys) == 1


def unqualified(name: str) -> bool:
    """Whether a name stands alone: no comma, slash, colon, bracket or digit that would make a sentence unclear."""
    return not re.search(r"[,;:/()\[\]\d]", name)


def relation(domain: str, name: str, source: str, *prompts: str) -> Relation:
    """A Relation in the order in which the domain modules read best."""
    return Relation(name=name, prompts=prompts, domain=domain, source=source)
