import base64
import hashlib
import json
import math
import os
import re
from html.parser import HTMLParser

import fabricated
import pytest
import vl_convert

from jaxinterp.base.errors import UserError
from jaxinterp.base.tables import is_control
from jaxinterp.metrics.results import missing_controls, published_figures
from jaxinterp.report.comparison import leakage, write_report
from jaxinterp.report.labels import Label, metric_labels
from jaxinterp.report.page import TEMPLATES, duration, number, subscripted
from jaxinterp.report.printed import models_shown, published_shown
from jaxinterp.report.shown import print_parts
from jaxinterp.studies.suppressability.seeds import seed_spread, spread_parts
from jaxinterp.training.ensemble_config import Member

HOSTILE = '<script>alert("x")</script><img src=https://example.org/a.png onerror=alert(1)>&amp;\'"'


class Page(HTMLParser):
    """Tags with attributes, the text of the page, and the scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.words, self.style, self.inside = [], [], [], "", None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = attributes, text + data
        elif self.inside == "style":
            self.style += data
        else:
            self.words.append(data)

    @property
    def specs(self):
        return json.loads(next(text for attributes, text in self.scripts if attributes.get("id") == "charts"))

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(autouse=True, scope="module")
def one_bundle():
    """The library's bundle is built once for all tests; it takes a second."""
    bundle = vl_convert.javascript_bundle()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vl_convert, "javascript_bundle", lambda: bundle)
        yield bundle


def written(tmp_path, results, histories):
    path = tmp_path / "report.html"
    write_report(path, results, histories)
    assert [item.name for item in tmp_path.iterdir()] == ["report.html"]
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(one_bundle, tmp_path_factory):
    """The report of two models."""
    return written(tmp_path_factory.mktemp("two"), fabricated.results(), fabricated.histories())


@pytest.mark.parametrize("models", [("plain",), tuple(fabricated.MODELS)])
def test_holds_every_section_and_chart(tmp_path, models):
    page = written(tmp_path, fabricated.results(models), fabricated.histories(models))
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert sections == [
        *("summary", "overview", "relations", "opinion", "length", "training", "neurons", "definitions", "provenance"),
    ]
    figures = {attributes["data-chart"] for tag, attributes in page.tags if tag == "figure"}
    assert figures == set(page.specs)
    assert figures >= {
        "overview",
        "relations-objective",
        "relations-unseen_relations",
        "opinion",
        "training",
        "neurons",
    }
    for model in models:
        assert model in page.text
    assert "0123456789abcdef" in page.text and "measuring took 1 h 13 min." in page.text


def metric_rows(page, section):
    """The names of the metrics in the rows of a section's tables, in order."""
    found, inside = [], False
    for tag, attributes in page.tags:
        inside = attributes.get("id") == section if tag == "section" else inside
        if inside and tag == "tr" and "data-metric" in attributes:
            found.append(attributes["data-metric"])
    return found


def test_every_kind_of_control_stands_in_every_table(page):
    kinds = [f"control_drop_{kind}" for kind in ("relation", "subject", "other")]
    headline = metric_rows(page, "summary")[2:12]
    assert headline[:7] == ["suppressability", *kinds, "control_drop", "selective", "random_drop"]
    assert "control_drop_answer" in headline
    assert {"ablation_suppressability", "ablation_control_drop", "ablation_selective"} <= {
        *metric_rows(page, "opinion")
    }
    columns = page.text.split("relation facts plain suppressable")[1].split("countries: capital")[0]
    order = [columns.index(name) for name in ("relation", "subject", "other", "S − C", "Random", "answer")]
    assert order == sorted(order)
    figures = {row["metric"] for row in page.specs["overview"]["wide"]["data"]["values"]}
    assert figures == {"suppressability", *kinds, "random_drop"}


def test_the_definition_of_c_says_why_it_is_the_largest(page):
    assert "is the largest of the three. S near 100% with C near 0% means that each fact sits in neurons" in page.text
    assert "a model with one bank of neurons for each relation, and none for facts, has S = 100% and C other = 0%" in (
        page.text
    )
    assert "covers other facts and other relations of the same kind" in page.text
    assert "No interval says how much a number would move if the models were trained again" in page.text


def test_a_kind_that_a_set_cannot_have_is_a_dash_and_one_sentence(tmp_path):
    results = fabricated.without(fabricated.results(), "unseen_relations", "subject")
    path = tmp_path / "report.html"
    write_report(path, results, {})
    source = path.read_text(encoding="utf-8")
    sentence = "no answer has such a control (unseen relations: C<sub>subject</sub>)"
    assert source.count(sentence) == 2 and source.count("–: no answer has such a control; C is the largest") == 1
    row = source.split('<tr data-metric="control_drop_subject">')
    assert [part.split("<tr")[0].count('<td class="n">–</td>') for part in row[1:5]] == [0, 0, 0, 2]
    write_report(path, fabricated.results(), {})
    assert "has such a control" not in path.read_text(encoding="utf-8")


