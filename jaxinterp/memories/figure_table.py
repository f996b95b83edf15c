"""Figures on memories, what each means, and the table that holds them with intervals."""

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.metrics.intervals import PARTS, Estimate, interval_of_facts
from jaxinterp.metrics.registry import Label

SHARE, ANY = (0.0, 1.0), (-math.inf, math.inf)


class Kind(NamedTuple):
    """What a figure is."""

    label: Label
    limits: tuple[float, float]  # between which its values lie
    logs: bool = False  # whether it is the exponential of a mean of logarithms


def _share(title: str, definition: str) -> Kind:
    return Kind(Label(title, definition, unit="%"), SHARE)


_LIVE = "a live neuron is above 0 at its first trigger, where it is most active in the corpus, and a token follows"
_CASE = "of examples (a token of a text and a layer), "
_TOP = "; a top token is that of the highest logit by the lens"
_FACTS = "shuffled: another fact's answer, random: normal vectors as values; a layer is that of the first neuron"
FIGURES: Mapping[str, Kind] = {
    "agreement": _share(
        "Agreement",
        f"Share of live neurons whose value's top token is the token after the first trigger; {_LIVE}{_TOP}.",
    ),
    "agreement_any": _share(
        "Agreement with any trigger",
        f"Share of live neurons whose value's top token comes after at least one of their triggers; {_LIVE}{_TOP}.",
    ),
    "agreement_share": _share(
        "Agreement over triggers",
        "Share of a neuron's triggers, those that a token follows, after which its value's top token comes; a mean "
        f"over live neurons; {_LIVE}{_TOP}.",
    ),
    "next_rank": Kind(
        Label(
            "Rank of the next token",
            "Geometric mean over live neurons of the rank, by its value, of the token after the first trigger; "
            f"1 is best; {_LIVE}.",
        ),
        (1.0, math.inf),
        logs=True,
    ),
    "promotes": _share(
        "Values that promote",
        "Share of live neurons whose value's ten highest logits are on average further from the mean over the "
        f"vocabulary than its ten lowest; {_LIVE}.",
    ),
    "active": _share(
        "Active memories",
        "Share of a layer's neurons that are active at a token: above 0 if activations cannot be below, otherwise "
        "above a tenth of the layer's largest there without signs; a mean over examples. No lens and no values enter.",
    ),
    "compositional": _share(
        "Compositional examples",
        f"Share {_CASE}in which no active memory's top token is that of the whole FFN's output; a memory with a "
        f"negative activation has the token of its value's lowest logit{_TOP}.",
    ),
    "case_residual": _share(
        "Case residual",
        f"Share {_CASE}in which the stream's top token after the FFN is the one before it, and not the FFN's{_TOP}.",
    ),
    "case_ffn": _share(
        "Case FFN",
        f"Share {_CASE}in which the stream's top token after the FFN is the FFN's, and not the one before it{_TOP}.",
    ),
    "case_agreement": _share(
        "Case agreement",
        f"Share {_CASE}in which the stream's top tokens before and after the FFN and the FFN's are one{_TOP}.",
    ),
    "case_composition": _share(
        "Case composition",
        f"Share {_CASE}in which the stream's top token after the FFN is neither the FFN's nor the one before it{_TOP}.",
    ),
    "before_is_final": _share(
        "Fixed before the FFN",
        f"Share {_CASE}in which the stream's top token before the FFN is what the model says in the end. Shuffled: "
        f"what it says in another example; random: normal vectors of the stream's mean and covariance{_TOP}.",
    ),
    "after_is_final": _share(
        "Fixed after the FFN",
        f"Share {_CASE}in which the stream's top token after the FFN is what the model says in the end; controls as "
        f"before the FFN{_TOP}.",
    ),
    "z_promoted": Kind(
        Label(
            "Promotion of the new top token",
            "Where the FFN changes the stream's top token: the new one's logit in what a memory adds, in standard "
            "deviations over the vocabulary from the mean; a mean over the ten memories whose parts of the logits vary "
            f"most, and over such examples{_TOP}.",
        ),
        ANY,
    ),
    "z_eliminated": Kind(
        Label(
            "Promotion of the old top token",
            "The same of the top token before the FFN: below 0 where memories push it down, near 0 where it is only "
            "overtaken.",
        ),
        ANY,
    ),
    "raises_highest": _share(
        "Neurons that raise their tokens",
        "Share of neurons that raise, at their first trigger, the logits of their value's ten highest tokens above "
        "those of its ten lowest: final logits of the untouched model less those with that neuron off there.",
    ),
    "effect_highest": Kind(
        Label(
            "Effect on the highest tokens",
            "Final logits at a neuron's first trigger, less those with the neuron off there, less the mean of that "
            "over the vocabulary; a mean over the ten highest tokens of its value, and over neurons.",
            unit="nats",
        ),
        ANY,
    ),
    "effect_lowest": Kind(
        Label("Effect on the lowest tokens", "The same of the ten lowest tokens of its value.", unit="nats"), ANY
    ),
    "fact_top": _share(
        "Legible first neuron",
        f"Share of facts whose first knowledge neuron's value has the answer's first token as its top token; {_FACTS}.",
    ),
    "fact_rank": Kind(
        Label(
            "Rank of the answer in the first neuron",
            "Geometric mean over facts of the rank of the answer's first token in the first knowledge neuron's value; "
            f"1 is best; {_FACTS}.",
        ),
        (1.0, math.inf),
        logs=True,
    ),
    "fact_mass": _share(
        "Legible attribution",
        "Share of the positive attribution on a fact's k knowledge neurons that lies on those whose value's top token "
        f"is the answer's first token; a mean over facts; {_FACTS}.",
    ),
    "fact_any": _share(
        "Legible in any neuron",
        "Share of facts of whose k knowledge neurons at least one has the answer's first token as its value's top "
        f"token; {_FACTS}.",
    ),
    **{
        f"cut_{name}": Kind(
            Label(
                f"Coefficient lost without the {name} token",
                f"1 − (activation once the {what} of the text up to a trigger is cut out) / (activation there); "
                "a mean over neurons and their first triggers. No lens and no values enter.",
                unit="%",
            ),
            (-math.inf, math.inf),
        )
        for name, what in (
            ("last", "last token (the trigger itself)"),
            ("first", "first token"),
            ("random", "token at a random place between first and last"),
        )
    },
}


