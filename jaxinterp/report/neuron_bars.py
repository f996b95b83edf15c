"""The chart of one answer's neurons."""

from collections.abc import Mapping, Sequence

import altair as alt

from jaxinterp.report import style

_EDITS = {
    "untouched": ("untouched", style.GREY),
    "suppressed": ("own neurons off", style.BLUE),
    "amplified": ("own neurons doubled", style.GREEN),
    "random": ("random neurons off", style.AMBER),
}


def neuron_bars(
    neurons: Sequence[Mapping], probabilities: Mapping[str, float], title: str, *, width: int = 640
) -> alt.HConcatChart:
    """Bars of the scores of neurons, and beside them of an answer's probability under edits of these neurons.

    Args:
      neurons: fields of `jaxinterp.api.attributed.Neuron`, in the order to be shown.
      probabilities: edit -> probability; the edits are "untouched", "suppressed", "amplified" and "random".
      title: of the chart.
      width: of the whole chart, pixels, about.
    """
    rows = [
        {
            **neuron,
            "neuron": f"{neuron['layer']}.{neuron['neuron']}",
            "promotes": ", ".join(map(repr, neuron["promotes"])),
        }
        for neuron in neurons
    ]
    edits = [{"edit": _EDITS[name][0], "P": value, "text": f"{value:.1%}"} for name, value in probabilities.items()]
    labels, colours = zip(*(_EDITS[name] for name in probabilities), strict=True)
    room = (width - 190) // 2
    axis = alt.Axis(title="layer.neuron", tickSize=0, domain=False)
    scores = (
        alt.Chart(alt.Data(values=rows), title="Neurons by score")
        .mark_bar(color=style.BLUE, height={"band": 0.7})
        .encode(
            x=alt.X("score:Q", title="score, in units of probability", axis=alt.Axis(tickCount=4)),
            y=alt.Y("neuron:N", sort=[row["neuron"] for row in rows], axis=axis),
            tooltip=[
                "neuron:N",
                alt.Tooltip("score:Q", format=".4f"),
                alt.Tooltip("share:Q", title="share of positive scores", format=".1%"),
                alt.Tooltip("activation:Q", format=".3f"),
                "promotes:N",
            ],
        )
        .properties(width=room, height=18 * len(rows))
    )
    base = alt.Chart(alt.Data(values=edits), title="Probability of the answer").encode(
        y=alt.Y("edit:N", sort=list(labels), axis=alt.Axis(title=None, tickSize=0, domain=False))
    )
    # Room for the figure behind a bar of 100 %.
    scale = alt.Scale(domain=[0, 1.2], nice=False)
    at = alt.X("P:Q", title="probability", scale=scale, axis=alt.Axis(format="~%", values=[0, 0.25, 0.5, 0.75, 1]))
    colour = alt.Color("edit:N", legend=None, scale=alt.Scale(domain=labels, range=colours))
    bars = base.mark_bar(height={"band": 0.7}).encode(
        x=at, color=colour, tooltip=["edit:N", alt.Tooltip("P:Q", format=".4f")]
    )
    figures = base.mark_text(align="left", dx=4).encode(x=at, text="text:N")
    whole = alt.layer(bars, figures).properties(width=room, height=26 * len(edits))
    return alt.hconcat(scores, whole, title=title, spacing=style.GAP).configure(**style.chart_config())
