"""The pages about editing and memories say what the files of the studies say."""

import csv
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "checkpoints" / "reference"
COLUMNS = (
    "overall_score", "efficacy_accuracy", "paraphrase_score", "neighbourhood_score", "neighbourhood_plus_score",
    "same_relation_kept", "same_subject_kept", "other_kept", "inverse_accuracy_of_known",
)  # fmt: skip
FIGURES = (
    "agreement", "agreement_any", "next_rank", "compositional", "after_is_final", "z_promoted", "z_eliminated",
    "raises_highest",
)  # fmt: skip


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def interval(found: dict[str, str], factor: float = 1.0) -> str:
    """A figure of a file as the pages have it."""
    values = [f"{factor * float(found[name]):.3g}" for name in ("value", "low", "high") if found[name]]
    return values[0] if len(values) < 3 else f"{values[0]} [{values[1]}, {values[2]}]"


def edits_row(found: list[dict[str, str]], way: str) -> str:
    """A row of the table of single edits."""
    of = {row["column"]: row for row in found if row["way"] == way}
    return " | ".join(interval(of[name]) if name in of else "–" for name in COLUMNS)


def memory_row(found: list[dict[str, str]], figure: str) -> str:
    """A row of the table of memories: the model's own values and both controls, by the norm-folded lens."""
    of = {
        row["values"]: row for row in found if (row["figure"], row["lens"], row["by"]) == (figure, "norm_folded", "all")
    }
    return " | ".join(interval(of[name]) for name in ("own", "shuffled", "random"))


@pytest.mark.parametrize(
    ("model", "n_ways"), [("plain", 6), ("suppressable", 6), ("rephrased", 8), ("smollm2", 7), ("smollm2-batch", 4)]
)
def test_edits(model, n_ways):
    text = (ROOT / "docs" / "studies" / "editing.md").read_text(encoding="utf-8")
    found = rows(KEPT / "editing" / model / "single.csv")
    ways = dict.fromkeys(row["way"] for row in found)
    assert len(ways) == n_ways
    for way in ways:
        assert f"| {edits_row(found, way)} |" in text, way


def test_disabling_edits():
    text = (ROOT / "docs" / "studies" / "editing.md").read_text(encoding="utf-8")
    for row in rows(KEPT / "editing" / "smollm2" / "disabling.csv"):
        highest = "10⁶ and more" if float(row["highest_ratio"]) >= 1e6 else f"{float(row['highest_ratio']):.4g}"
        assert f" | {row['edits']} | {row['disabling']} | {highest} |" in text, row["way"]


@pytest.mark.parametrize("model", ["plain", "suppressable", "smollm2"])
def test_memories(model):
    text = (ROOT / "docs" / "studies" / "memories.md").read_text(encoding="utf-8")
    for name in ("figures", "legible"):
        found = rows(KEPT / "memories" / model / f"{name}.csv")
        if (model, name) == ("smollm2", "legible"):
            assert {(row["value"], row["high"][:5]) for row in found if row["figure"] != "fact_rank"} == {
                ("0.0", "0.195")
            }
            continue
        figures = FIGURES if name == "figures" else tuple(dict.fromkeys(row["figure"] for row in found))
        for figure in figures:
            assert f"| {memory_row(found, figure)} |" in text, figure


def test_causes_and_labels_of_smollm2():
    text = (ROOT / "docs" / "studies" / "memories.md").read_text(encoding="utf-8")
    found = json.loads((KEPT / "memories" / "smollm2" / "results.json").read_text(encoding="utf-8"))
    for first, last in ((0, 9), (10, 19), (20, 25), (26, 29)):
        cells = []
        for change in ("raised", "lowered"):
            of = [found["causal"][str(layer)][change] for layer in range(first, last + 1)]
            means = [100 * sum(one[kind]["value"] for one in of) / len(of) for kind in ("own", "shuffled", "random")]
            cells.append(", ".join(f"{mean:.1f}" for mean in means))
        assert f"| {first}–{last} | {cells[0]} | {cells[1]} |" in text
    every = found["causal"]["all"]["raised"]
    low, high = (100 * every["own"][end] for end in ("low", "high"))
    assert f"{100 * every['own']['value']:.1f} % [{low:.1f}, {high:.1f}] of its triggers" in text
    assert f"(another neuron's {100 * every['shuffled']['value']:.1f}" in text
    assert {kind: grade["right"] for kind, grade in found["grades"].items()} == {
        **dict.fromkeys(("", "last token", "domain", "answer", "subject"), 100),
        **{"last 2 tokens": 97, "last 3 tokens": 95, "relation": 96},
    }
    assert f"{found['corpus']['tokens']:,} tokens" in text and f"{found['corpus']['contexts']:,} distinct" in text


OVER_SEEDS = {
    1: [
        [f"{way}/{column}" for column in (*COLUMNS[:4], "same_relation_kept", "same_subject_kept")]
        for way in ("kn_solve", "kn_solve_random", "rome")
    ]
    + [
        [f"{of}/{name}/{values}" for values in ("own", "shuffled", "random")]
        for of in ("legible", "legible_unread")
        for name in ("fact_top", "fact_mass", "fact_any")
    ],
    3: [
        [f"informs/{outcome}/{name}" for name in ("layer", "added", "partial", "beside_activity", "shuffled")]
        for outcome in ("rewrite", "paraphrase", "kept", "cost")
    ],
}


def test_over_seeds():
    text = (ROOT / "docs" / "studies" / "editing.md").read_text(encoding="utf-8")
    of = {(row["of"], row["group"], row["figure"]): row for row in rows(KEPT / "editing" / "seeds.csv")}
    groups = dict.fromkeys((kind, group) for kind, group, _ in of)
    assert {group for _, group in groups} >= {"plain", "suppressable"}
    for kind, group in groups:
        for digits, figures in OVER_SEEDS.items():
            for own in figures:
                found = [[float(of[kind, group, name][at]) for at in ("value", "low", "high")] for name in own]
                cells = ["{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*one, d=digits) for one in found]
                assert f"| {' | '.join(cells)} |" in text, (kind, group, own)
