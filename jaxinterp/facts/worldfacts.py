"""Real facts, read from data packages that are installed; nothing is downloaded."""

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.facts.checks import checked
from jaxinterp.facts.domains import airports, codes, countries, elements, places
from jaxinterp.facts.domains.text import Candidates
from jaxinterp.facts.facts import Fact, FactSet, Relation

# Domain -> its relations, and the function that reads its facts (which imports the data packages).
DOMAINS: Mapping[str, tuple[tuple[Relation, ...], Callable[[], Candidates]]] = {
    "countries": (countries.RELATIONS, countries.candidates),
    "elements": (elements.RELATIONS, elements.candidates),
    "us_states": (places.US_STATES, places.us_states),
    "currencies": (codes.CURRENCIES, codes.currencies),
    "scripts": (codes.SCRIPTS, codes.scripts),
    "languages": (codes.LANGUAGES, codes.languages),
    "subdivisions": (places.SUBDIVISIONS, places.subdivisions),
    "cities": (places.CITIES, places.cities),
    "airports": (airports.RELATIONS, airports.candidates),
}


def world_facts(domains: Sequence[str] = ()) -> FactSet:
    """The facts of the named domains, all of them if none is named; about 10 s for all, 1 s for "countries".

    Args:
      domains: names out of `DOMAINS`.
    Returns:
      FactSet whose `dropped` counts the candidates that were left out, by reason.
    Raises:
      UserError: if a domain is unknown or named twice.
    """
    for name in domains:
        if name not in DOMAINS:
            raise unknown("domain", name, DOMAINS)
    if len(set(domains)) < len(domains):
        raise UserError(f"a domain is named twice in {list(domains)}; name each domain once")
    return _world_facts(tuple(domains or DOMAINS))


@functools.lru_cache(maxsize=2)  # a session asks for the same ones again and again; all take less than 100 MB
def _world_facts(domains: tuple[str, ...]) -> FactSet:
    relations: list[Relation] = []
    facts: list[Fact] = []
    dropped: Counter[str] = Counter()
    for name in domains:
        domain_relations, candidates = DOMAINS[name]
        domain_facts, domain_dropped = candidates()
        relations.extend(domain_relations)
        readable = [fact for fact in domain_facts if (fact.subject + fact.answer).isascii()]
        facts.extend(readable)
        dropped.update(domain_dropped)
        dropped["no spelling in plain letters"] += len(domain_facts) - len(readable)
    return checked(relations, facts, dropped=+dropped)  # without the reasons that never applied


def describe(fact_set: FactSet) -> str:
    """A plain text table of the relations with an example each, and of what was dropped."""
    rows = [("domain", "relation", "facts", "answers", "prompts", "example")]
    for relation in fact_set.relations:
        facts = [index for index, fact in enumerate(fact_set.facts) if fact.relation == relation.name]
        answers = {fact_set.facts[index].answer for index in facts}
        example = "-"
        if facts:
            example = "".join(fact_set.text(facts[0], 0)).strip()
        counts = (len(facts), len(answers), len(relation.prompts))
        rows.append((relation.domain, relation.name, *map(str, counts), example))
    rows.append(("total", str(len(fact_set.relations)), str(len(fact_set)), "", "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join([*map(str.ljust, row, widths), row[5]]).rstrip() for row in rows]
    lines += ["", "dropped"] if fact_set.dropped else []
    lines += [f"{number:8d}  {reason}" for reason, number in Counter(fact_set.dropped).most_common()]
    return "\n".join(lines)
