"""`jaxinterp facts show|list|fetch`: facts on the command line."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro


@dataclasses.dataclass(frozen=True)
class ShowFacts:
    """Print relations and facts, and what was dropped on the way."""

    facts: str = "world"  # as of `jaxinterp measure`; `jaxinterp facts list` has those with names

    def __call__(self) -> None:
        """Runs the command."""
        from jaxinterp.facts.source import load_facts
        from jaxinterp.facts.worldfacts import describe

        print(describe(load_facts(self.facts)))


@dataclasses.dataclass(frozen=True)
class ListFacts:
    """List the facts that have names, and which of them are here."""

    def __call__(self) -> None:
        """Runs the command."""
        from rich.table import Column, Table

        from jaxinterp.base.tables import print_table
        from jaxinterp.facts.fetching import SOURCES, facts_folder, state_of
        from jaxinterp.facts.source import WORLD

        table = Table("name", "paper", "licence", Column("where from", overflow="fold"), "state")
        table.add_row(WORLD, "–", "of its packages", "packages that are installed with this one", "here")
        for name, source in SOURCES.items():
            table.add_row(name, source.paper, source.licence, source.url, state_of(name))
        print_table(table)
        print(f"Fetched facts are in {facts_folder()}.")


@dataclasses.dataclass(frozen=True)
class FetchFacts:
    """Fetch facts by name, check them, and say where they are."""

    name: Annotated[str, tyro.conf.Positional]  # `jaxinterp facts list` has them
    archive: Path | None = None  # the source's .tar.gz, if this machine does not reach it

    def __call__(self) -> None:
        """Runs the command."""
        from jaxinterp.base.progress import waiting
        from jaxinterp.facts.fetching import fetch

        with waiting(f"fetching {self.name}"):
            folder = fetch(self.name, self.archive)
        print(f"{self.name}: {folder}   (--facts {self.name})")


Command = (
    Annotated[ShowFacts, tyro.conf.subcommand("show")]
    | Annotated[ListFacts, tyro.conf.subcommand("list")]
    | Annotated[FetchFacts, tyro.conf.subcommand("fetch")]
)


@dataclasses.dataclass(frozen=True)
class Facts:
    """Facts: show them, list those that have names, fetch them."""

    command: Annotated[Command, tyro.conf.arg(name="")]

    def __call__(self) -> None:
        """Runs the command."""
        self.command()
