"""The study of editing as one page, and its charts as files for papers."""

from pathlib import Path

from jaxinterp.report.charts import save_chart
from jaxinterp.report.sections import Section, write_sections
from jaxinterp.studies.editing.charts import frontier, sequences
from jaxinterp.studies.editing.results import Results, shown

REPORT = "report.html"
LEAD = (
    "Facts of one model get other answers, and questions say what that did: whether the new answer is given, also to "
    "other words, and whether everything else is answered as before. Nothing is teacher-forced: accuracies are of "
    "greedy generation.",
    "No edit, and edits of random or merely active neurons, are the "
    "controls: a way that is no better than they are owes nothing to what it claims to find.",
)


def write_page(out: Path, results: Results) -> None:
    """Writes `REPORT` to `out`, and every chart to its folder charts as .svg and .png; UserError if it cannot."""
    charts = {"frontier": frontier(results), "sequences": sequences(results)}
    for name, chart in charts.items():
        if chart is not None:
            save_chart(chart, out / "charts", name)
    parts = shown(results)
    headings = {"edits": ("Edits", "frontier"), "sequences": ("Many edits", "sequences")}
    sections = [
        Section(name, heading, parts[name], {chart: charts[chart]})
        for name, (heading, chart) in headings.items()
        if name in parts
    ]
    where_from = {**results.provenance, "config": results.config}
    write_sections(out / REPORT, f"Editing {results.config['model']}", LEAD, sections, where_from)
