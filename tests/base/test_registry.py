"""Registries: what a folder holds is found by itself, in a fixed order."""

import subprocess
import sys

import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.base.registry import Registry

FILES = {
    "jaxinterp.metrics.families": """
from jaxinterp.metrics.columns import column_group
from jaxinterp.metrics.registry import metric

@column_group("ones", gives=("one",), cost="base", like={"one": (1.0, 1.0)})
def ones(measured):
    return {"one": measured.untouched() ** 0}

@metric("mine", needs=("one",), title="Mine")
def mine(mean):
    return mean("one")
""",
    "jaxinterp.objectives.terms": """
from jaxinterp.objectives.registry import objective
objective("mine")(lambda context: 0.0)
""",
    "jaxinterp.attribution.methods": """
from jaxinterp.attribution.registry import method
method("mine", title="mine", causal=False)(lambda readout, key: None)
""",
    "jaxinterp.groundtruth.plants": """
from jaxinterp.groundtruth.registry import grid_plant, plant
plant("mine", title="mine", provokes="nothing")(lambda concepts, rng: None)
grid_plant("mine", title="mine")(lambda concepts, rng, d_mlp: None)
""",
}
READ = """
import importlib, sys
for folder in sys.argv[1:]:
    importlib.import_module(folder.partition("=")[0]).__path__.append(folder.partition("=")[2])
from jaxinterp.attribution.registry import METHODS
from jaxinterp.groundtruth.registry import GRID_PLANTS, PLANTS
from jaxinterp.metrics.columns import GROUPS, metric_cost
from jaxinterp.metrics.registry import METRICS
from jaxinterp.objectives.registry import TERMS
assert GROUPS["ones"].gives == ("one",) and metric_cost(METRICS["mine"]) == "base"
for registry in (METHODS, GRID_PLANTS, PLANTS, METRICS, TERMS):
    assert registry["mine"] and len(registry.names()) > 3
"""


def test_a_new_file_in_a_folder_is_found(tmp_path):
    for folder, text in FILES.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine_alone.py").write_text(text)
    paths = [f"{folder}={tmp_path / folder}" for folder in FILES]
    subprocess.run([sys.executable, "-c", READ, *paths], check=True)


def test_names_stand_in_the_order_of_modules_and_then_of_definition(monkeypatch, tmp_path):
    folder = tmp_path / "ordered"
    folder.mkdir()
    text = "from jaxinterp.base.registry import Registry\nTHINGS = Registry('thing', 'ordered')\n"
    (folder / "__init__.py").write_text(text)
    for name in ("b", "a"):
        code = "".join(f"THINGS.add('{name}{n}', {n}, __name__)\n" for n in (2, 1))
        (folder / f"{name}.py").write_text(f"from ordered import THINGS\n{code}")
    monkeypatch.syspath_prepend(tmp_path)
    import ordered
    import ordered.b  # first

    assert tuple(ordered.THINGS.registered) == ("b2", "b1")
    assert ordered.THINGS.names() == ("a2", "a1", "b2", "b1")
    for name in ("ordered", "ordered.a", "ordered.b"):
        monkeypatch.delitem(sys.modules, name)


def test_names_are_known_and_taken_once():
    things = Registry("thing")
    things.add("one", 1, "here")
    assert things["one"] == 1
    with pytest.raises(UserError, match="unknown thing 'two'; known: one"):
        things["two"]
    with pytest.raises(ValueError, match="a thing named 'one' exists already"):
        things.add("one", 2, "there")
