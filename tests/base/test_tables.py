"""Tables in little room: everything is there, nothing is wider than it may be."""

import io
import sys

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxinterp.base import tables

ROWS = [
    ("plain", "S", "16.2 [14.1, 18.3]", "puts, area, file"),
    ("", "C_relation", "1.2 [1.0, 1.4]", "America/Bogota, [x], a"),
    ("a-name-to-be-typed", "S", "-92.0 [-89.3, 94.6]", "Saint, Brazil"),
]


def made():
    table = Table("model", "", "objective", "promotes", title="k neurons off, % of P")
    for row in ROWS:
        table.add_row(*row)
    return table


def shown(table, width):
    out = io.StringIO()
    console = Console(file=out, width=width or 10_000, color_system=None)
    console.print(fitted := tables.fitted(table, width), soft_wrap=isinstance(fitted, Text))
    return out.getvalue()


@pytest.mark.parametrize("width", [24, 40, 60, 80, 120, None])
def test_nothing_is_cut(width):
    text = shown(made(), width)
    words = [word for row in ROWS for cell in row for word in cell.split()]
    found = text.split()
    for word in words:
        assert any(word == other.strip("│;") for other in found), word
    assert "…" not in text and "k neurons off, % of P" in " ".join(text.split())
    if width is not None:
        assert max(map(len, text.splitlines())) <= max(width, len("k neurons off, % of P"))


def test_how_it_looks():
    assert shown(made(), 80).splitlines()[1].startswith("┏")
    assert "┏" not in shown(made(), 64) and "model" in shown(made(), 64).splitlines()[1]
    assert shown(made(), 40).splitlines() == [
        "k neurons off, % of P",
        "model",
        "-" * 30,
        "plain               S",
        "  objective 16.2 [14.1, 18.3]; promotes",
        "    puts, area, file",
        "plain               C_relation",
        "  objective 1.2 [1.0, 1.4]; promotes",
        "    America/Bogota, [x], a",
        "a-name-to-be-typed  S",
        "  objective -92.0 [-89.3, 94.6];",
        "    promotes Saint, Brazil",
    ]


def test_wide_characters_and_empty_columns():
    table = Table("name", "")
    table.add_row("東京都庁舎の展望台", "")
    for width in (20, 24, 35, 80):
        assert "東京都庁舎の展望台" in shown(table, width)


@pytest.mark.parametrize("columns", ["80", "120"])
def test_a_terminal_has_its_width_and_a_pipe_has_all(columns, monkeypatch, capsys):
    wide = made()
    wide.add_column("more", ["x" * 90, "", ""][0])
    for number in range(30):
        wide.add_column(f"column{number}")
    wide.add_row("m", "S", "1", "a", "x" * 90, *map(str, range(30)))
    tables.print_table(wide)
    piped = capsys.readouterr().out
    assert "x" * 90 in piped and "…" not in piped and "column29" in piped and "┃" in piped
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "dumb")  # no control characters
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert tables.width_there_is() == int(columns)
    tables.print_table(made())
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= int(columns) and "America/Bogota" in told and "\x1b" not in told


def test_what_a_cell_holds_is_neither_markup_nor_a_command(capsys):
    table = Table("[red]name", "text")
    table.add_row("[/red]x", "a\x1b[31m\x07\x00\x9b\uffffb")
    tables.print_table(table)
    out = capsys.readouterr().out
    assert "[red]name" in out and "[/red]x" in out and r"a\x1b[31m\x07\x00\x9b\uffffb" in out
    assert not {"\x1b", "\x07", "\x00", "\x9b", "\uffff"} & set(out)
