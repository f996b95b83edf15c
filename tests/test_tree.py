"""The package's tree: imports run one way, and every file fits on a few screens."""

import ast
import graphlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "jaxinterp"
# A folder may import from itself and from those before it.
ORDER = ("base", "attribution", "models", "facts", "objectives", "metrics", "editing", "training", "groundtruth")
ORDER += ("report", "circuits", "memories", "api", "studies", "cli")
MAX_LINES = 300

# What is still too long. The list may only shrink: a file that has been mended must be taken off.
TOO_LONG: set[str] = set()


def imports(root: Path) -> dict[str, set[str]]:
    """The modules of a package that each of them names, also inside functions and for types alone.

    Names are without the package's own. Its `__init__.py` is left out: it is the door to everything.
    """
    paths = {path.relative_to(root).with_suffix("").parts: path for path in sorted(root.rglob("*.py"))}
    named = {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for parts, path in paths.items()}
    return {name: _imported(root.name, name, path, set(named)) - {name, ""} for name, path in named.items() if name}


def _imported(root: str, importer: str, path: Path, known: set[str]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = [root, *importer.split(".")]
            above = parts[: len(parts) - node.level + (path.name == "__init__.py")] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            # `from package import module` names the module, anything else what it is imported from.
            found |= {
                f"{module}.{a.name}" if f"{module}.{a.name}"[len(root) + 1 :] in known else module for a in node.names
            }
    return {name[len(root) + 1 :] for name in found if name.startswith(f"{root}.")} & known


def back_arrows(graph: dict[str, set[str]], order: tuple[str, ...]) -> set[tuple[str, str]]:
    """Imports from a folder that comes later in the order."""
    place = {module: order.index(module.partition(".")[0]) for module in graph}
    return {(module, other) for module, others in graph.items() for other in others if place[module] < place[other]}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules of which each imports the next, and the last the first; empty if there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_imports_run_one_way():
    assert not back_arrows(imports(PACKAGE), ORDER)


def test_no_module_imports_itself_by_way_of_others():
    assert not circle(imports(PACKAGE))


def test_files_are_short():
    lines = {path.relative_to(PACKAGE).as_posix(): path.read_text().count("\n") for path in PACKAGE.rglob("*.py")}
    assert {name for name, n in lines.items() if n > MAX_LINES} == TOO_LONG


def test_arrows_and_circles_are_seen_in_every_form_of_import(tmp_path):
    sources = {
        "__init__.py": "from p.high import c\n",
        "low/__init__.py": "",
        "low/a.py": "def f():\n    from p.high import c\n",
        "low/b.py": "from .a import f\nfrom . import a\nfrom p import __name__\n",
        "high/__init__.py": "from .c import g\n",
        "high/c.py": "import p.low.b\nfrom p.low.a import f as g\nimport json\nfrom ..low import b\n",
    }
    for name, source in sources.items():
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "p" / name).write_text(source)
    graph = imports(tmp_path / "p")
    expected = {"low.a": {"high.c"}, "low.b": {"low.a"}, "high": {"high.c"}, "high.c": {"low.a", "low.b"}}
    assert graph == {"low": set(), **expected}
    assert back_arrows(graph, ("low", "high")) == {("low.a", "high.c")}
    assert circle(graph) and not circle(graph | {"low.a": set()})
    with pytest.raises(ValueError, match=r"not in tuple"):
        back_arrows(graph, ("low",))
