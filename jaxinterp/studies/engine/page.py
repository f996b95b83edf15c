"""What a study shows: the same tables in the terminal and on its page, with charts, and every figure's data as CSV."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json, write_text
from jaxinterp.base.lines import CHECK
from jaxinterp.report.charts import save_chart
from jaxinterp.report.sections import Section, write_sections
from jaxinterp.report.shown import print_parts
from jaxinterp.studies.engine.arm_charts import change_chart, change_rows, curve_chart, curve_rows
from jaxinterp.studies.engine.charts import (
    Row,
    dose_chart,
    dose_rows,
    front_chart,
    front_rows,
)
from jaxinterp.studies.engine.config import StudyConfig
from jaxinterp.studies.engine.contrasts import beside, findings, over_relations
from jaxinterp.studies.engine.front import hypervolume_interval, means_of, pareto
from jaxinterp.studies.engine.matching import at_common_loss
from jaxinterp.studies.engine.points import point_words
from jaxinterp.studies.engine.price_chart import price_chart, price_rows
from jaxinterp.studies.engine.results import results_of, status_of, told
from jaxinterp.studies.engine.run import Result
from jaxinterp.studies.engine.storage import CONFIG, attach
from jaxinterp.studies.engine.tables import (
    beside_parts,
    beside_row,
    crossed_parts,
    crossed_row,
    finding_row,
    front_parts,
    hypothesis_parts,
    point_rows,
    points_parts,
    read_off_words,
)

REPORT, FIGURES = "report.html", "figures"  # in the study's folder
SUFFIXES = ("svg", "png", "pdf")  # of figures, beside their CSV

Tables = dict[str, list[Row]]  # name of a CSV -> its rows; that of a figure has the figure's name


def write_report(folder: Path) -> Path:
    """Prints what a study has so far, and writes it as a page; charts and their data go to `FIGURES`.

    Returns:
      The page's path.
    Raises:
      UserError: if no run is done, or a result was tampered with.
    """
    attached = attach(folder)
    config, results, status = attached.config, results_of(attached), status_of(attached)
    if not results:
        raise UserError(f"no trial of the study in {folder} is done; there is nothing to report")
    tables: Tables = {}
    sections = sections_of(config, results, tables)
    for section in sections:
        for name, chart in section.charts.items():
            if chart is not None:
                save_chart(chart, folder / FIGURES, name, SUFFIXES)
    for name, rows in tables.items():
        if rows:  # there are none of a figure that is left out
            write_csv(folder / FIGURES / f"{name}.csv", rows)
    counts = ", ".join(f"{n} {state}" for state, n in status.counts.items() if n)
    n_points = len(tables["points"])
    lead = (
        f"{len(results)} runs of {n_points} points, design {config.design}. Trials: {counts}.",
        *told(status),
    )
    kept = {name: value for name, value in read_json(folder / CONFIG).items() if name != CHECK}
    write_sections(folder / REPORT, config.name, lead, sections, {**kept, "code": status.code})
    print_parts([*lead, *(part for section in sections for part in section.parts)])
    return folder / REPORT


def sections_of(config: StudyConfig, results: Sequence[Result], tables: Tables) -> list[Section]:
    """The page's sections, whose data are put into `tables`."""
    sections, means = [], means_of(config, results)
    if config.hypotheses:
        sections.append(_hypotheses(config, results, tables))
    if config.front:
        sections.append(_front(config, results, tables))
    common = at_common_loss(config, results)
    if common is not None:
        matched = means_of(config, common.results)
        tables["matched"] = point_rows(config, matched, common.read_off)
        parts = points_parts(config, matched, f"At a loss of {common.loss:.4g}", common.read_off)
        parts += read_off_words(config, common)
        sections.append(Section("matched", "All points at one loss", parts))
    at = "after all steps" if common is None else f"at a loss of {common.loss:.4g}"
    shown = means if common is None else matched
    metrics = [metric for metric in config.metrics if common is None or metric != config.match]
    tables["changes"] = change_rows(metrics, shown)
    chart = change_chart(tables["changes"], f"Change from {point_words(shown[0].point)}, {at}")
    words = (
        "Changes from the first point, in standard deviations of single runs (pooled, over seeds). Blue is higher "
        "and orange lower, neither of which need be better."
    )
    sections.append(Section("changes", "Metrics of all points", [words] if chart else (), {"changes": chart}))
    tables["curves"] = curve_rows(results)
    sections.append(Section("curves", "Training", (), {"curves": curve_chart(config, tables["curves"])}))
    for number, factor in enumerate(config.factors):
        name = f"doses-{number}"
        if not (factor.values and config.searches):
            tables[name] = dose_rows(config, results, factor.name)
            chart = {name: dose_chart(config, tables[name], factor.name)}
            sections.append(Section(name, f"Levels of {factor.name}", (), chart))
    tables["points"] = point_rows(config, means)
    sections.append(Section("points", "All points", points_parts(config, means, "After all steps")))
    return sections


def _hypotheses(config: StudyConfig, results: Sequence[Result], tables: Tables) -> Section:
    found = findings(config, results)
    tables["hypotheses"] = [finding_row(of) for of in found]
    parts = hypothesis_parts(found)
    if both := beside(config, results):
        tables["matched-contrasts"] = [beside_row(*pair) for pair in both]
        parts += beside_parts(both)
    claims = [claim for claim in config.hypotheses if claim.kind == "contrast"]
    crossed = [(claim, of) for claim in claims if (of := over_relations(claim, results)) is not None]
    if crossed:
        tables["relations"] = [crossed_row(*pair) for pair in crossed]
        parts += crossed_parts(crossed)
    return Section("hypotheses", "Hypotheses", parts)


def _front(config: StudyConfig, results: Sequence[Result], tables: Tables) -> Section:
    means = means_of(config, results)
    try:
        front = pareto(config, means)
    except UserError as empty:
        return Section("front", "What costs what", [str(empty)])
    tables["front"], tables["prices"] = front_rows(config, means, front), price_rows(config, results)
    parts = front_parts(config, front, hypervolume_interval(config, results, front))
    charts = {"prices": price_chart(config, tables["prices"]), "front": front_chart(config, tables["front"])}
    return Section("front", "What costs what", parts, charts)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows with one head; UserError if the file cannot be written."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
