"""The figures of the README and of the main result are those of the file that `experiments/publish.py` writes."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PUBLISHED = json.loads((ROOT / "checkpoints" / "reference" / "published.json").read_text(encoding="utf-8"))
METRICS = {
    "S": "suppressability",
    "C_relation": "control_drop_relation",
    "C_subject": "control_drop_subject",
    "C_other": "control_drop_other",
    "S − C": "selective",
    "random neurons": "random_drop",
    "mean P, untouched": "probability",
}
SETS = ("objective", "held_out_prompts", "unseen_facts", "unseen_relations")


def rows(page):
    """The cells of the lines of tables, without emphasis."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]


def figure(model, set_name, metric):
    """As pages write it; a dash where it was not measured."""
    found = PUBLISHED["models"][model][set_name].get(metric)
    if found is None:
        return "–"
    value, low, high = (100 * found[name] for name in ("value", "low", "high"))
    return f"{value:.1f} % [{low:.1f}, {high:.1f}]"


def test_the_readme():
    columns = [(model, name) for name in ("unseen_facts", "unseen_relations") for model in ("plain", "suppressable")]
    table = {row[0]: row[1:] for row in rows("README.md") if row[0] in METRICS}
    assert list(table) == list(METRICS)
    for title, cells in table.items():
        assert cells == [figure(model, name, METRICS[title]) for model, name in columns], title


@pytest.mark.parametrize("model", ["plain", "suppressable"])
def test_the_main_result(model):
    named = [(re.fullmatch(rf"{model}: (.*)", row[0]), row[1:]) for row in rows("docs/studies/suppressability.md")]
    table = {match[1]: cells for match, cells in named if match and match[1] in METRICS}
    assert list(table) == list(METRICS)
    for title, cells in table.items():
        assert cells == [figure(model, name, METRICS[title]) for name in SETS], title
