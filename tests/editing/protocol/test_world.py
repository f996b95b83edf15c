"""Cases out of facts: which relations hang together, what is asked, and which answers are drawn."""

import numpy as np
import pytest
from knowing import knowing

from jaxinterp.base.errors import UserError
from jaxinterp.editing.protocol.structure import noun_phrase, structure
from jaxinterp.editing.protocol.world import cases_of, drawn_answers
from jaxinterp.facts.facts import Fact, FactSet, Relation
from jaxinterp.facts.worldfacts import world_facts

COUNTRIES = ("Peru", "Italy", "Japan", "Kenya", "Chile", "Spain")
CAPITALS = ("Lima", "Rome", "Tokyo", "Nairobi", "Santiago", "Madrid")
CONTINENTS = ("America", "Europe", "Asia", "Africa", "America", "Europe")


def small_world():
    relations = (
        Relation("capital", ("The capital of {subject} is", "{subject} has as its capital"), "countries"),
        Relation("capital_of", ("{subject} is the capital of", "The country whose capital is {subject} is"), "cities"),
        Relation("continent", ("{subject} lies in", "The continent of {subject} is"), "countries"),
        Relation("code", ("The code of {subject} is",), "countries"),
        Relation("river", ("The river of {subject} is", "{subject} lies on the river"), "cities"),
        Relation("city_continent", ("The continent of the city {subject} is",), "cities"),
    )
    rows = list(zip(COUNTRIES, CAPITALS, CONTINENTS, strict=True))
    facts = [
        *(Fact("capital", country, city) for country, city, _ in rows),
        *(Fact("capital_of", city, country) for country, city, _ in rows),
        *(Fact("continent", country, continent) for country, _, continent in rows),
        *(Fact("code", country, str(number)) for number, country in enumerate(COUNTRIES)),
        *(
            Fact("river", city, river)
            for city, river in zip(CAPITALS[:5], ("Rimac", "Tiber", "Sumida", "Athi", "Mapocho"), strict=True)
        ),
        *(Fact("city_continent", city, continent) for _, city, continent in rows),
    ]
    return FactSet(relations, tuple(facts)).answer_last()


def number(facts, relation, subject):
    return next(i for i, f in enumerate(facts.facts) if (f.relation, f.subject) == (relation, subject))


def known(facts):
    return np.ones(len(facts), bool)


def test_how_countries_hang_together():
    found = structure(world_facts(["countries"]).answer_last())
    assert found.inverses == {"capital": "capital_of", "capital_of": "capital"}
    assert {name for name, hops in found.hops.items() if hops} == {"capital_of"}
    assert {"continent", "currency", "internet_domain", "iso_alpha_3"} <= set(found.hops["capital_of"])
    assert "capital" not in found.hops["capital_of"] and not found.made_of


def test_how_relations_hang_together_by_hand():
    facts = small_world()
    found = structure(facts)
    assert found.inverses == {"capital": "capital_of", "capital_of": "capital"}
    # River has 5 of 6 capitals. Numbers are no subjects, and an inverse is no second step.
    assert found.hops["capital"] == ("river", "city_continent") and found.hops["code"] == ()
    assert found.hops["capital_of"] == ("continent", "code")
    assert found.made_of == {
        ("capital", "continent"): "city_continent",
        ("capital_of", "city_continent"): "continent",
    }
    few = FactSet(facts.relations, tuple(f for f in facts.facts if f.subject not in ("Peru", "Lima", "Italy", "Rome")))
    assert not structure(few).inverses and not structure(few).made_of  # 4 facts say nothing
    wrong = [f if f.subject != "Lima" else Fact(f.relation, f.subject, "Chile") for f in facts.facts]
    assert not structure(FactSet(facts.relations, tuple(wrong))).inverses  # 5 of 6 are below 90 %


def test_numbers_are_no_subjects():
    relations = (Relation("row", ("The row of {subject} is",), "x"), Relation("name", ("{subject} is",), "x"))
    facts = [Fact("row", f"s{i}", str(i)) for i in range(9)] + [Fact("name", str(i), f"n{i}") for i in range(9)]
    assert structure(FactSet(relations, tuple(facts))).hops == {"row": (), "name": ()}


def test_noun_phrases():
    facts = small_world()
    assert noun_phrase(facts, "capital", "Peru") == "the capital of Peru"
    assert noun_phrase(facts, "capital_of", "Lima") == "the country whose capital is Lima"
    bare = FactSet((Relation("x", ("{subject} is in",), "d"),), (Fact("x", "a", "b"),))
    assert noun_phrase(bare, "x", "a") is None