def test_missing_controls_need_controls():
    results = fabricated.without(fabricated.results(), "objective", "other")
    assert missing_controls(results) == {"objective": ("other",)}
    # One model has the kind, so that the set can have it.
    two = fabricated.results()
    del two["models"]["plain"]["sets"]["objective"]["control_drop_other"]
    assert missing_controls(two) == {}
    for model in results["models"].values():
        model["sets"] = {name: {"suppressability": fabricated.estimate(0.5, 0.1, 3)} for name in model["sets"]}
    assert missing_controls(results) == {}


def test_by_length_and_leakage_are_shown_if_they_are_there(tmp_path):
    results = fabricated.results() | {"leakage": fabricated.leakage()}
    plain = results["models"]["plain"]["sets"]
    plain["unseen_relations"]["suppressability_new_answer"] = fabricated.estimate(0.123, 0.1, 10)
    page = written(tmp_path, results, {})
    assert metric_rows(page, "leakage").count("suppressability_new_answer") == 1
    assert "A fact has a new answer if no fact in the objective has that answer" in page.text
    lengths = ["1_token", "2_tokens", "3_tokens"]
    expected = ["suppressability", *(f"suppressability_{n}" for n in lengths), "token_suppressability"]
    assert metric_rows(page, "length") == expected * 4
    table = page.text.split("Leakage The table says how much of each set")[1].split("Training")[0]
    assert "set subjects answers pairs" in table
    assert "Unseen facts 91.2% 87.3% 3.1%" in table and "Unseen relations 95.7% 41.2% 0.0%" in table
    for model in results["models"].values():
        for metrics in model["sets"].values():
            for name in [name for name in metrics if "token" in name]:
                del metrics[name]
    del results["leakage"]
    sections = {attributes.get("id") for _, attributes in written(tmp_path, results, {}).tags}
    assert sections.isdisjoint({"length", "leakage", "published"}) and "summary" in sections


def test_leakage_counts_facts_and_names_its_columns():
    heads, rows = leakage({"unseen_facts": {"facts": 1234, "subjects": 0.5, "inverse_pairs": None}})
    assert heads == ["set", "facts", "subjects", "pairs, turned round"]
    assert rows == [("Unseen facts", ["1,234", "50.0%", "–"])]


def test_this_run_stands_beside_the_published_range(tmp_path, capsys):
    results = fabricated.results()
    results["published"] = fabricated.published(results)
    results["published"]["suppressable"]["unseen_facts"] |= {
        name: {"value": 0.1, "low": 0.0, "high": 0.2} for name in ("hub_share", "probability")
    }
    del results["models"]["suppressable"]["sets"]["unseen_facts"]["random_drop"]
    results["published"]["suppressable"]["unseen_facts"]["random_drop"] = {"value": 0.1, "low": 0.0, "high": 0.2}
    results["published"]["gone"] = {"objective": {"suppressability": {"value": 0.1, "low": 0.0, "high": 0.2}}}
    inside = {(figure.set_name, figure.metric): figure.inside for figure in published_figures(results)[:-1]}
    assert inside["unseen_facts", "suppressability"] and inside["unseen_facts", "control_drop"]
    assert inside["unseen_relations", "control_drop"] is False and inside["unseen_facts", "hub_share"] is None
    assert published_figures(results)[-1].inside is None
    page = written(tmp_path, results, {})
    assert "7 of 8 figures of this run lie inside the published range" in page.text
    s = results["models"]["suppressable"]["sets"]["objective"]["suppressability"]["value"]
    # The headline stands first; the rest, of which one was measured and lies outside, can be opened.
    assert page.text.count("Hub share") + page.text.count("Share of the busiest neurons") == 1
    assert f"{100 * (s - 0.01):.1f}% [{100 * (s - 0.03):.1f}, {100 * (s + 0.001):.1f}] yes" in page.text
    print_parts(published_shown(results))
    printed = capsys.readouterr().out
    assert "7 of 8 figures of this run lie inside the published range" in printed and "busiest" not in printed
    assert printed.count("not measured") == 2 and printed.count(" no ") == 1
    print_parts(published_shown(fabricated.results()))
    assert capsys.readouterr().out == ""


