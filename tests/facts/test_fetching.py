"""Facts by name, out of archives that are made here."""

import dataclasses
import io
import json
import tarfile

import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.facts import fetching
from jaxinterp.facts.source import load_facts

FILES = {
    "LICENSE": "free",
    "data/pattern_data/graphs_json/P36.jsonl": json.dumps({"pattern": "The capital of [X] is [Y] ."}),
    "data/trex_lms_vocab/P36.jsonl": json.dumps({"sub_label": "France", "obj_label": "Paris"}),
    "data/trex_lms_vocab/../../P37.jsonl": "not taken",
    "code/run.py": "not taken",
}
TAKEN = {"LICENSE", "templates/P36.jsonl", "facts/P36.jsonl", "source.json"}


def archive(folder, files=FILES, name="a.tar.gz"):
    with tarfile.open(folder / name, "w:gz") as made:
        for path, text in files.items():
            info = tarfile.TarInfo(f"pararel-cb55546/{path}")
            info.size = len(text.encode())
            made.addfile(info, io.BytesIO(text.encode()))
    return folder / name


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXINTERP_HOME", str(tmp_path / "home"))
    with pytest.raises(UserError) as told:
        fetching.fetch("pararel", archive(tmp_path))
    digest = str(told.value).split("SHA-256 ")[1][:64]
    source = dataclasses.replace(fetching.SOURCES["pararel"], sha256=digest)
    monkeypatch.setitem(fetching.SOURCES, "pararel", source)
    assert not (tmp_path / "home" / "facts" / "pararel").exists()  # other facts than those that are expected
    return tmp_path / "home" / "facts"


def fetch_from(path, monkeypatch):
    source = dataclasses.replace(fetching.SOURCES["pararel"], url=path.as_uri())
    monkeypatch.setitem(fetching.SOURCES, "pararel", source)
    return fetching.fetch("pararel")


def test_facts_are_fetched_once_and_found_by_name(tmp_path, home, monkeypatch):
    with pytest.raises(UserError, match=r"are not fetched in .*; run `jaxinterp facts fetch pararel` first"):
        load_facts("pararel")
    folder = fetch_from(archive(tmp_path), monkeypatch)
    assert folder == home / "pararel"
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == TAKEN
    (fact,) = load_facts("pararel").facts
    assert (fact.subject, fact.answer) == ("France", "Paris")
    assert fetching.fetch("pararel", tmp_path / "absent") == folder  # it is here already


def test_what_is_damaged_is_not_read_and_is_fetched_anew(tmp_path, home):
    fetching.fetch("pararel", archive(tmp_path))
    (home / "pararel" / "facts" / "P36.jsonl").write_text(json.dumps({"sub_label": "France", "obj_label": "London"}))
    with pytest.raises(UserError, match="are damaged"):
        load_facts("pararel")
    fetching.fetch("pararel", archive(tmp_path))
    assert load_facts("pararel").facts[0].answer == "Paris"


def test_a_folder_here_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, line in (("templates", {"pattern": "[X] has [Y]"}), ("facts", {"sub_label": "a", "obj_label": "b"})):
        (tmp_path / "pararel" / name).mkdir(parents=True)
        (tmp_path / "pararel" / name / "P1.jsonl").write_text(json.dumps(line))
    assert load_facts("pararel").facts[0].answer == "b"


def test_what_cannot_be_fetched(tmp_path, home, monkeypatch):
    with pytest.raises(UserError, match="unknown source of facts 'lama'"):
        fetching.fetch("lama")
    with pytest.raises(UserError, match=r"cannot be fetched: .*--archive FILE"):
        fetch_from(tmp_path / "absent.tar.gz", monkeypatch)
    (tmp_path / "broken").write_bytes(b"not an archive")
    with pytest.raises(UserError, match=r"is no .tar.gz that can be read"):
        fetching.fetch("pararel", tmp_path / "broken")
    with pytest.raises(UserError, match=r"cannot read .*absent"):
        fetching.fetch("pararel", tmp_path / "absent")
    with tarfile.open(tmp_path / "linked.tar.gz", "w:gz") as made:
        info = tarfile.TarInfo("x/LICENSE")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        made.addfile(info)
    with pytest.raises(UserError, match="LICENSE is no plain file"):
        fetching.fetch("pararel", tmp_path / "linked.tar.gz")
    monkeypatch.setattr(fetching, "MOST", 100)
    with pytest.raises(UserError, match="larger than 100 bytes"):
        fetch_from(archive(tmp_path), monkeypatch)
    assert not (home / "pararel").exists()
