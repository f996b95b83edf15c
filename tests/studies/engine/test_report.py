"""The report of results that nobody ran: tables, charts, and their data."""

import csv
import dataclasses
import re

import made_up_studies as made_up
import numpy as np
import pytest
from made_up_studies import LOSS, RECALL, S

from jaxinterp.report.charts import save_chart
from jaxinterp.report.sections import write_sections
from jaxinterp.report.shown import print_parts
from jaxinterp.studies.engine.arm_charts import change_chart, change_rows, curve_rows
from jaxinterp.studies.engine.charts import dose_chart, dose_rows
from jaxinterp.studies.engine.config import Budget, Factor
from jaxinterp.studies.engine.front import hypervolume_interval, means_of, pareto
from jaxinterp.studies.engine.hypothesis import Hypothesis
from jaxinterp.studies.engine.page import SUFFIXES, sections_of, write_csv
from jaxinterp.studies.engine.price_chart import price_chart, price_rows
from jaxinterp.studies.engine.tables import claim_words


def shown(config, results, capsys):
    """Names of sections, what is printed, and tables."""
    tables = {}
    sections = sections_of(config, results, tables)
    print_parts([part for section in sections for part in section.parts])
    return {section.name: section for section in sections}, re.sub(r"\s+", " ", capsys.readouterr().out), tables


def test_everything_that_is_known_is_shown(capsys, tmp_path):
    sections, printed, tables = shown(made_up.study(), made_up.results(), capsys)
    assert list(sections) == ["hypotheses", "front", "matched", "changes", "curves", "doses-0", "doses-1", "points"]
    for words in ("at equal loss", "seeds and relations crossed", "It moves with the points", "At a loss of 1.3"):
        assert words in printed, words
    both = {row["hypothesis"]: row for row in tables["matched-contrasts"]}
    assert both["differs"]["steps verdict"] == "refuted" and both["differs"]["loss verdict"] == "supported"
    assert [row["relations"] for row in tables["relations"]] == [3, 3]
    for name, section in sections.items():
        for chart_name, chart in section.charts.items():
            assert chart is not None and chart_name in tables, name  # each figure has its data
    paths = save_chart(sections["changes"].charts["changes"], tmp_path, "changes", SUFFIXES)
    assert [path.suffix for path in paths] == [".svg", ".png", ".pdf"]
    assert paths[2].read_bytes().startswith(b"%PDF") and "−" in paths[0].read_text()
    write_csv(tmp_path / "changes.csv", tables["changes"])
    with (tmp_path / "changes.csv").open() as file:
        assert {row["metric"] for row in csv.DictReader(file)} == {S, RECALL}  # the loss is the same for all
    write_sections(tmp_path / "page.html", "made up", ["lead"], list(sections.values()), {})
    assert (tmp_path / "page.html").stat().st_size > 1000


def test_what_is_read_off_is_marked(capsys):
    """The slow arm is at its end where the others are read off: after 1 / (2 · 1.3 / arm − 1) of 400 steps."""
    _, printed, tables = shown(made_up.study(), made_up.results(rates=(0.0,)), capsys)
    row = {row["arm"]: row for row in tables["matched"]}
    assert (row["slow"]["step before"], row["slow"]["step after"], row["slow"]["interpolated"]) == (400, 400, 0)
    assert row["slow"][f"{S} gap"] == 0
    plain = row["plain"]  # 250 steps: its loss is 1.5 after 200 and 1.1667 after 300, and 1.3 between
    assert (plain["step before"], plain["step after"]) == (200, 300) and plain["interpolated"] == pytest.approx(0.6)
    assert plain[f"{LOSS} gap"] == pytest.approx(1 / 3) and plain[f"{S} gap"] == pytest.approx(0.1, abs=0.01)
    assert "≈200…300, 60%" in printed and " 400 " in printed and "≈ is more than 25% from both" in printed
    gaps = {row["hypothesis"]: row["loss gap"] for row in tables["matched-contrasts"]}
    assert gaps["differs at one loss"] == pytest.approx(0.1, abs=0.01)
    assert [row["gap"] for row in tables["hypotheses"]][2:] == [None] * 3


