"""`jaxinterp metrics list|show`: the metrics on the command line."""

import dataclasses
import json as json_format
import math
from collections.abc import Mapping
from typing import Annotated

import tyro

from jaxinterp.base.errors import unknown


@dataclasses.dataclass(frozen=True)
class ListMetrics:
    """List the metrics, what they need and cost, and which way is better."""

    json: bool = False  # print JSON for programs, with definitions

    def __call__(self) -> None:
        """Runs the command."""
        from rich.table import Column, Table

        from jaxinterp.base.tables import print_table

        entries = described()
        if self.json:
            print(json_format.dumps(entries, indent=1, ensure_ascii=False))
            return
        needs, source = (Column(name, overflow="fold") for name in ("needs", "source"))
        table = Table(
            Column("name", no_wrap=True), "title", needs, "range", "better", "masks", "gradient", "cost", source
        )
        for entry in entries:
            low, high = entry["range"]
            table.add_row(
                entry["name"],
                entry["title"],
                needed(entry),
                f"{'' if low is None else f'{low:g}'} … {'' if high is None else f'{high:g}'}",
                entry["better"],
                entry["masks"],
                "yes" if entry["differentiable"] else "no",
                entry["cost"],
                entry["source"],
            )
        print_table(table)
        print(
            "cost: base needs no more than every measurement makes; passes, attributions, ablations (one a neuron) and "
            "training come on top. `jaxinterp measure --metrics NAME …` measures what is named, `--metrics all` all."
        )


def described() -> list[dict]:
    """Every metric as plain data; an unbounded end of a range is None.

    "needs" are names of what "of" says: columns, neurons, or other metrics, all of them or if not "every" those that
    were measured.
    """
    from jaxinterp.metrics.columns import metric_cost
    from jaxinterp.metrics.registry import METRICS

    metrics = (METRICS[name] for name in METRICS.names())
    return [
        {
            "name": metric.name,
            "title": str(metric.label),
            "definition": metric.label.definition,
            "unit": metric.label.unit,
            "needs": list(metric.of or metric.needs),
            "of": "metrics" if metric.of else "neurons" if metric.of_neurons else "columns",
            "every": metric.every,
            "range": [value if math.isfinite(value) else None for value in metric.range],
            "better": metric.better,
            "masks": metric.masks,
            "differentiable": metric.differentiable,
            "cost": metric_cost(metric),
            "source": metric.source,
        }
        for metric in metrics
    ]


def needed(entry: Mapping) -> str:
    """The needs of a metric of `described`, in words."""
    names = ", ".join(entry["needs"])
    if entry["of"] != "metrics":
        return names
    return f"metrics {names}" if entry["every"] else f"some of the metrics {names}"


@dataclasses.dataclass(frozen=True)
class ShowMetric:
    """Say what a metric is."""

    name: Annotated[str, tyro.conf.Positional]  # of `jaxinterp metrics list`

    def __call__(self) -> None:
        """Runs the command."""
        entries = {entry["name"]: entry for entry in described()}
        if self.name not in entries:
            raise unknown("metric", self.name, entries)
        entry = entries[self.name]
        print(f"{entry['title']}{', ' + entry['unit'] if entry['unit'] else ''}: {entry['definition']}")
        print(f"needs {needed(entry)}; better: {entry['better']}; cost: {entry['cost']}")
        if entry["source"]:
            print(f"source: {entry['source']}")


Command = Annotated[ListMetrics, tyro.conf.subcommand("list")] | Annotated[ShowMetric, tyro.conf.subcommand("show")]


@dataclasses.dataclass(frozen=True)
class Metrics:
    """The metrics that models are measured by."""

    command: Annotated[Command, tyro.conf.arg(name="")]

    def __call__(self) -> None:
        """Runs the command."""
        self.command()
