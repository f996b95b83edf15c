"""The heat map of methods on planted ground truth."""

import textwrap
from collections.abc import Mapping

import altair as alt

from jaxinterp.report import style

_CELL = {"width": 84, "height": 34}  # pixels
_LINE = 13  # pixels between the lines of a method's title


def precision_map(results: Mapping) -> alt.LayerChart:
    """Precision at k of every method on every plant; `results` as `ground_truth_study` gives them."""
    rows = [
        {
            "plant": plant["title"],
            "method": _wrapped(title),
            "provokes": plant["provokes"],
            "auroc": plant["methods"][method]["auroc"]["value"],
            **plant["methods"][method]["precision"],
        }
        for plant in results["plants"].values()
        for method, title in results["methods"].items()
    ]
    titles = [plant["title"] for plant in results["plants"].values()]
    methods = [_wrapped(title) for title in results["methods"].values()]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X(
            "method:N",
            title=None,
            sort=methods,
            axis=alt.Axis(
                orient="top",
                labelAngle=0,
                labelExpr=r"split(datum.label, '\n')",
                labelLineHeight=_LINE,
                # Vega lets the lines of a label grow downwards, on a top axis into the chart.
                labelBaseline="top",
                labelPadding=4 + _LINE * max(title.count("\n") + 1 for title in methods),
                domain=False,
                ticks=False,
            ),
        ),
        y=alt.Y(
            "plant:N",
            title=None,
            sort=titles,
            axis=alt.Axis(labelLimit=style.LABEL_LIMIT + 60, labelFontSize=12, domain=False, ticks=False),
        ),
        tooltip=[
            *(alt.Tooltip(f"{name}:N") for name in ("plant", "provokes", "method")),
            *(alt.Tooltip(f"{name}:Q", format=".2f") for name in ("value", "low", "high", "auroc")),
            alt.Tooltip("n:Q", title="facts"),
        ],
    )
    colour = alt.Color(
        "value:Q",
        title="precision at k",
        scale=alt.Scale(domain=[0, 1], range=["#f3f4f6", style.BLUE]),
        legend=alt.Legend(format=".0%", gradientLength=160, values=[0, 0.5, 1]),
    )
    cells = base.mark_rect(stroke="white", strokeWidth=2).encode(color=colour)
    ink = alt.condition("datum.value > 0.6", alt.value("white"), alt.value(style.INK))
    numbers = base.mark_text(fontSize=12).encode(text=alt.Text("value:Q", format=".2f"), color=ink)
    return alt.layer(cells, numbers).properties(
        width=_CELL["width"] * len(methods),
        height=_CELL["height"] * len(titles),
        description="Precision at k of attribution methods on models whose responsible neurons are known",
        config=style.chart_config(),
    )


def _wrapped(title: str) -> str:
    return "\n".join(textwrap.wrap(title, 13))
