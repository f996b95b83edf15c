"""Measurements as text: tables of models by set and metric, and the sentences below them."""

import math
from collections.abc import Callable, Mapping, Sequence, Set

from rich.table import Table

from jaxinterp.metrics.results import (
    CONTROL_DROPS,
    HEADLINE,
    has_interval,
    is_few,
    is_known,
    marks_sentence,
    missing_sentence,
    published_figures,
    remarks,
)
from jaxinterp.report.labels import metric_label
from jaxinterp.report.shown import Part

FIGURES = {  # of the printed table
    "suppressability": "S",
    **{name: name.replace("control_drop", "C") for name in CONTROL_DROPS},
    "control_drop": "C, the largest of them",
    "selective": "S − C",
    "random_drop": "random neurons",
    "control_drop_answer": "C_answer, for information",
    "amplification": "amplified",
    "ablation_suppressability": "S, by exact ablation",
    "ablation_control_drop": "C, by exact ablation",
    "ablation_selective": "S − C, by exact ablation",
    "recall": "recall",
}


def models_shown(results: Mapping) -> list[Part]:
    """Models by metric and set, with 95 % intervals; metrics that no model has are left out."""
    models = results["models"]
    sets = list(dict.fromkeys(set_name for model in models.values() for set_name in model["sets"]))
    measured = {name for model in models.values() for metrics in model["sets"].values() for name in metrics}
    shown = shown_figures(measured)
    title = "k neurons off, % of the answers' probability [95 % interval over facts and relations]"
    table = Table("model", "", *(set_name.replace("_", " ") for set_name in sets), title=title)
    for name, model in models.items():
        for metric, label in shown.items():
            cells = (_percent(model["sets"].get(set_name, {}).get(metric)) for set_name in sets)
            table.add_row(name if metric == next(iter(shown)) else "", label, *cells)
        table.add_section()
    missing = missing_sentence(results)
    parts = [table, *([missing] if missing else []), *remarks_shown(results)]
    for name, model in models.items():
        words = (
            [f"cross-entropy {model['cross_entropy']['value']:.4f} nats a token"] if "cross_entropy" in model else []
        )
        if "text_cross_entropy" in model:
            words.append(f"of held-out text {model['text_cross_entropy']['value']:.4f}")
        words += [f"recall {_percent(model['recall'])}"] if "recall" in model else []
        parts += [f"{name}: {', '.join(words)}"] if words else []
    return parts


def remarks_shown(results: Mapping) -> list[str]:
    """Which relations the figures of each model lack, where S and C are over different facts, and what marks say."""
    models = results["models"]
    shown = [value for model in models.values() for metrics in model["sets"].values() for value in metrics.values()]
    marks = marks_sentence(shown)
    return [*remarks(models), *([marks] if marks else [])]


def shown_figures(measured: Set[str]) -> dict[str, str]:
    """Those of `FIGURES` that were measured, and with one kind of control all, so that what is missing is seen."""
    controls = CONTROL_DROPS if measured & set(CONTROL_DROPS) else ()
    return {name: label for name, label in FIGURES.items() if name in measured or name in controls}


def spread_shown(spread: Mapping, first: str, over: str) -> Table:
    """{name: {set: {metric: {"mean", "sd", "min", "max", "n"}}}} as a table; sd may be None.

    Args:
      spread: see above.
      first: what the names are names of, such as "setting".
      over: what the spread is over, such as "seeds".
    """
    sets = list(dict.fromkeys(set_name for by_set in spread.values() for set_name in by_set))
    measured = {name for by_set in spread.values() for metrics in by_set.values() for name in metrics}
    shown = shown_figures(measured)
    names = (set_name.replace("_", " ") for set_name in sets)
    table = Table(first, "", over, *names, title=f"%, mean ± standard deviation over {over}, and range")
    for name, by_set in spread.items():
        for metric, label in shown.items():
            values = [by_set.get(set_name, {}).get(metric) for set_name in sets]
            n = max((value["n"] for value in values if value), default=0)
            table.add_row(name if metric == next(iter(shown)) else "", label, str(n), *map(_spread, values))
        table.add_section()
    return table


def _spread(value: Mapping | None) -> str:
    if value is None or not math.isfinite(value["mean"]):
        return "–"
    sd = "" if value["sd"] is None else f" ± {100 * value['sd']:.1f}"
    return f"{100 * value['mean']:.1f}{sd} [{100 * value['min']:.1f}, {100 * value['max']:.1f}]"


def published_shown(results: Mapping) -> list[Part]:
    """This run's headline figures beside the published ones, and whether they lie inside; nothing if none is."""
    figures = [figure for figure in published_figures(results) if figure.metric in HEADLINE]
    if not figures:
        return []
    headers = ("model", "set", "metric", "this run", "published: mean, 95 % of seeds", "inside")
    table = Table(*headers, title="This run beside the published range; % if not said otherwise")
    for figure in figures:
        about = metric_label(figure.metric)
        unit = f", {about.unit}" if about.unit not in ("", "%") else ""
        inside = {True: "yes", False: "no", None: "not measured"}[figure.inside]
        cells = (_in_unit(figure.measured, about.unit), _in_unit(figure.published, about.unit), inside)
        table.add_row(figure.model, figure.set_name.replace("_", " "), str(about) + unit, *cells)
    known = [figure.inside for figure in figures if figure.inside is not None]
    inside = f"{sum(known)} of {len(known)} figures of this run lie inside the published range, as 95 % of seeds would"
    return [table, inside]


def metrics_shown(results: Mapping, names: Sequence[str]) -> list[Part]:
    """Named metrics, a row each, by set, with 95 % intervals."""
    parts: list[Part] = []
    for name, model in results["models"].items():
        sets = model["sets"]
        table = Table("metric", "unit", *(set_name.replace("_", " ") for set_name in sets), title=name)
        for metric in names:
            about = metric_label(metric)
            cells = (_in_unit(of.get(metric), about.unit) for of in sets.values())
            table.add_row(str(about), about.unit, *cells)
        parts.append(table)
    return [*parts, *remarks_shown(results)]


def _in_unit(value: Mapping | None, unit: str) -> str:
    if unit == "%" or not is_known(value):
        return _percent(value)
    return f"{value['value']:.4g} {_interval(value, '{:.4g}'.format)}"


def _percent(value: Mapping | None) -> str:
    if not is_known(value):
        return "–"
    return f"{100 * value['value']:.1f} {_interval(value, lambda end: f'{100 * end:.1f}')}"


def _interval(value: Mapping, text: Callable[[float], str]) -> str:
    """In brackets; a dash where it was not estimated, a star where few facts are behind it."""
    if not has_interval(value):
        return "[–]"
    return f"[{text(value['low'])}, {text(value['high'])}]{'*' * is_few(value)}"