def test_few_results_say_so(capsys):
    runs = [run for run in made_up.results() if run.seed == 0 and run.point["rate"] == 0.0]
    sections, printed, _ = shown(made_up.study(), runs, capsys)
    assert "0 of 5 seeds have both runs of every pair" in printed and sections["changes"].charts["changes"] is None
    no_loss = [run._replace(values={S: run.values[S]}, along={}, curve=()) for run in runs]
    sections, printed, _ = shown(made_up.study(), no_loss, capsys)
    assert "the front is empty: no point has both" in printed and "matched" not in sections
    assert sections["curves"].charts["curves"] is None


def test_a_metric_that_fewer_seeds_have_says_so(capsys):
    runs = made_up.results(arms=("plain", "slow"), rates=(0.0,))
    lacking = runs[-1]._replace(values={**runs[-1].values, S: float("nan")})
    config = made_up.study(hypotheses=(), front={}, match="")
    whole = shown(config, runs, capsys)[1]
    _, printed, tables = shown(config, [*runs[:-1], lacking], capsys)
    assert "In brackets" not in whole and "In brackets: how many seeds have the metric" in printed
    assert printed.count(" (4) ") == 1 and f"{S} mean" in tables["points"][1]
    assert [row[f"{S} n"] for row in tables["points"]] == [5, 4]
    assert [row[f"{RECALL} n"] for row in tables["points"]] == [5, 5]
    nowhere = [run._replace(values={LOSS: 1.0}) for run in runs]
    assert [row[f"{S} n"] for row in shown(config, nowhere, capsys)[2]["points"]] == [0, 0]


def test_a_claim_of_lower_is_below_nothing():
    lower = Hypothesis("less", S, "arm", "plain", "slow", "lower")
    assert claim_words(lower).endswith("< 0") and claim_words(dataclasses.replace(lower, margin=0.1)).endswith("< −0.1")


def test_prices_are_changes_from_the_first_level():
    runs = made_up.results()
    rows = {(row["level"], row["metric"]): row for row in price_rows(made_up.study(), runs)}
    assert set(rows) == {(level, metric) for level in ("slow", "quick") for metric in (S, LOSS)}
    for (level, metric), row in rows.items():
        means = {arm: np.mean([r.values[metric] for r in runs if r.point["arm"] == arm]) for arm in (level, "plain")}
        np.testing.assert_allclose(row["change"], means[level] - means["plain"], rtol=1e-9)
        assert row["low"] < row["change"] < row["high"] and row["seeds"] == 5
    one_seed = price_rows(made_up.study(), [run for run in runs if run.seed == 0])
    assert {(row["low"], row["high"]) for row in one_seed} == {(None, None)}
    alone = [row for row in one_seed if row["level"] == "slow"]
    assert price_chart(made_up.study(), one_seed) is not None and price_chart(made_up.study(), alone) is None


def test_changes_are_in_standard_deviations_of_runs():
    config = made_up.study(hypotheses=())
    means = means_of(config, made_up.results(arms=("plain", "slow"), rates=(0.0,)))
    rows = {row["point"]: row for row in change_rows([S], means)}
    sds = [of.spread[S]["sd"] for of in means]
    change = means[1].spread[S]["mean"] - means[0].spread[S]["mean"]
    row = rows["arm slow, rate 0"]
    assert row["change"] == pytest.approx(change)
    assert row["standardised"] == pytest.approx(change / (np.square(sds).mean() ** 0.5))
    assert rows["arm plain, rate 0"]["standardised"] == 0


def test_curves_are_means_over_seeds():
    runs = made_up.results(arms=("plain",), rates=(0.0,), seeds=(0, 1))
    rows = curve_rows(runs)
    assert [row["step"] for row in rows] == list(range(20, 401, 20))
    assert rows[3]["loss"] == pytest.approx(np.mean([dict(run.curve)[80] for run in runs])) and rows[3]["seeds"] == 2


