"""Sphinx configuration: the pages of docs/, the notebooks, and an API reference from the docstrings, all offline."""

import os
import re
from pathlib import Path

import jaxinterp

HERE = Path(__file__).parent

project = "jaxinterp"
author = "The jaxinterp developers"
version = release = jaxinterp.__version__

extensions = ["myst_nb", "sphinx.ext.apidoc", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_ipython"]

html_theme = "furo"
html_title = "jaxinterp"
html_show_sourcelink = False
html_show_copyright = False

# No dollarmath: formulas are words and Unicode, for MathJax would come over the network.
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# Every build runs the notebooks anew. Charts are SVG in the page (see _ipython), which needs no network.
nb_execution_mode = "force"
nb_execution_timeout = 600  # seconds for one cell, as in tests/test_notebooks.py
nb_execution_raise_on_error = True
nb_merge_streams = True  # lines of progress are one block
os.environ["IPYTHONDIR"] = str(HERE / "_ipython")

apidoc_modules = [
    {
        "path": str(HERE.parent / "jaxinterp"),
        "destination": "api",
        "separate_modules": False,
        "module_first": True,
        "automodule_options": {"members", "show-inheritance"},
    }
]
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True

SECTIONS = re.compile(r"(Args|Returns|Raises|Yields|Attributes|Example|Examples|Note):$")


def _plain_text(app: object, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text with `code`, which reStructuredText would read differently; changes `lines`.

    Code becomes literal, and other characters stand for themselves. Indented text before the first section is shown as
    it stands; in a section, deeper lines continue the entry.
    """
    section, literal, result = "", False, []
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if found := SECTIONS.match(line):
            section = found[1]
        if not section and line.strip() and bool(indent) != literal:
            result += ["", "::", ""] if indent else [""]
            literal = bool(indent)
        if section and not SECTIONS.match(line):
            line = " " * min(indent, 4 if section in ("Args", "Attributes") else 2) + line.lstrip()
        result.append(line if literal else _escaped(line))
    lines[:] = result


def _escaped(line: str) -> str:
    parts = re.split(r"(``[^`]+``|`[^`]+`)", line)
    plain = [re.sub(r"([\\*|]|_\b)", r"\\\1", part) for part in parts[::2]]
    code = [f"``{part.strip('`')}``" for part in parts[1::2]]
    return "".join(text for pair in zip(plain, [*code, ""], strict=True) for text in pair)


def _without_fields(app: object, what: str, name: str, thing: object, skip: bool, options: object) -> bool | None:
    """Fields of named tuples stand in the signature already; True leaves a member out."""
    return True if type(thing).__name__ == "_tuplegetter" else None


def setup(app: object) -> None:
    """Reads docstrings before napoleon does."""
    app.connect("autodoc-skip-member", _without_fields)
    app.connect("autodoc-process-docstring", _plain_text, priority=100)
