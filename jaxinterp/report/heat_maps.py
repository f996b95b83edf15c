"""Heat maps of layers against positions or heads, and of attention."""

from collections.abc import Sequence

import altair as alt
import numpy as np
from jaxtyping import Float

from jaxinterp.report import style

CELL = 26  # pixels


def heat_map(
    values_RC: Float[np.ndarray, "R C"],
    columns: Sequence[str],
    title: str,
    *,
    rows: Sequence[str] | None = None,
    rows_title: str = "layer",
    columns_title: str = "",
    upwards: bool = True,
    signed: bool = True,
    most: float | None = None,
    label_limit: int = style.LABEL_LIMIT,
) -> alt.Chart:
    """Coloured cells with their numbers in tooltips.

    Args:
      values_RC: one for each cell.
      columns: names.
      title: of the chart.
      rows: names; None is their numbers.
      rows_title, columns_title: of the axes.
      upwards: whether the first row is at the bottom.
      signed: whether colours diverge from 0, blue above and orange below; if not, they grow from 0.
      most: of the colours' scale, whose last colours also larger values have; None is the largest value.
      label_limit: pixels, beyond which names are cut.
    """
    names = [str(row) for row in range(len(values_RC))] if rows is None else list(rows)
    data = [
        {"row": name, "column": column, "value": float(value) if np.isfinite(value) else None}
        for name, values in zip(names, values_RC, strict=True)
        for column, value in zip(columns, values, strict=True)
    ]
    finite = np.abs(values_RC[np.isfinite(values_RC)])
    if most is None:
        most = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    colours = [style.VERMILLION, "#f7f7f7", style.BLUE] if signed else ["#f7f7f7", style.BLUE]
    scale = alt.Scale(domain=[-most, 0, most] if signed else [0, most], range=colours, clamp=True)
    axis = alt.Axis(tickSize=0, domain=False, labelLimit=label_limit)
    return (
        alt.Chart(alt.Data(values=data), title=title)
        .mark_rect()
        .encode(
            x=alt.X("column:N", sort=list(columns), title=columns_title, axis=axis),
            y=alt.Y("row:N", sort=names[::-1] if upwards else names, title=rows_title, axis=axis),
            color=alt.Color("value:Q", scale=scale, legend=alt.Legend(title=None, format=".2f", orient="right")),
            tooltip=["row:N", "column:N", alt.Tooltip("value:Q", format=".4f")],
        )
        .properties(width=CELL * len(columns), height=CELL * len(names))
    )


def one_map(*arguments: object, **options: object) -> alt.Chart:
    """`heat_map` as a chart of its own."""
    return heat_map(*arguments, **options).configure(**style.chart_config())


def attention_maps(
    pattern_HST: Float[np.ndarray, "H S S"], tokens: Sequence[str], title: str, *, width: int = style.WIDTH
) -> alt.ConcatChart:
    """A panel for each head: what each position, from the top down, attends to."""
    names = [f"{number} {token}" for number, token in enumerate(tokens)]
    panels = [
        heat_map(pattern, names, f"head {head}", rows=names, rows_title="", upwards=False, signed=False, most=1.0)
        for head, pattern in enumerate(pattern_HST)
    ]
    each = CELL * len(names) + style.label_room(names) + 70
    return alt.concat(*panels, columns=max(1, width // each), title=title, spacing=style.GAP).configure(
        **style.chart_config()
    )
