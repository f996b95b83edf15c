import itertools
import json
import math
import os
import struct
import xml.etree.ElementTree as ElementTree

import fabricated
import numpy as np
import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.report import charts, drop_bars
from jaxinterp.report import style as chart_style
from jaxinterp.report.style import NARROW, legend_columns, share_axis, share_scale

FOUR = tuple(fabricated.MODELS)
SIZES = (1060, 720)


def all_charts(results, histories, width):
    return {
        "overview": drop_bars.overview(results, width=width),
        "relations": drop_bars.relation_bars(results, "unseen_facts", width=width),
        "opinion": drop_bars.second_opinion(results, width=width),
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
    shown = {(row["model"], row["set"], row["metric"]): row for row in rows(drop_bars.overview(results))}
    assert len(shown) == 2 * 4 * 5
    for metric in ("suppressability", "control_drop_relation", "control_drop_subject", "control_drop_other"):
        row = shown["suppressable", "Unseen facts", metric]
        expected = results["models"]["suppressable"]["sets"]["unseen_facts"][metric]
        assert {key: row[key] for key in expected} == expected


def test_text_stands_after_the_interval():
    for row in rows(drop_bars.overview(fabricated.results())):
        assert row["text_at"] >= max(row["value"], row["high"])


def test_controls_of_every_kind_stand_side_by_side_and_in_one_order():
    spec = drop_bars.overview(fabricated.results()).to_dict()["spec"]["layer"]
    order = spec[0]["encoding"]["yOffset"]["scale"]["domain"]
    assert [label.split(":")[0] for label in order] == ["S", "C_relation", "C_subject", "C_other", "random neurons"]
    assert all(layer["encoding"]["yOffset"]["scale"]["domain"] == order for layer in spec)
    colours = spec[0]["encoding"]["color"]["scale"]
    assert colours["domain"] == order and len(set(colours["range"])) == 5


@pytest.mark.parametrize(
    "draw", [drop_bars.overview, lambda results: drop_bars.relation_bars(results, "unseen_relations")]
)
def test_a_kind_of_control_that_a_set_cannot_have_is_a_dash(draw):
    found = rows(draw(fabricated.without(fabricated.results(), "unseen_relations", "subject")))
    missing = [row for row in found if row["value"] is None]
    places = {row.get("set", row.get("relation")) for row in missing}
    assert places == ({"Unseen relations"} if "set" in missing[0] else set(fabricated.RELATIONS[-4:]))
    assert {(row["metric"], row["text"], row["text_at"]) for row in missing} == {("control_drop_subject", "–", 0)}
    assert len(missing) == 2 * len(places) and not any(row["text"] == "–" for row in found if row["value"] is not None)


def test_a_kind_that_no_set_has_is_left_out():
    results = fabricated.results()
    for set_name in fabricated.SETS:
        fabricated.without(results, set_name, "other")
    found = rows(drop_bars.overview(results))
    assert "control_drop_other" not in {row["metric"] for row in found} and all(row["text"] != "–" for row in found)


# How three kinds of colour-blind eyes see linear RGB; Machado, Oliveira and Fernandes 2009, severity 1.
EYES = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def lab(colour, eye):
    """L*, a*, b* of an sRGB colour as the eye sees it."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = np.cbrt(np.array(TO_XYZ) @ np.clip(np.array(EYES[eye]) @ linear, 1e-3, 1) / [0.95047, 1, 1.08883])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eye", EYES)
def test_any_eye_tells_the_bars_apart(eye):
    spec = drop_bars.overview(fabricated.results()).to_dict()["spec"]["layer"][0]
    colours = spec["encoding"]["color"]["scale"]["range"]
    assert len(colours) == 5
    for one, other in itertools.combinations(colours, 2):
        # 2.3 is just noticeable; Okabe and Ito's purple and grey are 7 apart to a deuteranope.
        assert np.linalg.norm(lab(one, eye) - lab(other, eye)) > 20, (one, other)


def test_second_opinion_is_none_without_ablation_and_partial_with_some():
    assert drop_bars.second_opinion(fabricated.results(ablation=False)) is None
    results = fabricated.results()
    for metrics in results["models"]["plain"]["sets"].values():
        for name in [name for name in metrics if name.startswith("ablation")]:
            del metrics[name]
    assert {row["model"] for row in rows(drop_bars.second_opinion(results))} == {"suppressable"}


def test_numbers_that_are_missing_or_not_finite_are_dashes():
    results = fabricated.results()
    metrics = results["models"]["plain"]["sets"]["objective"]
    del metrics["random_drop"]
    metrics["control_drop_other"] = {"value": math.nan, "low": math.nan, "high": math.nan, "n": 0}
    metrics["control_drop_subject"] = {"value": None, "low": None, "high": None, "n": 0}
    of_plain = {
        row["metric"]: row["text"]
        for row in rows(drop_bars.overview(results))
        if row["model"] == "plain" and row["set"] == "In the objective"
    }
    dashes = {name for name, text in of_plain.items() if text == "–"}
    assert dashes == {"random_drop", "control_drop_other", "control_drop_subject"} and len(of_plain) == 5
    for model in results["models"].values():
        model["sets"] = {name: {} for name in model["sets"]}
        model["by_relation"] = {}
    assert drop_bars.overview(results) is None


def test_relation_bars_of_an_unknown_set_name_the_known_ones():
    with pytest.raises(UserError, match=r"unknown set 'nowhere'; known: held_out_prompts, objective"):
        drop_bars.relation_bars(fabricated.results(), "nowhere")


def test_relations_keep_their_order():
    relations = tuple(reversed(fabricated.RELATIONS))
    spec = drop_bars.relation_bars(fabricated.results(relations=relations), "objective").to_dict()
    assert spec["spec"]["layer"][0]["encoding"]["y"]["sort"] == list(relations[:-4])


def test_training_curves_skip_none_and_leave_out_empty_panels():
    plain = charts.training_curves(fabricated.histories(("plain",)))
    assert [panel["title"] for panel in plain.to_dict()["concat"]] == ["Language modelling", "Gradient norm"]
    both = charts.training_curves(fabricated.histories())
    titles = [panel["title"] for panel in both.to_dict()["concat"]]
    assert len(titles) == 10 and "P of the batch's answers, untouched" in titles
    assert titles[-4:] == [
        "Control drop C of the batch, the largest",
        *(f"C_{kind} of the batch" for kind in ("relation", "subject", "other")),
    ]
    early = [row for row in rows(both) if row["model"] == "suppressable" and row["step"] < 300]
    assert early and all(row["suppression"] is None and row["lm"] is not None for row in early)
    assert charts.training_curves({}) is None
    assert charts.training_curves({"plain": []}) is None
    assert charts.training_curves({"plain": [{"step": 0, "lm": None}]}) is None


def test_panels_of_c_share_a_scale():
    panels = charts.training_curves(fabricated.histories()).to_dict()["concat"]
    domains = [panel["encoding"]["y"]["scale"].get("domain") for panel in panels]
    assert all(domain == domains[-1] for domain in domains[-4:]) and not any(domains[:-4])
    records = [
        record["control_drop"] for record in fabricated.histories()["suppressable"] if record.get("control_drop")
    ]
    assert domains[-1] == [0, pytest.approx(max(records), rel=1e-4)]


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
    missing = {"value": None, "low": None, "high": None}
    narrow = share_scale([missing, {"value": 0.5, "low": -0.2, "high": 0.9}])
    assert narrow.domain == [-0.2, 1.0]
    assert share_axis(narrow).values == [0.0, 0.25, 0.5, 0.75, 1.0]
    # The interval of two relations may reach far; it does not press the bars together.
    assert share_scale([{"value": 0.5, "low": -12.0, "high": 13.0}]).domain == [-0.25, 1.25]
    assert share_axis(share_scale([{"value": -40.0, "low": -41.0, "high": 1.0}])).tickCount == 5
    assert share_scale([{"value": -40.0, "low": -41.0, "high": 1.0}]).domain == [-40.0, 1.0]
    # Three labels of 38 pixels each; four of them stand two by two where three fit.
    assert [legend_columns("abc", room) for room in (120, 100, 60)] == [3, 2, 1]
    assert legend_columns("abcd", 120) == 2
    assert SIZES[0] >= NARROW > SIZES[1]


def test_text_of_an_interval_that_goes_on_stays_in_the_chart():
    results = fabricated.results()
    results["models"]["plain"]["sets"]["objective"]["suppressability"] |= {"low": -4.0, "high": 5.0}
    row = max(rows(drop_bars.overview(results)), key=lambda row: row["high"])
    ends = (row["low_at"], row["high_at"], row["text_at"])
    assert ends == (-chart_style.EDGE, 1 + chart_style.EDGE, 1 + chart_style.EDGE)
    assert (row["low"], row["high"]) == (-4.0, 5.0)
    rule = drop_bars.overview(results).to_dict()["spec"]["layer"][1]
    assert rule["mark"]["type"] == "rule"
    assert [rule["encoding"][end]["field"] for end in ("x", "x2")] == ["low_at", "high_at"]


def test_saved_charts_are_svg_and_png(tmp_path):
    svg, png = charts.save_chart(drop_bars.overview(fabricated.results()), tmp_path / "new", "overview")
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


def test_names_with_control_characters_and_markup_are_drawn_as_texts(tmp_path):
    strange = "\x1b\x07\x00\uffff\ud800\u2028</text><script>1</script>"
    chart = drop_bars.relation_bars(fabricated.results(("plain",), (strange, "b")), "objective")
    svg, _ = charts.save_chart(chart, tmp_path, "relations")
    root = ElementTree.parse(svg).getroot()
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))
    assert any(r"\x1b\x07\x00\uffff" in (element.text or "") for element in root.iter())


def test_a_chart_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    chart = charts.neuron_use(fabricated.results(("plain",)))
    old = tmp_path / "neurons.svg"
    old.write_text("old")

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(UserError, match="No space left"):
        charts.save_chart(chart, tmp_path, "neurons")
    assert [path.name for path in tmp_path.iterdir()] == ["neurons.svg"] and old.read_text() == "old"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        charts.save_chart(chart, tmp_path / "file" / "folder", "neurons")


def test_the_largest_control_drop_is_drawn_only_where_its_kinds_are_not_measured():
    results = fabricated.results()
    assert not any(row["metric"] == "control_drop" for row in rows(drop_bars.overview(results)))
    for model in results["models"].values():
        for metrics in model["sets"].values():
            for kind in ("relation", "subject", "other"):
                metrics.pop(f"control_drop_{kind}")
        model["by_relation"] = {}
    assert any(row["metric"] == "control_drop" for row in rows(drop_bars.overview(results)))
