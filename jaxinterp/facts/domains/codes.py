"""Facts about ISO codes that pycountry lists: currencies, languages, scripts."""

from collections import Counter
from collections.abc import Callable

from jaxinterp.facts.domains.text import Candidates, plain, relation, unqualified
from jaxinterp.facts.facts import Fact

_SOURCE = "pycountry"

CURRENCIES = (
    relation(
        "currencies", "currency_code", _SOURCE,
        "The currency code of the {subject} is",
        "Banks abbreviate the {subject} as",
        "An exchange board lists the {subject} under",
        "Question: what is the ISO 4217 code of the {subject}? Answer:",
        "A transfer made in the {subject} carries the letters",
    ),
    relation(
        "currencies", "currency_of_code", _SOURCE,
        "The currency code {subject} stands for the",
        "A price marked {subject} is a price in the",
        "An exchange board shows {subject} for the",
        "Question: which currency has the code {subject}? Answer: the",
        "Traders who quote {subject} mean the",
    ),
    relation(
        "currencies", "currency_number", _SOURCE,
        "The numeric currency code of the {subject} is",
        "Payment terminals know the {subject} by the number",
        "With three digits, the {subject} is coded as",
        "Question: what is the ISO 4217 number of the {subject}? Answer:",
        "In machine-readable tables, the {subject} has the number",
    ),
)  # fmt: skip
LANGUAGES = (
    relation(
        "languages", "language_code", _SOURCE,
        "The ISO 639-3 code of the language {subject} is",
        "Linguists abbreviate the name of the language {subject} as",
        "Catalogues file texts written with {subject} under",
        "Question: what is the three-letter code of the language {subject}? Answer:",
        "A dictionary of {subject} carries the language code",
    ),
    relation(
        "languages", "language_short_code", _SOURCE,
        "The ISO 639-1 code of the language {subject} is",
        "Web pages whose language is {subject} declare",
        "The two-letter abbreviation of the language {subject} is",
        "Question: what is the two-letter code of the language {subject}? Answer:",
        "A phone set up with {subject} stores the setting",
    ),
)  # fmt: skip
SCRIPTS = (
    relation(
        "scripts", "script_code", _SOURCE,
        "The ISO 15924 code of the {subject} script is",
        "Typographers abbreviate the {subject} script as",
        "Fonts that support {subject} writing declare",
        "Question: what is the four-letter code of the {subject} script? Answer:",
        "The four letters that stand for {subject} writing are",
    ),
    relation(
        "scripts", "script_number", _SOURCE,
        "The ISO 15924 number of the {subject} script is",
        "Typographers number the {subject} script as",
        "With three digits, {subject} writing is coded as",
        "Question: what is the numeric code of the {subject} script? Answer:",
        "The table of writing systems lists {subject} at number",
    ),
)  # fmt: skip


# The other codes with an X name metals, units of account, and codes for tests.
_SHARED_MONEY = ("XAF", "XCD", "XCG", "XOF", "XPF")


def currencies() -> Candidates:
    """Names, codes and numbers of ISO 4217."""
    import pycountry

    entries = [entry for entry in pycountry.currencies if entry.alpha_3[0] != "X" or entry.alpha_3 in _SHARED_MONEY]
    rows = [(entry.name, entry.alpha_3, entry.numeric) for entry in entries]
    return _facts(rows, lambda name, code, number: [
        Fact("currency_code", name, code), Fact("currency_of_code", code, name), Fact("currency_number", name, number),
    ])  # fmt: skip


def languages() -> Candidates:
    """Names and codes of ISO 639-3, and of ISO 639-1 where a language has one."""
    import pycountry

    # Only some languages have the attribute.
    rows = [(entry.name, entry.alpha_3, getattr(entry, "alpha_2", "")) for entry in pycountry.languages]
    return _facts(rows, lambda name, code, short: [
        Fact("language_code", name, code), *([Fact("language_short_code", name, short)] if short else []),
    ])  # fmt: skip


def scripts() -> Candidates:
    """Names, codes and numbers of ISO 15924."""
    import pycountry

    rows = [(entry.name, entry.alpha_4, entry.numeric) for entry in pycountry.scripts]
    return _facts(rows, lambda name, code, number: [
        Fact("script_code", name, code), Fact("script_number", name, number),
    ])  # fmt: skip


def _facts(rows: list[tuple[str, str, str]], of_row: Callable[[str, str, str], list[Fact]]) -> Candidates:
    # A qualified name ("Greek, Modern (1453-)", "US Dollar (Next day)") is told from its plain one only by its marks.
    kept = [(plain(name), code, other) for name, code, other in rows if unqualified(name)]
    facts = [fact for name, code, other in kept for fact in of_row(name, code, other)]
    return facts, Counter({"qualified name": len(rows) - len(kept)})
