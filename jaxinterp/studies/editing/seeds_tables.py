"""Figures of models of several seeds: means over seeds, differences seed by seed, tables and a file; imports no JAX."""

import csv
import io
import math
from collections.abc import Mapping, Sequence

import altair as alt
import numpy as np
from rich.table import Column, Table

from jaxinterp.report import style
from jaxinterp.report.charts import Chart, finished
from jaxinterp.report.shown import Part
from jaxinterp.studies.statistics import Effect

OUTCOMES: Mapping[str, str] = {
    "rewrite": "(P(new) after − P(new) before) / (1 − P(new) before), of the prompt that is edited",
    "paraphrase": "the same, a mean over other prompts of the fact",
    "kept": "share of the questions to other facts answered right before the edit that are answered right after it",
    "cost": "log ‖Δ‖ of the change",
}
# Column of single edits -> its head.
EDITS = {
    "overall_score": "S",
    "efficacy_accuracy": "EA",
    "paraphrase_score": "PS",
    "neighbourhood_score": "NS",
    "same_relation_kept": "same relation",
    "same_subject_kept": "same subject",
    "other_kept": "others",
}
INFORMS = {
    "layer": "R² of the layer",
    "added": "added by attribution",
    "partial": "partial R²",
    "slope": "slope",
    "beside_activity": "partial R² beside activity",
    "shuffled": "partial R², shuffled",
}
LEGIBLE = {
    "fact_top": "first neuron's value says the answer",
    "fact_mass": "share of attribution that does",
    "fact_any": "any of 8 does",
}
VALUES = ("own", "shuffled", "random")  # of `jaxinterp.memories.values`
Groups = Mapping[str, Mapping[int, Mapping[str, float]]]  # group -> seed -> figure -> value
Effects = dict[tuple[str, str], Effect]  # (group, figure)


def means(groups: Groups, level: float) -> Effects:
    """Each group's figures over its seeds; a figure that less than two seeds have is left out."""
    return {
        (group, name): found
        for group, by_seed in groups.items()
        for name in dict.fromkeys(name for values in by_seed.values() for name in values)
        if (found := _over_seeds([values.get(name, math.nan) for values in by_seed.values()], level)) is not None
    }


def differences(groups: Groups, level: float) -> Effects:
    """The same of each further group less the first one, over the seeds that both have."""
    (_, first), *others = groups.items()
    found = {}
    for group, by_seed in others:
        pairs = [(by_seed[seed], first[seed]) for seed in by_seed if seed in first]
        for name in dict.fromkeys(name for values, _ in pairs for name in values):
            nan = math.nan
            effect = _over_seeds([own.get(name, nan) - base.get(name, nan) for own, base in pairs], level)
            if effect is not None:
                found[group, name] = effect
    return found


def _over_seeds(values: Sequence[float], level: float) -> Effect | None:
    known = np.array([value for value in values if math.isfinite(value)])
    # Facts differ from model to model, so that their draw is in the spread over seeds.
    return Effect(float(known.mean()), float(known.std(ddof=1)), 0.0, len(known), level) if len(known) > 1 else None


def shown(of_groups: Effects, of_pairs: Effects, ways: Mapping[str, str]) -> list[Part]:
    """Tables of edits, of what attribution says, and of legible facts, with differences to the first group."""
    groups = list(dict.fromkeys(group for group, _ in of_groups))
    parts: list[Part] = []
    known = dict.fromkeys(name.partition("/")[0] for _, name in of_groups)
    rows = [(title, {column: f"{way}/{column}" for column in EDITS}) for way, title in ways.items() if way in known]
    parts.append(_table("Single edits, %", "way", EDITS, rows, groups, of_groups, of_pairs, 1))
    rows = [(outcome, {name: f"informs/{outcome}/{name}" for name in INFORMS}) for outcome in OUTCOMES]
    title = "What attribution mass at the edited neurons says of an outcome, beyond the layer"
    parts.append(_table(title, "outcome", INFORMS, rows, groups, of_groups, of_pairs, 3))
    meaning = Table("outcome", Column("meaning", overflow="fold"), title="Outcomes")
    for outcome, words in OUTCOMES.items():
        meaning.add_row(outcome, words)
    heads = {kind: kind for kind in VALUES}
    parts.append(meaning)
    for of, whose in (("legible", "facts"), ("legible_unread", "facts that no objective has read")):
        rows = [(title, {kind: f"{of}/{name}/{kind}" for kind in VALUES}) for name, title in LEGIBLE.items()]
        title = f"Values of knowledge neurons by the norm-folded lens, % of {whose}"
        parts.append(_table(title, "figure", heads, rows, groups, of_groups, of_pairs, 1))
    return [part for part in parts if part.row_count]


