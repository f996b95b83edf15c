"""Figures and tables of made-up results."""

import dataclasses
import json
import re

import pytest
import vl_convert

from jaxinterp.report.shown import print_parts
from jaxinterp.studies.knowledge_neurons.charts import BARS, MEAN, effect_bars, layer_shares, neuron_map
from jaxinterp.studies.knowledge_neurons.page import write_page
from jaxinterp.studies.knowledge_neurons.results import Effects, Results
from jaxinterp.studies.knowledge_neurons.sets import PROTOCOLS
from jaxinterp.studies.knowledge_neurons.tables import (
    asked_shown,
    effects_shown,
    neurons_shown,
    relation_title,
    relations_shown,
)
from jaxinterp.studies.knowledge_neurons.usage import Neurons

NAMES = (
    *("probability", "suppressability", "control_drop_relation", "random_drop", "selective", "amplification"),
    *("control_amplification_relation", "random_amplification", "control_drop_subject", "control_drop_other"),
    *("control_drop", "control_amplification_subject", "control_amplification_other"),
)


def estimated(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 7}


def effects(scale, doubled=0.4):
    metrics = {name: estimated(scale * (0.9 - 0.1 * i)) for i, name in enumerate(NAMES)}
    relations = {name: {**metrics} for name in ("P36", "P1412", "mine")}
    relations["P36"]["amplification"] = estimated(doubled)
    relations["P1412"]["control_drop_relation"] = estimated(-4.0)
    return Effects(21, 60, {**metrics, "completeness_residual": estimated(0.01)}, relations, {})


def statistics(mean):
    of_relation = {"facts": 7, "mean": mean, "without": 1, "shared_inside": 1.2}
    return Neurons(
        **{"facts": 21, "mean": mean, "without": 3, "distinct": 40, "layers": (0.1, 0.2, 0.7)},
        **{"shared_inside": 1.2, "shared_across": None},
        by_relation={name: of_relation for name in ("P36", "P1412", "mine")},
    )


def results():
    effects_of, neurons = {}, {}
    for protocol in PROTOCOLS:
        effects_of[protocol, "all", "attribution"] = effects(1, doubled=31.5)
        effects_of[protocol, "all", "activation"] = effects(0.2)
        effects_of |= {
            (protocol, "known", method): Effects(0, 0, {}, {}, {}) for method in ("attribution", "activation")
        }
        neurons |= {(protocol, "attribution"): statistics(4.1), (protocol, "activation"): statistics(2.9)}
    return Results(
        config={"k": 10},
        provenance={},
        model={"name": "some-model", "n_layers": 3, "d_mlp": 50},
        facts={
            **{"relations": {"P36": 7, "P1412": 7, "mine": 7}, "facts": 23, "queries": 60, "known_facts": 0},
            **{"known_queries": 0, "tried_for_known": None, "dropped": {"fact above the limit": 1234}},
        },
        effects=effects_of,
        neurons=neurons,
        share={},
        most_used={},
    )


NEURONS = [
    {
        **{"layer": 2, "neuron": 48, "facts": 11, "relations": {"P36": 9, "mine": 2}},
        **{"serves": [f"s{i} → a{i} (P36)" for i in range(11)], "promotes": [" Paris", "<a>", "c", "d", "e"]},
    },
    {
        **{"layer": 0, "neuron": 3, "facts": 1, "relations": {"mine": 1}},
        **{"serves": ["s → a (mine)"], "promotes": ["x", "y", "z", "v", "w"]},
    },
]


def test_bars_have_a_row_a_relation_and_say_what_is_cut():
    spec = effect_bars(results(), "fixed_k", "all").to_dict()
    assert "10 neurons a token" in spec["title"]["text"]
    assert spec["title"]["subtitle"][0] == "some-model, all facts: 21 facts, 60 queries, 3 relations"
    off, doubled = spec["hconcat"]
    for panel in (off, doubled):
        rows = panel["layer"][0]["data"]["values"] if "data" in panel["layer"][0] else panel["data"]["values"]
        assert len(rows) == 6 * 4
        bars = panel["layer"][0]["encoding"]["color"]["scale"]
        assert bars["domain"] == list(BARS) and len(set(bars["range"])) == 6
        assert {row["relation"] for row in rows} == {
            *(MEAN, "P36 capital", "P1412 languages spoken, written or signed", "mine")
        }
        low, high = panel["layer"][0]["encoding"]["x"]["scale"]["domain"]
        for row in rows:
            assert low <= row["value_at"] <= high
            assert (row["beyond"] == "") == (row["value_at"] == row["value"])
        cut = {(row["relation"][:4], row["beyond"]) for row in rows if row["beyond"]}
        assert cut == ({("P141", "-400%")} if panel is off else {("P36 ", "3,150%")})


def test_a_kind_that_no_fact_has_has_no_bar():
    found = results()
    effects = found.effects["paper", "all", "attribution"]
    for metrics in (effects.overall, *effects.by_relation.values()):
        del metrics["control_drop_subject"], metrics["control_amplification_subject"]
    spec = effect_bars(found, "paper", "all").to_dict()
    assert "same subject" in BARS
    for panel in spec["hconcat"]:
        assert panel["layer"][0]["encoding"]["color"]["scale"]["domain"] == [
            bar for bar in BARS if bar != "same subject"
        ]


