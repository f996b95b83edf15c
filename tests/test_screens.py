"""What commands print in terminals of 80 and 120 columns: nothing is wider, and nothing is missing."""

import re
import sys

import pytest

from jaxinterp.cli.main import main

COMMANDS = {
    "attribute": [
        "--prompt",
        "The internet domain of Brazil is",
        "--answer",
        " .br",
        "--rule",
        "midpoint",
        "--points",
        "2",
    ],
    "models": ["list"],
    "metrics": ["list"],
    "facts": ["show", "--facts", "world:elements"],
}
LINES = "─━│┃┌┏┬┳┐┓├┡┼╇┤┩└┴┘╶╴"


def words(text):
    """Those of a screen, without lines and the marks between columns."""
    bare = re.sub(f"[{LINES}]", " ", re.sub(r"\x1b\[[0-9;]*m", "", text))
    return {word.strip(";") for word in bare.split()}


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_screen_has_all_that_a_pipe_has(command, columns, monkeypatch, capsys):
    printed = {}
    for terminal in (False, True):
        monkeypatch.setenv("TERM", "dumb")
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal, raising=False)
        with pytest.raises(SystemExit) as stop:
            main([command, *COMMANDS[command]])
        printed[terminal], err = capsys.readouterr()
        assert stop.value.code == 0, err
    piped, screen = printed[False], printed[True]
    assert "\x1b" not in screen + piped
    assert words(piped) <= words(screen)
    # Lines of plain text are the terminal's to wrap; those of tables are not.
    of_tables = [line for line in screen.splitlines() if any(mark in line for mark in LINES)]
    assert all(len(line) <= columns for line in of_tables)
