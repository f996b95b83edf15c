"""Charts of all points of a study at once: how training went, and how far each metric is from the first point's."""

from collections.abc import Sequence

import altair as alt
import numpy as np

from jaxinterp.report import style
from jaxinterp.report.charts import Chart, finished
from jaxinterp.report.heat_maps import heat_map
from jaxinterp.studies.engine.charts import Row, metric_title
from jaxinterp.studies.engine.config import StudyConfig
from jaxinterp.studies.engine.front import PointMeans
from jaxinterp.studies.engine.points import point_words
from jaxinterp.studies.engine.run import Result

MOST = 3.0  # standard deviations at which colours end
LABELS = 300  # pixels of a name
CELL = 46  # pixels, wide enough for a number
OWN_COLOURS = len(style.MODEL_COLOURS)  # points that each have one


def curve_rows(results: Sequence[Result]) -> list[Row]:
    """The training loss of every point by step, a mean over the seeds that have a line of that step."""
    losses: dict[tuple, dict[int, list[float]]] = {}
    for result in results:
        of = losses.setdefault(tuple(result.point.items()), {})
        for step, loss in result.curve:
            of.setdefault(step, []).append(loss)
    return [
        {
            **dict(point),
            "point": point_words(dict(point)),
            "step": step,
            "loss": float(np.mean(values)),
            "seeds": len(values),
        }
        for point, of in losses.items()
        for step, values in sorted(of.items())
    ]


def curve_chart(config: StudyConfig, rows: Sequence[Row]) -> Chart | None:
    """A line for each point; of many points, in the colour of their level of the first factor."""
    if not rows:
        return None
    first = config.factors[0]
    data = [
        {"point": row["point"], "step": row["step"], "loss": row["loss"], "of": str(row[first.name])} for row in rows
    ]
    points, levels = list(dict.fromkeys(row["point"] for row in data)), list(dict.fromkeys(row["of"] for row in data))
    name, domain = ("point", points) if len(points) <= OWN_COLOURS else ("of", levels)
    if len(domain) <= OWN_COLOURS:
        scale = alt.Scale(domain=domain, range=list(style.MODEL_COLOURS[: len(domain)]))
        legend = alt.Legend(columns=style.legend_columns(domain, style.WIDTH // 2))
        title = first.name if name == "of" else None
        colour = alt.Color(f"{name}:N", title=title, scale=scale, sort=domain, legend=legend)
    else:
        colour = alt.value(style.GREY)
    chart = (
        alt.Chart(alt.Data(values=data))
        .mark_line(strokeWidth=1.4)
        .encode(
            x=alt.X("step:Q", title="training step", axis=alt.Axis(tickCount=5, format=",d", grid=False)),
            y=alt.Y("loss:Q", title="training loss, nats per token", scale=alt.Scale(zero=False)),
            color=colour,
            detail="point:N",
            tooltip=["point:N", "step:Q", alt.Tooltip("loss:Q", format=".4g")],
        )
        .properties(width=style.WIDTH // 2, height=280)
    )
    return finished(chart, "Training loss by step, a mean over seeds")


def change_rows(metrics: Sequence[str], means: Sequence[PointMeans]) -> list[Row]:
    """How far each metric is from the first point's, in standard deviations of single runs.

    (mean of the point − mean of the first one) / √(mean over points of the variance over seeds); a metric is left out
    where no point has two seeds that differ, and all are where the first point has no value.
    """
    rows: list[Row] = []
    for metric in metrics:
        variances = [of.spread[metric]["sd"] ** 2 for of in means if of.spread.get(metric, {}).get("sd") is not None]
        pooled = float(np.mean(variances)) ** 0.5 if variances else 0.0
        if pooled == 0 or metric not in means[0].spread:
            continue
        first = means[0].spread[metric]["mean"]
        for of in means:
            change = of.spread[metric]["mean"] - first if metric in of.spread else None
            standardised = None if change is None else change / pooled
            rows.append(
                {"metric": metric, "point": point_words(of.point), "change": change, "standardised": standardised}
            )
    return rows


def change_chart(rows: Sequence[Row], title: str) -> Chart | None:
    """A cell for each metric and point with its standardised change; None without any."""
    if not rows:
        return None
    metrics, points = ([*dict.fromkeys(row[name] for row in rows)] for name in ("metric", "point"))
    values = np.array([np.nan if row["standardised"] is None else row["standardised"] for row in rows], float)
    names = [metric_title(metric) for metric in metrics]
    cells = heat_map(
        values.reshape(len(metrics), len(points)),
        points,
        title,
        rows=names,
        rows_title="",
        upwards=False,
        most=MOST,
        label_limit=LABELS,
    )
    shown = [
        {
            "row": metric_title(row["metric"]),
            "column": row["point"],
            "text": f"{round(row['standardised'], 1) + 0.0:.1f}".replace("-", "−"),  # there is no −0
            "dark": abs(row["standardised"]) > MOST / 2,
        }
        for row in rows
        if row["standardised"] is not None
    ]
    x, y = alt.X("column:N", sort=points), alt.Y("row:N", sort=names)
    colour = alt.condition("datum.dark", alt.value("white"), alt.value(style.INK))
    numbers = alt.Chart(alt.Data(values=shown)).mark_text(fontSize=10).encode(x=x, y=y, text="text:N", color=colour)
    chart = alt.layer(cells, numbers).properties(width=CELL * len(points), height=26 * len(metrics))
    return finished(chart, title)
