"""The numbers of a study of editing, as tables and files."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Column, Table

from jaxinterp.base.files import write_text
from jaxinterp.editing.protocol import summary
from jaxinterp.editing.protocol.columns import COLUMNS, COMBINED, SHORT
from jaxinterp.editing.protocol.sequence import SEQUENCE_COLUMNS
from jaxinterp.metrics.intervals import Estimate
from jaxinterp.metrics.results import plain
from jaxinterp.report.shown import Part
from jaxinterp.studies.editing.ways import WAYS

# Column -> its head in the table.
SHOWN: Mapping[str, str] = {
    "overall_score": "S",
    "overall_accuracy": "SA",
    "efficacy_score": "ES",
    "efficacy_accuracy": "EA",
    "efficacy_magnitude": "EM",
    "paraphrase_score": "PS",
    "neighbourhood_score": "NS",
    "neighbourhood_plus_score": "NS+",
    "neighbourhood_kl": "NKL",
    "same_relation_kept": "same relation",
    "same_subject_kept": "same subject",
    "other_kept": "others",
    "inverse_accuracy_of_known": "inverse",
    "two_hop_accuracy_of_known": "two-hop",
    "perplexity_ratio": "ppl ×",
    "disabling": "disabling",
}


@dataclasses.dataclass(frozen=True)
class Results:
    """What results.json holds."""

    config: Mapping[str, object]
    provenance: Mapping[str, object]
    known: int  # facts that the model answers
    single: Mapping[str, summary.Table]  # by way: edits of the untouched model
    rows: Mapping[str, float]  # most value rows that one edit changes
    refused: Mapping[str, int]  # edits that could not be made; they count as no edit
    seconds: Mapping[str, float]  # of one edit, the median; hardly comparable where targets were searched before
    batch: Mapping[str, summary.Table]
    sequence: Mapping[str, Sequence[Mapping]]

    def to_json(self) -> dict:
        """With formulas."""
        tables = {
            name: {
                way: {column: plain(found) for column, found in table.rows.items()}
                for way, table in getattr(self, name).items()
            }
            for name in ("single", "batch")
        }
        rest = {
            name: getattr(self, name)
            for name in ("config", "provenance", "known", "rows", "refused", "seconds", "sequence")
        }
        formulas = {name: column.formula for name, column in COLUMNS.items()} | dict(SEQUENCE_COLUMNS)
        return {**rest, **tables, "formulas": formulas}

    def write_tables(self, out: Path) -> None:
        """single.csv and batch.csv: a line for each way and column; sequence.csv: one for each way and point."""
        for name in ("single", "batch"):
            lines = [
                [way, column, SHORT.get(column, ""), found.value, found.low, found.high, found.n]
                for way, table in getattr(self, name).items()
                for column, found in table.rows.items()
            ]
            _write(out / f"{name}.csv", ["way", "column", "short", "value", "low", "high", "edits"], lines)
        columns = ["recall", "others_kept", "perplexity_ratio", "ruined"]
        lines = [
            [way, point["edits"], *(point.get(column, "") for column in columns)]
            for way, points in self.sequence.items()
            for point in points
        ]
        _write(out / "sequence.csv", ["way", "edits", *columns], lines)


def _write(path: Path, heads: Sequence[str], lines: Sequence[Sequence]) -> None:
    if lines:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([heads, *lines])
        write_text(path, text.getvalue())


def shown(results: Results) -> dict[str, list[Part]]:
    """What is printed, and stands on the page: of "edits", and of "sequences" if there are any."""
    parts: list[Part] = []
    if results.single:
        n = results.config["edits"]
        parts.append(_table(f"{n} single edits of {results.config['model']}", results.single, results.rows))
    if results.batch:
        parts.append(_table(f"{results.config['batch']} edits at once", results.batch, {}))
    if results.single:
        words = (
            "% of questions, but for NKL (nats) and the perplexity's factor. rows: most value rows that an edit changes"
        )
        parts += [f"{words}. Intervals over edits are in single.csv and batch.csv.", _formulas()]
    return {"edits": parts, **({"sequences": [_sequences(results)]} if results.sequence else {})}


def _formulas() -> Table:
    table = Table("head", "column", Column("formula", overflow="fold"), title="What the heads mean")
    for name, head in SHOWN.items():
        table.add_row(head, name, COLUMNS[name].formula)
    return table


def _table(title: str, tables: Mapping[str, summary.Table], rows: Mapping[str, float]) -> Table:
    of_all = {name for table in tables.values() for name, found in table.rows.items() if found.n}
    heads = {name: head for name, head in SHOWN.items() if name in of_all}
    more = ["rows"] if rows else []
    table = Table(Column("way"), *(Column(head, justify="right") for head in [*heads.values(), *more]), title=title)
    for way, found in tables.items():
        n = found.rows["efficacy_score"].n
        cells = [_cell(found.rows.get(name), name, n) for name in heads]
        table.add_row(WAYS[way].title, *cells, *([f"{rows[way]:.0f}"] if rows else []))
    return table


def _cell(found: Estimate | None, name: str, n: int) -> str:
    if found is None or not found.n:
        return "–"
    if name in ("neighbourhood_kl", "perplexity_ratio"):
        value = f"{found.value:.3f}" if found.value < 1000 else f"{found.value:.1e}"
    else:
        value = f"{found.value:.1f}"
    return value if found.n in (0, n) or name in COMBINED else f"{value} ({found.n})"


def _sequences(results: Results) -> Table:
    group = results.config["group"]
    title = "one after the other" if group == 1 else f"in groups of {group}"
    heads = ("edits", "recall of edits", "others kept", "perplexity ×", "ruined")
    table = Table(Column("way"), *(Column(head, justify="right") for head in heads), title=f"edits {title}")
    for way, points in results.sequence.items():
        for point in points:
            values = [point.get(name) for name in ("recall", "others_kept", "perplexity_ratio")]
            cells = [
                "–" if value is None else f"{value:.3f}" if n == 2 else f"{value:.1f}" for n, value in enumerate(values)
            ]
            table.add_row(WAYS[way].title, str(point["edits"]), *cells, "yes" if point["ruined"] else "")
    return table
