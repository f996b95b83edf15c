"""The notebooks of the documentation run from their first cell to their last."""

import asyncio
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "notebooks"
NAMES = (
    "attribute_a_fact",
    "read_a_neuron",
    "edit_a_fact",
    "measure_a_model",
    "make_one_suppressable",
    "add_a_metric",
    "add_an_objective_term",
    "a_readout_of_your_own",
)
SECONDS = 600  # for one cell; a notebook that hangs fails


def run(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of all of its cells, run in a folder. Raises CellExecutionError."""
    client = nbclient.NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(folder)}})
    return asyncio.run(client.async_execute())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of its own, and nobody's IPython profile."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=":")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    work = tmp_path / "work"
    work.mkdir()
    return work


def test_the_notebooks_are_those_of_the_documentation():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name, folder):
    before = sorted(FOLDER.iterdir())
    ran = run(nbformat.read(FOLDER / f"{name}.ipynb", as_version=4), folder)
    assert all(cell.execution_count for cell in ran.cells if cell.cell_type == "code" and cell.source.strip())
    assert sorted(FOLDER.iterdir()) == before


def test_a_notebook_that_fails_is_seen(folder):
    cells = [nbformat.v4.new_code_cell(source) for source in ("import jaxinterp", "assert 1 + 1 == 2", "1 / 0")]
    ran = run(nbformat.v4.new_notebook(cells=cells[:2]), folder)
    assert [cell.execution_count for cell in ran.cells] == [1, 2]
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="division by zero"):
        run(nbformat.v4.new_notebook(cells=cells[2:]), folder)
