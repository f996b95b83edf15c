"""What a study shows: the same tables in the terminal and on its page, with charts, and every figure's data as CSV."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import read_json, write_text
from jaxinterp.base.lines import CHECK
from jaxinterp.report.charts import save_chart
from jaxinterp.report.sections import Section, write_sections
from jaxinterp.report.shown import Part, print_parts
from jaxinterp.studies.engine.charts import (
    Row,
    dose_chart,
    dose_rows,
    front_chart,
    front_rows,
    metric_title,
    point_words,
)
from jaxinterp.studies.engine.config import StudyConfig
from jaxinterp.studies.engine.contrasts import ALPHA, POWER, Finding, findings
from jaxinterp.studies.engine.front import Front, PointMeans, means_of, pareto
from jaxinterp.studies.engine.hypothesis import Hypothesis
from jaxinterp.studies.engine.results import failed_lines, results_of, status_of
from jaxinterp.studies.engine.storage import CONFIG, attach

REPORT, FIGURES = "report.html", "figures"  # in the study's folder
SIGN = {"higher": ">", "lower": "<", "same": "within ±"}


def write_report(folder: Path) -> Path:
    """Prints what a study has so far, and writes it as a page; charts and their data go to `FIGURES`.

    Returns:
      The page's path.
    Raises:
      UserError: if no run is done, a result was tampered with, or the front is empty.
    """
    attached = attach(folder)
    config, results, status = attached.config, results_of(attached), status_of(attached)
    if not results:
        raise UserError(f"no trial of the study in {folder} is done; there is nothing to report")
    means = means_of(config, results)
    tables: dict[str, list[Row]] = {"points": _point_rows(config, means)}
    sections = []
    if config.hypotheses:
        found = findings(config, results)
        tables["hypotheses"] = [finding_row(of) for of in found]
        sections.append(Section("hypotheses", "Hypotheses", hypothesis_parts(found)))
    if config.front:
        front = pareto(config, means)
        tables["front"] = front_rows(config, means, front)
        charts = {"front": front_chart(config, tables["front"])}
        sections.append(Section("front", "What costs what", front_parts(config, front), charts))
    for number, factor in enumerate(config.factors):
        name = f"doses-{number}"
        if factor.values and not config.searches:
            tables[name] = dose_rows(config, results, factor.name)
            chart = {name: dose_chart(config, tables[name], factor.name)}
            sections.append(Section(name, f"Levels of {factor.name}", (), chart))
    sections.append(Section("points", "All points", [points_table(config, means)]))
    for section in sections:
        for name, chart in section.charts.items():
            if chart is not None:
                save_chart(chart, folder / FIGURES, name)
    for name, rows in tables.items():
        write_csv(folder / FIGURES / f"{name}.csv", rows)
    counts = ", ".join(f"{n} {state}" for state, n in status.counts.items() if n)
    lead = (
        f"{len(results)} runs of {len(means)} points, design {config.design}. Trials: {counts}.",
        *failed_lines(status),
    )
    kept = {name: value for name, value in read_json(folder / CONFIG).items() if name != CHECK}
    write_sections(folder / REPORT, config.name, lead, sections, {**kept, "code": status.code})
    print_parts([*lead, *(part for section in sections for part in section.parts)])
    return folder / REPORT


def hypothesis_parts(found: Sequence[Finding]) -> list[Part]:
    """The verdicts, and how they were come to."""
    columns = (
        "hypothesis",
        "claim",
        "verdict",
        "change",
        "95 % interval",
        "p",
        "n",
        "runs",
        "detectable",
        "power",
        "why",
    )
    table = Table(*columns, title="Hypotheses, as they were written down before the runs")
    for of in found:
        row = finding_row(of)
        p = f"{of.p:.2g}" if of.effect is not None else "–"
        cells = (row["hypothesis"], row["claim"], of.verdict, figure(row["change"]), interval(row), p)
        power = "–" if row["power"] is None else f"{row['power']:.0%}"
        n = f"{of.found.n} {of.found.unit}"
        table.add_row(*cells, n, str(of.found.n_runs), figure(row["detectable"]), power, of.because)
    words = (
        "Runs that differ in the factor alone are paired and averaged by seed. n is what the interval is over. p is "
        f"corrected by Holm over all hypotheses, and decides below {ALPHA:g}. Detectable is the smallest change that "
        f"would be told from none with a probability of {POWER:.0%}; power is the one with which the margin would be."
    )
    return [table, words]


def front_parts(config: StudyConfig, front: Front) -> list[Part]:
    """The points of the front, and its hypervolume."""
    first, second = config.front
    table = Table("point", metric_title(first), metric_title(second), title="Points that no other beats in both")
    for of in front.points:
        table.add_row(point_words(of.point), figure(of.spread[first]["mean"]), figure(of.spread[second]["mean"]))
    worst = " and ".join(figure(value) for value in front.reference)
    return [table, f"Hypervolume {front.hypervolume:.4g}, above the worst values of all points, {worst}."]


def points_table(config: StudyConfig, means: Sequence[PointMeans]) -> Table:
    """Mean ± standard deviation over seeds of every metric at every point."""
    names = [factor.name for factor in config.factors]
    title = "Means over seeds ± standard deviation"
    table = Table(*names, *map(metric_title, config.metrics), "seeds", "failed", title=title)
    for of in means:
        cells = [_spread(of.spread.get(metric)) for metric in config.metrics]
        n = max((spread["n"] for spread in of.spread.values()), default=0)
        table.add_row(*(str(of.point[name]) for name in names), *cells, str(n), str(of.n_failed))
    return table


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows with one head; UserError if the file cannot be written."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def finding_row(of: Finding) -> Row:
    """A finding as a row of a CSV; what is not known is None."""
    claim, effect = of.hypothesis, of.effect
    row: Row = {"hypothesis": claim.name, "claim": claim_words(claim)}
    names = ("change", "low", "high", "detectable", "power")
    row |= dict.fromkeys(names)
    if effect is not None:
        row["change"] = effect.value
    if effect is not None and not of.found.why_not:  # an interval of facts alone says nothing of other seeds
        ends = (effect.low, effect.high)
        row["low"], row["high"] = ends if claim.kind == "contrast" else (max(ends[0], -1.0), min(ends[1], 1.0))
        row["detectable"] = effect.detectable(POWER)
        row["power"] = effect.power(claim.margin) if claim.margin else None
    about = {"p": of.p, "n": of.found.n, "of": of.found.unit, "runs": of.found.n_runs}
    return {**row, **about, "verdict": of.verdict, "because": of.because}


def claim_words(claim: Hypothesis) -> str:
    """What a hypothesis claims, in one line."""
    metric, sign = metric_title(claim.metric), SIGN[claim.direction]
    bound = f"{-claim.margin if claim.direction == 'lower' else claim.margin:g}".replace("-", "−")
    words = {
        "contrast": f"{metric}: {claim.factor} {claim.after} − {claim.before}",
        "trend": f"ρ of {metric} and {claim.factor}",
        "association": f"ρ of {metric} and {metric_title(claim.other)}" if claim.other else "",
        "retest": f"intraclass correlation of {metric}",
    }[claim.kind]
    given = f", given {metric_title(claim.given)}" if claim.given else ""
    at = ", at matched loss" if claim.at == "loss" else ""
    return f"{words}{given}{at} {sign}{' ' if claim.direction != 'same' else ''}{bound}"


def _point_rows(config: StudyConfig, means: Sequence[PointMeans]) -> list[Row]:
    rows = []
    for of in means:
        row: Row = {**of.point, "failed": of.n_failed}
        for metric in config.metrics:
            for name in ("mean", "sd", "n"):
                row[f"{metric} {name}"] = of.spread.get(metric, {}).get(name)
        rows.append(row)
    return rows


def interval(row: Row) -> str:
    """The interval of a row; a dash if there is none."""
    return "–" if row["low"] is None else f"[{figure(row['low'])}, {figure(row['high'])}]"


def figure(value: float | None) -> str:
    """Four digits; a dash if there is none."""
    return "–" if value is None else f"{value:.4g}".replace("-", "−")


def _spread(of) -> str:
    if of is None:
        return "–"
    return figure(of["mean"]) + ("" if of["sd"] is None else f" ± {of['sd']:.2g}")
