"""The study's figures, as pure functions of its results; altair only.

`found` is what results.json holds, see `knowledge_neurons.study`. A figure with nothing to show is None.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import altair as alt
import numpy as np
import vl_convert

from jaxinterp.base.files import write_text
from jaxinterp.metrics.results import has_interval, is_known
from jaxinterp.report import style
from jaxinterp.report.charts import Chart, save_chart
from jaxinterp.studies.knowledge_neurons.edits import PROTOCOLS
from jaxinterp.studies.knowledge_neurons.tables import SETS, protocol_title, relation_title

MEAN = "mean over relations"
# Label of a bar -> method, metric when switched off, metric when doubled, colour.
BARS = {
    "own neurons": ("attribution", "suppressability", "amplification", style.BLUE),
    "own, by activation (baseline)": ("activation", "suppressability", "amplification", style.LIGHT_BLUE),
    "another fact's, same relation": (
        *("attribution", "control_drop_relation", "control_amplification_relation"),
        style.DARK_ORANGE,
    ),
    "same subject": ("attribution", "control_drop_subject", "control_amplification_subject", style.ORANGE),
    "neither": ("attribution", "control_drop_other", "control_amplification_other", style.LIGHT_ORANGE),
    "random neurons": ("attribution", "random_drop", "random_amplification", style.GREY),
}
PANELS = ("switched off: share of P lost", "doubled: share of P gained")
METHODS = {
    "attribution": ("integrated gradients", style.BLUE),
    "activation": ("activation (baseline)", style.LIGHT_BLUE),
}
USES = {"one": ("facts of one relation", style.BLUE), "several": ("facts of several relations", style.VERMILLION)}
NAMED = 5  # neurons that the map names
LISTED = 8  # facts that a neuron's tooltip names
LABEL_LIMIT = 260  # pixels; relations with their titles are longer than models' names


def write_charts(found: Mapping, neurons: Mapping[str, Sequence[Mapping]], folder: Path) -> list[Path]:
    """Writes every figure as .svg, .png and .html, which has the tooltips and needs no network.

    Args:
      found: see the module.
      neurons: of each protocol, as `described_neurons` gives them.
      folder: where to.
    """
    charts: dict[str, Chart | None] = {"layers": layer_shares(found)}
    for protocol in PROTOCOLS:
        for name in SETS:
            charts[f"effects_{protocol}_{name}"] = effect_bars(found, protocol, name)
        charts[f"neurons_{protocol}"] = neuron_map(found, protocol, neurons[protocol])
    paths = []
    for name, chart in charts.items():
        if chart is not None:
            paths += save_chart(chart, folder, name)
            page = vl_convert.vegalite_to_html(chart.to_dict(), bundle=True)
            write_text(folder / f"{name}.html", page)
            paths.append(folder / f"{name}.html")
    return paths


def effect_bars(found: Mapping, protocol: str, set_name: str, *, width: int = style.WIDTH) -> Chart | None:
    """What switching off and doubling do, relation by relation, to own neurons, the baseline's, other facts' of every
    kind, and random ones. Kinds that no fact has are left out; one that a relation lacks stands as a dash.

    Args:
      found: see the module.
      protocol: "paper" or "fixed_k".
      set_name: "all" or "known".
      width: of the whole chart, pixels, about.
    """
    part = found["protocols"][protocol]["sets"][set_name]
    rows = []
    for label, (method, off, doubled, _) in BARS.items():
        effects = part[method]
        named = {MEAN: effects["overall"], **effects["by_relation"]}
        for relation, metrics in named.items():
            for panel, metric in zip(PANELS, (off, doubled), strict=True):
                value = metrics.get(metric)
                if is_known(value):
                    title = relation if relation == MEAN else relation_title(relation)
                    rows.append({"relation": title, "bar": label, "panel": panel, **value})
    if not rows:
        return None
    order = list(dict.fromkeys(row["relation"] for row in rows))
    # The labels stand beside the first panel alone.
    room = int((width - min(LABEL_LIMIT, 6.2 * max(map(len, order)))) / 2) - style.GAP
    panels = [_effect_panel([row for row in rows if row["panel"] == panel], order, panel, room) for panel in PANELS]
    counts = ", ".join(f"{part['attribution'][name]:,} {name}" for name in ("facts", "queries"))
    return _titled(
        alt.hconcat(*panels, spacing=style.GAP),
        f"What a fact's neurons do to its answer's probability: {protocol_title(found, protocol)}",
        f"{found['model']['name']}, {SETS[set_name]}: {counts}, {len(order) - 1} relations",
        "lines are 95% intervals over relations (over facts inside one); C is the largest of the three bars of "
        "other facts; a bar with a number on it is longer than its panel",
    )


def _effect_panel(rows: list[dict], order: list[str], title: str, width: int) -> alt.LayerChart:
    first = title == PANELS[0]
    values = [row["value"] for row in rows]
    low = min(0.0, *values, *(row["low"] for row in rows if row["relation"] == MEAN and has_interval(row)))
    # Where answers are improbable a doubled neuron can multiply their probability many times over. One such relation
    # would flatten the others, so bars beyond twice the ninth decile end at the edge, and their value stands there.
    high = max(1.0 if first else 0.1, min(max(values), 2 * float(np.quantile(values, 0.9))))
    low = max(low, -max(1.0, high))
    for row in rows:
        row["shown"] = min(max(row["value"], low), high)
        if has_interval(row):
            row["low_shown"], row["high_shown"] = (min(max(row[name], low), high) for name in ("low", "high"))
        row["beyond"] = "" if low <= row["value"] <= high else f"{row['value']:,.0%}"
        row["ink"] = style.INK if BARS[row["bar"]][-1] in (style.LIGHT_BLUE, style.LIGHT_ORANGE) else "white"
    labels = [label for label in BARS if any(row["bar"] == label for row in rows)]
    places = {
        "y": alt.Y(
            "relation:N",
            title=None,
            sort=order,
            axis=alt.Axis(labelLimit=LABEL_LIMIT, tickSize=0, domain=False, labels=first),
            scale=alt.Scale(paddingInner=0.25, paddingOuter=0.1),
        ),
        "yOffset": alt.YOffset("bar:N", sort=labels),
    }
    base = alt.Chart(alt.Data(values=rows)).encode(**places)
    scale = alt.Scale(domain=[low, high], nice=False, clamp=True)
    x = alt.X(
        "shown:Q", title=title, scale=scale, axis=alt.Axis(format="~%", domain=False, tickCount=5, labelFlush=False)
    )
    colours = alt.Scale(domain=labels, range=[BARS[label][-1] for label in labels])
    shares = [alt.Tooltip(f"{name}:Q", format=".2%") for name in ("value", "low", "high")]
    bars = base.mark_bar().encode(
        x=x,
        color=alt.Color("bar:N", title=None, sort=labels, scale=colours, legend=alt.Legend(symbolType="square")),
        tooltip=["relation:N", "bar:N", *shares, alt.Tooltip("n:Q", title="facts")],
    )
    with_ends = base.transform_filter("isValid(datum.low)")
    intervals = with_ends.mark_rule(strokeWidth=1).encode(x=alt.X("low_shown:Q", title=title), x2="high_shown:Q")
    beyond = [
        base.mark_text(align=align, dx=dx, fontSize=8, fontWeight="bold")
        .transform_filter(inside)
        .encode(x=alt.X("shown:Q", title=title), text="beyond:N", color=alt.Color("ink:N", scale=None))
        for align, dx, inside in (("right", -2, alt.datum.value > 0), ("left", 2, alt.datum.value < 0))
    ]
    there = {(row["relation"], row["bar"]) for row in rows}
    missing = [{"relation": r, "bar": label} for r in order for label in labels if (r, label) not in there]
    dashes = (
        alt.Chart(alt.Data(values=missing))
        .mark_text(align="left", dx=3, fontSize=8)
        .encode(x=alt.XDatum(0), text=alt.value("–"), **places)
    )
    layers = [bars, intervals, *beyond, *([dashes] if missing else [])]
    return alt.layer(*layers).properties(width=width, height=alt.Step(7, **{"for": "offset"}))


def layer_shares(found: Mapping, *, width: int = style.WIDTH) -> Chart | None:
    """How the neurons spread over layers, a panel a protocol, by both methods."""
    panels = []
    most = max(
        share
        for protocol in PROTOCOLS
        for m in METHODS
        for share in found["protocols"][protocol]["neurons"][m]["layers"]
    )
    for protocol in PROTOCOLS:
        rows = []
        for method, (label, _) in METHODS.items():
            one = found["protocols"][protocol]["neurons"][method]
            if one["distinct"]:
                rows += [{"method": label, "layer": layer, "share": share} for layer, share in enumerate(one["layers"])]
        if not rows:
            continue
        facts = found["protocols"][protocol]["neurons"]["attribution"]["facts"]
        labels = [label for label, _ in METHODS.values()]
        panels.append(
            alt.Chart(alt.Data(values=rows), title=f"{protocol_title(found, protocol)}, {facts:,} facts")
            .mark_bar()
            .encode(
                x=alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
                xOffset=alt.XOffset("method:N", sort=labels),
                y=alt.Y(
                    "share:Q",
                    title="share of all selected neurons",
                    axis=alt.Axis(format="~%", tickCount=5),
                    scale=style.zero_to(most),
                ),
                color=alt.Color(
                    "method:N",
                    title=None,
                    sort=labels,
                    scale=alt.Scale(domain=labels, range=[colour for _, colour in METHODS.values()]),
                ),
                tooltip=["method:N", "layer:O", alt.Tooltip("share:Q", format=".2%")],
            )
            .properties(width=width // 2 - 80, height=200)
        )
    if not panels:
        return None
    subtitle = f"{found['model']['name']}, {found['facts']['facts']:,} facts; layers are counted from 0"
    return _titled(alt.hconcat(*panels, spacing=24), "In which layers the neurons are", subtitle)


def neuron_map(found: Mapping, protocol: str, neurons: Sequence[Mapping], *, width: int = style.WIDTH) -> Chart | None:
    """Every neuron that some fact uses, by layer and index; its area is the number of facts.

    The tooltip names the neuron, the facts that it serves and what its value vector promotes.
    """
    if not neurons:
        return None
    rows = [
        {
            "layer": one["layer"],
            "index": one["neuron"],
            "neuron": f"{one['layer']}.{one['neuron']}",
            "facts": one["facts"],
            "uses": USES["one" if len(one["relations"]) == 1 else "several"][0],
            "relations": _listed([f"{relation_title(name)} {n}" for name, n in one["relations"].items()], 4),
            "serves": _listed(one["serves"], LISTED),
            "promotes": ", ".join(map(repr, one["promotes"])),
        }
        for one in neurons
    ]
    labels = [label for label, _ in USES.values()]
    most = max(row["facts"] for row in rows)
    n_layers, d_mlp = found["model"]["n_layers"], found["model"]["d_mlp"]
    x = alt.X(
        "index:Q",
        title="neuron of the layer",
        axis=alt.Axis(format="d"),
        scale=alt.Scale(domain=[0, d_mlp], nice=False),
    )
    y = alt.Y(
        "layer:Q",
        title="layer",
        scale=alt.Scale(domain=[n_layers - 0.5, -0.5], nice=False),
        axis=alt.Axis(values=list(range(0, n_layers, 1 if n_layers <= 12 else 2)), format="d", grid=True),
    )
    points = (
        alt.Chart(alt.Data(values=rows))
        .mark_circle(opacity=0.6)
        .encode(
            x=x,
            y=y,
            size=alt.Size(
                "facts:Q",
                title="facts",
                scale=alt.Scale(domain=[0, most], range=[0, 500]),
                legend=alt.Legend(values=sorted({1, max(1, most // 4), most}), format="d"),
            ),
            color=alt.Color(
                "uses:N",
                title="serves",
                sort=labels,
                scale=alt.Scale(domain=labels, range=[colour for _, colour in USES.values()]),
                legend=alt.Legend(symbolOpacity=1),
            ),
            tooltip=["neuron:N", "facts:Q", *(f"{name}:N" for name in ("relations", "serves", "promotes"))],
        )
    )
    # Names stand on the side where there is room.
    names = alt.layer(
        *(
            alt.Chart(alt.Data(values=side))
            .mark_text(align=align, dx=dx, fontWeight=600, **halo)
            .encode(x=x, y=y, text="neuron:N")
            for halo in ({"stroke": "white", "strokeWidth": 4, "strokeOpacity": 0.85}, {})
            for side, align, dx in (
                ([row for row in rows[:NAMED] if row["index"] < 0.9 * d_mlp], "left", 13),
                ([row for row in rows[:NAMED] if row["index"] >= 0.9 * d_mlp], "right", -13),
            )
            if side
        )
    )
    chart = alt.layer(points, names).properties(width=width - 60, height=max(160, 15 * n_layers))
    facts = found["protocols"][protocol]["neurons"]["attribution"]["facts"]
    return _titled(
        chart,
        f"Knowledge neurons and how many facts each serves: {protocol_title(found, protocol)}",
        f"{found['model']['name']}, {facts:,} facts; {len(rows):,} of {n_layers * d_mlp:,} neurons are used, the "
        f"{min(NAMED, len(rows))} of most facts are named layer.neuron",
    )


def _listed(names: Sequence[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return "; ".join(names[:most]) + more


def _titled(chart: Chart, title: str, *lines: str) -> Chart:
    words = alt.TitleParams(
        title,
        subtitle=list(lines),
        fontSize=15,
        subtitleFontSize=12,
        subtitleColor=style.INK,
        anchor="start",
        offset=14,
    )
    return chart.properties(title=words, config=style.chart_config())
