"""A page of a study that has no form of its own: sections of what it prints, with its charts."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from jaxinterp.base.files import write_text
from jaxinterp.base.tables import plain_text
from jaxinterp.report.charts import Chart
from jaxinterp.report.page import embedded, page
from jaxinterp.report.shown import Part

LONG = 24  # characters, beyond which the texts of a column wrap


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page: charts, and below them lines and tables; one that has neither is left out."""

    name: str  # its place in the page's address
    heading: str
    parts: Sequence[Part] = ()
    charts: Mapping[str, Chart | None] = dataclasses.field(default_factory=dict)  # name, as no other of the page has it
    link: str = ""  # its name in the page's list; "" is the heading


@dataclasses.dataclass(frozen=True)
class _Table:
    title: str
    caption: str
    heads: list[str]
    kinds: list[str]  # of the columns, as classes: "n" of numbers, "long" of texts that wrap, "" of others
    blocks: list[list[tuple[str, list[str]]]]  # rows (first cell, others)


def write_sections(
    path: Path,
    title: str,
    lead: Sequence[str],
    sections: Sequence[Section],
    provenance: Mapping,
    examples: Sequence[Mapping] = (),
) -> None:
    """Writes the page, whole or not at all. It opens offline.

    Args:
      path: of the HTML file.
      title: of the page.
      lead: paragraphs that say what was done.
      sections: in their order.
      provenance: nested names and values, its last section.
      examples: facts with their neurons, as `jaxinterp.api.reported.shown_facts` gives them.
    Raises:
      UserError: if the file cannot be written.
    """
    charts = {name: embedded(chart) for of in sections for name, chart in of.charts.items() if chart is not None}
    own = [
        {
            "name": of.name,
            "heading": of.heading,
            "link": of.link or of.heading,
            "charts": [name for name in of.charts if name in charts],
            "parts": [_table(part) if isinstance(part, Table) else part for part in of.parts],
        }
        for of in sections
    ]
    text = page(
        "report/sections.html",
        charts,
        title=title,
        lead=list(lead),
        own=own,
        examples=list(examples),
        provenance=provenance,
    )
    write_text(path, text)


def _table(table: Table) -> _Table:
    columns = [[plain_text(cell) for cell in column.cells] for column in table.columns]
    rows = list(zip(*columns, strict=True))
    blocks: list[list[tuple[str, list[str]]]] = [[]]
    for row, of in zip(rows, table.rows, strict=True):
        blocks[-1].append((row[0], list(row[1:])))
        if of.end_section:
            blocks.append([])
    return _Table(
        title=plain_text(table.title or ""),
        caption=plain_text(table.caption or ""),
        heads=[plain_text(column.header) for column in table.columns],
        kinds=["long" if _is_long(columns[0]) else "", *_kinds(columns[1:])],
        blocks=[block for block in blocks if block],
    )


def _kinds(columns: Sequence[Sequence[str]]) -> list[str]:
    """A column is one of numbers if its cells begin like them, or some do and it stands to the right of numbers."""
    kinds: list[str] = []
    for column in columns:
        numbers = [_like_a_number(cell) for cell in column if cell]
        if all(numbers) or ("n" in kinds and any(numbers) and not _is_long(column)):
            kinds.append("n")
        else:
            kinds.append("long" if _is_long(column) else "")
    return kinds


def _is_long(column: Sequence[str]) -> bool:
    return any(len(cell) > LONG for cell in column)


def _like_a_number(cell: str) -> bool:
    return cell[0].isdigit() or cell[0] in "-−+–.[≈"