def test_the_printed_table_has_every_kind_of_control(capsys):
    results = fabricated.without(fabricated.results(), "unseen_relations", "subject")
    print_parts(models_shown(results))
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if "│" in line]
    labels = [line.split("│")[2].strip() for line in lines]
    assert labels[: len(labels) // 2] == labels[len(labels) // 2 :] and labels[:4] == [
        *("S", "C_relation", "C_subject", "C_other"),
    ]
    assert {"C, the largest of them", "S − C", "C_answer, for information", "S − C, by exact ablation"} <= set(labels)
    assert [line.split("│")[6].strip() == "–" for line in lines] == [label == "C_subject" for label in labels]
    value = results["models"]["plain"]["sets"]["objective"]["control_drop_relation"]
    assert f"{100 * value['value']:.1f} [{100 * value['low']:.1f}, {100 * value['high']:.1f}]" in lines[1]
    assert "–: no answer has such a control (unseen relations: C_subject); C is the largest" in printed
    assert "recall 99.6" in printed
    # A kind that no set has is a row of dashes; without controls there is none.
    for set_name in fabricated.SETS:
        fabricated.without(results, set_name, "other")
    print_parts(models_shown(results))
    row = next(line for line in capsys.readouterr().out.splitlines() if "│ C_other" in line)
    assert [cell.strip() for cell in row.split("│")[3:7]] == ["–"] * 4
    for model in results["models"].values():
        model["sets"] = {name: {"suppressability": fabricated.estimate(0.5, 0.1, 3)} for name in model["sets"]}
    print_parts(models_shown(results))
    assert "C_relation" not in capsys.readouterr().out


def test_the_spread_over_seeds_has_every_kind_of_control(capsys):
    results = fabricated.without(fabricated.results(("suppressable",)), "unseen_relations", "subject")
    measured = results["models"]["suppressable"]
    results |= {"spread": seed_spread({Member(seed, 0.25, 1.0): measured for seed in range(3)}), "failed": {}}
    print_parts(spread_parts(results))
    printed = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.split("│")] for line in printed.splitlines() if "│" in line]
    by_label = {line[2]: line[3:-1] for line in lines}
    assert list(by_label)[:6] == ["S", "C_relation", "C_subject", "C_other", "C, the largest of them", "S − C"]
    assert by_label["C_subject"][0] == "3" and by_label["C_subject"][-1] == "–"
    value = 100 * measured["sets"]["objective"]["control_drop_other"]["value"]
    assert by_label["C_other"][1] == f"{value:.1f} ± 0.0 [{value:.1f}, {value:.1f}]"
    assert "–: no answer has such a control (unseen relations: C_subject); C is the largest" in printed


def test_headline_numbers(tmp_path):
    results = fabricated.results()
    results["models"]["plain"]["cross_entropy"] = {"value": 1.23456, "low": 1.2, "high": 1.3, "n": 9}
    results["models"]["suppressable"]["sets"]["unseen_facts"] |= {
        "suppressability": {"value": 0.98765, "low": 0.9812, "high": 0.9999, "n": 1234},
        "control_drop": {"value": -0.0123, "low": -0.04, "high": 0.0, "n": 1234},
    }
    text = written(tmp_path, results, fabricated.histories()).text
    assert "1.235 [1.200, 1.300]" in text
    assert "98.8% [98.1, 100.0]" in text
    assert "−1.2% [−4.0, 0.0]" in text
    assert "1,234 facts" in text


def test_missing_metrics_and_histories(tmp_path):
    results = fabricated.results(ablation=False)
    del results["models"]["plain"]["sets"]["unseen_relations"]
    del results["models"]["plain"]["by_relation"]["unseen_relations"]
    del results["models"]["plain"]["sets"]["objective"]["amplification"]
    results["models"]["plain"]["neurons"] = []
    results["models"]["suppressable"]["sets"]["objective"]["new_metric"] = fabricated.estimate(0.5, 0.1, 10)
    page = written(tmp_path, results, {})
    assert "Exact ablation was not measured" in page.text
    assert "No training history was recorded" in page.text
    assert "new metric" in page.text
    assert {"opinion", "training"}.isdisjoint(page.specs)
    assert "exact ablation chooses as well" not in page.text


def test_nothing_is_loaded(page):
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed", "base"), tag
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            target = attributes.get(name) or ""
            assert target.startswith(("#", "data:,")) or not target, (tag, name, target)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy and "unsafe-eval" not in policy and "script-src 'unsafe-inline'" not in policy
    own = page.scripts[-1][1]
    assert not any(word in own for word in ("http", "fetch(", "import(", "XMLHttpRequest"))
    assert "figure svg" in page.style and "url(" not in page.style and "@import" not in page.style
    for sizes in page.specs.values():
        for spec in sizes.values():
            assert '"url"' not in json.dumps(spec)


def test_the_policy_allows_exactly_the_scripts_of_the_page(page):
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    run = [text for attributes, text in page.scripts if "type" not in attributes]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run]
    assert len(run) == 2 and policy.count("sha256-") == 2
    assert all(f"'sha256-{digest}'" in policy for digest in hashes)


