"""What each level of a factor gains, and what it costs: its changes in both metrics of the front, side by side."""

from collections.abc import Sequence

import altair as alt
import numpy as np

from jaxinterp.report import style
from jaxinterp.report.charts import Chart, finished
from jaxinterp.studies.engine.charts import Row, metric_title
from jaxinterp.studies.engine.config import StudyConfig
from jaxinterp.studies.engine.pairs import changes
from jaxinterp.studies.engine.run import Result
from jaxinterp.studies.statistics import effect_of

ROW = 17  # pixels of a level


def price_rows(config: StudyConfig, results: Sequence[Result]) -> list[Row]:
    """Changes of every level of the first factor from its first level, in both metrics of the front, after all steps:
    a mean over pairs of runs, with a 95 % interval over seeds. Levels without a pair are left out.
    """
    factor = config.factors[0]
    if not factor.values or config.searches:
        return []
    rows: list[Row] = []
    for level in factor.values[1:]:
        for metric in config.front:
            change, _ = changes(results, factor.name, factor.values[0], level, metric)
            if not len(change):
                continue
            effect = effect_of(change, 0.95)
            known = effect.n_seeds > 1 and np.isfinite(effect.half)
            low, high = (effect.low, effect.high) if known else (None, None)
            about = {"metric": metric, "seeds": effect.n_seeds}
            rows.append({"level": str(level), "change": effect.value, "low": low, "high": high, **about})
    return rows


def price_chart(config: StudyConfig, rows: Sequence[Row]) -> Chart | None:
    """A panel for each metric with a row for each level, the best by the first metric on top; None below two levels."""
    first, ways = next(iter(config.front)), config.front
    gains = {row["level"]: float(row["change"]) for row in rows if row["metric"] == first}
    if len(gains) < 2:
        return None
    order = sorted(gains, key=gains.__getitem__, reverse=ways[first] == "maximize")
    panels = []
    for number, (metric, way) in enumerate(ways.items()):
        data = [row for row in rows if row["metric"] == metric and row["level"] in gains]
        better = "higher" if way == "maximize" else "lower"
        title = [metric_title(metric), f"change, {better} is better"]
        x = alt.X("change:Q", title=title, axis=alt.Axis(tickCount=5))
        names = alt.Axis(labels=number == 0, ticks=False, labelLimit=240, grid=True)
        y = alt.Y("level:N", sort=order, title=None, axis=names)
        tips = ["level:N", alt.Tooltip("change:Q", format=".4g"), "seeds:Q"]
        base = alt.Chart(alt.Data(values=data)).encode(y=y)
        nothing = alt.Chart(alt.Data(values=[{"x": 0}])).mark_rule(color=style.GREY).encode(x="x:Q")
        spans = base.mark_rule(strokeWidth=2, color=style.BLUE).encode(x=alt.X("low:Q", title=title), x2="high:Q")
        dots = base.mark_circle(size=60, opacity=1, color=style.BLUE).encode(x=x, tooltip=tips)
        panels.append(alt.layer(nothing, spans, dots).properties(width=style.WIDTH // 2 - 130, height=ROW * len(order)))
    words = f"What each level of {config.factors[0].name} changes, against {config.factors[0].values[0]}"
    return finished(alt.hconcat(*panels, spacing=style.GAP), words)
