"""How charts look: size, colours that any eye can tell apart, scales, axes, and the Vega-Lite config."""

import math
from collections.abc import Mapping, Sequence

import altair as alt

WIDTH = 1060  # pixels, about, of a chart with its axes
NARROW = 800  # below it, panels stand in two columns
INK = "#24292f"
FONT = "Helvetica Neue, Arial, Liberation Sans, sans-serif"
# Okabe and Ito's colours, which stay apart for colour-blind eyes.
BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#999999"
LIGHT_BLUE, AMBER, GREEN, PURPLE = "#56B4E9", "#E69F00", "#009E73", "#CC79A7"
LIGHT_GREEN = "#80CDB8"
# Of the kinds of control: one hue, three lightnesses. Five of Okabe and Ito's would not do: purple and grey are one
# colour to a deuteranope.
DARK_ORANGE, ORANGE, LIGHT_ORANGE = "#A63603", "#E6872E", "#F5C28A"
# More models than these begin again, as Vega does by itself.
MODEL_COLOURS = (AMBER, GREEN, PURPLE, LIGHT_BLUE, "#8C6D31", "#5F6FB8", "#7F7F7F")
MODEL_DASHES = ([1, 0], [1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [4, 4], [1, 3])
GAP = 36  # pixels between panels, so that 100% of one and 0% of the next do not touch
EDGE = 0.25  # of a scale of shares below 0 and above 1; the interval of two relations may be several times as wide
LABEL_LIMIT = 200  # pixels; a longer name is cut by the axis and whole in the tooltip


def chart_config(ink: str = INK, background: str | None = "white") -> dict:
    """The Vega-Lite config of every chart; with ink "currentColor" an SVG in a page follows the page's text colour."""
    small, normal = 11, 12
    return {
        "background": background,
        "font": FONT,
        "view": {"stroke": None},
        "bar": {"fillOpacity": 0.9},
        "rule": {"color": ink},
        "text": {"color": ink, "fontSize": small},
        "title": {"color": ink, "fontSize": 13, "fontWeight": 600, "anchor": "start", "frame": "group", "offset": 8},
        "header": {
            "labelColor": ink,
            "labelFontSize": 13,
            "labelFontWeight": 600,
            "labelLimit": 260,
            "labelPadding": 4,
        },
        "axis": {
            **{"labelColor": ink, "titleColor": ink, "labelFontSize": small, "titleFontSize": small},
            **{"titleFontWeight": "normal", "titleOpacity": 0.75, "labelOpacity": 0.9},
            **{"gridColor": ink, "gridOpacity": 0.12, "domainColor": ink, "domainOpacity": 0.4},
            **{"tickColor": ink, "tickOpacity": 0.4, "titlePadding": 6},
        },
        "legend": {
            **{"orient": "top", "labelColor": ink, "labelFontSize": normal, "labelLimit": 400, "symbolSize": 120},
            **{"columnPadding": 18, "offset": 10, "padding": 0},
        },
    }


def share_axis(scale: alt.Scale) -> alt.Axis:
    """Labels at quarters up to the last one that is at most 100%, or at vega's own places on a scale much longer."""
    low, high = scale.domain
    quarters = [0.25 * i for i in range(math.ceil(4 * low), 5)]
    places = {"values": quarters} if high - low < 2 else {"tickCount": 5}
    return alt.Axis(format="~%", domain=False, labelFlush=False, **places)


def share_scale(rows: Sequence[Mapping], room: float = 0.0) -> alt.Scale:
    """From 0 to 100%, or as far as values and drawn intervals reach, and room for text.

    Args:
      rows: with "value", "low" and "high"; None for what is missing.
      room: share of the scale's length.
    """
    ends = [drawn_interval(row) for row in rows if row["value"] is not None]
    low, high = min(0.0, *(low for low, _ in ends)), max(1.0, *(high for _, high in ends))
    return alt.Scale(domain=[low, high + room * (high - low)], nice=False)


def drawn_interval(row: Mapping) -> tuple[float, float]:
    """The ends of an interval as it is drawn: around the value, and at most `EDGE` beyond 0 and 100%; without one they
    are the value.
    """
    value = row["value"]
    if row["low"] is None or row["high"] is None:
        return value, value
    return min(value, max(row["low"], -EDGE)), max(value, min(row["high"], 1 + EDGE))


def zero_to(high: float | int) -> alt.Scale:
    """From 0 to the labelled value at or above `high`."""
    return alt.Scale(domain=[0, high or 1], nice=4)


def label_room(labels: Sequence[str]) -> int:
    """Pixels that row labels take."""
    return math.ceil(min(LABEL_LIMIT, 6.6 * max(len(name) for name in labels)) + 14)


def panel_width(width: int, columns: int, labels: Sequence[str]) -> int:
    """Width that the longest row label leaves for each of the panels."""
    return max(90, (width - label_room(labels)) // columns - GAP)


def legend_columns(labels: Sequence[str], room: int) -> int:
    """In how many columns a legend with these labels fits into `room` pixels; at least one."""
    for columns in range(len(labels), 1, -1):
        longest = [max(len(label) for label in labels[start::columns]) for start in range(columns)]
        if sum(6 * length + 32 for length in longest) <= room:
            # As many in each row.
            return math.ceil(len(labels) / math.ceil(len(labels) / columns))
    return 1