def test_the_area_has_a_fixed_corner_and_an_interval(capsys):
    reference = {S: 0.3, LOSS: 2.0}
    config, runs = made_up.study(reference=reference), made_up.results()
    front = pareto(config, means_of(config, runs))
    assert front.reference == (0.3, 2.0)
    few = [run for run in runs if run.point["arm"] != "slow"]
    assert pareto(config, means_of(config, few)).reference == (0.3, 2.0)
    area = hypervolume_interval(config, runs, front)
    assert area.low < area.value < area.high and area.value == front.hypervolume
    # A front of one point whose two metrics each vary by seed: the area's error is that of a product.
    best = [run for run in runs if run.point == {"arm": "quick", "rate": 0.0}]
    alone = hypervolume_interval(config, best, pareto(config, means_of(config, best)))
    values = np.array([[run.values[S] - 0.3, 2.0 - run.values[LOSS]] for run in best])
    error = np.std(values @ values.mean(0)[::-1], ddof=1) / 5**0.5
    assert (alone.high - alone.low) / 2 == pytest.approx(2.776 * error, rel=0.15)
    one = [run for run in runs if run.seed == 0]
    assert np.isnan(hypervolume_interval(config, one, pareto(config, means_of(config, one))).low)
    assert "from the reference, 0.3 and 2" in shown(config, runs, capsys)[1]


def test_names_have_rows_and_are_not_joined():
    config = made_up.study()
    runs = [run for run in made_up.results() if run.point["arm"] != "quick"]
    layers = dose_chart(config, dose_rows(config, runs, "arm"), "arm").to_dict()["concat"][0]["layer"]
    assert [layer["mark"]["type"] for layer in layers] == ["rule", "point"]
    assert layers[1]["encoding"]["y"]["scale"]["domain"] == ["plain", "slow", "quick"]  # one has no value yet


def test_a_map_of_changes_has_no_negative_zero():
    rows = [{"metric": S, "point": name, "change": x, "standardised": x} for name, x in (("a", 0.0), ("b", -0.04))]
    assert [row["text"] for row in change_chart(rows, "changes").to_dict()["layer"][1]["data"]["values"]] == ["0.0"] * 2


def test_texts_wrap_and_numbers_do_not(tmp_path):
    sections = sections_of(made_up.study(), made_up.results(seeds=range(4)), {})
    write_sections(tmp_path / "page.html", "made up", [], sections, {})
    page = (tmp_path / "page.html").read_text()
    table = page[page.index("Hypotheses, as they were") :]
    kinds = re.findall(r'<th scope="col"(?: class="(\w+)")?>([^<]*)</th>', table[: table.index("</thead>")])
    short = [("", "verdict"), *(("n", name) for name in ("change", "95 % interval", "p", "n", "runs", "detectable"))]
    assert kinds == [("", "hypothesis"), ("long", "claim"), *short, ("n", "power"), ("long", "why")]


def test_ranges_have_points_on_their_own_axis():
    factor = Factor("decay", field="optimiser.weight_decay", low=0.01, high=1.0, log=True)
    search = {"design": "tpe", "optimise": {LOSS: "minimize"}, "budget": Budget(trials=3), "hypotheses": ()}
    config = made_up.study(factors=(factor,), **search)
    runs = [
        run._replace(point={"decay": 0.01 * 3 ** ("plain", "slow", "quick").index(run.point["arm"])})
        for run in made_up.results(rates=(0.0,))
    ]
    rows = dose_rows(config, runs, "decay")
    assert [row["level"] for row in rows if row["metric"] == S] == pytest.approx([0.01, 0.03, 0.09])
    spec = dose_chart(config, rows, "decay").to_dict()
    layers = spec["concat"][0]["layer"]
    assert layers[1]["encoding"]["x"]["scale"]["type"] == "log" and layers[1]["mark"]["type"] == "point"