def test_data_cannot_become_markup(tmp_path, monkeypatch):
    monkeypatch.setitem(fabricated.MODELS, HOSTILE, fabricated.MODELS["suppressable"])
    relations = (HOSTILE, *fabricated.RELATIONS[:3])
    results = fabricated.results((HOSTILE, "plain"), relations)
    results["provenance"] = {HOSTILE: [HOSTILE, {"nested": HOSTILE}]}
    model = results["models"][HOSTILE]
    model["neurons"][0]["promotes"] = [HOSTILE, "</code><script>1</script>", "\x00\n", ""]
    for by_set in ("sets", "by_relation"):
        model[by_set][HOSTILE] = model[by_set]["objective"]
    model["sets"]["objective"][HOSTILE] = fabricated.estimate(0.5, 0.1, 3)
    page = written(tmp_path, results, fabricated.histories((HOSTILE, "plain")))
    assert [attributes for attributes, _ in page.scripts] == [{"type": "application/json", "id": "charts"}, {}, {}]
    assert not [
        tag for tag, attributes in page.tags if tag == "img" or any(name.startswith("on") for name in attributes)
    ]
    assert HOSTILE in "".join(page.words)
    assert f"relations-{HOSTILE}" in page.specs  # whole, in JSON


def test_control_characters_are_spelled_out(tmp_path):
    strange = "\x1b]0;x\x07\x00\uffff\ud800\u2028"
    results = fabricated.results(("plain",), (strange, *fabricated.RELATIONS[:3]))
    results["provenance"] = {strange: [strange]}
    results["models"]["plain"]["sets"][f"set of {strange}"] = results["models"]["plain"]["sets"]["objective"]
    page = written(tmp_path, results, {})
    told = "".join(page.words) + json.dumps(page.specs, ensure_ascii=False) + page.text
    assert r"\x1b]0;x\x07\x00\uffff\ud800\u2028" in "".join(page.words)
    assert not [character for character in told if is_control(character) and character != "\n"]
    assert subscripted("C_other\x07<b>") == r"C<sub>other</sub>\x07&lt;b&gt;"


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(UserError, match="No space left"):
        write_report(path, fabricated.results(("plain",)), {})
    assert [item.name for item in tmp_path.iterdir()] == ["report.html"] and path.read_text() == "old"


def test_no_model_is_an_error(tmp_path):
    with pytest.raises(UserError, match="at least one measured model"):
        write_report(tmp_path / "report.html", fabricated.results() | {"models": {}}, {})


@pytest.mark.parametrize(
    ("value", "unit", "signed", "expected"),
    [
        (0.99949, "%", False, "99.9%"),
        (-0.0004, "%", False, "0.0%"),
        (-0.012, "%", False, "−1.2%"),
        (0.5, "%", True, "+50.0%"),
        (0.0, "%", True, "0.0%"),
        (1.23456, "nats", False, "1.235"),
        (0.00042, "probability", False, "0.00042"),
        (math.nan, "%", False, "–"),
        (None, "nats", False, "–"),
    ],
)
def test_numbers(value, unit, signed, expected):
    assert number(value, Label("", "", unit=unit, signed=signed)) == expected


def test_tokens_show_what_cannot_be_seen():
    entry = {"layer": 1, "neuron": 23, "share": 0.1, "selections": 1200, "relations": {"a": 0.75, "b": 0.25}}
    table = TEMPLATES.get_template("report/tables.html").module.neurons(
        [entry | {"promotes": [" a", "Ġb", "▁c", "d e", "\n", ""]}]
    )
    for token in ("␣a", "␣b", "␣c", "d e", "\\n", "∅"):
        assert f"<code>{token}</code>" in table
    assert "1.23" in table and "10.00%" in table and "1,200" in table and "a <small>75%</small>" in table


def test_nested_values():
    nested = TEMPLATES.get_template("report/tables.html").module.nested
    assert nested({"a": {"b": [1, True, None]}}) == (
        '<dl class="nested"><dt>a</dt><dd><dl class="nested"><dt>b</dt><dd>1, yes, <span class="none">none</span></dd>'
        "</dl></dd></dl>"
    )
    words = [str(nested(value)) for value in ("", {}, [], [{"a": "<"}], 0.5)]
    assert [re.sub("<.*?>", "", text) for text in words] == ["empty", "none", "none", "0a&lt;", "0.5"]
    assert [duration(s) for s in (5.25, 61, 3725)] == ["5.2 s", "1 min 1 s", "1 h 2 min"]


def test_every_metric_is_described():
    assert {"suppressability", "control_drop", "recall"} <= set(metric_labels())
    assert all(about.title and about.definition for about in metric_labels().values())
