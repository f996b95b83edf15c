"""One HTML file that holds a run's numbers, charts and provenance; it opens offline and loads nothing."""

import base64
import hashlib
import html
import importlib.resources
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import vl_convert

from jaxinterp import charts
from jaxinterp import report_tables as tables
from jaxinterp.chart_style import WIDTH, chart_config
from jaxinterp.errors import UserError
from jaxinterp.files import write_text
from jaxinterp.terms import METRICS, SETS, term

NARROW_WIDTH = 720  # pixels, of the charts of a narrow window

_NUMBERS = ("one", "two", "three", "four", "five", "six")
_INTERVALS = (
    "Brackets, and the thin lines on bars, are 95% bootstrap intervals: inside each relation facts are drawn with "
    "replacement, a fact with all its prompts, and the number is computed anew, many times; the interval holds the "
    "middle 95% of the outcomes. It says how much the number would move with other facts of the same kind, and not how "
    "much it would move if the models were trained again from another seed."
)


def write_report(path: Path, results: Mapping, histories: Mapping[str, Sequence[Mapping]]) -> None:
    """Writes the report, whole or not at all.

    Args:
      path: of the HTML file.
      results: "provenance", "seconds" and "models", as in results.json; metrics that were not measured are left out.
      histories: model -> training records; empty if nothing was trained.
    Raises:
      UserError: if there is no model, or the file cannot be written.
    """
    if not results["models"]:
        raise UserError("a report needs at least one measured model, got none")
    specs: dict[str, dict] = {}
    sections = [
        _section("summary", "Result", _summary(results)),
        _section("overview", "At a glance", _overview(results, specs)),
        _section("relations", "By relation", _relations(results, specs)),
        _section("opinion", "Second opinion", _second_opinion(results, specs)),
        _section("training", "Training", _training(histories, specs)),
        _section("neurons", "The most used neurons", _neurons(results, specs)),
        _section("definitions", "How each number is defined", _definitions(results)),
        _section("provenance", "Provenance", tables.nested(results["provenance"])),
    ]
    write_text(path, _page(_title(results), _introduction(results), sections, specs))


def _title(results: Mapping) -> str:
    names = list(results["models"])
    return f"Suppressability: {', '.join(names)}"


def _introduction(results: Mapping) -> str:
    names = list(results["models"])
    count = _NUMBERS[len(names) - 1] if len(names) <= len(_NUMBERS) else str(len(names))
    models = f"{count.capitalize()} language model{'s' * (len(names) > 1)} ({', '.join(names)})"
    done = f"{models} learned the same facts from the same seed" if len(names) > 1 else f"{models} learned facts"
    was = "were" if len(names) > 1 else "was"
    return (
        f"<p class=lead>{html.escape(done)} and {was} measured by switching off, for every fact, the few neurons that "
        "integrated gradients hold responsible for its answer. <b>Suppressability S</b> is the share of the answers' "
        "probability that is lost when a fact's own neurons are off, and <b>control drop C</b> the share that is lost "
        "when another fact's are: S near 100% with C near 0% means that each fact sits in neurons of its own.</p>"
        f"<p class=by>What was left of the training, and measuring took {tables.duration(results['seconds'])}.</p>"
    )


def _summary(results: Mapping) -> str:
    models = results["models"]
    whole = {name: {key: model[key] for key in ("cross_entropy", "recall")} for name, model in models.items()}
    headline = ("suppressability", "control_drop", "selective", "random_drop", "amplification")
    groups = [("Untouched model", "", whole, ("cross_entropy", "recall")), *_groups(results, headline)]
    return (
        tables.estimates(list(models), groups)
        + f"<p class=note>{_INTERVALS}</p>"
        + f"<details><summary>All metrics</summary>{tables.estimates(list(models), _groups(results))}</details>"
    )


def _overview(results: Mapping, specs: dict) -> str:
    sets = "; ".join(
        f"<b>{html.escape(term(SETS, name).title)}</b>: {html.escape(term(SETS, name).definition)}"
        for name in _set_names(results)
        if term(SETS, name).definition
    )
    return _figure(specs, "overview", charts.overview, results) + f"<p class=note>{sets}.</p>"


def _relations(results: Mapping, specs: dict) -> str:
    panels = []
    for name in _set_names(results):
        by_model = {model: value["by_relation"].get(name, {}) for model, value in results["models"].items()}
        if not any(by_model.values()):
            continue
        figure = _figure(specs, f"relations-{name}", charts.relation_bars, results, name)
        numbers = tables.relations(by_model, ("suppressability", "control_drop", "random_drop"))
        panels.append((term(SETS, name).title, f"{figure}<details><summary>Numbers</summary>{numbers}</details>"))
    return _tabs("relations", panels) or _absent("No relation was measured on its own.")


def _second_opinion(results: Mapping, specs: dict) -> str:
    figure = _figure(specs, "opinion", charts.second_opinion, results)
    if not figure:
        return _absent("Exact ablation was not measured in this run.")
    names = ("ablation_suppressability", "ablation_control_drop", "ablation_overlap")
    return (
        "<p>An objective that trains through integrated gradients might only learn to fool them; neurons chosen "
        "another way would then not suppress the facts. Here they are chosen by exact ablation, one neuron switched "
        "off at a time, on a smaller sample of the facts.</p>"
        + figure
        + f"<details><summary>Numbers, and the overlap of the two choices</summary>"
        f"{tables.estimates(list(results['models']), _groups(results, names))}</details>"
    )