def _table(
    title: str,
    first: str,
    heads: Mapping[str, str],
    rows: Sequence[tuple[str, Mapping[str, str]]],
    groups: Sequence[str],
    of_groups: Effects,
    of_pairs: Effects,
    digits: int,
) -> Table:
    table = Table(first, "group", *(Column(head, justify="right") for head in heads.values()), title=title)
    for name, figures in rows:
        for group, label, effects in [
            *((group, group, of_groups) for group in groups),
            *((group, f"{group} − {groups[0]}", of_pairs) for group in groups[1:]),
        ]:
            found = [effects.get((group, figures[head])) for head in heads]
            if any(one is not None for one in found):
                cells = ["–" if one is None else interval_text(one, digits) for one in found]
                table.add_row(name, label, *cells)
    return table


def interval_text(effect: Effect, digits: int) -> str:
    """Value and interval; how many seeds stands in the file."""
    return f"{effect.value:.{digits}f} [{effect.low:.{digits}f}, {effect.high:.{digits}f}]"


def plain_effects(effects: Effects) -> dict[str, dict[str, dict]]:
    """Group -> figure -> numbers, as JSON has them."""
    found: dict[str, dict[str, dict]] = {}
    for (group, name), one in effects.items():
        of = {"value": one.value, "low": one.low, "high": one.high, "sd": one.seed_sd, "p": one.p, "n": one.n_seeds}
        found.setdefault(group, {})[name] = of
    return found


def csv_of(of_groups: Effects, of_pairs: Effects) -> str:
    """A line for each figure of each group, and of each difference to the first group."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["of", "group", "figure", "value", "low", "high", "sd", "p", "seeds"])
    for of, effects in (("mean", of_groups), ("difference", of_pairs)):
        for (group, name), one in effects.items():
            numbers = [f"{x:.6g}" for x in (one.value, one.low, one.high, one.seed_sd, one.p)]
            writer.writerow([of, group, name, *numbers, one.n_seeds])
    return text.getvalue()


def informs_chart(of_groups: Effects, *, width: int = style.WIDTH) -> Chart | None:
    """The partial R² of attribution by outcome and group, with and beside activity, and what chance explains."""
    kinds = {name: INFORMS[name] for name in ("partial", "beside_activity", "shuffled")}
    rows = [
        {"outcome": outcome, "group": group, "kind": title, "value": one.value, "low": one.low, "high": one.high}
        for outcome in OUTCOMES
        for name, title in kinds.items()
        for (group, figure), one in of_groups.items()
        if figure == f"informs/{outcome}/{name}"
    ]
    if not rows:
        return None
    groups = list(dict.fromkeys(row["group"] for row in rows))
    base = alt.Chart().encode(
        x=alt.X("outcome:N", sort=list(OUTCOMES), title=None, axis=alt.Axis(labelAngle=-40)),
        xOffset=alt.XOffset("group:N", sort=groups),
        color=alt.Color("group:N", sort=groups, title=None, legend=alt.Legend(orient="bottom", columns=3)),
        tooltip=[
            "outcome:N",
            "group:N",
            *(alt.Tooltip(f"{name}:Q", format=".3f") for name in ("value", "low", "high")),
        ],
    )
    points = base.mark_point(filled=True, size=70).encode(y=alt.Y("value:Q", title="partial R²"))
    bars = base.mark_rule(clip=True).encode(y="low:Q", y2="high:Q")
    panel = style.panel_width(width, len(kinds), ["0.0"])
    chart = (
        alt.layer(bars, points, data=alt.Data(values=rows))
        .properties(width=panel, height=panel)
        .facet(column=alt.Column("kind:N", title=None, sort=list(kinds.values())))
    )
    return finished(chart, "What attribution mass at the edited neurons explains of edits beyond the layer.")
