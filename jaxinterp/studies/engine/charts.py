"""Charts of a study: what each level does to each metric, and the front of two metrics; and the rows behind them."""

from collections.abc import Sequence

import altair as alt
import numpy as np

from jaxinterp.report import style
from jaxinterp.report.charts import Chart, finished
from jaxinterp.report.labels import metric_label, set_label
from jaxinterp.studies.engine.config import Factor, StudyConfig
from jaxinterp.studies.engine.front import Front, PointMeans
from jaxinterp.studies.engine.points import point_words
from jaxinterp.studies.engine.run import Result
from jaxinterp.studies.statistics import spread

Row = dict[str, object]  # of a CSV, and of a chart's data
COLUMNS = 3  # panels side by side
NAMES, ROW = 150, 19  # pixels of the longest name of a level, and of its row


def metric_title(metric: str) -> str:
    """SET/METRIC in words."""
    set_name, _, name = metric.partition("/")
    return f"{metric_label(name)}, {set_label(set_name).title.lower()}"


def dose_rows(config: StudyConfig, results: Sequence[Result], factor: str) -> list[Row]:
    """The metrics at each level of a factor, of a range at each that was tried: mean and 95 % interval over seeds, each
    a mean over its runs there.
    """
    found: list[Row] = []
    levels = config.factor(factor).values or sorted({result.point[factor] for result in results})
    for metric in config.metrics:
        for level in levels:
            by_seed: dict[int, list[float]] = {}
            for result in results:
                if result.point[factor] == level and np.isfinite(value := result.values.get(metric, np.nan)):
                    by_seed.setdefault(result.seed, []).append(value)
            if by_seed:
                of = spread([float(np.mean(values)) for values in by_seed.values()])
                half = 0.0 if of["sd"] is None else _half(of["sd"], of["n"])
                ends = {"low": of["mean"] - half, "high": of["mean"] + half}
                found.append({"metric": metric, "level": level, "mean": of["mean"], **ends, "seeds": of["n"]})
    return found


def _half(sd: float, n: int) -> float:
    from jaxinterp.metrics.intervals import student

    return student(0.95, n - 1) * sd / n**0.5


def dose_chart(config: StudyConfig, rows: Sequence[Row], factor: str) -> Chart | None:
    """A panel a metric: its mean at each level of the factor, with intervals; None without values."""
    of = config.factor(factor)
    panels = []
    for metric in config.metrics:
        own = [row for row in rows if row["metric"] == metric]
        if own:
            panels.append(_dose_of_numbers(of, metric, own) if of.is_numeric else _dose_of_names(of, metric, own))
    if not panels:
        return None
    return finished(alt.concat(*panels, columns=COLUMNS, spacing=style.GAP), f"What {factor} does to each metric")


def _dose_of_numbers(of: Factor, metric: str, rows: list[Row]) -> alt.LayerChart:
    places = {"values": list(of.values)} if of.values else {"tickCount": 5}
    axis = alt.Axis(grid=False, format="~g", **places)
    x_scale = alt.Scale(type="log", nice=False) if of.log else alt.Scale(zero=False)
    base = _panel(metric, rows, "Q").encode(x=alt.X("level:Q", title=of.name, axis=axis, scale=x_scale))
    scale, unit = alt.Scale(zero=False), _unit(metric)
    rule = base.mark_rule(strokeWidth=2, color=style.BLUE).encode(
        y=alt.Y("low:Q", title=unit, scale=scale), y2="high:Q"
    )
    # Points of a range differ in other factors as well, and are not joined.
    joined = base.mark_line(point=True, strokeWidth=1.4, color=style.BLUE)
    dots = (joined if of.values else base.mark_point(filled=True)).encode(y=alt.Y("mean:Q", scale=scale))
    return alt.layer(rule, dots).properties(width=style.WIDTH // COLUMNS - 90, height=180)


def _dose_of_names(of: Factor, metric: str, rows: list[Row]) -> alt.LayerChart:
    """Names have no order to join, and need room: a row for each."""
    levels = list(of.values)
    axis, domain = alt.Axis(labelLimit=NAMES), alt.Scale(domain=levels)  # all, also those without a value
    y = alt.Y("level:N", title=None, sort=levels, axis=axis, scale=domain)
    base = _panel(metric, rows, "N").encode(y=y)
    scale = alt.Scale(zero=False)
    x = alt.X("low:Q", title=_unit(metric), scale=scale, axis=alt.Axis(tickCount=4))
    rule = base.mark_rule(strokeWidth=2, color=style.BLUE).encode(x=x, x2="high:Q")
    dots = base.mark_point(filled=True, color=style.BLUE, opacity=1).encode(x=alt.X("mean:Q", scale=scale))
    width = style.WIDTH // COLUMNS - 40 - min(NAMES, style.label_room([str(level) for level in levels]))
    return alt.layer(rule, dots).properties(width=width, height=max(60, ROW * len(levels)))


def _panel(metric: str, rows: list[Row], kind: str) -> alt.Chart:
    tips = [
        alt.Tooltip(f"level:{kind}"),
        *(alt.Tooltip(f"{name}:Q", format=".4g") for name in ("mean", "low", "high")),
    ]
    return alt.Chart(alt.Data(values=rows), title=metric_title(metric)).encode(tooltip=tips)


def _unit(metric: str) -> str:
    return metric_label(metric.partition("/")[2]).unit.replace("%", "share") or "value"


def front_rows(config: StudyConfig, means: Sequence[PointMeans], front: Front) -> list[Row]:
    """The two metrics of every point that has both, and whether it is on the front."""
    first, second = config.front
    best = [of.point for of in front.points]
    return [
        {
            "point": point_words(of.point),
            first: of.spread[first]["mean"],
            second: of.spread[second]["mean"],
            "on_front": of.point in best,
            "seeds": min(of.spread[first]["n"], of.spread[second]["n"]),
        }
        for of in means
        if first in of.spread and second in of.spread
    ]


def front_chart(config: StudyConfig, rows: Sequence[Row]) -> Chart:
    """All points by the two metrics, those on the front joined by steps."""
    (first, second), ways = config.front, list(config.front.values())
    data = [{"x": row[first], "y": row[second], "point": row["point"], "front": row["on_front"]} for row in rows]
    titles = [
        f"{metric_title(m)} ({'higher' if way == 'maximize' else 'lower'} is better)"
        for m, way in zip((first, second), ways, strict=True)
    ]
    x = alt.X("x:Q", title=titles[0], scale=alt.Scale(zero=False))
    y = alt.Y("y:Q", title=titles[1], scale=alt.Scale(zero=False))
    tips = ["point:N", alt.Tooltip("x:Q", title=first, format=".4g"), alt.Tooltip("y:Q", title=second, format=".4g")]
    base = alt.Chart(alt.Data(values=data)).encode(x=x, y=y, tooltip=tips)
    colour = alt.condition("datum.front", alt.value(style.VERMILLION), alt.value(style.GREY))
    dots = base.mark_circle(size=70, opacity=0.9).encode(color=colour)
    steps = "step-after" if ways[0] == "minimize" else "step-before"
    line = base.transform_filter("datum.front").mark_line(color=style.VERMILLION, strokeWidth=1.4, interpolate=steps)
    chart = alt.layer(line.encode(order="x:Q"), dots).properties(width=style.WIDTH // 2, height=320)
    return finished(chart, f"{first} against {second}, with the points that no other point beats in both")
