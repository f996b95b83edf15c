import subprocess
import sys
from collections import Counter

import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.facts.checks import checked
from jaxinterp.facts.domains import elements
from jaxinterp.facts.domains.text import plain, same
from jaxinterp.facts.facts import FactSet
from jaxinterp.facts.worldfacts import DOMAINS, describe, world_facts

# Facts that a reader can check, and that must be there whatever versions the data packages have.
TRUE = [
    ("capital", "France", "Paris"),
    ("capital", "Brazil", "Brasilia"),
    ("capital", "United States", "Washington"),
    ("capital", "Tanzania", "Dodoma"),
    ("capital_of", "Tokyo", "Japan"),
    ("continent", "Egypt", "Africa"),
    ("continent", "Mexico", "North America"),
    ("subregion", "Japan", "Eastern Asia"),
    ("currency", "Japan", "Yen"),
    ("currency", "Germany", "Euro"),
    ("currency", "Senegal", "West African CFA Franc"),
    ("official_language", "Brazil", "Portuguese"),
    ("official_language", "Iran", "Persian"),
    ("demonym", "Netherlands", "Dutch"),
    ("calling_code", "Italy", "39"),
    ("internet_domain", "United Kingdom", ".uk"),
    ("iso_alpha_2", "Spain", "ES"),
    ("iso_alpha_3", "Germany", "DEU"),
    ("iso_numeric", "France", "250"),
    ("element_symbol", "iron", "Fe"),
    ("element_of_symbol", "Au", "gold"),
    ("atomic_number", "uranium", "92"),
    ("element_of_number", "6", "carbon"),
    ("atomic_weight", "copper", "64"),
    ("crystal_structure", "copper", "face-centered cubic"),
    ("state_abbreviation", "Texas", "TX"),
    ("state_of_abbreviation", "CA", "California"),
    ("county_state", "Los Angeles County", "California"),
    ("currency_code", "Yen", "JPY"),
    ("currency_code", "US Dollar", "USD"),
    ("currency_of_code", "CHF", "Swiss Franc"),
    ("script_code", "Hiragana", "Hira"),
    ("language_code", "French", "fra"),
    ("language_short_code", "German", "de"),
    ("subdivision_country", "Bayern", "Germany"),
    ("subdivision_code", "Texas", "US-TX"),
    ("city_country", "London", "United Kingdom"),
    ("city_time_zone", "Berlin", "Europe/Berlin"),
    ("airport_country", "LHR", "United Kingdom"),
    ("airport_city", "CDG", "Paris"),
    ("airport_icao", "LHR", "EGLL"),
    ("airport_time_zone", "SFO", "America/Los_Angeles"),
]
# What one or all of the packages say, and what is not so (any more), or not that simple.
NOT_TAUGHT = [
    ("capital", "Kazakhstan"),
    ("capital", "Burundi"),
    ("capital", "South Africa"),
    ("currency", "Bulgaria"),
    ("currency", "Croatia"),
    ("official_language", "Switzerland"),
    ("continent", "Cyprus"),
    ("calling_code", "Dominican Republic"),
    ("city_country", "Sevastopol"),
    ("element_group", "uranium"),
    ("element_block", "lanthanum"),
    ("language_short_code", "Modern Greek"),
]


@pytest.fixture(scope="module")
def facts() -> FactSet:
    return world_facts()


@pytest.fixture(scope="module")
def countries() -> FactSet:
    return world_facts(["countries"])


def test_size(facts: FactSet, countries: FactSet):
    assert len(facts.relations) >= 20
    assert len(facts) >= 10_000
    assert 1_800 <= len(countries) <= 2_300
    assert 10 <= len(countries.relations) <= 12
    assert {relation.domain for relation in facts.relations} == set(DOMAINS)


def test_every_relation_has_facts_and_several_answers(facts: FactSet):
    answers: dict[str, set[str]] = {}
    for fact in facts.facts:
        answers.setdefault(fact.relation, set()).add(fact.answer)
    assert answers.keys() == facts.relation.keys()
    assert min(map(len, answers.values())) >= 3


def test_relations_have_names_and_prompts_of_their_own(facts: FactSet):
    assert len({relation.name for relation in facts.relations}) == len(facts.relations)
    prompts = Counter((relation.domain, prompt) for relation in facts.relations for prompt in relation.prompts)
    assert set(prompts.values()) == {1}
    for relation in facts.relations:
        assert len(relation.prompts) >= (6 if relation.domain == "countries" else 5), relation.name
        assert relation.source, relation.name
        for prompt in relation.prompts:
            assert prompt.count("{subject}") == 1 and prompt.count("{") == 1, prompt
            assert prompt == " ".join(prompt.split()), prompt


