import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.facts.facts import Fact, FactSet
from jaxinterp.facts.readers.counterfact import read_counterfact
from jaxinterp.facts.readers.lama import read_lama
from jaxinterp.facts.readers.pararel import LAYOUTS, TITLES, read_pararel, relation_title
from jaxinterp.facts.readers.table import read_table
from jaxinterp.facts.source import load_facts


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


def lines(*records: dict) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def triples(facts: FactSet) -> list[tuple[str, str, str]]:
    return [(fact.relation, fact.subject, fact.answer) for fact in facts.facts]


def pattern(text: str) -> dict:
    return {"pattern": text, "lemma": "x", "extended_lemma": "x", "tense": "present"}


def label(subject: str, answer: str, **more: object) -> dict:
    return {"sub_label": subject, "obj_label": answer, "uuid": "1", **more}


def pararel(tmp_path: Path, layout: tuple[str, str] = LAYOUTS[0]) -> Path:
    templates, facts = (tmp_path / name for name in layout)
    write(templates / "P36.jsonl", lines(pattern("The capital of [X] is [Y] ."), pattern("[Y] is [X]'s {capital}.")))
    write(templates / "P9.jsonl", lines(pattern("[X] is near [Y]."), pattern("[X] is near [Y].")))
    write(facts / "P36.jsonl", lines(label("Peru", " Lima "), label("Mali", "Bamako"), label("Mali", "Mali Town")))
    write(facts / "P9.jsonl", lines(label("a", "b"), label("a", "b"), label("c", "")))
    return tmp_path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pararel(tmp_path: Path, layout: tuple[str, str]):
    facts = read_pararel(pararel(tmp_path, layout))
    assert triples(facts) == [("P9", "a", "b"), ("P36", "Peru", " Lima ")]
    assert facts.relation["P36"].prompts == (
        "The capital of {subject} is {answer} .",
        "{answer} is {subject}'s {capital}.",
    )
    # White space is read as it stands.
    assert facts.text(1, 0) == ("The capital of Peru is", "  Lima ", " .")
    assert facts.text(1, 1) == ("", " Lima ", " is Peru's {capital}.")
    assert facts.dropped == {"ambiguous subject": 2, "duplicate": 1, "empty": 1, "repeated prompt": 1}


def test_pararel_counts_facts_without_templates_and_names_relations_without_facts(tmp_path: Path):
    folder = pararel(tmp_path)
    write(folder / "facts" / "P1.jsonl", lines(label("a", "b"), label("c", "d")))
    assert read_pararel(folder).dropped["fact of a relation without templates"] == 2
    write(folder / "templates" / "P77.jsonl", lines(pattern("[X] [Y]")))
    with pytest.raises(UserError, match=r"relations P77 have templates but no facts.*facts has no file P77\.jsonl"):
        read_pararel(folder)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("templates/P36.jsonl", lines(pattern("[X] [Y]"), pattern("[Y].")), "line 2: .* 0 times the subject's mark"),
        ("templates/P36.jsonl", lines(pattern("[X] is")), r"line 1: .* 0 times the answer's mark \[Y\]"),
        ("templates/P36.jsonl", lines(pattern("[X] [Y] [Y]")), "line 1: .* 2 times the answer's mark"),
        ("templates/P36.jsonl", lines({"text": "[X] [Y]"}), "line 1: the field 'pattern' is missing; there are: text"),
        ("templates/P36.jsonl", lines(pattern("[X] {subject} [Y]")), "line 1: .* or {answer} beside its marks"),
        ("facts/P36.jsonl", lines(label("a", "b")) + "\n{oops\n", "line 3: no valid JSON at column 2"),
        ("facts/P36.jsonl", lines(label("a", "b")) + "[1]\n", "line 2: expected an object, {...}, got list"),
        ("facts/P36.jsonl", lines({"sub_label": "a", "obj_label": 3}), "line 1: .*'obj_label' must be a str, got int"),
        ("facts/P36.jsonl", '{"sub_label": "a", "sub_label": "b"}', "line 1: field 'sub_label' stands twice"),
        ("facts/P36.jsonl", lines(label("a", "\ud800")), "line 1: the field 'obj_label' has half of a surrogate pair"),
        ("facts/P36.jsonl", "[" * 100_000, "line 1: .*recursion"),
        ("facts/P36.jsonl", " \n\n", "is empty; give a file"),
    ],
)  # fmt: skip
def test_pararel_names_file_and_line_of_what_is_broken(tmp_path: Path, file: str, text: str, message: str):
    folder = pararel(tmp_path)
    write(folder / file, text)
    with pytest.raises(UserError, match="P36.*" + message) as caught:
        read_pararel(folder)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_utf_8_are_named_with_their_line(tmp_path: Path):
    folder = pararel(tmp_path)
    (folder / "facts" / "P36.jsonl").write_bytes(lines(label("a", "b")).encode() + b'{"sub_label": "\xe9"}')
    with pytest.raises(UserError, match=r"P36\.jsonl, line 2: byte 0xe9 is not UTF-8"):
        read_pararel(folder)


