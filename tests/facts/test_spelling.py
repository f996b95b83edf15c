"""Equal spellings, answers that a prompt gives away, and spaces between words."""

import unicodedata

import pytest

from jaxinterp.facts import checks as module
from jaxinterp.facts.checks import checked
from jaxinterp.facts.facts import Fact, Relation
from jaxinterp.facts.spelling import gives_away, runs_together, same_text, same_text_caseless, space_between, unspaced

NFD = unicodedata.normalize("NFD", "São Tomé")


@pytest.mark.parametrize(
    "spelling",
    ["São Tomé", NFD, "São\u200b Tomé", "\ufeffSão Tomé", "  São \t Tomé\n", "São\u00a0Tomé", "Sa\u200d\u0303o Tomé"],
)
def test_equal_spellings(spelling):
    assert same_text(spelling) == "São Tomé"


def test_different_spellings():
    assert len({same_text(text) for text in ("Sao Tome", "São Tomé", "SãoTomé", "são tomé")}) == 4
    assert same_text_caseless("STRASSE") == same_text_caseless("Straße")
    assert same_text("\u200b \u200d") == ""


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("The capital of Romania is", "Oman", False),
        ("The capital of oman is", "Oman", True),
        ("The city of São Tomé and", NFD, True),
        ("Die Straße heißt", "STRASSE", True),
        ("北京市是中国的首都", "北京", True),
        ("东京都的", "京都", True),
        ("東京Tokyo都は", "Tokyo", True),
        ("Tokyoites live in", "Tokyo", False),
        ("กรุงเทพมหานคร", "กรุงเทพ", True),
        ("일본의 수도는", "일", False),
        ("So\u200bfia is", "Sofia", True),
        ("C++ and", "C++", True),
        ("100% of", "100", True),
        ("C++x and", "C++", False),
        ("Omaniya, Oman and", "Oman", True),
        ("1000 of", "100", False),
        ("", "a", False),
    ],
)
def test_answers_inside_a_text(text, answer, expected):
    assert gives_away([text], answer) == gives_away(["", text], answer) == expected


def test_scripts_without_spaces():
    assert all(map(unspaced, "北京あアｱไລខမག。、：（𠀀"))
    assert not any(map(unspaced, "aé한абא अ0.:( "))


def test_a_space_where_there_is_room_for_one():
    assert space_between("is", "Paris") == " "
    assert [space_between(*pair) for pair in (("is ", "a"), ("is\n", "a"), ("is", " a"), ("", "a"), ("是", "a"))] == [
        ""
    ] * 5
    assert runs_together("is", "Paris") and not runs_together("is (", "Paris") and not runs_together("是", "Paris")
    assert not runs_together("is", " Paris") and not runs_together("is", "") and not runs_together("2+2=", "4")


def test_facts_that_are_spelled_twice():
    relation = Relation("island", ("The island of {subject} is", "{subject}："), "x")
    facts = checked(
        [relation],
        [
            Fact("island", "Tomé", "a"),
            Fact("island", unicodedata.normalize("NFD", "Tomé"), "a"),
            Fact("island", "To\u200bmé", "b"),
            Fact("island", "\u200b", "c"),
            Fact("island", "d", "\ufeff"),
            Fact("island", "北京", "京"),
            Fact("island", " kept ", " as it is "),
        ],
    )
    assert facts.facts == (Fact("island", " kept ", " as it is "),)
    assert facts.dropped == {"duplicate": 1, "ambiguous subject": 2, "empty": 2, "answer inside its prompt": 1}


def test_the_short_way_leaves_out_the_same_facts(monkeypatch):
    """Texts of plain letters are compared without looking at words first."""
    prompts = ("The king of {subject} is", "{answer} rules {subject} .", "In {subject}, {answer} is king")
    relations = [Relation("king", prompts, "x"), Relation("odd", ("Of  {subject}:\n", "{subject} is"), "x")]
    words = ["Ann", "an", "king", "King of", "of b", "rules", "Is", "b", "B c", ".", "ís", "c", "in b", "the", "x\ty"]
    facts = [Fact(name, s, a) for name in ("king", "odd") for s in (*words, " b ") for a in words]
    short = checked(relations, facts, ambiguous="keep")
    monkeypatch.setattr(module, "_plain_prompts", lambda relation: None)
    assert checked(relations, facts, ambiguous="keep") == short
    assert 100 < short.dropped["answer inside its prompt"] < len(facts) - 100
