"""`jaxinterp models list|fetch|verify|pin|export`: named models and their files on the command line."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxinterp.base.digests import file_digest
from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json
from jaxinterp.models.sources import catalogue, fetch
from jaxinterp.models.sources import huggingface as hub
from jaxinterp.models.sources.catalogue import Entry, Hub, Shipped, models_folder


@dataclasses.dataclass(frozen=True)
class ListModels:
    """List the models that have names, and which of them are here."""

    folder: Path = dataclasses.field(default_factory=models_folder)  # of fetched models

    def __call__(self) -> None:
        """Runs the command."""
        from rich.table import Column, Table

        from jaxinterp.base.tables import print_table

        table = Table("name", "family", "parameters", "licence", Column("where from", overflow="fold"), "state")
        entries = [catalogue.entry(name) for name in catalogue.names()]
        for entry in entries:
            size, origin = _count(entry.n_params), _origin(entry)
            table.add_row(entry.name, entry.family, size, entry.licence, origin, _state(entry, self.folder))
        print_table(table)
        for entry in entries:
            if entry.note:
                print(f"{entry.name}: {entry.note}")
        print(
            f"Fetched models are in {self.folder}; only their sizes were compared, `jaxinterp models verify` checks "
            "the contents. gated: the hub asks for an account that has accepted the licence."
        )


@dataclasses.dataclass(frozen=True)
class FetchModel:
    """Fetch a model of the catalogue, check it, and say where it is."""

    name: Annotated[str, tyro.conf.Positional]  # of the catalogue; `jaxinterp models list` has them
    accept_terms: bool = False  # you have read and accepted the model's terms
    folder: Path = dataclasses.field(default_factory=models_folder)  # of fetched models

    def __call__(self) -> None:
        """Runs the command."""
        path = fetch.fetch(self.name, self.folder, accept_terms=self.accept_terms)
        if isinstance(catalogue.entry(self.name).source, Hub):
            print(f"{self.name}: {path}")


@dataclasses.dataclass(frozen=True)
class VerifyModels:
    """Recompute the hashes of fetched and of pinned models; status 2 if one is damaged."""

    # Of the catalogue, or paths of models that are pinned; () is every model of the catalogue that is here
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    folder: Path = dataclasses.field(default_factory=models_folder)  # of fetched models

    def __call__(self) -> None:
        """Runs the command."""
        damaged, n_checked = [], 0
        paths = [name for name in self.names if name not in catalogue.names() and Path(name).exists()]
        for path in paths:
            try:
                self._verify_pinned(_model_at(Path(path)))
            except UserError as error:
                print(f"{path}: {error}")
                damaged.append(path)
        if self.names and len(paths) == len(self.names):
            if damaged:
                raise UserError(f"damaged: {', '.join(damaged)}")
            return
        for entry in [catalogue.entry(name) for name in self.names or catalogue.names() if name not in paths]:
            state, words = _verified(entry, self.folder)
            if state == "missing":
                if self.names:
                    raise UserError(f"{entry.name} is not here; run `jaxinterp models fetch {entry.name}` first")
                continue
            n_checked += 1
            print(f"{entry.name}: {'intact' if state == 'whole' else state}: {words}", flush=True)
            if state == "damaged":
                damaged.append(entry.name)
        missing = len(self.names or catalogue.names()) - len(paths) - n_checked
        print(f"{n_checked} checked, {len(damaged)} damaged, {missing} not fetched")
        if not self.names:
            self._say_what_was_passed_over()
        if damaged:
            again = "; ".join(f"`jaxinterp models fetch {name}`" for name in damaged if name not in paths)
            raise UserError(f"damaged: {', '.join(damaged)}; fetch again: {again}")

    def _verify_pinned(self, path: Path) -> None:
        from jaxinterp.models.loading.pinned import verify

        if not verify(path):
            raise UserError(f"{path} is not pinned; `jaxinterp models pin {path}` records what it is now")
        print(f"{path}: intact: all files are those that were pinned")

    def _say_what_was_passed_over(self) -> None:
        known = set(catalogue.names())
        present = sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []
        others = [name for name in present if name not in known]
        if others:
            print(f"not of the catalogue, so not checked: {', '.join(str(self.folder / name) for name in others)}")


@dataclasses.dataclass(frozen=True)
class PinModel:
    """Record the SHA-256 of every file of a model as it is now; whatever loads it later checks them."""

    model: Annotated[str, tyro.conf.Positional]  # folder of a model, a .gguf file, a name of the catalogue or the hub

    def __call__(self) -> None:
        """Runs the command."""
        from jaxinterp.models.loading.pinned import pin

        print(f"pinned: {pin(_model_at(fetch.resolve(self.model)))}")


@dataclasses.dataclass(frozen=True)
class ExportModel:
    """Write a model as transformers reads it: config.json, model.safetensors and the tokenizer's files."""

    model: Annotated[str, tyro.conf.Positional]  # folder of a model or of a run, a .gguf file, a name of `models list`
    out: Annotated[Path, tyro.conf.Positional]  # a new folder
    # As "llama"; None is the family that the model is from, or the first one that can express what was trained here
    family: str | None = None

    def __call__(self) -> None:
        """Runs the command."""
        from jaxinterp.models.loading.bundle import load_model
        from jaxinterp.models.loading.export import export_model

        exported = export_model(self.out, load_model(self.model), family=self.family)
        print(f"{self.out}: {exported.family}, {exported.n_tensors} tensors, {exported.dtype}")
        for note in exported.notes:
            print(note)