class Sample(NamedTuple):
    """Values that a figure is a mean of, each of a layer and of a unit; units are independent of each other."""

    value_N: Float[np.ndarray, " N"]  # NaN: does not count
    layer_N: Int[np.ndarray, " N"]
    unit_N: Int[np.ndarray, " N"]


class Row(NamedTuple):
    """A figure: of all layers (`by` "all", `at` −1), of one ("layer"), or of a bin of values ("confidence", from 0)."""

    figure: str  # a name out of `FIGURES`
    lens: str  # "" where none enters
    values: str  # whose: own, or a control's; see `jaxinterp.memories.values.VALUES`
    by: str
    at: int
    estimate: Estimate  # n are units


def mean_of(sample: Sample, kind: Kind, level: float) -> Estimate:
    """A figure of a sample, with an interval by a jackknife over units; see `jaxinterp.metrics.intervals`.

    Neurons of one model are taken for independent, and texts for independent of each other.
    """
    counts = np.isfinite(sample.value_N)
    value_N, unit_N = sample.value_N[counts], sample.unit_N[counts]
    if not len(value_N):
        return Estimate(math.nan, math.nan, math.nan, 0)
    units, index_N = np.unique(unit_N, return_inverse=True)
    part_N = index_N % min(len(units), PARTS)
    sum_P, n_P = np.bincount(part_N, value_N), np.bincount(part_N)
    mean = float(value_N.mean())
    without_P = (value_N.sum() - sum_P) / np.maximum(len(value_N) - n_P, 1)
    limits = (0.0, math.inf) if kind.logs else kind.limits
    found = interval_of_facts(np.array([mean, *without_P]), limits, level, len(units))
    if not kind.logs:
        return found
    return Estimate(math.exp(found.value), math.exp(found.low), math.exp(found.high), found.n)


def rows_of(
    figure: str, sample: Sample, *, lens: str = "", values: str = "own", level: float = 0.95, by: str = "layer"
) -> list[Row]:
    """The figure overall and for each layer; `by` another name, for each of the numbers that stand as layers alone."""
    kind = FIGURES[figure]
    rows = [Row(figure, lens, values, "all", -1, mean_of(sample, kind, level))] if by == "layer" else []
    for at in np.unique(sample.layer_N).tolist():
        of = sample.layer_N == at
        own = Sample(sample.value_N[of], sample.layer_N[of], sample.unit_N[of])
        rows.append(Row(figure, lens, values, by, at, mean_of(own, kind, level)))
    return rows


@dataclasses.dataclass(frozen=True)
class FigureTable:
    """All figures of a model."""

    rows: Sequence[Row]
    lenses: Mapping[str, str]  # name -> definition
    config: Mapping[str, object]  # what was sampled

    def value(self, figure: str, *, lens: str = "", values: str = "own", by: str = "all", at: int = -1) -> Estimate:
        """One figure.

        Raises:
          UserError: if it is unknown, or not in the table.
        """
        if figure not in FIGURES:
            raise unknown("figure", figure, FIGURES)
        for row in self.rows:
            if row[:5] == (figure, lens, values, by, at):
                return row.estimate
        raise UserError(f"the table has no {figure} with lens {lens!r}, values {values!r}, {by} {at}")

    def to_json(self) -> dict[str, object]:
        """Figures with their definitions; a number that there is none of is null."""
        names = dict.fromkeys(row.figure for row in self.rows)
        kinds = {name: FIGURES[name].label for name in names}
        figures = {
            name: {"title": kind.title, "definition": kind.definition, "unit": kind.unit}
            for name, kind in kinds.items()
        }
        rows = [dict(zip(COLUMNS, _cells(row), strict=True)) for row in self.rows]
        return {"figures": figures, "lenses": dict(self.lenses), "config": dict(self.config), "rows": rows}

    def csv(self) -> str:
        """A line a figure, with a header; a number that there is none of is empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(_cells(row) for row in self.rows)
        return text.getvalue()


COLUMNS = ("figure", "lens", "values", "by", "at", "value", "low", "high", "n")


def _cells(row: Row) -> list[object]:
    numbers = (row.estimate.value, row.estimate.low, row.estimate.high)
    at = row.at if row.at >= 0 else None
    return [*row[:4], at, *(x if math.isfinite(x) else None for x in numbers), row.estimate.n]
