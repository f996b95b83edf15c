import json
import math
import os
import struct
import xml.etree.ElementTree as ElementTree

import fabricated
import pytest

from jaxinterp import charts
from jaxinterp.chart_style import NARROW, cycle, share_axis, share_scale
from jaxinterp.errors import UserError

FOUR = tuple(fabricated.MODELS)
SIZES = (1060, 720)


def all_charts(results, histories, width):
    return {
        "overview": charts.overview(results, width=width),
        "relations": charts.relation_bars(results, "unseen_facts", width=width),
        "opinion": charts.second_opinion(results, width=width),
        "training": charts.training_curves(histories, width=width),
        "neurons": charts.neuron_use(results, width=width),
    }


def rows(chart):
    """All data of a chart."""
    found = []

    def walk(value):
        if isinstance(value, dict):
            found.extend(value["values"] if isinstance(value.get("values"), list) and "values" in value else ())
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(chart.to_dict())
    return [row for row in found if isinstance(row, dict)]


@pytest.mark.parametrize(
    ("models", "relations", "width"),
    [(("plain",), 24, 720), (("plain", "suppressable"), 1, 1060), (FOUR, 1, 720), (FOUR, 24, 1060)],
)
def test_any_number_of_models_and_relations(models, relations, width):
    results = fabricated.results(models, fabricated.RELATIONS[:relations])
    for name, chart in all_charts(results, fabricated.histories(models), width).items():
        spec = chart.to_dict()  # validated against the schema by altair
        assert spec["description"], name
        json.dumps(spec, allow_nan=False)


def test_overview_holds_every_measured_number():
    results = fabricated.results()
    shown = {(row["model"], row["set"], row["metric"]): row for row in rows(charts.overview(results))}
    assert len(shown) == 2 * 4 * 3
    row = shown["suppressable", "Unseen facts", "suppressability"]
    expected = results["models"]["suppressable"]["sets"]["unseen_facts"]["suppressability"]
    assert {key: row[key] for key in expected} == expected


def test_text_stands_after_the_interval():
    for row in rows(charts.overview(fabricated.results())):
        assert row["text_at"] >= max(row["value"], row["high"])


def test_second_opinion_is_none_without_ablation_and_partial_with_some():
    assert charts.second_opinion(fabricated.results(ablation=False)) is None
    results = fabricated.results()
    for metrics in results["models"]["plain"]["sets"].values():
        for name in [name for name in metrics if name.startswith("ablation")]:
            del metrics[name]
    assert {row["model"] for row in rows(charts.second_opinion(results))} == {"suppressable"}


def test_numbers_that_are_missing_or_not_finite_are_left_out():
    results = fabricated.results()
    metrics = results["models"]["plain"]["sets"]["objective"]
    del metrics["random_drop"]
    metrics["control_drop"] = {"value": math.nan, "low": math.nan, "high": math.nan, "n": 0}
    of_plain = {
        row["metric"]
        for row in rows(charts.overview(results))
        if row["model"] == "plain" and row["set"] == "In the objective"
    }
    assert of_plain == {"suppressability"}
    for model in results["models"].values():
        model["sets"] = {name: {} for name in model["sets"]}
    assert charts.overview(results) is None


def test_relation_bars_of_an_unknown_set_name_the_known_ones():
    with pytest.raises(UserError, match=r"unknown set 'nowhere'; known: held_out_prompts, objective"):
        charts.relation_bars(fabricated.results(), "nowhere")


def test_relations_keep_their_order():
    relations = tuple(reversed(fabricated.RELATIONS))
    spec = charts.relation_bars(fabricated.results(relations=relations), "objective").to_dict()
    assert spec["spec"]["layer"][0]["encoding"]["y"]["sort"] == list(relations[:-4])


def test_training_curves_skip_none_and_leave_out_empty_panels():
    plain = charts.training_curves(fabricated.histories(("plain",)))
    assert [panel["title"] for panel in plain.to_dict()["concat"]] == ["Language modelling", "Gradient norm"]
    both = charts.training_curves(fabricated.histories())
    assert len(both.to_dict()["concat"]) == 6
    early = [row for row in rows(both) if row["model"] == "suppressable" and row["step"] < 300]
    assert early and all(row["suppression"] is None and row["lm"] is not None for row in early)
    assert charts.training_curves({}) is None
    assert charts.training_curves({"plain": []}) is None
    assert charts.training_curves({"plain": [{"step": 0, "lm": None}]}) is None


def test_long_histories_become_means_of_bins():
    history = [{"step": step, "lm": float(step), "control": None if step % 2 else 1.0} for step in range(1200)]
    binned = [row for row in rows(charts.training_curves({"model": history})) if row["model"] == "model"]
    assert len(binned) == charts.POINTS
    assert binned[0]["step"] == 1.5 and binned[0]["lm"] == 1.5 and binned[0]["control"] == 1.0


def test_neurons_without_entries_still_show_layers():
    results = fabricated.results(("plain", "suppressable"))
    results["models"]["plain"]["neurons"] = []
    first, second = charts.neuron_use(results).to_dict()["concat"]
    assert len(first["vconcat"]) == 1 and len(second["vconcat"]) == 2
    assert first["vconcat"][0]["title"] == "plain"
    for model in results["models"].values():
        model["neurons"], model["layers"] = [], []
    assert charts.neuron_use(results) is None


def test_scales_reach_the_intervals_and_labels_stay_few():
    narrow = share_scale([{"low": -0.3, "high": 0.9}])
    assert narrow.domain == [-0.3, 1.0]
    assert share_axis(narrow).values == [-0.25, 0.0, 0.25, 0.5, 0.75, 1.0]
    assert share_axis(share_scale([{"low": -40.0, "high": 1.0}])).tickCount == 5
    assert cycle("ab", ["x", "y", "z"]) == ["a", "b", "a"]
    assert SIZES[0] >= NARROW > SIZES[1]


def test_saved_charts_are_svg_and_png(tmp_path):
    svg, png = charts.save_chart(charts.overview(fabricated.results()), tmp_path / "new", "overview")
    assert (svg, png) == (tmp_path / "new" / "overview.svg", tmp_path / "new" / "overview.png")
    root = ElementTree.parse(svg).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    text = " ".join(element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text"))
    assert "suppressable" in text and "Unseen relations" in text and "99.8%" in text
    content = png.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert (width, height) == (2 * int(root.get("width")), 2 * int(root.get("height")))
    assert 1800 < width < 2300 and 200 < height < 900
    assert sorted(path.name for path in svg.parent.iterdir()) == ["overview.png", "overview.svg"]


def test_a_chart_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    chart = charts.neuron_use(fabricated.results(("plain",)))
    old = tmp_path / "neurons.svg"
    old.write_text("old")

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(OSError, match="No space left"):
        charts.save_chart(chart, tmp_path, "neurons")
    assert [path.name for path in tmp_path.iterdir()] == ["neurons.svg"] and old.read_text() == "old"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        charts.save_chart(chart, tmp_path / "file" / "folder", "neurons")