def test_a_json_string_may_hold_a_line_separator(tmp_path: Path):
    folder = pararel(tmp_path)
    write(folder / "facts" / "P36.jsonl", '{"sub_label": "a\u2028b", "obj_label": "c"}')
    assert ("P36", "a\u2028b", "c") in triples(read_pararel(folder))


def test_pararel_rejects_other_folders(tmp_path: Path):
    with pytest.raises(UserError, match=r"no folder of ParaRel: it must have templates/\*\.jsonl"):
        read_pararel(tmp_path)
    for name in LAYOUTS[0]:
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="no templates"):
        read_pararel(tmp_path)


def test_relation_titles():
    assert relation_title("P36") == "capital"
    assert relation_title("P1376") == "capital of"
    assert len(set(TITLES.values())) == len(TITLES) == 41
    with pytest.raises(UserError, match="unknown relation 'P1'; did you mean P31"):
        relation_title("P1")


def record(subject: str, answer: str, prompt: str, relation: str = "P103") -> dict:
    asked = {"prompt": prompt, "relation_id": relation, "subject": subject}
    return {
        "case_id": 0,
        "requested_rewrite": {**asked, "target_new": {"str": "Wrong"}, "target_true": {"str": answer, "id": "Q1"}},
        "paraphrase_prompts": ["unused"],
    }


def test_counterfact(tmp_path: Path):
    records = [
        record("Zoe", "French", "The mother tongue of {} is"),
        record("Ann", "Dutch", "{}, a native speaker of"),
        record("Ann", "Dutch", "The mother tongue of {} is"),
        record("Oslo", "Norway", "{} {x} lies in", relation="P17"),
    ]
    facts = read_counterfact(write(tmp_path / "c.json", json.dumps(records)))
    assert triples(facts) == [("P17", "Oslo", "Norway"), ("P103", "Ann", "Dutch"), ("P103", "Zoe", "French")]
    assert facts.relation["P103"].prompts == ("The mother tongue of {subject} is", "{subject}, a native speaker of")
    assert facts.text(2, 1) == ("Zoe, a native speaker of", " French", ".")
    assert facts.prompt(0, 0) == "Oslo {x} lies in"
    assert facts.dropped == {"duplicate": 1}
    assert [relation.prompts for relation in facts.answer_last().relations] == [r.prompts for r in facts.relations]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "expected a list of CounterFact's records, got dict"),
        ([], "got an empty list"),
        ([record("a", "b", "{} is"), 3], "record 2: expected an object, {...}, got int"),
        ([{"case_id": 1}], "record 1: the field 'requested_rewrite' is missing; there are: case_id"),
        ([record("a", "b", "It is")], "record 1, requested_rewrite: .*'It is' has 0 times the subject's mark {}"),
        ([{"requested_rewrite": {"relation_id": "P1", "subject": "a", "prompt": "{}"}}], "'target_true' is missing"),
    ],
)  # fmt: skip
def test_counterfact_names_the_record_that_is_broken(tmp_path: Path, content: object, message: str):
    with pytest.raises(UserError, match=message):
        read_counterfact(write(tmp_path / "c.json", json.dumps(content)))


def test_counterfact_names_the_line_of_broken_json(tmp_path: Path):
    with pytest.raises(UserError, match=r"c\.json, line 3: no valid JSON at column 1"):
        read_counterfact(write(tmp_path / "c.json", "[\n{},\n"))


def lama(tmp_path: Path) -> Path:
    templates = (
        {"relation": "P19", "template": "[X] was born in [Y] .", "label": "place of birth", "type": "N-1"},
        {"relation": "P36", "template": "[Y] is the capital of [X] .", "label": "capital", "type": "1-1"},
    )
    write(tmp_path / "relations.jsonl", lines(*templates))
    evidence = {"evidences": [{"masked_sentence": "unused [MASK]"}]}
    write(tmp_path / "TREx" / "P19.jsonl", lines(label("Ann", "Rome", predicate_id="P19", **evidence)))
    write(tmp_path / "TREx" / "P36.jsonl", lines(label("Peru", "Lima")))
    return tmp_path


