import json
import subprocess
import sys
from pathlib import Path

import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.facts import source, worldfacts
from jaxinterp.facts.facts import Fact, FactSet, Relation
from jaxinterp.facts.source import load_facts

ROW = {"relation": "r", "subject": "a", "answer": "b", "prompt": "{subject} is"}
LABELS = {"sub_label": "a", "obj_label": "b"}
MASKED = {**LABELS, "masked_sentences": ["a is [MASK]."]}
COUNTERFACT = {
    "requested_rewrite": {"relation_id": "r", "subject": "a", "prompt": "{} is", "target_true": {"str": "b"}}
}
FACTS = FactSet((Relation("r", ("{subject} is",), "x"),), (Fact("r", "a", "b"),))


@pytest.mark.parametrize(
    ("files", "spec", "relation"),
    [
        ({"own.csv": "relation,subject,answer,prompt\nr,a,b,{subject} is\n"}, "own.csv", "r"),
        ({"own.jsonl": json.dumps(ROW)}, "own.jsonl", "r"),
        ({"test.jsonl": json.dumps(MASKED)}, "test.jsonl", "test:1"),
        ({"ConceptNet/test.jsonl": json.dumps(MASKED)}, "ConceptNet", "test:1"),
        ({"c.json": json.dumps([COUNTERFACT])}, "c.json", "r"),
        ({"p/templates/P1.jsonl": '{"pattern": "[X] is [Y]"}', "p/facts/P1.jsonl": json.dumps(LABELS)}, "p", "P1"),
        ({"world/facts.csv": "relation,subject,answer,prompt\nr,a,b,{subject} is\n"}, "./world/facts.csv", "r"),
    ],
)
def test_each_form_is_told_by_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], spec: str, relation: str
):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    assert load_facts(spec).facts == (Fact(relation, "a", "b"),)
    assert load_facts(str(tmp_path / spec)).facts == (Fact(relation, "a", "b"),)


@pytest.mark.parametrize(
    ("spec", "domains"),
    [("world", ()), ("world:countries", ("countries",)), ("world:elements,scripts", ("elements", "scripts"))],
)
def test_world_facts_by_domain(monkeypatch: pytest.MonkeyPatch, spec: str, domains: tuple[str, ...]):
    asked = []
    monkeypatch.setattr(worldfacts, "world_facts", lambda names: asked.append(tuple(names)) or FACTS)
    assert load_facts(spec) is FACTS
    assert asked == [domains]


def own_table(path: Path, *rows: tuple[str, str, str]) -> str:
    path.parent.mkdir(exist_ok=True)
    lines = (f"{relation},{subject},{answer},{{subject}} is" for relation, subject, answer in rows)
    path.write_text("\n".join(("relation,subject,answer,prompt", *lines, "")))
    return str(path)


def test_several_sources_and_their_equal_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(worldfacts, "world_facts", lambda names: FACTS)
    own = own_table(tmp_path / "own.csv", ("r", "c", "d"), ("q", "c", "e"))
    other = own_table(tmp_path / "other.csv", ("p", "c", "f"))
    facts = load_facts((own, "world:countries", other))
    # Only names that several sources have get a source, and each keeps its facts and prompts.
    assert facts.facts == (
        *(Fact("own:r", "c", "d"), Fact("q", "c", "e")),
        *(Fact("world:r", "a", "b"), Fact("p", "c", "f")),
    )
    assert [relation.name for relation in facts.relations] == ["own:r", "q", "world:r", "p"]
    assert facts.relation["world:r"].domain == "x"
    assert load_facts((own,)).facts == load_facts(own).facts


def test_what_is_dropped_in_several_sources_is_added_up(monkeypatch: pytest.MonkeyPatch):
    def dropping(names):
        (name,) = names
        relation, fact = Relation(name, ("{subject} is",), name), Fact(name, "a", "b")
        return FactSet((relation,), (fact,), {"too long": 2, f"of {name}": 1})

    monkeypatch.setattr(worldfacts, "world_facts", dropping)
    dropped = load_facts(("world:countries", "world:cities")).dropped
    assert dropped == {"too long": 4, "of countries": 1, "of cities": 1}


def test_mistakes_in_several_sources(tmp_path: Path):
    one, two = (own_table(tmp_path / name / "own.csv", ("r", "a", "b")) for name in "ab")
    with pytest.raises(UserError, match="two sources 'own' have a relation 'r' each; name each source once, or rename"):
        load_facts((one, two))
    with pytest.raises(UserError, match=r"the facts '.*own.csv' are named twice"):
        load_facts((one, one))
    with pytest.raises(UserError, match="no facts are named"):
        load_facts(())
    with pytest.raises(UserError, match=r"no facts at 'pararel,world': .* \(put spaces between several\)"):
        load_facts("pararel,world")


def test_mistakes_in_domains():
    with pytest.raises(UserError, match="unknown domain 'planets'; known: airports"):
        load_facts("world:planets")
    with pytest.raises(UserError, match="unknown domain ''"):
        load_facts("world:countries,")
    with pytest.raises(UserError, match="'world:' names no domain"):
        load_facts("world:")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gone.csv", "no facts at 'gone.csv': no such file or folder"),
        ("worlds", "no facts at 'worlds'"),
        ("", "no facts at ''"),
        ("empty", "the folder 'empty' has no facts of a known form"),
        ("notes.txt", "'notes.txt' has an unknown ending '.txt'"),
        ("other.jsonl", "other.jsonl, line 1: neither LAMA's fields nor a table's: text"),
    ],
)
def test_an_unknown_thing_lists_what_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, message: str
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "other.jsonl").write_text('{"text": "x"}')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_facts(spec)
    assert source.ACCEPTED in str(caught.value)


def test_data_packages_are_imported_when_they_are_asked_for():
    code = "import sys, jaxinterp.facts.source; print(*(name for name in sys.modules if 'worldfacts' in name))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
