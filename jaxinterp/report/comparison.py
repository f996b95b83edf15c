"""One HTML file that holds a run's numbers, charts and provenance; it opens offline and loads nothing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import write_text
from jaxinterp.metrics.registry import Label
from jaxinterp.metrics.results import (
    ABILITY,
    CONTROL_DROPS,
    HEADLINE,
    is_known,
    marks_sentence,
    missing_sentence,
    published_figures,
    remarks,
)
from jaxinterp.report.charts import POINTS, neuron_use, training_curves
from jaxinterp.report.drop_bars import overview, relation_bars, second_opinion
from jaxinterp.report.labels import metric_labels, set_label
from jaxinterp.report.page import drawn, number, page

_NUMBERS = ("One", "Two", "Three", "Four", "Five", "Six")
_HEADLINE = (*HEADLINE, "control_drop_answer", "amplification")
_OPINION = (
    *("suppressability", "control_drop", "selective"),
    *("ablation_suppressability", *(f"ablation_{name}" for name in CONTROL_DROPS), "ablation_control_drop"),
    *("ablation_selective", "ablation_overlap"),
)
_BY_LENGTH = (
    *("suppressability_1_token", "suppressability_2_tokens", "suppressability_3_tokens"),
    *("token_suppressability", "each_suppressability"),
)
_CLEAN = ("suppressability_new_answer", "suppressability_new_subject")
# Field of `jaxinterp.facts.leakage.Leakage` -> head of its column; others are named as they are.
_LEAKAGE = {
    "answers_caseless": "answers, any case",
    "pairs_caseless": "pairs, any case",
    "inverse_pairs": "pairs, turned round",
    "answer_clean_facts": "facts with a new answer",
    "subject_clean_facts": "facts with a new subject",
}


class Group(NamedTuple):
    """A block of rows: a set of facts and its metrics, with an estimate for each model, or None."""

    title: str
    note: str
    rows: list[tuple[str, list[Mapping | None]]]


class Panel(NamedTuple):
    """A set of facts, relation by relation: (relation, facts, (metric, estimate or None) of model after model)."""

    title: str
    chart: str  # its name
    rows: list[tuple[str, int, list[tuple[str, Mapping | None]]]]


def write_report(
    path: Path,
    results: Mapping,
    histories: Mapping[str, Sequence[Mapping]],
    *,
    learned: bool = True,
    told: Sequence[str] = (),
) -> None:
    """Writes the report, whole or not at all.

    Args:
      path: of the HTML file.
      results: "provenance", "seconds" and "models", as in results.json, and perhaps "published", "leakage" and
        "examples" (see `jaxinterp.api.reported.shown_facts`); metrics that were not measured are left out.
      histories: model -> training records; empty if nothing was trained.
      learned: whether the models learned the same facts from the same seed, or are any that were measured.
      told: sentences on what metrics do not say.
    Raises:
      UserError: if there is no model, or the file cannot be written.
    """
    models = results["models"]
    if not models:
        raise UserError("a report needs at least one measured model, got none")
    sets = list(dict.fromkeys(name for model in models.values() for name in model["sets"]))
    measured = {name for model in models.values() for metrics in model["sets"].values() for name in metrics}
    headline = [name for name in _HEADLINE if name in measured]
    by_relation = [name for name in sets if any(model["by_relation"].get(name) for model in models.values())]
    figures = published_figures(results)
    charts = {
        "overview": drawn(overview, results),
        "opinion": drawn(second_opinion, results),
        "training": drawn(training_curves, histories),
        "neurons": drawn(neuron_use, results),
        **{f"relations-{name}": drawn(relation_bars, results, name) for name in by_relation},
    }
    labels = metric_labels()
    able = {name for model in models.values() for name in ABILITY if name in model}
    whole = _group("Untouched model", "", models, ABILITY)
    text = page(
        "report/comparison.html",
        charts,
        title=f"Suppressability: {', '.join(models)}",
        count=_NUMBERS[len(models) - 1] if len(models) <= len(_NUMBERS) else str(len(models)),
        models=list(models),
        results=results,
        sets=sets,
        headline=[*([whole] if whole.rows else []), *_groups(results, sets, _HEADLINE)],
        every=_groups(results, sets, (*labels, *sorted(measured - labels.keys()))),
        missing=missing_sentence(results),
        remarks=remarks(models),
        marks=marks_sentence([e for model in models.values() for of in model["sets"].values() for e in of.values()]),
        figures={"headline": [figure for figure in figures if figure.metric in HEADLINE], "all": figures},
        relation_names=headline,
        relation_panels=[_panel(models, name, headline) for name in by_relation],
        relation_marks=_relation_marks(models, by_relation, headline),
        opinion=_groups(results, sets, _OPINION),
        by_length=_groups(results, sets, ("suppressability", *_BY_LENGTH)) if measured & {*_BY_LENGTH} else [],
        leakage=leakage(results.get("leakage") or {}),
        clean=_groups(results, sets, ("suppressability", *_CLEAN)) if measured & {*_CLEAN} else [],
        points=POINTS,
        learned=learned,
        told=list(told),
        examples=results.get("examples") or [],
        neuron_panels=[
            {"title": name, "neurons": model["neurons"]} for name, model in models.items() if model["neurons"]
        ],
        items=[(label, label.definition) for name, label in labels.items() if name in {*measured, *able}],
    )
    write_text(path, text)


def leakage(by_set: Mapping[str, Mapping[str, float | int | None]]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Heads and rows of a table of shares by set; "facts" is a count."""
    columns = list(dict.fromkeys(name for shares in by_set.values() for name in shares))

    def cell(name: str, value: float | int | None) -> str:
        return f"{value:,}" if name == "facts" and value is not None else number(value, Label("", "", unit="%"))

    rows = [
        (set_label(name).title, [cell(column, shares.get(column)) for column in columns])
        for name, shares in by_set.items()
    ]
    return ["set", *(_LEAKAGE.get(name, name) for name in columns)], rows