def test_lama_with_templates_beside_or_one_folder_up(tmp_path: Path):
    folder = lama(tmp_path)
    facts = read_lama(folder / "TREx")
    assert triples(facts) == [("P19", "Ann", "Rome"), ("P36", "Peru", "Lima")]
    assert facts.relation["P36"].prompts == ("{answer} is the capital of {subject} .",)
    assert not facts.dropped
    (folder / "relations.jsonl").rename(folder / "TREx" / "relations.jsonl")
    assert read_lama(folder / "TREx") == facts
    assert triples(read_lama(folder / "TREx" / "P36.jsonl")) == triples(facts)[1:]


def test_lama_with_a_sentence_of_its_own(tmp_path: Path):
    def masked(subject: str, answer: str, *sentences: str) -> dict:
        return {"sub": subject, "obj_label": answer, "pred": "HasSubevent", "masked_sentences": list(sentences)}

    text = lines(
        masked("alive", "think", "One of the things you do when you are alive is [MASK]."),
        masked("art", "paint", "[MASK] makes smart art for {artists}."),  # a part of another word is no subject
        masked("a", "b", "One [MASK].", "Two a [MASK]."),
        masked("a", "b", "a [MASK] or [MASK]."),
        masked("a", "b", "a is this."),
        masked("a", "b", "a [MASK] a."),
        masked("", "b", "a [MASK]."),
        masked("a", "b"),
        masked("wet", "wet", "wet is [MASK]."),
        label("Squad", "gold", masked_sentences=["The [MASK] color was used."]),
    )
    facts = read_lama(write(tmp_path / "test.jsonl", text))
    assert triples(facts) == [("test:1", "alive", "think"), ("test:2", "art", "paint")]
    assert [relation.prompts for relation in facts.relations] == [
        ("One of the things you do when you are {subject} is {answer}.",),
        ("{answer} makes smart {subject} for {artists}.",),
    ]  # fmt: skip
    assert {relation.domain for relation in facts.relations} == {"HasSubevent"}
    assert facts.dropped == {
        "several masked sentences": 1,
        "sentence without one [MASK]": 3,
        "subject several times in its sentence": 1,
        "subject not in its sentence": 2,
        "answer inside its prompt": 1,
    }


def test_lama_says_why_nothing_is_left(tmp_path: Path):
    text = lines(*[label("Squad", "gold", masked_sentences=["The [MASK] color was used."])] * 3)
    with pytest.raises(UserError, match=r"no fact that can be used: 3 times subject not in its sentence"):
        read_lama(write(tmp_path / "test.jsonl", text))


def test_lama_errors(tmp_path: Path):
    with pytest.raises(UserError, match=r"has no files \*\.jsonl of LAMA"):
        read_lama(tmp_path)
    folder = lama(tmp_path)
    trex = folder / "TREx"
    write(trex / "P20.jsonl", lines(label("Ann", "Rome", predicate_id="P20")))
    with pytest.raises(UserError, match=r"P20\.jsonl, line 1: no template for the relation 'P20'"):
        read_lama(trex)
    write(trex / "P20.jsonl", lines({"obj_label": "Rome"}))
    with pytest.raises(UserError, match=r"P20\.jsonl, line 1: the field 'sub' is missing; there are: obj_label"):
        read_lama(trex)
    write(trex / "P20.jsonl", lines(label("a", "b", masked_sentences=[1])))
    with pytest.raises(UserError, match=r"P20\.jsonl, line 1: .*must be a list of strings"):
        read_lama(trex)
    write(trex / "relations.jsonl", lines(*[{"relation": "P1", "template": "[X] [Y]"}] * 2))
    with pytest.raises(UserError, match=r"relations\.jsonl, line 2: a second template of the relation 'P1'"):
        read_lama(trex)


CSV = """relation,subject,answer,prompt
capital,Peru,Lima,The capital of {subject} is
capital,Peru,Lima,"{answer}, as you know, is the capital of {subject}."

capital,Chad,"N'Djamena
City",The capital of {subject} is
color,sky,blue,{subject} is
color,sky,blue,{subject} is
"""


def test_table_as_csv(tmp_path: Path):
    facts = read_table(write(tmp_path / "own.csv", CSV))
    assert triples(facts) == [
        ("capital", "Chad", "N'Djamena\nCity"),
        ("capital", "Peru", "Lima"),
        ("color", "sky", "blue"),
    ]
    assert facts.relation["capital"].prompts == (
        "The capital of {subject} is", "{answer}, as you know, is the capital of {subject}.",
    )  # fmt: skip
    assert facts.text(0, 1) == ("", "N'Djamena\nCity", ", as you know, is the capital of Chad.")
    assert facts.dropped == {"duplicate": 1}
    assert {relation.domain for relation in facts.relations} == {"own"}


