"""What an edit reaches against what it leaves alone, and what is left after many."""

import math

import altair as alt

from jaxinterp.metrics.intervals import Estimate
from jaxinterp.report import style
from jaxinterp.report.charts import Chart, finished
from jaxinterp.studies.editing.results import Results
from jaxinterp.studies.editing.ways import WAYS


def frontier(results: Results, *, width: int = style.WIDTH) -> Chart | None:
    """Each way's paraphrase score against its neighbourhood score and what is kept of the relation and the subject."""
    kinds = {
        "neighbourhood_score": "neighbourhood score",
        "same_relation_kept": "same relation kept",
        "same_subject_kept": "same subject kept",
    }
    rows = [
        {
            "way": WAYS[way].title,
            "kind": title,
            "x": table.rows["paraphrase_score"].value,
            "y": table.rows[name].value,
            **_interval(table.rows[name]),
        }
        for way, table in results.single.items()
        for name, title in kinds.items()
        if way != "no_op" and name in table.rows and table.rows[name].n and table.rows["paraphrase_score"].n
    ]
    if not rows:
        return None
    ways = list(dict.fromkeys(row["way"] for row in rows))
    base = alt.Chart().encode(
        x=alt.X("x:Q", title="paraphrase score, %", scale=alt.Scale(domain=[0, 100])),
        y=alt.Y("y:Q", title="%", scale=alt.Scale(domain=[0, 100])),
        color=alt.Color("way:N", sort=ways, title=None, legend=alt.Legend(orient="bottom", columns=3, labelLimit=260)),
        tooltip=["way:N", *(alt.Tooltip(f"{name}:Q", format=".1f") for name in ("x", "y", "low", "high"))],
    )
    points = base.mark_point(filled=True, size=90).encode(shape=alt.Shape("way:N", sort=ways, legend=None))
    bars = base.mark_rule(clip=True).encode(y="low:Q", y2="high:Q")
    panel = style.panel_width(width, len(kinds), ["100"])
    chart = (
        alt.layer(bars, points, data=alt.Data(values=rows))
        .properties(width=panel, height=panel)
        .facet(column=alt.Column("kind:N", title=None, sort=list(kinds.values())))
    )
    return finished(chart, "What an edit reaches, against what it should leave alone, for each way to edit.")


def _interval(found: Estimate) -> dict[str, float]:
    """Its ends; where there is none, the value itself."""
    low, high = (found.value if math.isnan(end) else end for end in (found.low, found.high))
    return {"low": low, "high": high}


def sequences(results: Results, *, width: int = style.WIDTH) -> Chart | None:
    """Recall of edits, what is kept of others, and perplexity, by the number of edits."""
    titles = {
        "recall": "edits recalled, %",
        "others_kept": "others kept, %",
        "perplexity_ratio": "perplexity, factor",
    }
    rows = [
        {"way": WAYS[way].title, "edits": point["edits"], "kind": title, "value": min(point[name], 1e3)}
        for way, points in results.sequence.items()
        for point in points
        for name, title in titles.items()
        if point["edits"] and name in point
    ]
    if not rows:
        return None
    ways = list(dict.fromkeys(row["way"] for row in rows))
    panel = style.panel_width(width, len(titles), ["100"])
    charts = []
    for title in titles.values():
        scale = alt.Scale(type="log") if "factor" in title else alt.Scale(domain=[0, 100])
        own = [row for row in rows if row["kind"] == title]
        charts.append(
            alt.Chart(alt.Data(values=own))
            .mark_line(point=True)
            .encode(
                x=alt.X("edits:Q", title="edits", scale=alt.Scale(type="log")),
                y=alt.Y("value:Q", title=title, scale=scale),
                color=alt.Color(
                    "way:N", sort=ways, title=None, legend=alt.Legend(orient="bottom", columns=4, labelLimit=260)
                ),
                tooltip=["way:N", "edits:Q", alt.Tooltip("value:Q", format=".3f")],
            )
            .properties(width=panel, height=panel)
        )
    return finished(alt.hconcat(*charts), "What is left after many edits, for each way to edit.")
