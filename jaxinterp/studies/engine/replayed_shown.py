"""Rows, tables and the chart of searches that were repeated over a table of designs."""

from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np
from jaxtyping import Float
from rich.table import Table as Printed

from jaxinterp.report import style
from jaxinterp.report.charts import Chart, finished
from jaxinterp.studies.engine.charts import Row, metric_title
from jaxinterp.studies.engine.replayed import Found, Table, gained
from jaxinterp.studies.engine.tables import figure
from jaxinterp.studies.statistics import Effect, effect_of

HEIGHT = "hypervolume, by a seed that it has not seen"
COLOURS = (style.VERMILLION, style.AMBER, style.BLUE, style.GREY)


def search_rows(found: Mapping[str, Found], table: Table) -> list[Row]:
    """A row for each search and number of trials: what it found, with 95 % intervals over seeds.

    Hypervolume is in the units of both metrics; "best" is the design that is best by the second metric alone.
    """
    rows: list[Row] = []
    for name, of in found.items():
        for trial in range(of.area_SNK.shape[1]):
            row: Row = {"search": name, "trials": trial + 1, "seeds": len(table.config.seeds)}
            row |= _interval("hypervolume", effect_of(of.area_SNK[:, trial], 0.95))
            for number, (metric, way) in enumerate(table.config.front.items()):
                sign = 1 if way == "maximize" else -1
                row |= _interval(f"best: {metric}", effect_of(sign * of.best_SNK2[:, trial, :, number], 0.95))
            rows.append(row)
    return rows


def gain_rows(found: Mapping[str, Found], table: Table, first: str) -> list[Row]:
    """What a search has found after its last trial above what each other one has, paired by seed."""
    rows: list[Row] = []
    for other in (name for name in found if name != first):
        pairs: list[tuple[str, Float[np.ndarray, "S K"], Float[np.ndarray, "S K"]]] = [
            ("hypervolume", found[first].area_SNK[:, -1], found[other].area_SNK[:, -1])
        ]
        for number, (metric, way) in enumerate(table.config.front.items()):
            sign = 1 if way == "maximize" else -1
            ends = (sign * found[name].best_SNK2[:, -1, :, number] for name in (first, other))
            pairs.append((f"best: {metric}", *ends))
        for what, one, two in pairs:
            effect = gained(one, two)
            row: Row = {"search": first, "against": other, "of": what, "seeds": effect.n_seeds}
            rows.append(row | _interval("change", effect) | {"p": effect.p})
    return rows


def searches_printed(rows: Sequence[Row], gains: Sequence[Row]) -> list[Printed]:
    """What each search has found after its last trial, and the changes between them, as printed tables."""
    last = {str(row["search"]): row for row in rows}
    names = [
        name for name in rows[0] if name not in ("search", "trials", "seeds") and not name.endswith((" low", " high"))
    ]
    titles = [_title(name) for name in names]
    found = Printed("search", "trials", *titles, title="After the last trial, means and 95 % intervals over seeds")
    for name, row in last.items():
        found.add_row(name, str(row["trials"]), *(_words(row, column) for column in names))
    changes = Printed("search", "against", "of", "change", "p", title="Differences, paired by seed")
    for row in gains:
        changes.add_row(
            str(row["search"]), str(row["against"]), _title(str(row["of"])), _words(row, "change"), f"{row['p']:.2g}"
        )
    return [found, changes]


def _title(name: str) -> str:
    """A column in words."""
    first, _, metric = name.partition(": ")
    return f"{first}: {metric_title(metric)}" if metric else first


def search_chart(rows: Sequence[Row], whole: float, table: Table) -> Chart:
    """Hypervolume by trials: a line for each search, and all that there is to find. Intervals are of the level that all
    searches share, and far wider than what lies between them: see the table of differences.
    """
    names = [*dict.fromkeys(str(row["search"]) for row in rows)]
    colour = alt.Color(
        "search:N", sort=names, scale=alt.Scale(domain=names, range=list(COLOURS[: len(names)])), title=None
    )
    data = [{"search": row["search"], "trials": row["trials"], "area": row["hypervolume"]} for row in rows]
    x = alt.X("trials:Q", title="designs tried", axis=alt.Axis(tickMinStep=1, format="d", grid=False))
    y = alt.Y("area:Q", title=HEIGHT, scale=alt.Scale(zero=False))
    base = alt.Chart(alt.Data(values=data)).encode(x=x, color=colour)
    lines = base.mark_line(strokeWidth=2).encode(
        y=y, tooltip=["search:N", "trials:Q", alt.Tooltip("area:Q", format=".4g")]
    )
    most = alt.Chart(alt.Data(values=[{"area": whole}])).mark_rule(strokeDash=[4, 3]).encode(y="area:Q")
    chart = alt.layer(lines, most).properties(width=style.WIDTH // 2, height=280)
    axes = " and ".join(metric_title(metric) for metric in table.config.front)
    return finished(
        chart, f"Front of {axes} that searches find, by trials; dashed: with all {len(table.points)} designs tried"
    )


def _interval(name: str, effect: Effect) -> Row:
    known = effect.n_seeds > 1 and np.isfinite(effect.half)
    low, high = (effect.low, effect.high) if known else (None, None)
    return {name: effect.value, f"{name} low": low, f"{name} high": high}


def _words(row: Row, name: str) -> str:
    value, low, high = (row[column] for column in (name, f"{name} low", f"{name} high"))
    return figure(value) if low is None else f"{figure(value)} [{figure(low)}, {figure(high)}]"
