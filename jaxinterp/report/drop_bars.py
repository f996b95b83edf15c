"""Bars of the shares of P that are lost, by set or by relation, with 95% intervals; see `jaxinterp.report.charts`.

A drop that no model has is left out of a chart; one that only some have is a dash where it is missing.
"""

from collections.abc import Mapping

import altair as alt

from jaxinterp.base.errors import unknown
from jaxinterp.metrics.results import is_known
from jaxinterp.report import style
from jaxinterp.report.charts import Chart, Results, finished
from jaxinterp.report.labels import set_label

Drops = Mapping[str, tuple[str, str]]  # metric -> label, colour
_DROPS: Drops = {
    "suppressability": ("S: own neurons off", style.BLUE),
    "control_drop_relation": ("C_relation: another fact's, same relation", style.DARK_ORANGE),
    "control_drop_subject": ("C_subject: same subject", style.ORANGE),
    "control_drop_other": ("C_other: neither", style.LIGHT_ORANGE),
    "control_drop": ("C: the largest of them", style.VERMILLION),
    "random_drop": ("random neurons", style.GREY),
}
_KINDS = {name for name in _DROPS if name.startswith("control_drop_")}
_OPINIONS: Drops = {
    "suppressability": ("S, integrated gradients", style.BLUE),
    "ablation_suppressability": ("S, exact ablation", style.LIGHT_BLUE),
    "control_drop": ("C, integrated gradients", style.VERMILLION),
    "ablation_control_drop": ("C, exact ablation", style.LIGHT_ORANGE),
    "selective": ("S − C, integrated gradients", style.GREEN),
    "ablation_selective": ("S − C, exact ablation", style.LIGHT_GREEN),
}


def overview(results: Results, *, width: int = style.WIDTH) -> Chart | None:
    """Suppressability, control drops of every kind and random drop of every model, in a panel for each set.

    Args:
      results: see `jaxinterp.report.charts`.
      width: of the whole chart, pixels, about.
    """
    return _by_set(results, _DROPS, width, "Share of the answers' probability lost, by set and model")


def second_opinion(results: Results, *, width: int = style.WIDTH) -> Chart | None:
    """S, C and S − C by integrated gradients against exact ablation; None if no model has the latter."""
    measured = {
        name: model
        for name, model in results["models"].items()
        if any("ablation_suppressability" in metrics for metrics in model["sets"].values())
    }
    if not measured:
        return None
    return _by_set({"models": measured}, _OPINIONS, width, "S, C and S − C by two ways to choose the neurons")


def relation_bars(results: Results, set_name: str, *, width: int = style.WIDTH) -> Chart | None:
    """Drops relation by relation, in a panel for each model.

    Raises:
      UserError: if no model has the set.
    """
    known = {name for model in results["models"].values() for name in model["by_relation"]}
    if set_name not in known:
        raise unknown("set", set_name, known)
    by_place = {
        (("model", name), ("relation", relation)): metrics
        for name, model in results["models"].items()
        for relation, metrics in model["by_relation"].get(set_name, {}).items()
    }
    drops = _measured(results, _DROPS)
    chart = _panels(_rows(by_place, drops), drops, y="relation", facet="model", width=width, numbers=False)
    return chart and finished(chart, f"Drops by relation, {set_name}")


def _by_set(results: Results, drops: Drops, width: int, description: str) -> Chart | None:
    by_place = {
        (("model", name), ("set", set_label(set_name).title)): metrics
        for name, model in results["models"].items()
        for set_name, metrics in model["sets"].items()
    }
    drops = _measured(results, drops)
    chart = _panels(_rows(by_place, drops), drops, y="model", facet="set", width=width, numbers=True)
    return chart and finished(chart, description)


def _measured(results: Results, drops: Drops) -> Drops:
    """The drops that are known of any model on any set or relation."""
    places = [
        metrics
        for model in results["models"].values()
        for metrics in (
            *model["sets"].values(),
            *(of_relation for by_relation in model["by_relation"].values() for of_relation in by_relation.values()),
        )
    ]
    known = {name: about for name, about in drops.items() if any(is_known(metrics.get(name)) for metrics in places)}
    if drops is _DROPS and _KINDS & set(known):
        known.pop("control_drop", None)  # it is drawn where its kinds are not there
    return known


def _rows(by_place: Mapping[tuple[tuple[str, str], ...], Mapping[str, Mapping]], drops: Drops) -> list[dict]:
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


def _panels(rows: list[dict], drops: Drops, *, y: str, facet: str, width: int, numbers: bool) -> alt.FacetChart | None:
    """A panel for each value of `facet`, a group of bars for each of `y`, a bar for each drop; None without rows.

    Args:
      rows: see `_rows`.
      drops: in the order of the bars.
      y, facet: fields of the rows.
      width: of the whole chart, pixels, about.
      numbers: whether values stand beside the bars, which are then thicker; dashes always do.
    """
    if not rows:
        return None
    groups, panels = (list(dict.fromkeys(row[field] for row in rows)) for field in (y, facet))
    labels = [label for label, _ in drops.values()]
    columns = min(len(panels), 4 if width >= style.NARROW else 2)
    scale = style.share_scale(rows, room=0.3 if numbers else 0.0)
    shares = {"title": "share of P lost, with 95% interval", "axis": style.share_axis(scale), "scale": scale}
    paddings = {"paddingInner": 0.15 if numbers else 0.2, "paddingOuter": 0.1}
    axis = alt.Axis(labelFontSize=12 if numbers else 11, labelLimit=style.LABEL_LIMIT, tickSize=0, domain=False)
    colour = alt.Color(
        "drop:N",
        title=None,
        sort=labels,
        scale=alt.Scale(domain=labels, range=[colour for _, colour in drops.values()]),
        legend=alt.Legend(columns=style.legend_columns(labels, width - style.label_room(groups))),
    )
    tooltip = [
        *(alt.Tooltip(f"{field}:N") for field in (facet, y, "drop")),
        *(alt.Tooltip(f"{name}:Q", format=".2%") for name in ("value", "low", "high")),
        alt.Tooltip("n:Q", title="facts"),
    ]
    base = alt.Chart().encode(
        y=alt.Y(f"{y}:N", title=None, sort=groups, axis=axis, scale=alt.Scale(**paddings)),
        yOffset=alt.YOffset("drop:N", sort=labels, scale=alt.Scale(domain=labels)),
    )
    known = base.transform_filter("isValid(datum.value)")
    bars = known.mark_bar().encode(x=alt.X("value:Q", **shares), color=colour, tooltip=tooltip)
    intervals = (
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1.5 if numbers else 1)
        .encode(x=alt.X("low_at:Q", title=shares["title"]), x2="high_at:Q")
    )
    texts = (base if numbers else base.transform_filter("!isValid(datum.value)")).mark_text(
        align="left", dx=4, fontSize=11 if numbers else 9
    )
    texts = texts.encode(x=alt.X("text_at:Q", title=shares["title"]), text="text:N")
    chart = alt.layer(bars, intervals, texts).properties(
        width=style.panel_width(width, columns, groups),
        height=alt.Step(15 if numbers else 7, **{"for": "offset"}),
        data=alt.Data(values=rows),
    )
    header = alt.Facet(f"{facet}:N", title=None, sort=panels, header=alt.Header(labelAnchor="start"))
    return chart.facet(facet=header, columns=columns, spacing={"column": style.GAP, "row": 18})
