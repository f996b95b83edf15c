"""The chart of `cost_curves.py`: a panel a size, time above, memory below, both scales logarithmic."""

from collections.abc import Sequence
from typing import Any

TITLES = {
    "facts": "facts",
    "tokens": "prompt length, tokens",
    "layers": "layers",
    "width": "width D (F = 4 D)",
    "points": "points",
    "vocabulary": "vocabulary, tokens",
}


def cost_chart(curves: Sequence[dict]) -> Any:
    """Time and memory over the sizes, with the fitted exponents."""
    import altair as alt

    from jaxinterp.report import style

    jobs = list(dict.fromkeys(found["job"] for found in curves))
    sizes = list(dict.fromkeys(found["size"] for found in curves))
    colour = alt.Color(
        "job:N", title=None, sort=jobs, scale=alt.Scale(domain=jobs, range=[style.BLUE, style.VERMILLION])
    )
    width = int(style.WIDTH / len(sizes)) - style.GAP - 12

    def panel(name: str, column: str, title: str, unit: float) -> alt.LayerChart:
        found = [curve for curve in curves if curve["size"] == name]
        rows = [
            {"job": curve["job"], "x": x, "y": y / unit}
            for curve in found
            for x, y in zip(curve["values"], curve[column], strict=True)
        ]
        labels = [
            {
                "job": curve["job"],
                "x": curve["values"][-1],
                "y": curve[column][-1] / unit,
                "text": f"{curve[f'{column}_exponent']:.2f}",
            }
            for curve in found
        ]
        values = found[0]["values"]
        first = name == sizes[0]
        low = min(c / unit for curve in curves for c in curve[column])
        high = max(c / unit for curve in curves for c in curve[column])
        x = alt.X(
            "x:Q",
            title=TITLES[name],
            axis=alt.Axis(values=values, format="d", grid=False, labelOverlap=False),
            scale=alt.Scale(type="log", domain=[values[0], values[-1] * 1.9]),
        )
        y = alt.Y(
            "y:Q",
            title=title if first else None,
            axis=alt.Axis(labels=first, format="~g", tickCount=4),
            scale=alt.Scale(type="log", domain=[low * 0.7, high * 1.4]),
        )
        base = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y, color=colour)
        text = (
            alt.Chart(alt.Data(values=labels))
            .mark_text(align="left", dx=6)
            .encode(x=x, y=y, text="text:N", color=colour)
        )
        lines = base.mark_line(point=True)
        return alt.layer(lines, text).properties(width=width, height=130)

    rows = [
        alt.hconcat(*(panel(name, column, title, unit) for name in sizes), spacing=14)
        for column, title, unit in (("seconds", "seconds", 1.0), ("bytes", "memory, MB", 1e6))
    ]
    chart = alt.vconcat(*rows, spacing=18)
    return chart.properties(
        description="Time and memory of attribution and training steps over six sizes",
        config=style.chart_config(),
        title=alt.Title("Time and memory; numbers are exponents of the size", anchor="start"),
    )
