"""Charts of training and of neurons, as pure functions of results, and their files; altair only, readable by any eye.

`results` is what experiments write to results.json: {"models": {name: model}}, and a model holds "sets", "by_relation",
"neurons" and "layers"; every number with an interval is {"value", "low", "high", "n"}. Numbers that a run did not
measure are left out of its charts, and a chart with nothing to show is None.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import altair as alt
import vl_convert

from jaxinterp.base.files import write_bytes
from jaxinterp.base.tables import printable
from jaxinterp.report import style

Results = Mapping
Chart = alt.Chart | alt.FacetChart | alt.ConcatChart | alt.HConcatChart | alt.VConcatChart | alt.LayerChart

# Column of a history -> title of its panel, title and format of its axis.
_CURVES = {
    "lm": ("Language modelling", "cross-entropy, nats per token", ""),
    "gradient_norm": ("Gradient norm", "norm, before clipping", ""),
    "suppression": ("Suppression term", "P(own off) / P", ""),
    "control": ("Control term", "P lost to another's", ""),
    "concentration": ("Concentration term", "attribution elsewhere", ""),
    "probability": ("P of the batch's answers, untouched", "mean P", ".0%"),
    "suppressability": ("Suppressability S of the batch", "share of P", ".0%"),
    "control_drop": ("Control drop C of the batch, the largest", "share of P", ".0%"),
    "control_drop_relation": ("C_relation of the batch", "share of P", ".0%"),
    "control_drop_subject": ("C_subject of the batch", "share of P", ".0%"),
    "control_drop_other": ("C_other of the batch", "share of P", ".0%"),
}
_SHARED = tuple(name for name in _CURVES if name.startswith("control_drop"))  # curves on one scale
POINTS = 300  # at most, of a training curve; longer ones are averaged over equal bins


def training_curves(histories: Mapping[str, Sequence[Mapping]], *, width: int = style.WIDTH) -> Chart | None:
    """Loss, objective terms and the batch's S and C of all kinds against the step, a line a model.

    Panels without values are left out; those of C share a scale.

    Args:
      histories: model -> records with "step" and values that may be missing or None. Above 300 records, equal bins of
        them are averaged.
      width: of the whole chart, pixels, about.
    """
    rows = [{"model": name, **row} for name, history in histories.items() for row in _binned(history, _CURVES)]
    shown = [curve for curve in _CURVES if any(row[curve] is not None for row in rows)]
    if not shown:
        return None
    columns = min(len(shown), 3 if width >= style.NARROW else 2)
    models = list(histories)
    colours, dashes = (alt.Scale(domain=models, range=list(of)) for of in (style.MODEL_COLOURS, style.MODEL_DASHES))
    look = {
        "color": alt.Color("model:N", title=None, scale=colours),
        "strokeDash": alt.StrokeDash("model:N", title=None, scale=dashes),
    }
    data = alt.Data(values=rows)
    steps = alt.X(
        "step:Q",
        title="training step",
        axis=alt.Axis(tickCount=5, format=",d", grid=False, labelFlush=False),
        scale=alt.Scale(domain=[0, max(row["step"] for row in rows)], nice=False),
    )
    of_controls = [row[curve] for row in rows for curve in _SHARED if row[curve] is not None]
    panels = []
    for curve in shown:
        ends = {"domain": [min(0.0, *of_controls), max(0.05, *of_controls)]} if curve in _SHARED else {}
        title, unit, form = _CURVES[curve]
        panels.append(
            alt.Chart(data, title=title)
            .mark_line(strokeWidth=1.6)
            .transform_filter(f"isValid(datum.{curve})")
            .encode(
                x=steps,
                y=alt.Y(
                    f"{curve}:Q",
                    title=unit,
                    axis=alt.Axis(format=form or alt.Undefined, tickCount=5, minExtent=36),
                    scale=alt.Scale(nice=5, **ends),
                ),
                tooltip=["model:N", "step:Q", alt.Tooltip(f"{curve}:Q", title=title, format=".4g")],
                **look,
            )
            .properties(width=(width - 30) // columns - 62, height=150)
        )
    return finished(alt.concat(*panels, columns=columns, spacing=24), "Training curves")


def neuron_use(results: Results, *, width: int = style.WIDTH) -> Chart | None:
    """The most used neurons of every model, named layer.neuron, and how selections spread over layers."""
    models = results["models"]
    columns = min(len(models), 4 if width >= style.NARROW else 2)
    room = (width - 20) // columns - 76
    axis = alt.Axis(format="~%", tickCount=4, labelFlush=False)
    top_share = max((neuron["share"] for model in models.values() for neuron in model["neurons"]), default=0)
    top_layer = max((share for model in models.values() for share in model["layers"]), default=0)
    most = max(len(model["neurons"]) for model in models.values())
    panels = []
    for name, model in models.items():
        parts = []
        if model["neurons"]:
            rows = [
                {
                    "neuron": f"{neuron['layer']}.{neuron['neuron']}",
                    "share": neuron["share"],
                    "selections": neuron["selections"],
                    "relations": ", ".join(sorted(neuron["relations"], key=neuron["relations"].get, reverse=True)[:3]),
                }
                for neuron in model["neurons"]
            ]
            parts.append(
                alt.Chart(alt.Data(values=rows), title=name)
                .mark_bar(color=style.BLUE, height={"band": 0.7})
                .encode(
                    x=alt.X("share:Q", title="share of all selections", axis=axis, scale=style.zero_to(top_share)),
                    y=alt.Y("neuron:N", title="layer.neuron", sort=[row["neuron"] for row in rows]),
                    tooltip=[
                        "neuron:N",
                        alt.Tooltip("share:Q", format=".2%"),
                        alt.Tooltip("selections:Q"),
                        "relations:N",
                    ],
                )
                .properties(width=room, height=14 * most)
            )
        if model["layers"]:
            rows = [{"layer": layer, "share": share} for layer, share in enumerate(model["layers"])]
            layers = (
                alt.Chart(alt.Data(values=rows))
                .mark_bar(color=style.GREY)
                .encode(
                    x=alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
                    y=alt.Y("share:Q", title="share of selections", axis=axis, scale=style.zero_to(top_layer)),
                    tooltip=["layer:O", alt.Tooltip("share:Q", format=".1%")],
                )
                .properties(width=room, height=110)
            )
            parts.append(layers if parts else layers.properties(title=name))
        if parts:
            panels.append(alt.vconcat(*parts, spacing=14))
    if not panels:
        return None
    return finished(alt.concat(*panels, columns=columns, spacing=24), "The most used neurons and layers")


def save_chart(chart: Chart, folder: Path, name: str, suffixes: Sequence[str] = ("svg", "png")) -> list[Path]:
    """Writes folder/name.svg and folder/name.png (two pixels a point), each whole or not at all.

    Args:
      chart: what is drawn.
      folder: where to.
      name: of the files.
      suffixes: of the files that are wanted, of svg, png and pdf.
    Raises:
      UserError: if they cannot be written.
    """
    spec = readable(chart.to_dict())
    contents = {
        "svg": lambda: vl_convert.vegalite_to_svg(spec).encode(),
        "png": lambda: vl_convert.vegalite_to_png(spec, scale=2),
        "pdf": lambda: vl_convert.vegalite_to_pdf(spec),
    }
    paths = []
    for suffix in suffixes:
        paths.append(folder / f"{name}.{suffix}")
        write_bytes(paths[-1], contents[suffix]())
    return paths


def readable(spec: object) -> object:
    """A spec whose texts have their control characters spelled out: vl-convert ends the process at some of them, and
    Vega fails at others.
    """
    if isinstance(spec, str):
        return printable(spec)
    if isinstance(spec, Mapping):
        return {readable(name): readable(value) for name, value in spec.items()}
    return [readable(value) for value in spec] if isinstance(spec, list | tuple) else spec


def _binned(history: Sequence[Mapping], names: Iterable[str]) -> list[dict]:
    """Records with exactly these columns (None: no value), averaged over equal bins where there are too many."""
    size = math.ceil(len(history) / POINTS) or 1
    bins = [history[start : start + size] for start in range(0, len(history), size)]
    return [
        {
            "step": sum(record["step"] for record in part) / len(part),
            **{name: _mean(record.get(name) for record in part) for name in names},
        }
        for part in bins
    ]


def _mean(values: Iterable[float | int | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(f"{sum(known) / len(known):.5g}") if known else None


def finished(chart: Chart, description: str) -> Chart:
    """The chart with the words that screen readers say, and the look of all charts."""
    return chart.properties(description=description, config=style.chart_config())
