"""One HTML file that holds a run's numbers, charts and provenance; it opens offline and loads nothing."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxinterp import charts
from jaxinterp import report_tables as tables
from jaxinterp.errors import UserError
from jaxinterp.files import write_text
from jaxinterp.report_page import Section, figure, note, page, tabs
from jaxinterp.terms import METRICS, SETS, term

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
        Section("summary", "Result", "Result", _summary(results)),
        Section("overview", "At a glance", "At a glance", _overview(results, specs)),
        Section("relations", "By relation", "By relation", _relations(results, specs)),
        Section("opinion", "Second opinion", "Second opinion", _second_opinion(results, specs)),
        Section("training", "Training", "Training", _training(histories, specs)),
        Section("neurons", "Neurons", "The most used neurons", _neurons(results, specs)),
        Section("definitions", "Definitions", "How each number is defined", _definitions(results)),
        Section("provenance", "Provenance", "Provenance", tables.nested(results["provenance"])),
    ]
    write_text(path, page(_title(results), _introduction(results), sections, specs))


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
    return figure(specs, "overview", charts.overview, results) + f"<p class=note>{sets}.</p>"


def _relations(results: Mapping, specs: dict) -> str:
    panels = []
    for name in _set_names(results):
        by_model = {model: value["by_relation"].get(name, {}) for model, value in results["models"].items()}
        if not any(by_model.values()):
            continue
        drawn = figure(specs, f"relations-{name}", charts.relation_bars, results, name)
        numbers = tables.relations(by_model, ("suppressability", "control_drop", "random_drop"))
        panels.append((term(SETS, name).title, f"{drawn}<details><summary>Numbers</summary>{numbers}</details>"))
    return tabs("relations", panels) or note("No relation was measured on its own.")


def _second_opinion(results: Mapping, specs: dict) -> str:
    drawn = figure(specs, "opinion", charts.second_opinion, results)
    if not drawn:
        return note("Exact ablation was not measured in this run.")
    names = ("ablation_suppressability", "ablation_control_drop", "ablation_overlap")
    return (
        "<p>An objective that trains through integrated gradients might only learn to fool them; neurons chosen "
        "another way would then not suppress the facts. Here they are chosen by exact ablation, one neuron switched "
        "off at a time, on a smaller sample of the facts.</p>"
        + drawn
        + f"<details><summary>Numbers, and the overlap of the two choices</summary>"
        f"{tables.estimates(list(results['models']), _groups(results, names))}</details>"
    )


def _training(histories: Mapping[str, Sequence[Mapping]], specs: dict) -> str:
    drawn = figure(specs, "training", charts.training_curves, histories)
    words = f"Values of single batches; above {charts.POINTS} records a curve shows the means of equal bins."
    return drawn + note(words) if drawn else note("No training history was recorded.")


def _neurons(results: Mapping, specs: dict) -> str:
    drawn = figure(specs, "neurons", charts.neuron_use, results)
    if not drawn:
        return note("No neuron was selected.")
    lists = [(name, tables.neurons(model["neurons"])) for name, model in results["models"].items() if model["neurons"]]
    return (
        "<p>How often each neuron was selected for a fact, as a share of all selections, on the facts in the "
        "objective. A few neurons with most of the selections are hubs, not the home of a fact; C shows them too.</p>"
        + drawn
        + tabs("neurons", lists)
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
