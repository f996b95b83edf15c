"""Metrics of measured answers, by name.

A metric is one file (or one function) with one decorator. It is written once, in terms of `mean(column)`, the mean of a
measured column inside each relation; the same function then gives the point estimate and every bootstrap replicate.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxinterp.errors import unknown

Mean = Callable[[str], np.ndarray]  # column -> mean inside each relation, [replicates, relations]
Formula = Callable[[Mean], np.ndarray]  # -> the metric inside each relation, [replicates, relations]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric: a function of columns' means inside relations."""

    name: str
    needs: tuple[str, ...]  # columns, see `jaxinterp.metrics.answers.COLUMNS`
    unit: str
    formula: Formula


_METRICS: dict[str, Metric] = {}


def metric(name: str, *, needs: tuple[str, ...], unit: str) -> Callable[[Formula], Formula]:
    """Registers a metric under a name that is not taken."""

    def register(formula: Formula) -> Formula:
        if name in _METRICS:
            raise ValueError(f"a metric named {name!r} exists already")
        _METRICS[name] = Metric(name, needs, unit, formula)
        return formula

    return register


def get_metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
      UserError: if it is unknown.
    """
    if name not in _METRICS:
        raise unknown("metric", name, _METRICS)
    return _METRICS[name]


def metric_names() -> tuple[str, ...]:
    """All registered names, sorted."""
    return tuple(sorted(_METRICS))
