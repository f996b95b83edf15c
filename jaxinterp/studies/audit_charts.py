"""Charts of an audit: effects with their intervals, and what the dose does."""

from collections.abc import Mapping

import altair as alt

from jaxinterp import chart_style as style
from jaxinterp.metrics.registry import get_metric
from jaxinterp.terms import METRICS, SETS, term

COLOURS = {"better": style.BLUE, "worse": style.VERMILLION, "no change": style.GREY}


RESPONSES = ("suppressability", "control_drop", "selective", "recall")  # to a dose


def forest(results: Mapping, group: str, *, width: int = style.WIDTH) -> alt.FacetChart | None:
    """Changes of the trained metric and the independent ones, towards the better, a panel a set."""
    rows = []
    for set_name, found in results["verdicts"].get(group, {}).items():
        for name, effect in found["effects"].items():
            if effect["low"] is None:
                continue
            sign = -1 if get_metric(name).better == "lower" else 1
            low, high = sorted(sign * effect[end] for end in ("low", "high"))
            vote = effect["vote"]
            if vote is None:  # the trained metric and abilities: by their interval
                vote = (low > 0) - (high < 0)
            rows.append(
                {
                    "metric": term(METRICS, name).label
                    + (" (trained)" if name == results["criteria"]["trained"] else ""),
                    "set": term(SETS, set_name).title,
                    "value": sign * effect["value"],
                    "low": low,
                    "high": high,
                    "is": {1: "better", -1: "worse", 0: "no change"}[vote],
                    "before": effect["before"],
                    "after": effect["after"],
                }
            )
    if not rows:
        return None
    metrics, sets = (list(dict.fromkeys(row[key] for row in rows)) for key in ("metric", "set"))
    panel = max(120, int((width - 240) / len(sets)) - style.GAP)
    base = alt.Chart().encode(
        y=alt.Y("metric:N", title=None, sort=metrics, axis=alt.Axis(labelLimit=230, domain=False, ticks=False)),
        color=alt.Color(
            "is:N",
            title=None,
            sort=list(COLOURS),
            scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())),
        ),
    )
    x = "change towards the better"
    bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=x), x2="high:Q")
    points = base.mark_point(filled=True, size=60).encode(
        x=alt.X("value:Q", title=x),
        tooltip=[
            alt.Tooltip("metric:N"),
            *(alt.Tooltip(f"{name}:Q", format=".3f") for name in ("before", "after", "value", "low", "high")),
        ],
    )
    zero = alt.Chart().mark_rule(strokeDash=[3, 3], opacity=0.6).encode(x=alt.datum(0))
    chart = alt.layer(zero, bars, points).properties(width=panel, height=alt.Step(20), data=alt.Data(values=rows))
    faceted = chart.facet(
        facet=alt.Facet("set:N", title=None, sort=sets, header=alt.Header(labelAnchor="start")), columns=len(sets)
    )
    return faceted.properties(
        description=f"Effects of {results['titles'][group]} against plain training", config=style.chart_config()
    )


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
                            "metric": term(METRICS, metric).label,
                            "set": term(SETS, set_name).title,
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
    lines = base.mark_line().encode(y=alt.Y("mean(value):Q", title="share"))
    points = base.mark_point(filled=True, opacity=0.5).encode(y=alt.Y("value:Q", title="share"))
    panel = max(120, int((width - 60) / len(sets)) - style.GAP)
    chart = alt.layer(lines, points).properties(width=panel, height=180, data=alt.Data(values=rows))
    faceted = chart.facet(
        facet=alt.Facet("set:N", title=None, sort=sets, header=alt.Header(labelAnchor="start")), columns=len(sets)
    )
    return faceted.properties(description="Metrics over the objective's weight", config=style.chart_config())
