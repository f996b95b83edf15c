"""Values that show themselves: as tables in a notebook, in a terminal, and where they are printed."""

import abc
import html
import io
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxinterp.base.tables import (
    WIDTH,
    fitted,
    literal,
    plain_text,
    print_table,
    printable,
    width_needed,
    width_there_is,
)

Part = str | Table  # a line of plain text, or a table


class Shown(abc.ABC):
    """A value with a text form of lines and tables, from which all its displays are made."""

    @abc.abstractmethod
    def parts(self) -> Sequence[Part]:
        """The lines and tables that show the value."""

    def __rich_console__(self, *_: object) -> Iterable[Text | Table]:
        for part in self.parts():
            yield Text(printable(part)) if isinstance(part, str) else literal(part)

    def __str__(self) -> str:
        text = io.StringIO()
        width = width_there_is()
        for part in self.parts():
            shown = Text(printable(part)) if isinstance(part, str) else fitted(part, width)
            room = width or (WIDTH if isinstance(shown, Text) else width_needed(shown))
            console = Console(file=text, width=room, height=25, color_system=None)
            console.print(shown, soft_wrap=isinstance(shown, Text))
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())

    def _repr_html_(self) -> str:
        return "".join(
            f"<div>{html.escape(printable(part))}</div>" if isinstance(part, str) else _table(part)
            for part in self.parts()
        )


def visible(token: str) -> str:
    """The token with a leading space shown ("Ġ" and "▁" are spaces too) and unprintable characters spelled out."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in token)
    return "␣" + shown[1:] if shown.startswith((" ", "Ġ", "▁")) else shown or "∅"


def probability_shown(p: float) -> str:
    """Four decimals; three significant digits below 0.001, so that improbable answers can be told apart."""
    return f"{p:.4f}" if p >= 1e-3 or p == 0 else f"{p:.2e}"


def print_parts(parts: Iterable[Part]) -> None:
    """Prints lines as they are, and tables wide enough."""
    for part in parts:
        print_table(part) if isinstance(part, Table) else print(printable(part))


def _table(table: Table) -> str:
    def row(tag: str, cells: Iterable[object]) -> str:
        return "<tr>" + "".join(f"<{tag} style='text-align: left'>{_cell(cell)}</{tag}>" for cell in cells) + "</tr>"

    head = row("th", (column.header for column in table.columns))
    body = "".join(row("td", cells) for cells in zip(*(column.cells for column in table.columns), strict=True))
    title = f"<caption style='text-align: left'>{_cell(table.title)}</caption>" if table.title else ""
    return f"<table>{title}<thead>{head}</thead><tbody>{body}</tbody></table>"


def _cell(cell: object) -> str:
    return html.escape(printable(plain_text(cell)))