def test_the_probes_of_an_edit():
    facts = small_world()
    asked = number(facts, "capital_of", "Lima")
    (own,) = cases_of(facts, {asked: "Japan"}, n_each=3, seed=0, known=known(facts))
    assert (own.request.prompt, own.request.old, own.request.new) == ("Lima is the capital of", " Peru", " Japan")
    (paraphrase,) = own.of("paraphrase")
    assert (paraphrase.prompt, paraphrase.expected) == ("The country whose capital is Lima is", " Japan")
    (inverse,) = own.of("inverse")
    assert (inverse.prompt, inverse.expected, inverse.other) == ("The capital of Japan is", " Lima", " Tokyo")
    hops = {(probe.prompt, probe.expected, probe.other) for probe in own.of("two_hop")}
    assert hops == {
        ("The continent of the city Lima is", " Asia", " America"),
        ("The country whose capital is Lima lies in", " Asia", " America"),
        ("The code of the country whose capital is Lima is", " 2", " 0"),
    }
    # The city's continent should change, so that only the river is to stay.
    assert [(probe.prompt, probe.expected) for probe in own.of("same_subject")] == [("The river of Lima is", " Rimac")]
    for probe in own.of("same_relation"):
        subject = probe.prompt.split()[0]
        assert probe.expected.strip() == COUNTRIES[CAPITALS.index(subject)] not in ("Peru", "Japan")
        assert probe.other == " Japan"
    assert len(own.of("same_relation")) == len(own.of("other")) == 3 and not own.of("neighbourhood")
    many = [cases_of(facts, {asked: "Japan"}, n_each=9, seed=seed, known=known(facts))[0] for seed in range(5)]
    for probe in (probe for one in many for probe in one.of("other")):
        assert not {"Lima", "Peru", "Japan"} & {*probe.prompt.split(), probe.expected.strip()}
        assert "capital" not in probe.prompt
    reasons = " ".join(own.left_out)
    assert "alias: the facts hold no other names" in reasons and "neighbourhood: no such fact" in reasons


def test_neighbours_have_the_old_answer_and_are_known():
    facts = small_world()
    asked = number(facts, "continent", "Peru")
    (own,) = cases_of(facts, {asked: "Asia"}, n_each=3, seed=0, known=known(facts))
    (neighbour,) = own.of("neighbourhood")
    assert (neighbour.prompt, neighbour.expected, neighbour.other) == ("Chile lies in", " America", " Asia")
    (plus,) = own.of("neighbourhood_plus")
    assert plus.prompt == "Peru lies in Asia. Chile lies in"
    assert {probe.prompt for probe in own.of("same_relation")} <= {f"{c} lies in" for c in ("Italy", "Kenya", "Spain")}
    not_known = known(facts)
    not_known[number(facts, "continent", "Chile")] = False
    (own,) = cases_of(facts, {asked: "Asia"}, n_each=3, seed=0, known=not_known)
    assert not own.of("neighbourhood")
    (other,) = cases_of(facts, {asked: "Asia"}, n_each=3, seed=0, known=known(facts), prompt=1)
    assert other.probes[0].prompt == "The continent of Peru is" and other.of("inverse") == ()
    assert {p.prompt for p in other.of("other")} <= {f.prompt for f in other.of("other")}


def test_draws_are_of_the_seed_alone():
    facts = small_world()
    answers = drawn_answers(facts, known(facts), 6, 0)
    one, same, other = (cases_of(facts, answers, n_each=2, seed=seed, known=known(facts)) for seed in (0, 0, 1))
    assert one == same != other
    assert drawn_answers(facts, known(facts), 6, 0) == answers != drawn_answers(facts, known(facts), 6, 1)
    # Relations take turns, one fact of each.
    assert len({facts.facts[i].relation for i in answers}) == 6
    for i, new in answers.items():
        assert new != facts.facts[i].answer
        assert new in {fact.answer for fact in facts.facts if fact.relation == facts.facts[i].relation}


def test_a_new_answer_is_not_true_already():
    relation = Relation("borders", ("{subject} borders",), "x")
    rows = [("a", "x one"), ("a", "x two"), ("a", "y"), ("b", "z"), ("b", "x one")]
    facts = FactSet((relation,), tuple(Fact("borders", *row) for row in rows))
    for seed in range(20):
        drawn = drawn_answers(facts, known(facts), 5, seed)
        assert {drawn[i] for i in (0, 1, 2)} == {"z"}
        # "x two" begins as "x one" does.
        assert drawn[4] == "y" and drawn[3] in ("x two", "y")
    with pytest.raises(UserError, match="the model knows 2 facts that could get another answer, fewer than 3"):
        drawn_answers(facts, np.array([0, 0, 0, 1, 1], bool), 3, 0)


def test_new_answers_are_such_as_the_tokenizer_has():
    model, facts = knowing()
    strange = [Fact("r0", f"s{i}", "unheard") if i == 5 else fact for i, fact in enumerate(facts.facts)]
    mixed = FactSet(facts.relations, tuple(strange))
    only = np.array([fact.relation == "r0" for fact in mixed.facts])
    for seed in range(9):
        assert "unheard" not in drawn_answers(mixed, only, 9, seed, model.tokenizer).values()
    assert any("unheard" in drawn_answers(mixed, only, 9, seed).values() for seed in range(9))


def test_what_does_not_fit():
    facts = small_world()
    for wrong, match in (
        (lambda: cases_of(facts, {0: "x"}, n_each=1, seed=0, known=np.ones(3, bool)), "says of 3 facts"),
        (lambda: drawn_answers(facts, np.ones(3, bool), 1, 0), "says of 3 facts"),
        (lambda: drawn_answers(facts, known(facts), 0, 0), "must be at least 1, got 0"),
        (lambda: cases_of(facts, {999: "x"}, n_each=1, seed=0, known=known(facts)), "no fact 999"),
        (lambda: cases_of(facts, {0: " "}, n_each=1, seed=0, known=known(facts)), "empty"),
        (lambda: cases_of(facts, {0: "x"}, n_each=-1, seed=0, known=known(facts)), "n_each"),
    ):
        with pytest.raises(UserError, match=match):
            wrong()