def _training(histories: Mapping[str, Sequence[Mapping]], specs: dict) -> str:
    figure = _figure(specs, "training", charts.training_curves, histories)
    note = f"Values of single batches; above {charts.POINTS} records a curve shows the means of equal bins."
    return figure + f"<p class=note>{note}</p>" if figure else _absent("No training history was recorded.")


def _neurons(results: Mapping, specs: dict) -> str:
    figure = _figure(specs, "neurons", charts.neuron_use, results)
    if not figure:
        return _absent("No neuron was selected.")
    lists = [(name, tables.neurons(model["neurons"])) for name, model in results["models"].items() if model["neurons"]]
    return (
        "<p>How often each neuron was selected for a fact, as a share of all selections, on the facts in the "
        "objective. A few neurons with most of the selections are hubs, not the home of a fact; C shows them too.</p>"
        + figure
        + _tabs("neurons", lists)
    )


def _definitions(results: Mapping) -> str:
    measured = {name for model in results["models"].values() for metrics in model["sets"].values() for name in metrics}
    items = [(METRICS[name].label, METRICS[name].definition) for name in METRICS if name in measured]
    first = (
        "Knowledge neurons of a fact",
        "The few neurons, a fixed number out of all layers, with the largest attribution: integrated gradients of the "
        "answer's probability P over multipliers on the feed-forward neurons at the last prompt token. Multiplier 1 "
        "is the untouched model, 0 switches the neuron off, 2 doubles it.",
    )
    over = (
        "Over relations",
        "A drop is a ratio of mean probabilities inside each relation; the number of a set is the unweighted mean over "
        "its relations.",
    )
    last = ("n, and intervals", f"n is the number of facts. {_INTERVALS}")
    return "<dl class=definitions>{}</dl>".format(
        "".join(f"<dt>{html.escape(name)}<dd>{html.escape(text)}" for name, text in (first, over, *items, last))
    )


def _set_names(results: Mapping) -> list[str]:
    return list(dict.fromkeys(name for model in results["models"].values() for name in model["sets"]))


def _groups(results: Mapping, names: Sequence[str] = ()) -> list[tables.Group]:
    """A block of rows a set: these metrics, or all."""
    groups = []
    for set_name in _set_names(results):
        by_model = {name: model["sets"].get(set_name, {}) for name, model in results["models"].items()}
        measured = [name for metrics in by_model.values() for name in metrics]
        shown = names or tuple(name for name in dict.fromkeys([*METRICS, *measured]) if name in measured)
        n = max((metrics[name]["n"] for metrics in by_model.values() for name in shown if name in metrics), default=0)
        groups.append((term(SETS, set_name).title, f"{n:,} facts", by_model, shown))
    return groups


def _section(name: str, title: str, body: str) -> str:
    return f'<section id="{name}"><h2>{title}</h2>{body}</section>'


def _absent(text: str) -> str:
    return f"<p class=note>{text}</p>"


def _figure(specs: dict, name: str, chart: Callable[..., charts.Chart | None], *data: object) -> str:
    """The place of a chart, whose wide and narrow specs go to `specs`; nothing if there is no chart."""
    wide, narrow = (chart(*data, width=width) for width in (WIDTH, NARROW_WIDTH))
    if wide is None or narrow is None:
        return ""
    specs[name] = {"wide": wide.to_dict(validate=False), "narrow": narrow.to_dict(validate=False)}
    for spec in specs[name].values():
        spec["config"] = chart_config(ink="currentColor", background=None)
    return f'<figure data-chart="{html.escape(name)}"></figure>'


def _tabs(name: str, panels: Sequence[tuple[str, str]]) -> str:
    """Panels of which one shows at a time; without JavaScript and on paper, all of them."""
    if not panels:
        return ""
    buttons = "".join(
        f'<button role=tab id="{name}-tab-{i}" aria-controls="{name}-panel-{i}">{html.escape(title)}</button>'
        for i, (title, _) in enumerate(panels)
    )
    bodies = "".join(
        f'<div role=tabpanel id="{name}-panel-{i}" aria-labelledby="{name}-tab-{i}">'
        f"<h3>{html.escape(title)}</h3>{body}</div>"
        for i, (title, body) in enumerate(panels)
    )
    return f"<div class=tabs><div role=tablist>{buttons}</div>{bodies}</div>"


def _page(title: str, introduction: str, sections: Sequence[str], specs: Mapping[str, Mapping]) -> str:
    """The document. Its policy forbids every request and every script but the two that are written here."""
    scripts = [vl_convert.javascript_bundle(), _packaged("report.js")]
    if any("</script" in script.lower() or "<!--" in script for script in scripts):
        raise ValueError("a script of the report would end its own element")
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:"
    links = "".join(
        f'<a href="#{name}">{text}</a>'
        for name, text in (
            *(("summary", "Result"), ("overview", "At a glance"), ("relations", "By relation")),
            *(("opinion", "Second opinion"), ("training", "Training"), ("neurons", "Neurons")),
            *(("definitions", "Definitions"), ("provenance", "Provenance")),
        )
    )
    data = json.dumps(specs, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name=viewport content="width=device-width, initial-scale=1">
<meta name=color-scheme content="light dark">
<link rel=icon href="data:,">
<title>{html.escape(title)}</title>
<style>
{_packaged("report.css")}</style>
</head>
<body>
<header><h1>{html.escape(title)}</h1>{introduction}<nav>{links}</nav></header>
<main>
{"".join(sections)}
</main>
<noscript><p class=note>The charts need JavaScript; the tables do not.</p></noscript>
<script type="application/json" id=charts>{data}</script>
<script>{scripts[0]}</script>
<script>{scripts[1]}</script>
</body>
</html>
"""


def _packaged(name: str) -> str:
    return importlib.resources.files("jaxinterp").joinpath(name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
