"""Published facts by name: fetched once from their authors, checked, and kept in the user's folder."""

import dataclasses
import gzip
import hashlib
import http.client
import io
import re
import shutil
import tarfile
import urllib.request
import zlib
from collections.abc import Mapping
from pathlib import Path

from jaxinterp.base.digests import file_digest
from jaxinterp.base.errors import UserError, unknown
from jaxinterp.base.files import new_folder, write_json
from jaxinterp.base.home import home

RECORD = "source.json"  # where the facts are from, and their digest
MOST = 100_000_000  # bytes of an archive, and of what is taken out of it
SECONDS = 60.0  # without an answer


@dataclasses.dataclass(frozen=True)
class Source:
    """Files of one commit of a repository."""

    url: str  # of a .tar.gz of the commit
    licence: str
    paper: str
    folders: Mapping[str, str]  # in the repository -> here; their .jsonl files are taken
    documents: tuple[str, ...]  # single files that come with them
    sha256: str  # of what is taken, see `folder_digest`


SOURCES = {
    "pararel": Source(
        url="https://github.com/yanaiela/pararel/archive/cb5554678457beb5ac163d888f1ce8cf174b3f0b.tar.gz",
        licence="MIT",
        paper="Elazar et al. 2021",
        folders={"data/pattern_data/graphs_json": "templates", "data/trex_lms_vocab": "facts"},
        documents=("LICENSE",),
        sha256="83d17ad41c63652d713579a98ca988a2e2b83c501c61d9d8acfb79460dab0825",
    ),
}


def facts_folder() -> Path:
    """The folder of fetched facts, the user's own wherever a command runs; see `jaxinterp.base.home.home`."""
    return home() / "facts"


def fetched(name: str) -> Path:
    """The folder of fetched facts of that name.

    Raises:
      UserError: if they are not fetched yet, or are damaged.
    """
    state = state_of(name)
    if state != "here":
        raise UserError(f"the facts {name!r} are {state} in {facts_folder()}; run `jaxinterp facts fetch {name}` first")
    return facts_folder() / name


def state_of(name: str) -> str:
    """ "here", "not fetched" or "damaged"."""
    folder = facts_folder() / name
    if not folder.is_dir():
        return "not fetched"
    return "here" if folder_digest(folder, SOURCES[name]) == SOURCES[name].sha256 else "damaged"


def fetch(name: str, archive: Path | None = None) -> Path:
    """Brings facts here, unless they are here and intact. The folder appears when it is complete.

    Args:
      name: out of `SOURCES`.
      archive: the .tar.gz of the source, downloaded by other means; None fetches it.
    Returns:
      The folder.
    Raises:
      UserError: if the name is unknown, the source cannot be reached, the archive cannot be read or holds other facts,
        or the folder cannot be written.
    """
    if name not in SOURCES:
        raise unknown("source of facts", name, SOURCES)
    source, folder = SOURCES[name], facts_folder() / name
    if state_of(name) == "here":
        return folder
    if archive is None:
        content = _download(name, source)
    else:
        try:
            content = archive.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {archive}: {error.strerror}") from None
    where = str(archive or source.url)
    try:
        with new_folder(folder) as partial:
            _extract(content, source, partial, where)
            digest = folder_digest(partial, source)
            if digest != source.sha256:
                raise UserError(f"{where} holds other facts than {name!r} should have (SHA-256 {digest}); nothing kept")
            write_json(partial / RECORD, dataclasses.asdict(source))
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from None
    return folder


def folder_digest(folder: Path, source: Source) -> str:
    """SHA-256 of the names and the SHA-256 of all files that the source has here."""
    paths = [path for own in source.folders.values() for path in sorted((folder / own).glob("*.jsonl"))]
    paths += [folder / name for name in source.documents if (folder / name).is_file()]
    lines = [f"{path.relative_to(folder).as_posix()} {file_digest(path)}" for path in paths]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _download(name: str, source: Source) -> bytes:
    by_hand = f"download it by other means and give it with `jaxinterp facts fetch {name} --archive FILE`"
    try:
        with urllib.request.urlopen(source.url, timeout=SECONDS) as answer:
            content = answer.read(MOST + 1)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(f"{source.url} cannot be fetched: {reason}; {by_hand}") from None
    if len(content) > MOST:
        raise UserError(f"{source.url} is larger than {MOST:,} bytes; nothing was kept")
    return content


def _extract(content: bytes, source: Source, folder: Path, where: str) -> None:
    """Copies files out. Where they go is decided here, by plain names, and never read from the archive."""
    left = MOST
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as files:
            for member in files:
                path = member.name.partition("/")[2]  # below the archive's own folder
                inside, _, name = path.rpartition("/")
                if inside in source.folders and re.fullmatch(r"\w+\.jsonl", name):
                    target = folder / source.folders[inside] / name
                elif path in source.documents:
                    target = folder / path
                else:
                    continue
                left -= member.size
                file = files.extractfile(member) if member.isreg() and left >= 0 else None
                if file is None:
                    raise UserError(f"{where} is not the archive that is expected: {path} is no plain file of its size")
                target.parent.mkdir(exist_ok=True)
                with file, target.open("wb") as copy:
                    shutil.copyfileobj(file, copy)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{where} is no .tar.gz that can be read: {error}") from None