def test_table_as_jsonl_or_with_a_byte_order_mark_is_the_same(tmp_path: Path):
    rows = [
        {"prompt": prompt, "answer": answer, "subject": subject, "relation": relation}
        for relation, subject, answer, prompt in [
            ("capital", "Peru", "Lima", "The capital of {subject} is"),
            ("capital", "Peru", "Lima", "{answer}, as you know, is the capital of {subject}."),
            ("capital", "Chad", "N'Djamena\nCity", "The capital of {subject} is"),
            ("color", "sky", "blue", "{subject} is"),
            ("color", "sky", "blue", "{subject} is"),
        ]
    ]
    facts = read_table(write(tmp_path / "own.csv", CSV))
    same = read_table(write(tmp_path / "own.jsonl", "\ufeff" + lines(*rows)))
    windows = read_table(write(tmp_path / "win" / "own.csv", "\ufeff" + CSV.replace("\n", "\r\n")))
    assert (same.facts, same.dropped, same.digest()) == (facts.facts, facts.dropped, facts.digest())
    assert windows.facts[1:] == facts.facts[1:]
    assert windows.facts[0] == Fact("capital", "Chad", "N'Djamena\r\nCity")


HEADER = "relation,subject,answer,prompt\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "relation,subject,answer,prompt,note\n", "line 1: unknown column 'note'; the columns are: relation"),
        ("t.csv", "relation,subject,answer\n", "line 1: no column 'prompt'; the columns are"),
        ("t.csv", "relation,subject,answer,prompt,answer\n", "line 1: column 'answer' stands twice"),
        ("t.csv", HEADER, "has a header but no facts"),
        ("t.csv", HEADER + "r,a,b,{subject} is\nr,a,b\n", "line 3: 3 cells for 4 columns"),
        ("t.csv", HEADER + "r,a,b,{subject} is,\n", "line 2: 5 cells for 4 columns"),
        ("t.csv", HEADER + 'r,a,b,"{subject}" is\n', "line 2: no valid CSV"),
        ("t.csv", HEADER + 'r,a,b,"{subject}\n\n', "line 3: no valid CSV"),
        ("t.csv", HEADER + "r,a,b,it is\n", "line 2: the template 'it is' has 0 times the subject's mark {subject}"),
        ("t.csv", HEADER + "r,a,b,{subject} {answer} {answer}\n", "line 2: .*has 2 times the answer's mark {answer}"),
        ("t.csv", HEADER + " ,a,b,{subject} is\n", "line 2: the relation is empty"),
        ("t.csv", "", "t.csv is empty"),
        ("t.txt", HEADER, r"no table of facts; accepted: \.csv, \.jsonl"),
        ("t.jsonl", '\n{"relation": "r", "subject": "a", "answer": "b"}', "line 2: no column 'prompt'"),
        ("t.jsonl", lines({"relation": 1, "subject": "a", "answer": "b", "prompt": "{subject}"}), "'relation' must be"),
    ],
)  # fmt: skip
def test_table_names_file_and_line_of_what_is_broken(tmp_path: Path, name: str, text: str, message: str):
    with pytest.raises(UserError, match=message) as caught:
        read_table(write(tmp_path / name, text))
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("read", [read_counterfact, read_table])
def test_a_file_that_is_not_there(tmp_path: Path, read: Callable[[Path], FactSet]):
    with pytest.raises(UserError, match=r"cannot read .*gone\.csv: No such file"):
        read(tmp_path / "gone.csv")


def test_a_suffix_in_capitals_is_as_good(tmp_path):
    text = "relation,subject,answer,prompt\ncapital,France,Paris,The capital of {subject} is\n"
    row = '{"relation": "capital", "subject": "France", "answer": "Paris", "prompt": "The capital of {subject} is"}\n'
    for name, content in (("a.csv", text), ("a.CSV", text), ("b.Jsonl", row), ("b.JSONL", row)):
        (tmp_path / name).write_text(content, encoding="utf-8")
        (fact,) = load_facts(str(tmp_path / name)).facts
        assert (fact.subject, fact.answer) == ("France", "Paris")


def test_rows_of_empty_cells_are_counted(tmp_path):
    rows = ["capital,France,Paris,The capital of {subject} is", ",,,", " , ,\t,", ",", '"","","",""', ""]
    path = tmp_path / "facts.csv"
    path.write_text("\n".join([",,,", "relation,subject,answer,prompt", *rows]), encoding="utf-8")
    found = read_table(path)
    assert len(found) == 1 and found.dropped == {"row of empty cells": 4}
    path.write_text("\n".join(["relation,subject,answer,prompt", rows[0], "capital,Italy,,In {subject}"]), "utf-8")
    found = read_table(path)
    assert [fact.answer for fact in found.facts] == ["Paris"] and found.dropped == {"empty": 1}
    path.write_text("relation,subject,answer,prompt\n,,,\n", encoding="utf-8")
    with pytest.raises(UserError, match="has a header but no facts"):
        read_table(path)
