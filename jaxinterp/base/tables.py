"""Tables in the width there is: no number and no name is cut."""

import copy
import dataclasses
import itertools
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

WIDTH = 160  # columns of a table that goes to a file or a pipe, unless it needs more
_UNLIMITED = 100_000
GAP = 2  # spaces between columns that stand side by side


def width_there_is() -> int | None:
    """Columns of the terminal that standard output is; None if it is none, as a file or a pipe."""
    return shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else None


def fitted(table: Table, width: int | None) -> Table | Text:
    """A table that fits: as it is, with fewer lines, or, where even that is too wide, with long cells below
    their row, in words.

    Text is wrapped between words; a column is never narrower than its longest word.

    Args:
      table: with strings in its cells.
      width: columns; None is a file, which a table may make as wide as it needs to be.
    """
    table = literal(table)
    if width is None:
        return table
    slim = copy.copy(table)
    slim.box, slim.padding, slim.pad_edge, slim.show_edge = box.SIMPLE_HEAD, (0, 1, 0, 0), False, False
    for candidate in (table, slim):
        if (whole := _in(candidate, width)) is not None:
            return whole
    return _rows(table, width)


def print_table(table: Table) -> None:
    """Prints a table as wide as there is room; in a log file, wide enough that nothing is wrapped that need not be."""
    width = width_there_is()
    shown = fitted(table, width)
    # With both sizes given, rich does not take its own 80 columns where TERM is dumb.
    Console(width=width or width_needed(table), height=25).print(shown, soft_wrap=isinstance(shown, Text))


def _in(table: Table, width: int) -> Table | None:
    """The table with widths of its columns that add up to no more; None if its longest words do not fit.

    Rich alone would cut words before it narrows other columns.
    """
    cells = [[plain_text(cell) for cell in (column.header, *column.cells)] for column in table.columns]
    least = [max((cell_len(word) for cell in column for word in cell.split()), default=1) for column in cells]
    most = [max(1, *(cell_len(line) for cell in column for line in (cell.splitlines() or [""]))) for column in cells]
    room = width - table._extra_width - sum(table._get_padding_width(number) for number in range(len(cells)))
    if sum(least) > room:
        return None
    widths = list(least)
    # What is left goes where it is needed, a character at a time to the narrowest share.
    while sum(widths) < room and widths != most:
        narrow = min((n for n in range(len(widths)) if widths[n] < most[n]), key=lambda n: widths[n] / most[n])
        widths[narrow] += 1
    fitting = copy.copy(table)
    fitting.columns = [
        dataclasses.replace(column, width=own) for column, own in zip(table.columns, widths, strict=True)
    ]
    return fitting


def width_needed(table: Table) -> int:
    """Columns of a file in which nothing of the table is wrapped or cut."""
    wide = Console(width=_UNLIMITED, height=25)
    table = literal(table)
    return max(WIDTH, min(Measurement.get(wide, wide.options, table).maximum, _UNLIMITED))


def _rows(table: Table, width: int) -> Text:
    """Columns of short cells side by side, as many as fit; what is in the others stands below each row in words."""
    columns = [[plain_text(cell) for cell in (column.header, *column.cells)] for column in table.columns]
    widths = [max(map(cell_len, column)) for column in columns]
    kept: list[int] = []
    room = width
    for number in sorted(range(len(columns)), key=lambda n: (n > 0, widths[n])):  # the first one is the row's name
        if (widths[number] + GAP if kept else widths[number]) <= room:
            room -= widths[number] + GAP * bool(kept)
            kept.append(number)
    kept.sort()
    rest = [number for number in range(len(columns)) if number not in kept]
    beside = kept[:1] == [0] and len(kept) > 1
    if not beside:
        kept, rest = [], list(range(len(columns)))
    lines = [plain_text(table.title)] if table.title else []
    lines += [_beside([columns[n][0] for n in kept], [widths[n] for n in kept])] if beside else []
    lines += ["-" * (sum(widths[n] for n in kept) + GAP * (len(kept) - 1))] if beside else []
    first = ""
    for row in range(1, len(columns[0])):
        # A name that stands for several rows stands in the first of them alone.
        first = columns[0][row] = columns[0][row] or first
        lines += [_beside([columns[n][row] for n in kept], [widths[n] for n in kept])] if beside else []
        words = "; ".join(f"{columns[n][0]} {columns[n][row]}".strip() for n in rest if columns[n][row])
        indent = "  " if beside else ""
        lines += textwrap.wrap(
            words,
            width,
            initial_indent=indent,
            subsequent_indent=f"{indent}  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return Text("\n".join(lines))


def _beside(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True))
    return (" " * GAP).join(padded).rstrip()


def literal(table: Table) -> Table:
    """The table with its strings as they stand: names of facts and tokens are no markup, and move no cursor."""
    found = copy.copy(table)
    found.columns, found.rows = [], []
    for column in table.columns:
        found.add_column(
            _literal(column.header),
            justify=column.justify,
            overflow=column.overflow,
            no_wrap=column.no_wrap,
            width=column.width,
        )
    columns = (column.cells for column in table.columns)
    for cells, row in zip(itertools.zip_longest(*columns, fillvalue=""), table.rows, strict=True):
        found.add_row(*map(_literal, cells), end_section=row.end_section)
    found.title = table.title if table.title is None else _literal(table.title, "italic")
    found.caption = table.caption if table.caption is None else _literal(table.caption, "dim italic")
    return found


def _literal(cell: object, style: str = "") -> Text:
    return cell if isinstance(cell, Text) else Text(printable(str(cell)), style)


def printable(text: str) -> str:
    """The text with control characters, other than the ends of lines, spelled out: they would reach the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c == "\n" or not is_control(c) else c.encode("unicode_escape").decode() for c in text)


def is_control(character: str) -> bool:
    """Whether a character is none that is read: one that commands a terminal or ends a line, half of one, or none."""
    point = ord(character)
    return (
        unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        or point & 0xFFFE == 0xFFFE
        or 0xFDD0 <= point <= 0xFDEF
    )


def plain_text(cell: object) -> str:
    """The text of a cell."""
    return cell.plain if isinstance(cell, Text) else str(cell)
