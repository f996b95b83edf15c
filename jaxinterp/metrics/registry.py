"""Metrics of measured answers, by name.

A metric is one file (or one function) with one decorator. It is written once, in terms of `mean(column)`, the mean of a
measured column inside each relation; the same function then gives the point estimate and every bootstrap replicate.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxinterp.registry import Registry

Mean = Callable[[str], np.ndarray]  # column -> mean inside each relation, [replicates, relations]
Formula = Callable[[Mean], np.ndarray]  # -> the metric inside each relation, [replicates, relations]


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
    """A metric: a function of columns' means inside relations."""

    name: str
    needs: tuple[str, ...]  # columns, see `jaxinterp.metrics.answers.measured_answers`
    term: Term  # what readers are told
    formula: Formula


_METRICS: Registry[Metric] = Registry("metric")


def metric(
    name: str, *, needs: tuple[str, ...], title: str, symbol: str = "", unit: str = "", signed: bool = False
) -> Callable[[Formula], Formula]:
    """Registers a metric under a name that is not taken; its docstring is the definition that reports print.

    Args:
      name: in results and on command lines.
      needs: the columns that the formula takes means of.
      title, symbol, unit, signed: see `Term`.
    """

    def register(formula: Formula) -> Formula:
        definition = " ".join((formula.__doc__ or "").split())
        _METRICS.add(name, Metric(name, needs, Term(title, definition, symbol, unit, signed), formula))
        return formula

    return register


def get_metric(name: str) -> Metric:
    """The metric of that name; UserError if it is unknown."""
    return _METRICS[name]


def metric_names() -> tuple[str, ...]:
    """All registered names, in the order of registration."""
    return _METRICS.names()