def test_a_kind_that_a_relation_lacks_is_a_dash():
    found = results()
    del found.effects["paper", "all", "attribution"].by_relation["mine"]["control_drop_subject"]
    off, doubled = effect_bars(found, "paper", "all").to_dict()["hconcat"]
    dashes = off["layer"][-1]
    assert dashes["encoding"]["text"] == {"value": "–"}
    assert dashes["data"]["values"] == [{"relation": "mine", "bar": "same subject"}]
    assert len(doubled["layer"]) == len(off["layer"]) - 1


def test_nothing_to_show_is_none():
    found = results()
    assert effect_bars(found, "paper", "known") is None
    assert neuron_map(found, "paper", []) is None
    nothing = {key: dataclasses.replace(one, distinct=0) for key, one in found.neurons.items()}
    assert layer_shares(dataclasses.replace(found, neurons=nothing)) is None


def test_layers_have_both_methods():
    spec = layer_shares(results()).to_dict()
    assert [panel["title"] for panel in spec["hconcat"]] == [
        *("the paper's rule, 21 facts", "10 neurons a token, 21 facts")
    ]
    rows = spec["hconcat"][0]["data"]["values"]
    assert [row["share"] for row in rows] == [0.1, 0.2, 0.7] * 2
    assert {row["layer"] for row in rows} == {0, 1, 2}


def test_the_map_names_neurons_facts_and_tokens():
    spec = neuron_map(results(), "paper", NEURONS).to_dict()
    points = spec["layer"][0]
    first, second = points["data"]["values"]
    assert first["neuron"] == "2.48" and first["uses"] == "facts of several relations" and first["facts"] == 11
    assert first["relations"] == "P36 capital 9; mine 2"
    assert first["serves"].startswith("s0 → a0 (P36); ") and first["serves"].endswith("s7 → a7 (P36) and 3 more")
    assert first["promotes"] == "' Paris', '<a>', 'c', 'd', 'e'"
    assert second["uses"] == "facts of one relation" and second["serves"] == "s → a (mine)"
    shown = {field["field"] for field in points["encoding"]["tooltip"]}
    assert shown == {"neuron", "facts", "relations", "serves", "promotes"}
    named = [row["neuron"] for layer in spec["layer"][1]["layer"] for row in layer["data"]["values"]]
    assert set(named) == {"2.48", "0.3"}
    assert "2 of 150 neurons are used" in spec["title"]["subtitle"][0]


def test_the_study_is_one_page(tmp_path):
    found = results()
    write_page(tmp_path, found, {"paper": NEURONS, "fixed_k": []}, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["charts", "report.html"]
    written = {path.name for path in (tmp_path / "charts").iterdir()}
    names = [f"effects_{protocol}_all" for protocol in PROTOCOLS]
    names += ["layers", "neurons_paper"]
    assert written == {f"{name}.{suffix}" for name in names for suffix in ("svg", "png")}
    page = (tmp_path / "report.html").read_text()
    assert "s0 → a0" in page and "<script src=" not in page and "@import" not in page
    for words in ("80.0 [70.0, 90.0]", "29.03", "P36 capital", "fact above the limit", "C<sub>relation</sub>"):
        assert words in page, words
    figures = re.findall(r'<figure data-chart="(\w+)">', page)
    assert sorted(figures) == sorted(names) == sorted(json.loads(re.search(r'id="charts">(.*?)</script>', page)[1]))


@pytest.mark.parametrize("tried", [None, 99])
def test_tables_have_the_numbers_and_the_published_ones(capsys, tried):
    found = results()
    found.facts["tried_for_known"] = tried
    print_parts([*asked_shown(found), *effects_shown(found), *neurons_shown(found), *relations_shown(found)])
    text = capsys.readouterr().out
    for words in (
        *("fact above the limit", "1,234"),
        "residual of the attribution: 0.01 (in units of probability)",
        "80.0 [70.0, 90.0]",
        "29.03",
        "31.17",
        "-1.27",
        "P36 capital",
        "3,150",
        *("C_relation", "C_subject", "C_other", "C_answer", "C: largest of these", "S − C"),
        *("subject doubled", "-400"),
    ):
        assert words in text, words
    # What was not measured is a dash: here the controls with the same answer.
    (off,) = (line for line in text.splitlines() if "the paper's rule" in line and "80.0 [70.0, 90.0]" in line)
    assert off.rstrip(" │").endswith("–") and off.count("–") == 1
    assert ("99 facts were tried" in text) == (tried is not None)


def test_relations_have_titles_where_wikidata_has_them():
    assert relation_title("P36") == "P36 capital"
    assert relation_title("mine") == "mine"


def test_what_is_missing_is_a_dash_and_told(capsys):
    found = results()
    nothing, one = {"value": None, "low": None, "high": None, "n": 2}, {"value": 0.5, "low": None, "high": None, "n": 1}
    for (_, name, _), effect in found.effects.items():
        if name == "all":
            effect.left_out["P36"] = "P = 0"
            effect.by_relation["P36"] = dict.fromkeys(effect.by_relation["P36"], nothing)
            effect.by_relation["mine"] = dict.fromkeys(effect.by_relation["mine"], one)
            effect.overall.update({"suppressability": one, "control_drop_subject": {**one, "n": 3}})
    print_parts([*asked_shown(found), *effects_shown(found), *neurons_shown(found), *relations_shown(found)])
    out = " ".join(capsys.readouterr().out.split())
    assert "1 relation left out: P36 (P = 0)" in out and "50.0 [–]" in out and "nan" not in out and "None" not in out
    for protocol in PROTOCOLS:
        chart = effect_bars(found, protocol, "all")
        assert vl_convert.vegalite_to_svg(chart.to_dict())
