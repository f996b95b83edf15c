"""Searches repeated over the designs of a study that is done, compared: what an experiment runs."""

from pathlib import Path

import numpy as np

from jaxinterp.base.files import writable_folder
from jaxinterp.base.progress import progress
from jaxinterp.report.charts import save_chart
from jaxinterp.report.shown import print_parts
from jaxinterp.studies.engine.page import write_csv
from jaxinterp.studies.engine.replayed import found_by, searches_of, table_of, whole
from jaxinterp.studies.engine.replayed_shown import gain_rows, search_chart, search_rows, searches_printed
from jaxinterp.studies.engine.results import results_of
from jaxinterp.studies.engine.storage import attach


def compare_searches(designs: Path, out: Path, trials: int, repeats: int) -> None:
    """Repeats each search, prints what they found, and writes it: searches.csv, gains.csv and a chart.

    Args:
      designs: folder of a study of a grid that is done.
      out: folder for the results.
      trials: designs that a search tries, below those of the study.
      repeats: of each search, for each seed.
    Raises:
      UserError: if the study is none that searches can be repeated over, or a folder cannot be read or written.
    """
    attached = attach(designs)
    table = table_of(attached.config, results_of(attached), trials)
    writable_folder(out)
    searches, done = searches_of(table.config), 0
    with progress("searches", len(searches) * len(table.config.seeds) * repeats) as told:

        def one_more() -> None:
            nonlocal done
            done += 1
            told(done, "")

        found = {search.name: found_by(search, table, trials, repeats, one_more) for search in searches}
    rows, gains = search_rows(found, table), gain_rows(found, table, searches[0].name)
    write_csv(out / "searches.csv", rows)
    write_csv(out / "gains.csv", gains)
    most = float(np.mean(whole(table).area_SNK[:, -1, 0]))
    save_chart(search_chart(rows, most, table), out, "searches", ("svg", "png", "pdf"))
    print_parts([*searches_printed(rows, gains), f"with all {len(table.points)} designs tried: hypervolume {most:.4g}"])