Command = (
    Annotated[ListModels, tyro.conf.subcommand("list")]
    | Annotated[FetchModel, tyro.conf.subcommand("fetch")]
    | Annotated[VerifyModels, tyro.conf.subcommand("verify")]
    | Annotated[PinModel, tyro.conf.subcommand("pin")]
    | Annotated[ExportModel, tyro.conf.subcommand("export")]
)


@dataclasses.dataclass(frozen=True)
class Models:
    """Named models: list them, fetch them, check them, export them."""

    command: Annotated[Command, tyro.conf.arg(name="")]

    def __call__(self) -> None:
        """Runs the command."""
        self.command()


def _model_at(path: Path) -> Path:
    """The model's own folder, also where a run's is given."""
    from jaxinterp.models.loading.bundle import of_run

    return of_run(path)


def _verified(entry: Entry, folder: Path) -> tuple[fetch.State, str]:
    if isinstance(entry.source, Shipped):
        weights = entry.source.folder / "model.safetensors"
        kept = read_json(entry.source.folder / "provenance.json")["weights_sha256"]
        return "whole" if file_digest(weights) == kept else "damaged", f"hash of {weights}"
    if not isinstance(entry.source, Hub):
        return fetch.check(entry, folder)
    snapshot = hub.cached_folder(entry.source.repo, entry.source.revision or "main")
    if snapshot is None:
        return "missing", "not in the hub's cache"
    damaged, intact, unchecked = hub.damaged_files(snapshot)
    words = f"hashes of {', '.join(intact) or 'no file'} in {snapshot}"
    if unchecked:
        words += f"; not checked, since the cache does not have their hashes: {', '.join(unchecked)}"
    return ("damaged", f"{', '.join(damaged)} in {snapshot}") if damaged else ("whole", words)


def _state(entry: Entry, folder: Path) -> str:
    if isinstance(entry.source, Shipped):
        return "here"
    if not isinstance(entry.source, Hub):
        state, words = fetch.check(entry, folder, contents=False)
        return {"whole": "here", "missing": "not fetched", "damaged": f"damaged: {words}"}[state]
    try:
        cached = hub.cached_folder(entry.source.repo, entry.source.revision or "main")
    except UserError:  # without huggingface_hub the list is still of use
        return "unknown: no huggingface_hub"
    return "not fetched" if cached is None else "in the hub's cache"


def _origin(entry: Entry) -> str:
    source = entry.source
    if isinstance(source, Shipped):
        return "this package"
    if isinstance(source, Hub):
        pinned = f"@{source.revision[:8]}" if source.revision else ", revision not pinned"
        return f"hub: {source.repo}{pinned}" + (", gated" if source.gated else "")
    first = source.wheels[0]
    more = f" and {len(source.wheels) - 1} more wheels" if len(source.wheels) > 1 else ""
    return f"package index: {first.package}=={first.version}{more}"


def _count(n: int) -> str:
    return f"{n / 1e9:.3g} B" if n >= 1e9 else f"{n / 1e6:.3g} M"
