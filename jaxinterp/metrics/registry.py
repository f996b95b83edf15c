"""Metrics by name.

A metric is one file (or one function) with one decorator. It is a pure function of what was measured: of means of
columns (one value an answer), or of neurons (activations, selections). The same function gives the point estimate and
every bootstrap replicate, overall and inside relations.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.registry import Registry

Values = np.ndarray | Array
Mean = Callable[[str], Values]  # column -> mean inside each relation, [replicates, relations]
Better = Literal["higher", "lower", "neither"]
Masks = Literal["hard", "soft", "none"]
# How a metric can be computed: from passes that `measure` makes anyway, from some more, or from thousands.
Cost = Literal["base", "passes", "attributions", "ablations", "training"]


class Neurons(NamedTuple):
    """What is known of the neurons at the queries of N answers; U = L·F neurons, in the order (layer, neuron)."""

    activation_NU: Float[Array, "N U"]  # at the query of the answer's first token
    selected_NU: Float[Array, "N U"]  # share of the answer's tokens whose knowledge neuron it is
    concept_N: Int[Array, " N"]  # relation, 0 … n_concepts − 1
    weight_N: Float[Array, " N"]  # ≥ 0; how often an answer counts: 1, or a bootstrap replicate's
    n_concepts: int


NEURONS = ("activations", "selections")  # what a metric of neurons may need

# A metric of columns returns its value inside each relation, [replicates, relations]; one of neurons its value for
# each concept, [concepts], or one for all, [].
Formula = Callable[[Mean], Values] | Callable[[Neurons], Array]


@dataclasses.dataclass(frozen=True)
class Term:
    """A name for people, an optional symbol, a unit and one sentence."""

    title: str
    definition: str
    symbol: str = ""
    unit: str = ""  # "%" for a share, which is shown times 100; otherwise the unit as it is printed
    signed: bool = False  # a change: shown with its sign

    @property
    def label(self) -> str:
        """Title and symbol."""
        return f"{self.title} {self.symbol}".rstrip()


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric and what a reader has to know of it."""

    name: str
    needs: tuple[str, ...]  # columns, see `jaxinterp.metrics.columns`; or some of NEURONS
    term: Term  # what readers are told
    formula: Formula
    range: tuple[float, float]  # of values that can occur
    better: Better  # which way the model is more interpretable, or more able
    masks: Masks  # whether it switches neurons by hard masks, soft ones, or looks at none
    differentiable: bool  # in what it needs
    source: str  # where it comes from

    @property
    def of_neurons(self) -> bool:
        """Whether it is a function of `Neurons` rather than of means of columns."""
        return bool(set(self.needs) & set(NEURONS))


_METRICS: Registry[Metric] = Registry("metric")


def metric(
    name: str,
    *,
    needs: tuple[str, ...],
    title: str,
    symbol: str = "",
    unit: str = "",
    signed: bool = False,
    range: tuple[float, float] = (-math.inf, math.inf),
    better: Better = "neither",
    masks: Masks = "hard",
    differentiable: bool = True,
    source: str = "",
) -> Callable[[Formula], Formula]:
    """Registers a metric under a name that is not taken; its docstring is the definition that reports print.

    Args:
      name: in results and on command lines.
      needs: the columns that the formula takes means of; or `NEURONS` that it looks at.
      title, symbol, unit, signed: see `Term`.
      range, better, masks, differentiable, source: see `Metric`; `jaxinterp.metrics.check.check_metric` holds the
        formula to them.
    Raises:
      ValueError: if an argument cannot be, or the name is taken.
    """
    if isinstance(needs, str) or not needs:
        raise ValueError(f"metric {name!r}: needs must be a tuple of names, such as ('probability',), got {needs!r}")
    for field, value, kinds in (("better", better, Better), ("masks", masks, Masks)):
        if value not in get_args(kinds):
            raise ValueError(f"metric {name!r}: {field} must be one of {', '.join(get_args(kinds))}, got {value!r}")

    def register(formula: Formula) -> Formula:
        definition = " ".join((formula.__doc__ or "").split())
        term = Term(title, definition, symbol, unit, signed)
        _METRICS.add(name, Metric(name, needs, term, formula, range, better, masks, differentiable, source))
        return formula

    return register


def get_metric(name: str) -> Metric:
    """The metric of that name; UserError if it is unknown."""
    return _METRICS[name]


def metric_names() -> tuple[str, ...]:
    """All registered names, in the order of registration."""
    return _METRICS.names()
