"""Charts of measurements and training curves, as pure functions of results; altair only, readable by any eye.

`results` is what experiments write to results.json: {"models": {name: model}}, and a model holds "sets", "by_relation",
"neurons" and "layers"; every number with an interval is {"value", "low", "high", "n"}. Numbers that a run did not
measure are left out of its charts, and a chart with nothing to show is None.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import altair as alt
import vl_convert

from jaxinterp.base.errors import unknown
from jaxinterp.base.files import writable_folder
from jaxinterp.metrics.results import is_known
from jaxinterp.report import style
from jaxinterp.report.labels import SETS, term

Results = Mapping
Chart = alt.Chart | alt.FacetChart | alt.ConcatChart | alt.HConcatChart | alt.VConcatChart | alt.LayerChart

_DROPS = {
    "suppressability": ("S: own neurons off", style.BLUE),
    "control_drop_relation": ("C_relation: another fact's, same relation", style.DARK_ORANGE),
    "control_drop_subject": ("C_subject: same subject", style.ORANGE),
    "control_drop_other": ("C_other: neither", style.LIGHT_ORANGE),
    "random_drop": ("random neurons", style.GREY),
}
_OPINIONS = {
    "suppressability": ("S, integrated gradients", style.BLUE),
    "ablation_suppressability": ("S, exact ablation", style.LIGHT_BLUE),
    "control_drop": ("C, integrated gradients", style.VERMILLION),
    "ablation_control_drop": ("C, exact ablation", style.LIGHT_ORANGE),
    "selective": ("S − C, integrated gradients", style.GREEN),
    "ablation_selective": ("S − C, exact ablation", style.LIGHT_GREEN),
}
# Column of a history -> title of its panel, title and format of its axis.
_CURVES = {
    "lm": ("Language modelling", "cross-entropy, nats per token", ""),
    "gradient_norm": ("Gradient norm", "norm, before clipping", ""),
    "suppression": ("Suppression term", "P(own off) / P", ""),
    "control": ("Control term", "P lost to another's", ""),
    "concentration": ("Concentration term", "attribution elsewhere", ""),
    "suppressability": ("Suppressability S of the batch", "share of P", ".0%"),
    "control_drop": ("Control drop C of the batch, the largest", "share of P", ".0%"),
    "control_drop_relation": ("C_relation of the batch", "share of P", ".0%"),
    "control_drop_subject": ("C_subject of the batch", "share of P", ".0%"),
    "control_drop_other": ("C_other of the batch", "share of P", ".0%"),
}
_SHARED = tuple(name for name in _CURVES if name.startswith("control_drop"))  # curves on one scale
_IS_KNOWN = "isValid(datum.value)"  # of a row
_HAS_INTERVAL = "isValid(datum.low)"
POINTS = 300  # at most, of a training curve; longer ones are averaged over equal bins


def overview(results: Results, *, width: int = style.WIDTH) -> Chart | None:
    """Suppressability, control drops of every kind and random drop of every model on every set, with 95% intervals.

    Drops that no model has on any set are left out; one that only some have stands as a dash where it is missing.

    Args:
      results: see the module.
      width: of the whole chart, pixels, about.
    """
    return _bars_by_set(results, _DROPS, width, "Share of the answers' probability lost, by set and model")


def second_opinion(results: Results, *, width: int = style.WIDTH) -> Chart | None:
    """S, C and S − C by integrated gradients against exact ablation; None if no model has the latter."""
    measured = {
        name: model
        for name, model in results["models"].items()
        if any("ablation_suppressability" in metrics for metrics in model["sets"].values())
    }
    if not measured:
        return None
    return _bars_by_set({"models": measured}, _OPINIONS, width, "S, C and S − C by two ways to choose the neurons")


def relation_bars(results: Results, set_name: str, *, width: int = style.WIDTH) -> Chart | None:
    """Drops relation by relation, a column of panels a model, with 95% intervals; see `overview` for missing drops.

    Raises:
      UserError: if no model has the set.
    """
    models = results["models"]
    known = {name for model in models.values() for name in model["by_relation"]}
    if set_name not in known:
        raise unknown("set", set_name, known)
    by_place = {
        (("model", name), ("relation", relation)): metrics
        for name, model in models.items()
        for relation, metrics in model["by_relation"].get(set_name, {}).items()
    }
    drops = _measured(results, _DROPS)
    rows = _rows(by_place, drops)
    if not rows:
        return None
    shown = [name for name in models if any(row["model"] == name for row in rows)]
    relations = list(dict.fromkeys(row["relation"] for row in rows))
    columns = min(len(shown), 4 if width >= style.NARROW else 2)
    scale = style.share_scale(rows)
    title = "share of P lost, with 95% interval"
    x = alt.X("value:Q", title=title, axis=style.share_axis(scale), scale=scale)
    y = alt.Y(
        "relation:N",
        title=None,
        sort=relations,
        axis=alt.Axis(labelLimit=style.LABEL_LIMIT, tickSize=0, domain=False),
        scale=alt.Scale(paddingInner=0.2, paddingOuter=0.1),
    )
    base = alt.Chart().encode(y=y, yOffset=_offset(drops))
    bars = (
        base.mark_bar()
        .transform_filter(_IS_KNOWN)
        .encode(x=x, color=_colour(drops, width - style.label_room(relations)), tooltip=_tooltip("relation", "model"))
    )
    interval = (
        base.mark_rule(strokeWidth=1)
        .transform_filter(_HAS_INTERVAL)
        .encode(x=alt.X("low_at:Q", title=title), x2="high_at:Q")
    )
    missing = (
        base.mark_text(align="left", dx=3, fontSize=9)
        .transform_filter("!" + _IS_KNOWN)
        .encode(x=alt.XDatum(0), text="text:N")
    )
    chart = alt.layer(bars, interval, missing).properties(
        width=style.panel_width(width, columns, relations), height=alt.Step(7, **{"for": "offset"})
    )
    return _finished(_faceted(chart, rows, "model", shown, columns), f"Drops by relation, {set_name}")


def training_curves(histories: Mapping[str, Sequence[Mapping]], *, width: int = style.WIDTH) -> Chart | None:
    """Loss, objective terms and the batch's S and C of all kinds against the step, a line a model.

    Panels without values are left out; those of C share a scale.

    Args:
      histories: model -> records with "step" and values that may be missing or None. Above 300 records, equal bins of
        them are averaged.
      width: of the whole chart, pixels, about.
    """
    rows = [{"model": name, **row} for name, history in histories.items() for row in _binned(history, _CURVES)]
    shown = [curve for curve in _CURVES if any(row[curve] is not None for row in rows)]
    if not shown:
        return None
    columns = min(len(shown), 3 if width >= style.NARROW else 2)
    models = list(histories)
    look = {
        "color": alt.Color(
            "model:N", title=None, scale=alt.Scale(domain=models, range=style.cycle(style.MODEL_COLOURS, models))
        ),
        "strokeDash": alt.StrokeDash(
            "model:N", title=None, scale=alt.Scale(domain=models, range=style.cycle(style.MODEL_DASHES, models))
        ),
    }
    data = alt.Data(values=rows)
    steps = alt.X(
        "step:Q",
        title="training step",
        axis=alt.Axis(tickCount=5, format=",d", grid=False, labelFlush=False),
        scale=alt.Scale(domain=[0, max(row["step"] for row in rows)], nice=False),
    )
    of_controls = [row[curve] for row in rows for curve in _SHARED if row[curve] is not None]
    panels = []
    for curve in shown:
        ends = {"domain": [min(0.0, *of_controls), max(0.05, *of_controls)]} if curve in _SHARED else {}
        title, unit, form = _CURVES[curve]
        panels.append(
            alt.Chart(data, title=title)
            .mark_line(strokeWidth=1.6)
            .transform_filter(f"isValid(datum.{curve})")
            .encode(
                x=steps,
                y=alt.Y(
                    f"{curve}:Q",
                    title=unit,
                    axis=alt.Axis(format=form or alt.Undefined, tickCount=5, minExtent=36),
                    scale=alt.Scale(nice=5, **ends),
                ),
                tooltip=["model:N", "step:Q", alt.Tooltip(f"{curve}:Q", title=title, format=".4g")],
                **look,
            )
            .properties(width=(width - 30) // columns - 62, height=150)
        )
    return _finished(alt.concat(*panels, columns=columns, spacing=24), "Training curves")


def neuron_use(results: Results, *, width: int = style.WIDTH) -> Chart | None:
    """The most used neurons of every model, named layer.neuron, and how selections spread over layers."""
    models = results["models"]
    columns = min(len(models), 4 if width >= style.NARROW else 2)
    room = (width - 20) // columns - 76
    axis = alt.Axis(format="~%", tickCount=4, labelFlush=False)
    top_share = max((neuron["share"] for model in models.values() for neuron in model["neurons"]), default=0)
    top_layer = max((share for model in models.values() for share in model["layers"]), default=0)
    most = max(len(model["neurons"]) for model in models.values())
    panels = []
    for name, model in models.items():
        parts = []
        if model["neurons"]:
            rows = [
                {
                    "neuron": f"{neuron['layer']}.{neuron['neuron']}",
                    "share": neuron["share"],
                    "selections": neuron["selections"],
                    "relations": ", ".join(sorted(neuron["relations"], key=neuron["relations"].get, reverse=True)[:3]),
                }
                for neuron in model["neurons"]
            ]
            parts.append(
                alt.Chart(alt.Data(values=rows), title=name)
                .mark_bar(color=style.BLUE, height={"band": 0.7})
                .encode(
                    x=alt.X("share:Q", title="share of all selections", axis=axis, scale=style.zero_to(top_share)),
                    y=alt.Y("neuron:N", title="layer.neuron", sort=[row["neuron"] for row in rows]),
                    tooltip=[
                        "neuron:N",
                        alt.Tooltip("share:Q", format=".2%"),
                        alt.Tooltip("selections:Q"),
                        "relations:N",
                    ],
                )
                .properties(width=room, height=14 * most)
            )
        if model["layers"]:
            rows = [{"layer": layer, "share": share} for layer, share in enumerate(model["layers"])]
            layers = (
                alt.Chart(alt.Data(values=rows))
                .mark_bar(color=style.GREY)
                .encode(
                    x=alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
                    y=alt.Y("share:Q", title="share of selections", axis=axis, scale=style.zero_to(top_layer)),
                    tooltip=["layer:O", alt.Tooltip("share:Q", format=".1%")],
                )
                .properties(width=room, height=110)
            )
            parts.append(layers if parts else layers.properties(title=name))
        if parts:
            panels.append(alt.vconcat(*parts, spacing=14))
    if not panels:
        return None
    return _finished(alt.concat(*panels, columns=columns, spacing=24), "The most used neurons and layers")


def save_chart(chart: Chart, folder: Path, name: str) -> list[Path]:
    """Writes folder/name.svg and folder/name.png (two pixels a point), each whole or not at all.

    Raises:
      UserError: if the folder cannot be written to.
    """
    spec = chart.to_dict()
    contents = {
        "svg": vl_convert.vegalite_to_svg(spec).encode(),
        "png": vl_convert.vegalite_to_png(spec, scale=2),
    }
    writable_folder(folder)
    paths = []
    for suffix, content in contents.items():
        path = folder / f"{name}.{suffix}"
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_bytes(content)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        paths.append(path)
    return paths


def _bars_by_set(results: Results, drops: Mapping[str, tuple[str, str]], width: int, description: str) -> Chart | None:
    """A panel a set, a group of rows a model, a bar a drop: with interval and value, or a dash."""
    by_place = {
        (("model", name), ("set", term(SETS, set_name).title)): metrics
        for name, model in results["models"].items()
        for set_name, metrics in model["sets"].items()
    }
    drops = _measured(results, drops)
    rows = _rows(by_place, drops)
    if not rows:
        return None
    models = list(dict.fromkeys(row["model"] for row in rows))
    sets = list(dict.fromkeys(row["set"] for row in rows))
    columns = min(len(sets), 4 if width >= style.NARROW else 2)
    title = "share of P lost, with 95% interval"
    base = alt.Chart().encode(
        y=alt.Y(
            "model:N",
            title=None,
            sort=models,
            axis=alt.Axis(labelFontSize=12, labelLimit=style.LABEL_LIMIT, tickSize=0, domain=False),
            scale=alt.Scale(paddingInner=0.15, paddingOuter=0.1),
        ),
        yOffset=_offset(drops),
    )
    scale = style.share_scale(rows, room=0.3)
    x = alt.X("value:Q", title=title, axis=style.share_axis(scale), scale=scale)
    bars = (
        base.mark_bar()
        .transform_filter(_IS_KNOWN)
        .encode(x=x, color=_colour(drops, width - style.label_room(models)), tooltip=_tooltip("set", "model"))
    )
    intervals = (
        base.mark_rule(strokeWidth=1.5)
        .transform_filter(_HAS_INTERVAL)
        .encode(x=alt.X("low_at:Q", title=title), x2="high_at:Q")
    )
    texts = base.mark_text(align="left", dx=4).encode(x=alt.X("text_at:Q", title=title), text="text:N")
    chart = alt.layer(bars, intervals, texts).properties(
        width=style.panel_width(width, columns, models), height=alt.Step(15, **{"for": "offset"})
    )
    return _finished(_faceted(chart, rows, "set", sets, columns), description)


def _measured(results: Results, drops: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """The drops that are known of any model on any set or relation."""
    places = [
        metrics
        for model in results["models"].values()
        for metrics in (
            *model["sets"].values(),
            *(of_relation for by_relation in model["by_relation"].values() for of_relation in by_relation.values()),
        )
    ]
    return {name: about for name, about in drops.items() if any(is_known(metrics.get(name)) for metrics in places)}


def _rows(
    by_place: Mapping[tuple[tuple[str, str], ...], Mapping[str, Mapping]], drops: Mapping[str, tuple[str, str]]
) -> list[dict]:
    """A row for each place and drop; a drop that is not known there has None for its numbers, and a dash for its text.

    A place is pairs of a field and its value; one where no drop is known has no row. "low_at" and "high_at" are the
    ends of the interval as it is drawn, within the scale; see `style.share_scale`.
    """
    rows = []
    for place, metrics in by_place.items():
        known = {name: metrics[name] for name in drops if is_known(metrics.get(name))}
        for name, (label, _) in drops.items() if known else ():
            row = {**dict(place), "metric": name, "drop": label}
            if name in known:
                numbers = {key: known[name][key] for key in ("value", "low", "high", "n")}
                low, high = style.drawn_interval(numbers)
                drawn = {"low_at": low, "high_at": high, "text": _share(numbers["value"]), "text_at": max(high, 0)}
                rows.append({**row, **numbers, **drawn})
            else:
                rows.append({**row, "value": None, "low": None, "high": None, "n": 0, "text": "–", "text_at": 0})
    return rows


def _share(value: float) -> str:
    """Per cent with a true minus, and no minus before 0.0%."""
    return f"{round(100 * value, 1) + 0.0:.1f}%".replace("-", "−")


def _binned(history: Sequence[Mapping], names: Iterable[str]) -> list[dict]:
    """Records with exactly these columns (None: no value), averaged over equal bins where there are too many."""
    size = math.ceil(len(history) / POINTS) or 1
    bins = [history[start : start + size] for start in range(0, len(history), size)]
    return [
        {
            "step": sum(record["step"] for record in part) / len(part),
            **{name: _mean(record.get(name) for record in part) for name in names},
        }
        for part in bins
    ]


def _mean(values: Iterable[float | int | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(f"{sum(known) / len(known):.5g}") if known else None


def _faceted(chart: alt.LayerChart, rows: list[dict], field: str, names: Sequence[str], columns: int) -> Chart:
    facet = alt.Facet(f"{field}:N", title=None, sort=names, header=alt.Header(labelAnchor="start"))
    return chart.properties(data=alt.Data(values=rows)).facet(
        facet=facet, columns=columns, spacing={"column": style.GAP, "row": 18}
    )


def _finished(chart: Chart, description: str) -> Chart:
    return chart.properties(description=description, config=style.chart_config())


def _labels(drops: Mapping[str, tuple[str, str]]) -> list[str]:
    return [label for label, _ in drops.values()]


def _offset(drops: Mapping[str, tuple[str, str]]) -> alt.YOffset:
    return alt.YOffset("drop:N", sort=_labels(drops), scale=alt.Scale(domain=_labels(drops)))


def _colour(drops: Mapping[str, tuple[str, str]], width: int) -> alt.Color:
    scale = alt.Scale(domain=_labels(drops), range=[colour for _, colour in drops.values()])
    legend = alt.Legend(columns=style.legend_columns(_labels(drops), width))
    return alt.Color("drop:N", title=None, sort=_labels(drops), scale=scale, legend=legend)


def _tooltip(*fields: str) -> list[alt.Tooltip]:
    shares = [alt.Tooltip(f"{name}:Q", format=".2%") for name in ("value", "low", "high")]
    return [*(alt.Tooltip(f"{field}:N") for field in (*fields, "drop")), *shares, alt.Tooltip("n:Q", title="facts")]
