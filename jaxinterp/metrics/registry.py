"""Metrics by name.

A metric is one decorated function in a file of `jaxinterp.metrics.families`. It is a pure function of what was
measured: of means of columns (one value an answer), of neurons (activations, selections), or of other metrics' values.
The same function gives the point estimate and every bootstrap replicate, overall and inside relations.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.base.registry import Registry

Values = np.ndarray | Array
Mean = Callable[[str], Values]  # column -> mean inside each relation, [replicates, relations]
Better = Literal["higher", "lower", "neither"]
Masks = Literal["hard", "soft", "none"]
# How a metric can be computed: from passes that `measure` makes anyway, from some more, or from thousands.
Cost = Literal["base", "passes", "attributions", "ablations", "training"]


class Neurons(NamedTuple):
    """What is known of the neurons at the queries of N answers; U = L·F neurons, in the order (layer, neuron)."""

    activation_NU: Float[Array, "N U"]  # at the query of the answer's first token
    selected_NU: Float[Array, "N U"]  # 1 for the answer's knowledge neurons
    concept_N: Int[Array, " N"]  # relation, 0 … n_concepts − 1
    fact_N: Int[Array, " N"]  # a number below N that the prompts of one fact have in common
    weight_N: Float[Array, " N"]  # ≥ 0; how often an answer counts: 1, or a bootstrap replicate's
    n_concepts: int


NEURONS = ("activations", "selections")  # what a metric of neurons may need

# A metric of columns returns its value inside each relation, [replicates, relations]; one of neurons its value for
# each concept, [concepts], or one for all, []; one of other metrics its values, of the shape of theirs.
Formula = Callable[[Mean], Values] | Callable[[Neurons], Array] | Callable[[Mapping[str, Values]], Values]


@dataclasses.dataclass(frozen=True)
class Label:
    """A name for people, a definition that stands alone, an optional symbol and a unit."""

    title: str
    definition: str
    symbol: str = ""
    unit: str = ""  # "%" for a share, which is shown times 100; otherwise the unit as it is printed
    signed: bool = False  # a change: shown with its sign

    def __str__(self) -> str:
        """Title and symbol."""
        return f"{self.title} {self.symbol}".rstrip()


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric and what a reader has to know of it."""

    name: str
    needs: tuple[str, ...]  # columns, see `jaxinterp.metrics.columns`; or some of NEURONS; () if it is derived
    label: Label  # what readers are told
    formula: Formula
    range: tuple[float, float]  # of values that can occur
    better: Better  # which way the model is more interpretable, or more able
    masks: Masks  # whether it switches neurons by hard masks, soft ones, or looks at none
    differentiable: bool  # in what it needs
    source: str  # where it comes from
    of: tuple[str, ...] = ()  # the metrics that a derived metric is a function of
    every: bool = True  # whether a derived metric takes all of them; otherwise those that were measured

    @property
    def of_neurons(self) -> bool:
        """Whether it is a function of `Neurons` rather than of means of columns."""
        return bool(set(self.needs) & set(NEURONS))


METRICS: Registry[Metric] = Registry("metric", folder="jaxinterp.metrics.families")


def metric(
    name: str,
    *,
    needs: tuple[str, ...],
    title: str,
    words: Mapping[str, str] | None = None,
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
      title, symbol, unit, signed: see `Label`.
      words: what stands in the docstring for {names} in braces, where one function makes several metrics.
      range, better, masks, differentiable, source: see `Metric`; `jaxinterp.metrics.check.check_metric` holds the
        formula to them.
    Raises:
      ValueError: if an argument cannot be, or the name is taken.
    """
    if isinstance(needs, str) or not needs:
        raise ValueError(f"metric {name!r}: needs must be a tuple of names, such as ('probability',), got {needs!r}")
    _check_kinds(name, better, masks)

    def register(formula: Formula) -> Formula:
        label = Label(title, _definition(formula, words), symbol, unit, signed)
        about = (range, better, masks, differentiable, source)
        METRICS.add(name, Metric(name, needs, label, formula, *about), formula.__module__)
        return formula

    return register


def derived(
    name: str,
    *,
    of: tuple[str, ...],
    every: bool = True,
    title: str,
    words: Mapping[str, str] | None = None,
    symbol: str = "",
    unit: str = "",
    signed: bool = False,
    range: tuple[float, float] = (-math.inf, math.inf),
    better: Better = "neither",
    masks: Masks = "hard",
    differentiable: bool = True,
    source: str = "",
) -> Callable[[Formula], Formula]:
    """Registers a metric that is a function of other metrics' values, which may be derived themselves.

    The formula takes a mapping from the metrics in `of` that were measured to numpy arrays of one shape, of all
    bootstrap samples, and returns an array of that shape. Overall it gets the metrics' overall values, inside a
    relation their values there: overall the largest of three metrics is the largest of their means over relations.
    A value is NaN where a metric has none; the formula must not warn of it.

    Args:
      name: in results and on command lines.
      of: the metrics.
      every: whether all of them must have been measured; otherwise one will do, and the mapping lacks the others.
      title, symbol, unit, signed: see `Label`; the docstring of the formula is the definition.
      words: see `metric`.
      range, better, masks, differentiable, source: see `Metric`.
    Raises:
      ValueError: if an argument cannot be, or the name is taken.
    """
    if isinstance(of, str) or not of:
        raise ValueError(f"metric {name!r}: of must be a tuple of metrics, such as ('recall',), got {of!r}")
    if name in of:
        raise ValueError(f"metric {name!r} cannot be a function of itself")
    _check_kinds(name, better, masks)

    def register(formula: Formula) -> Formula:
        label = Label(title, _definition(formula, words), symbol, unit, signed)
        about = (range, better, masks, differentiable, source)
        METRICS.add(name, Metric(name, (), label, formula, *about, of=of, every=every), formula.__module__)
        return formula

    return register


def _definition(formula: Formula, words: Mapping[str, str] | None) -> str:
    """The docstring in one line; without `words`, braces are left as they are."""
    text = " ".join((formula.__doc__ or "").split())
    return text.format(**words) if words else text


def largest(values: Mapping[str, Values]) -> Values:
    """The largest of the values that there are; NaN where there is none."""
    return functools.reduce(np.fmax, values.values())


def base_metrics(name: str) -> tuple[str, ...]:
    """The metrics that are measured for a name: its own, or recursively those that a derived metric is of, each once.

    Raises:
      UserError: if one of them is unknown.
    """
    found = METRICS[name]
    if not found.of:
        return (name,)
    return tuple(dict.fromkeys(base for component in found.of for base in base_metrics(component)))


def is_measured(name: str, columns: Collection[str]) -> bool:
    """Whether a metric has what it needs among these columns and `NEURONS`."""
    found = METRICS[name]
    if found.of:
        return (all if found.every else any)(is_measured(component, columns) for component in found.of)
    return set(found.needs) <= set(columns)


def _check_kinds(name: str, better: str, masks: str) -> None:
    for field, value, kinds in (("better", better, Better), ("masks", masks, Masks)):
        if value not in get_args(kinds):
            raise ValueError(f"metric {name!r}: {field} must be one of {', '.join(get_args(kinds))}, got {value!r}")
