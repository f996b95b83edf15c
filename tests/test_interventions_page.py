"""The page of the interventions that were compared says what the studies' files say."""

import csv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STUDIES = sorted((ROOT / "checkpoints" / "reference" / "studies").glob("*/hypotheses.csv"))
PAGE = ROOT / "docs" / "studies" / "interventions.md"


def number(text: str) -> str:
    """A figure of a file as the page has it."""
    return f"{float(text):.3g}".replace("-", "−") if text else "–"


def row_of(found: dict[str, str]) -> str:
    """A hypothesis' row of the page's tables."""
    interval = f"[{number(found['low'])}, {number(found['high'])}]"
    return f"| {found['hypothesis']} | {number(found['change'])} {interval} | {found['n']} | {found['verdict']} |"


def test_studies_are_there():
    assert len(STUDIES) >= 7


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.parent.name)
def test_every_verdict_is_on_the_page(path):
    text = PAGE.read_text(encoding="utf-8")
    with path.open(encoding="utf-8") as file:
        rows = [row_of(found) for found in csv.DictReader(file)]
    assert rows
    for row in rows:
        assert row in text, row
