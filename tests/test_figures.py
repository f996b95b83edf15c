"""The figures of pages are those of the files that experiments write."""

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


META = json.loads((ROOT / "checkpoints" / "reference" / "meta_gradient.json").read_text(encoding="utf-8"))
ARMS = ("plain", "detached", "straight_through", "detached_scores", "suppressable")
OUTCOMES = {
    "S": "suppressability",
    "C_relation": "control_drop_relation",
    "C_subject": "control_drop_subject",
    "S − C": "selective",
    **{f"S at k = {k}": f"drop_at_{k}" for k in (1, 2, 4, 16)},
    "random neurons": "random_drop",
    "S − C by exact ablation": "ablation_selective",
    "insertion area": "insertion_area",
    "attribution in k neurons": "attribution_share",
    "edits keep the relation": "edit_kept_relation",
    "edits keep the subject": "edit_kept_subject",
    "hubs": "hub_share",
    "mean P, untouched": "probability",
    "recall": "recall",
    "bypass": "bypass",
}
CHANGES = ("suppressability", "control_drop", "selective", "drop_at_1", "insertion_area", "edit_kept_relation")


def percent(value):
    return f"{100 * value:.1f}".replace("-", "−").replace("−0.0", "0.0")


def estimate(found):
    return "–" if found is None else f"{percent(found['value'])} [{percent(found['low'])}, {percent(found['high'])}]"


NEURONS = json.loads((ROOT / "checkpoints" / "reference" / "meta_gradient_neurons.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("study", "arms"), [(META, ARMS), (NEURONS, ("plain", "detached", "random", "other_fact"))])
def test_which_gradient_and_which_neurons(study, arms):
    cells = [row for row in rows("docs/studies/meta_gradient.md") if row[0] in OUTCOMES and len(row) == 1 + len(arms)]
    assert len(cells) == 2 * len(OUTCOMES)
    for number, name in enumerate(("unseen_facts", "unseen_relations")):
        table = cells[number * len(OUTCOMES) : (number + 1) * len(OUTCOMES)]
        assert [row[0] for row in table] == list(OUTCOMES)
        for title, *found in table:
            assert found == [estimate(study["models"][arm][name].get(OUTCOMES[title])) for arm in arms], (name, title)
    cells = [row for row in rows("docs/studies/meta_gradient.md") if row[0] in study["contrasts"]["unseen_facts"]]
    expected = [
        [contrast, *(estimate(of[metric]) for metric in (*CHANGES, "probability", "bypass"))]
        for name in ("unseen_facts", "unseen_relations")
        for contrast, of in study["contrasts"][name].items()
    ]
    assert [[cell.lstrip("+") for cell in row] for row in cells] == expected


TUNING = json.loads((ROOT / "checkpoints" / "reference" / "finetuning.json").read_text(encoding="utf-8"))


def test_fine_tuning_by_folds():
    cells = [row for row in rows("docs/studies/finetuning.md") if row[0] in METRICS and row[0] != "C_answer"]
    shown = [title for title in METRICS if title in {row[0] for row in cells}]
    pooled, over_folds = cells[: len(shown)], cells[len(shown) :]
    models = TUNING["models"]
    for title, *found in pooled:
        expected = [models["original"], models["fine-tuned"], TUNING["change"]]
        assert [cell.strip("*") for cell in found] == [estimate(of[METRICS[title]]) for of in expected], title
    for title, *found in over_folds:
        of = TUNING["mean_over_folds"]
        spreads = [of[t][name][METRICS[title]] for name in SETS[::2] for t in ("original", "fine-tuned")]
        assert found == [f"{percent(spread['mean'])} ± {percent(spread['sd'])}" for spread in spreads], title
    kept, text = TUNING["kept"]["fine-tuned"], (ROOT / "docs/studies/finetuning.md").read_text(encoding="utf-8")
    assert len(pooled) == len(over_folds) == len(METRICS) and f"{kept['right']} of {kept['of']} still are" in text
