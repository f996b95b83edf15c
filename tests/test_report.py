import base64
import hashlib
import json
import math
import os
from html.parser import HTMLParser

import fabricated
import pytest
import vl_convert

from jaxinterp import report_tables as tables
from jaxinterp.errors import UserError
from jaxinterp.report import write_report
from jaxinterp.terms import METRICS, Term

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
        *("summary", "overview", "relations", "opinion", "training", "neurons", "definitions", "provenance"),
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
    assert tables.number(value, Term("", "", unit=unit, signed=signed)) == expected


def test_tokens_show_what_cannot_be_seen():
    entry = {"layer": 1, "neuron": 23, "share": 0.1, "selections": 1200, "relations": {"a": 0.75, "b": 0.25}}
    table = tables.neurons([entry | {"promotes": [" a", "Ġb", "▁c", "d e", "\n", ""]}])
    for token in ("␣a", "␣b", "␣c", "d e", "\\n", "∅"):
        assert f"<code>{token}</code>" in table
    assert "1.23" in table and "10.00%" in table and "1,200" in table and "a <small>75%</small>" in table


def test_nested_values():
    assert tables.nested({"a": {"b": [1, True, None]}}) == (
        "<dl class=nested><dt>a<dd><dl class=nested><dt>b<dd>1, yes, <span class=none>none</span></dl></dl>"
    )
    assert [tables.duration(s) for s in (5.25, 61, 3725)] == ["5.2 s", "1 min 1 s", "1 h 2 min"]


def test_every_metric_is_described():
    assert {"suppressability", "control_drop", "recall"} <= set(METRICS)
    assert all(about.title and about.definition for about in METRICS.values())
