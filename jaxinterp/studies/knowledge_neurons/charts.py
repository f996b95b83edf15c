"""The study's figures, as pure functions of its results; altair only. A figure with nothing to show is None."""

from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np

from jaxinterp.metrics.results import has_interval, is_known
from jaxinterp.report import style
from jaxinterp.report.charts import Chart
from jaxinterp.studies.knowledge_neurons.results import Results
from jaxinterp.studies.knowledge_neurons.sets import PROTOCOLS
from jaxinterp.studies.knowledge_neurons.tables import SETS, protocol_title, relation_title

MEAN = "mean over relations"
# Label of a bar -> method, metric when switched off, metric when doubled, colour.
BARS = {
    "own neurons": ("attribution", "suppressability", "amplification", style.BLUE),
    "own, by activation (baseline)": ("activation", "suppressability", "amplification", style.LIGHT_BLUE),
    **{
        label: ("attribution", f"control_drop_{kind}", f"control_amplification_{kind}", colour)
        for label, kind, colour in (
            ("another fact's, same relation", "relation", style.DARK_ORANGE),
            ("same subject", "subject", style.ORANGE),
            ("neither", "other", style.LIGHT_ORANGE),
        )
    },
    "random neurons": ("attribution", "random_drop", "random_amplification", style.GREY),
}
PANELS = ("switched off: share of P lost", "doubled: share of P gained")
METHODS = {"attribution": "integrated gradients", "activation": "activation (baseline)"}  # -> label
USES = ("facts of one relation", "facts of several relations")
NAMED = 5  # neurons that the map names
LISTED = 8  # facts that a neuron's tooltip names
LABEL_LIMIT = 260  # pixels; relations with their titles are longer than models' names


def effect_charts(results: Results) -> dict[str, Chart | None]:
    """`effect_bars` of every protocol and set, by the names of their files."""
    return {
        f"effects_{protocol}_{name}": effect_bars(results, protocol, name) for protocol in PROTOCOLS for name in SETS
    }


def neuron_charts(results: Results, neurons: Mapping[str, Sequence[Mapping]]) -> dict[str, Chart | None]:
    """`layer_shares`, and `neuron_map` of every protocol, whose neurons are as `described_neurons` gives them."""
    maps = {f"neurons_{protocol}": neuron_map(results, protocol, neurons[protocol]) for protocol in PROTOCOLS}
    return {"layers": layer_shares(results), **maps}