def _groups(results: Mapping, sets: Sequence[str], names: Sequence[str]) -> list[Group]:
    """A block for each set, of those of the metrics that were measured on it."""
    groups = []
    for set_name in sets:
        by_model = {name: model["sets"].get(set_name, {}) for name, model in results["models"].items()}
        n = max((of[name]["n"] for of in by_model.values() for name in names if name in of), default=0)
        groups.append(_group(set_label(set_name).title, f"{n:,} facts", by_model, names))
    return [group for group in groups if group.rows]


def _group(title: str, note: str, by_model: Mapping[str, Mapping], names: Sequence[str]) -> Group:
    """The metrics that some model has; with one kind of control all, so that what is missing is seen."""
    measured = {name for metrics in by_model.values() for name in metrics}
    controls = CONTROL_DROPS if measured & {*CONTROL_DROPS, "control_drop"} else ()
    shown = [name for name in names if name in measured or name in controls]
    return Group(title, note, [(name, [metrics.get(name) for metrics in by_model.values()]) for name in shown])


def _panel(models: Mapping[str, Mapping], set_name: str, names: Sequence[str]) -> Panel:
    by_model = [model["by_relation"].get(set_name, {}) for model in models.values()]
    rows = []
    for relation in dict.fromkeys(relation for by_relation in by_model for relation in by_relation):
        estimates = [(name, by_relation.get(relation, {}).get(name)) for by_relation in by_model for name in names]
        n = max((estimate["n"] for _, estimate in estimates if estimate), default=0)
        rows.append((relation, n, estimates))
    return Panel(set_label(set_name).title, f"relations-{set_name}", rows)


def _relation_marks(models: Mapping[str, Mapping], sets: Sequence[str], names: Sequence[str]) -> list[str]:
    """The meaning of marks and dashes in the tables of relations, but for relations that are told to be left out."""
    found = [
        metrics
        for model in models.values()
        for set_name in sets
        for relation, metrics in model["by_relation"].get(set_name, {}).items()
        if not any(relation in other.get("left_out_relations", {}).get(set_name, {}) for other in models.values())
    ]
    shown = [metrics[name] for metrics in found for name in names if name in metrics]
    complete = all(is_known(metrics.get(name)) for metrics in found for name in names if name in CONTROL_DROPS)
    return [marks_sentence(shown), "" if complete else missing_sentence()]