def test_country_sentences_are_short(countries: FactSet):
    for relation in countries.relations:
        assert all(len(prompt.replace("{subject}", "").split()) <= 10 for prompt in relation.prompts), relation.name
    lengths = [
        len(f"{countries.prompt(index, prompt)} {fact.answer}".split())
        for index, fact in enumerate(countries.facts)
        for prompt in range(len(countries.relation[fact.relation].prompts))
    ]
    assert max(lengths) <= 20


def test_facts_are_single_valued_and_unrepeated(facts: FactSet):
    assert max(Counter((fact.relation, fact.subject) for fact in facts.facts).values()) == 1


def test_nothing_more_to_drop(facts: FactSet):
    # Among others, no answer stands in its prompt.
    again = checked(facts.relations, facts.facts)
    assert again.facts == facts.facts and not again.dropped


def test_texts_are_plain(facts: FactSet):
    for fact in facts.facts:
        for text in (fact.subject, fact.answer):
            assert text.isascii() and text == " ".join(text.split()) and text[-1] not in ".,;'", fact
            assert "{" not in text, fact


@pytest.mark.parametrize("fact", TRUE, ids=lambda fact: "-".join(fact))
def test_true_facts(facts: FactSet, fact: tuple[str, str, str]):
    relation, subject, answer = fact
    assert [known.answer for known in facts.facts if (known.relation, known.subject) == (relation, subject)] == [answer]


def test_every_relation_of_some_meaning_has_a_golden_fact(facts: FactSet):
    assert facts.relation.keys() - {relation for relation, _, _ in TRUE} == {
        "airport_code", "currency_number", "element_block", "element_group", "element_period", "script_number",
        "state_number", "subdivision_type",
    }  # fmt: skip


@pytest.mark.parametrize("question", NOT_TAUGHT, ids=lambda question: "-".join(question))
def test_doubtful_facts_are_left_out(facts: FactSet, question: tuple[str, str]):
    assert question not in {(fact.relation, fact.subject) for fact in facts.facts}


def test_dropped_is_counted_by_reason(facts: FactSet, countries: FactSet):
    assert {"sources disagree", "several values", "out of date", "answer inside its prompt"} <= countries.dropped.keys()
    assert min(facts.dropped.values()) > 0
    # Many countries have several official languages; that is not a disagreement.
    assert countries.dropped["several values"] > countries.dropped["sources disagree"]
    for reason, number in countries.dropped.items():
        assert facts.dropped[reason] >= number


def test_periodic_table_by_rule():
    #           H  He  Li  C   Ne  Sc  Cr  Kr  La    Ce    Lu    Hf  Hg  Rn  U     Rf  Og
    numbers = [1, 2, 3, 6, 10, 21, 24, 36, 57, 58, 71, 72, 80, 86, 92, 104, 118]
    assert [elements.period(n) for n in numbers] == [1, 1, 2, 2, 2, 4, 4, 4, 6, 6, 6, 6, 6, 6, 7, 7, 7]
    assert [elements.group(n) for n in numbers] == [
        1, 18, 1, 14, 18, 3, 6, 18, None, None, None, 4, 12, 18, None, 4, 18,
    ]  # fmt: skip
    assert "".join(elements.block(n) or "-" for n in numbers) == "ssspp" + "ddp" + "-f-" + "ddp" + "f" + "dp"


def test_spellings():
    assert plain("Côte d\u2019Ivoire (West\u2013Africa).") == "Cote d'Ivoire"
    assert plain("Łódź \u2013 Górna") == "Lodz - Gorna"
    assert same("St. John's", "Saint John's", "SAINT JOHNS")
    assert not same("Bujumbura", "Gitega")


def test_unknown_and_repeated_domains():
    with pytest.raises(UserError, match=r"unknown domain 'planets'; known: airports"):
        world_facts(["planets"])
    with pytest.raises(UserError, match="twice"):
        world_facts(["countries", "countries"])


def test_describe(countries: FactSet):
    text = describe(countries)
    lines = text.splitlines()
    assert lines[0].split() == ["domain", "relation", "facts", "answers", "prompts", "example"]
    continents = next(line for line in lines if " continent " in line)
    n_facts = sum(fact.relation == "continent" for fact in countries.facts)
    assert continents.split()[2:4] == [str(n_facts), "6"]
    assert continents.endswith("The continent of Afghanistan is Asia.")
    assert f"total  12  {len(countries)}".split() in [line.split() for line in lines]
    for reason, number in countries.dropped.items():
        assert f"{number:8d}  {reason}" in lines


def test_facts_need_no_jax():
    code = (
        "import sys; from jaxinterp.facts.worldfacts import world_facts;"
        "assert 'pycountry' not in sys.modules, 'a data package is imported too early';"
        "world_facts(['countries']); assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