def effect_bars(results: Results, protocol: str, set_name: str) -> Chart | None:
    """The effects of switching off and doubling, relation by relation, of own neurons, the baseline's, other facts' of
    every kind, and random ones. Kinds that no fact has are left out; one that a relation lacks stands as a dash.

    Args:
      results: the study's.
      protocol: "paper" or "fixed_k".
      set_name: "all" or "known".
    """
    rows = []
    for label, (method, *metrics, _) in BARS.items():
        effects = results.effects[protocol, set_name, method]
        for relation, of_relation in {MEAN: effects.overall, **effects.by_relation}.items():
            title = relation if relation == MEAN else relation_title(relation)
            for panel, metric in zip(PANELS, metrics, strict=True):
                if is_known(of_relation.get(metric)):
                    rows.append({"relation": title, "bar": label, "panel": panel, **of_relation[metric]})
    if not rows:
        return None
    order = list(dict.fromkeys(row["relation"] for row in rows))
    # The labels stand beside the first panel alone.
    room = int((style.WIDTH - min(LABEL_LIMIT, 6.2 * max(map(len, order)))) / 2) - style.GAP
    panels = [_effect_panel([row for row in rows if row["panel"] == panel], order, panel, room) for panel in PANELS]
    effects = results.effects[protocol, set_name, "attribution"]
    return _titled(
        alt.hconcat(*panels, spacing=style.GAP),
        f"What a fact's neurons do to its answer's probability: {protocol_title(results, protocol)}",
        f"{results.model['name']}, {SETS[set_name]}: {effects.facts:,} facts, {effects.queries:,} queries, "
        f"{len(order) - 1} relations",
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
        for name in ("value", "low", "high") if has_interval(row) else ("value",):
            row[f"{name}_at"] = min(max(row[name], low), high)
        row["beyond"] = "" if low <= row["value"] <= high else f"{row['value']:,.0%}"
        row["ink"] = style.INK if BARS[row["bar"]][-1] in (style.LIGHT_BLUE, style.LIGHT_ORANGE) else "white"
    labels = [label for label in BARS if any(row["bar"] == label for row in rows)]
    axis = alt.Axis(labelLimit=LABEL_LIMIT, tickSize=0, domain=False, labels=first)
    paddings = alt.Scale(paddingInner=0.25, paddingOuter=0.1)
    places = {
        "y": alt.Y("relation:N", title=None, sort=order, axis=axis, scale=paddings),
        "yOffset": alt.YOffset("bar:N", sort=labels),
    }
    base = alt.Chart(alt.Data(values=rows)).encode(**places)
    scale = alt.Scale(domain=[low, high], nice=False, clamp=True)
    axis = alt.Axis(format="~%", domain=False, tickCount=5, labelFlush=False)
    shares = [alt.Tooltip(f"{name}:Q", format=".2%") for name in ("value", "low", "high")]
    bars = base.mark_bar().encode(
        x=alt.X("value_at:Q", title=title, scale=scale, axis=axis),
        color=_colour("bar", {label: BARS[label][-1] for label in labels}, symbolType="square"),
        tooltip=["relation:N", "bar:N", *shares, alt.Tooltip("n:Q", title="facts")],
    )
    with_ends = base.transform_filter("isValid(datum.low)")
    intervals = with_ends.mark_rule(strokeWidth=1).encode(x=alt.X("low_at:Q", title=title), x2="high_at:Q")
    beyond = [
        base.mark_text(align=align, dx=dx, fontSize=8, fontWeight="bold")
        .transform_filter(inside)
        .encode(x=alt.X("value_at:Q", title=title), text="beyond:N", color=alt.Color("ink:N", scale=None))
        for align, dx, inside in (("right", -2, alt.datum.value > 0), ("left", 2, alt.datum.value < 0))
    ]
    there = {(row["relation"], row["bar"]) for row in rows}
    missing = [{"relation": r, "bar": label} for r in order for label in labels if (r, label) not in there]
    dashes = alt.Chart(alt.Data(values=missing)).mark_text(align="left", dx=3, fontSize=8)
    dashes = dashes.encode(x=alt.XDatum(0), text=alt.value("–"), **places)
    layers = [bars, intervals, *beyond, *([dashes] if missing else [])]
    return alt.layer(*layers).properties(width=width, height=alt.Step(7, **{"for": "offset"}))


def layer_shares(results: Results) -> Chart | None:
    """How the neurons spread over layers, a panel for each protocol, by both methods."""
    most = max(share for one in results.neurons.values() for share in one.layers)
    y = alt.Y("share:Q", title="share of all selected neurons", scale=style.zero_to(most))
    panels = []
    for protocol in PROTOCOLS:
        rows = [
            {"method": label, "layer": layer, "share": share}
            for method, label in METHODS.items()
            if results.neurons[protocol, method].distinct
            for layer, share in enumerate(results.neurons[protocol, method].layers)
        ]
        facts = results.neurons[protocol, "attribution"].facts
        panel = alt.Chart(alt.Data(values=rows), title=f"{protocol_title(results, protocol)}, {facts:,} facts")
        panel = panel.mark_bar().encode(
            x=alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            xOffset=alt.XOffset("method:N", sort=list(METHODS.values())),
            y=y.axis(format="~%", tickCount=5),
            color=_colour("method", dict(zip(METHODS.values(), (style.BLUE, style.LIGHT_BLUE), strict=True))),
            tooltip=["method:N", "layer:O", alt.Tooltip("share:Q", format=".2%")],
        )
        panels += [panel.properties(width=style.WIDTH // 2 - 80, height=200)] if rows else []
    if not panels:
        return None
    subtitle = f"{results.model['name']}, {results.facts['facts']:,} facts; layers are counted from 0"
    return _titled(alt.hconcat(*panels, spacing=24), "In which layers the neurons are", subtitle)


def neuron_map(results: Results, protocol: str, neurons: Sequence[Mapping]) -> Chart | None:
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
            "uses": USES[len(one["relations"]) > 1],
            "relations": _listed([f"{relation_title(name)} {n}" for name, n in one["relations"].items()], 4),
            "serves": _listed(one["serves"], LISTED),
            "promotes": ", ".join(map(repr, one["promotes"])),
        }
        for one in neurons
    ]
    most = max(row["facts"] for row in rows)
    n_layers, d_mlp = results.model["n_layers"], results.model["d_mlp"]
    x = alt.X("index:Q", title="neuron of the layer", scale=alt.Scale(domain=[0, d_mlp], nice=False))
    y = alt.Y("layer:Q", title="layer", scale=alt.Scale(domain=[n_layers - 0.5, -0.5], nice=False))
    legend = alt.Legend(values=sorted({1, max(1, most // 4), most}), format="d")
    sizes = alt.Scale(domain=[0, most], range=[0, 500])
    places = {
        "x": x.axis(format="d"),
        "y": y.axis(values=list(range(0, n_layers, 1 if n_layers <= 12 else 2)), format="d", grid=True),
    }
    points = alt.Chart(alt.Data(values=rows)).mark_circle(opacity=0.6)
    points = points.encode(
        **places,
        size=alt.Size("facts:Q", title="facts", scale=sizes, legend=legend),
        color=_colour("uses", dict(zip(USES, (style.BLUE, style.VERMILLION), strict=True)), "serves", symbolOpacity=1),
        tooltip=["neuron:N", "facts:Q", *(f"{name}:N" for name in ("relations", "serves", "promotes"))],
    )
    # Names stand on the side where there is room.
    left, right = ([row for row in rows[:NAMED] if (row["index"] < 0.9 * d_mlp) == room] for room in (True, False))
    names = [
        alt.Chart(alt.Data(values=side))
        .mark_text(align=align, dx=dx, fontWeight=600, **halo)
        .encode(**places, text="neuron:N")
        for halo in ({"stroke": "white", "strokeWidth": 4, "strokeOpacity": 0.85}, {})
        for side, align, dx in ((left, "left", 13), (right, "right", -13))
        if side
    ]
    chart = alt.layer(points, alt.layer(*names)).properties(width=style.WIDTH - 60, height=max(160, 15 * n_layers))
    return _titled(
        chart,
        f"Knowledge neurons and how many facts each serves: {protocol_title(results, protocol)}",
        f"{results.model['name']}, {results.neurons[protocol, 'attribution'].facts:,} facts; {len(rows):,} of "
        f"{n_layers * d_mlp:,} neurons are used, the {min(NAMED, len(rows))} of most facts are named layer.neuron",
    )


def _colour(field: str, colours: Mapping[str, str], title: str | None = None, **legend: object) -> alt.Color:
    """Colours by label, in this order."""
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    return alt.Color(f"{field}:N", title=title, sort=list(colours), scale=scale, legend=alt.Legend(**legend))


def _listed(names: Sequence[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return "; ".join(names[:most]) + more


def _titled(chart: Chart, title: str, *lines: str) -> Chart:
    sizes = {"fontSize": 15, "subtitleFontSize": 12, "subtitleColor": style.INK, "anchor": "start", "offset": 14}
    return chart.properties(title=alt.TitleParams(title, subtitle=list(lines), **sizes), config=style.chart_config())
