"""Charts of an audit: families of metrics with their intervals, and what the dose does."""

from collections.abc import Mapping

import altair as alt

from jaxinterp.metrics import registry
from jaxinterp.report import style
from jaxinterp.report.labels import metric_label, set_label

COLOURS = {
    "rises": style.BLUE,
    "does not rise": style.AMBER,
    "falls": style.VERMILLION,
    "open": style.GREY,
    "no room": style.GREY,
    "metric": style.GREY,
}
FAMILY_TITLES = {"selectors": "other selectors", "ablations": "other ablations"}  # where the name is not enough
RESPONSES = ("suppressability", "control_drop", "selective", "recall")  # to a dose


def forest(results: Mapping, group: str, *, width: int = style.WIDTH) -> alt.FacetChart | None:
    """Families and their metrics, towards the better and in smallest effects of interest, a panel a set.

    Dashed lines stand at a rise and a fall of one smallest effect. Families have the intervals that the verdict goes
    by, metrics those of their own. The axis is linear near 0 and logarithmic beyond.
    """
    rows = _forest_rows(results, group)
    if not rows:
        return None
    names, sets = (list(dict.fromkeys(row[key] for row in rows)) for key in ("name", "set"))
    states = [state for state in COLOURS if any(row["is"] == state for row in rows)]
    panel = max(120, int((width - 290) / len(sets)) - style.GAP)
    base = alt.Chart().encode(
        y=alt.Y("name:N", title=None, sort=names, axis=alt.Axis(labelLimit=280, domain=False, ticks=False)),
        color=alt.Color(
            "is:N",
            title=None,
            sort=states,
            scale=alt.Scale(domain=states, range=[COLOURS[state] for state in states]),
        ),
        opacity=alt.condition("datum.is == 'metric'", alt.value(0.6), alt.value(1.0)),
    )
    ends = [row[end] for row in rows for end in ("low", "high")]
    scale = alt.Scale(type="symlog", constant=2, domain=[min(-1.5, *ends), max(1.5, *ends)])
    signed = "datum.value ? format(datum.value, '+d') : '0'"
    axis = alt.Axis(values=[-16, -8, -4, -2, 0, 2, 4, 8, 16], labelExpr=signed)
    title = "change towards the better, in smallest effects"
    bars = base.mark_bar().encode(
        x=alt.X("low:Q", title=title, scale=scale, axis=axis),
        x2="high:Q",
        size=alt.condition("datum.is == 'metric'", alt.value(1.5), alt.value(3)),
    )
    points = base.mark_point(filled=True).encode(
        x=alt.X("value:Q", title=title, scale=scale, axis=axis),
        size=alt.condition("datum.is == 'metric'", alt.value(30), alt.value(80)),
        tooltip=[
            *(alt.Tooltip(f"{name}:N") for name in ("name", "is")),
            *(alt.Tooltip(f"{name}:Q", format=".3f") for name in ("value", "low", "high")),
        ],
    )
    # Aggregated: a rule for each panel, not for each row.
    rule = alt.Chart().transform_aggregate(n="count()").mark_rule
    zero = rule(opacity=0.6).encode(x=alt.datum(0))
    ones = (rule(strokeDash=[3, 3], opacity=0.6).encode(x=alt.datum(one)) for one in (-1, 1))
    chart = alt.layer(zero, *ones, bars, points).properties(
        width=panel, height=alt.Step(20), data=alt.Data(values=rows)
    )
    faceted = chart.facet(
        facet=alt.Facet("set:N", title=None, sort=sets, header=alt.Header(labelAnchor="start")), columns=len(sets)
    )
    return faceted.properties(
        description=f"Effects of {results['titles'][group]} against plain training", config=style.chart_config()
    )


def _forest_rows(results: Mapping, group: str) -> list[dict]:
    rows = []
    for set_name, found in results["verdicts"].get(group, {}).items():
        title = set_label(set_name).title
        for family, of in found["families"].items():
            if of["low"] is None:
                continue
            about = {key: of[key] for key in ("value", "low", "high")}
            rows.append({"name": FAMILY_TITLES.get(family, family).upper(), "set": title, "is": of["state"], **about})
            for name in of["metrics"]:
                effect = found["effects"].get(name)
                if effect is None or effect["low"] is None:
                    continue
                unit = effect["smallest"] * (-1 if registry.METRICS[name].better == "lower" else 1)
                low, high = sorted(effect[end] / unit for end in ("low", "high"))
                about = {"value": effect["value"] / unit, "low": low, "high": high}
                rows.append({"name": str(metric_label(name)), "set": title, "is": "metric", **about})
    return rows


def doses(results: Mapping, factors: Mapping[str, float], *, width: int = style.WIDTH) -> alt.FacetChart | None:
    """`RESPONSES` over the weights' factor: a point a seed, a line through the means."""
    rows = []
    for set_name, by_metric in results["doses"].items():
        for metric in RESPONSES:
            for group, values in by_metric.get(metric, {}).items():
                if group in factors:
                    rows += [
                        {
                            "dose": f"{factors[group]:g}",
                            "order": factors[group],
                            "value": value,
                            "metric": str(metric_label(metric)),
                            "set": set_label(set_name).title,
                        }
                        for value in values
                    ]
    if len({row["dose"] for row in rows}) < 3:
        return None
    metrics, sets = (list(dict.fromkeys(row[key] for row in rows)) for key in ("metric", "set"))
    order = [f"{factor:g}" for factor in sorted({row["order"] for row in rows})]
    base = alt.Chart().encode(
        x=alt.X("dose:O", title="factor of λ and μ", sort=order, axis=alt.Axis(labelAngle=0)),
        color=alt.Color(
            "metric:N", title=None, sort=metrics, scale=alt.Scale(range=list(style.MODEL_COLOURS[: len(metrics)]))
        ),
    )
    shares = {"title": None, "axis": alt.Axis(format="%")}
    lines = base.mark_line().encode(y=alt.Y("mean(value):Q", **shares))
    points = base.mark_point(filled=True, opacity=0.5).encode(y=alt.Y("value:Q", **shares))
    panel = max(120, int((width - 60) / len(sets)) - style.GAP)
    chart = alt.layer(lines, points).properties(width=panel, height=180, data=alt.Data(values=rows))
    faceted = chart.facet(
        facet=alt.Facet("set:N", title=None, sort=sets, header=alt.Header(labelAnchor="start")), columns=len(sets)
    )
    return faceted.properties(description="Metrics over the objective's weight", config=style.chart_config())
