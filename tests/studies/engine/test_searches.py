"""Searches over a table of designs: by hand, what they find, that they repeat themselves, files, and bad input."""

import csv
import dataclasses

import numpy as np
import pytest
from study_stubs import LOSS, S, study

from jaxinterp.base.errors import UserError
from jaxinterp.studies.engine.config import Factor, training_of
from jaxinterp.studies.engine.points import points_of
from jaxinterp.studies.engine.replayed import Search, _judged, found_by, searches_of, table_of, whole
from jaxinterp.studies.engine.run import Outcome, Result
from jaxinterp.studies.engine.searches import compare_searches
from jaxinterp.studies.engine.work import run_study

pytest.importorskip("optuna")
NAMES = ("both", "both, NSGA-II", "second alone", "chance")
GRID = {
    "factors": (
        Factor("decay", field="optimiser.weight_decay", levels=tuple(round(0.01 * n, 2) for n in range(1, 9))),
        Factor("beta", field="optimiser.beta1", levels=(0.5, 0.6, 0.7, 0.8)),
    ),
    "front": {S: "maximize", LOSS: "minimize"},
    "reference": {S: 0.0, LOSS: 2.0},
    "hypotheses": (),
    "seeds": (0, 1, 2),
}


def outcome(run, config, out=None):
    """S grows with the decay; the loss falls with beta, and grows with the decay."""
    decay, beta = run.optimiser.weight_decay, run.optimiser.beta1
    values = {S: 10 * decay, LOSS: 1.6 - beta + 8 * decay}
    facts = np.concatenate([[0.0], 0.001 * np.sin(np.arange(4.0) + run.seed)])
    return Outcome({name: value + 0.001 * run.seed + facts for name, value in values.items()}, "digest", 0, "stub")


def table(trials=6):
    config = study(**GRID)
    results = [
        Result(point, seed, {}, outcome(training_of(config, point, seed), config).samples, "", 0.0, {})
        for seed in config.seeds
        for point in points_of(config)
    ]
    return table_of(config, results, trials)


def test_what_was_tried_is_judged_by_the_next_seed():
    of = table()
    # By seed 0, designs 3 (decay .01, beta .8) and 31 (.08, .8); 0 (.01, .5) is beaten by 3 in the loss and equal in S.
    area, best = _judged(of, 0, [0, 3, 31])
    s, loss = (lambda d: 10 * d + 0.001), (lambda d, b: 1.6 - b + 8 * d + 0.001)
    one = s(0.01) * (2 - loss(0.01, 0.5))
    two = s(0.01) * (2 - loss(0.01, 0.8))
    three = two + (s(0.08) - s(0.01)) * (2 - loss(0.08, 0.8))
    facts = 0.001 * np.sin(1.0)  # seed 1 draws other facts; the estimate has none
    np.testing.assert_allclose(area[:, 0], [one, two, three], rtol=1e-9)
    assert abs(area[0, 1] - one) > 0 and facts > 0
    np.testing.assert_allclose(best[:, 0], [[s(0.01), -loss(0.01, 0.5)], *2 * [[s(0.01), -loss(0.01, 0.8)]]])


def test_searches_find_what_they_look_for():
    of, n = table(16), 16
    found = {search.name: found_by(search, of, n, 8) for search in searches_of(of.config)}
    area = {name: found[name].area_SNK[:, -1, 0].mean() for name in found}
    most = whole(of).area_SNK[:, -1, 0].mean()
    assert found["both"].area_SNK.shape == (3, n, 5) and found["both"].best_SNK2.shape == (3, n, 5, 2)
    assert all(0.8 * most < area[name] < most for name in found)
    loss = {name: -found[name].best_SNK2[:, -1, 0, 1].mean() for name in found}
    assert loss["second alone"] < loss["chance"] - 0.01
    for one in found.values():
        assert (np.diff(one.area_SNK[:, :, 0].mean(0)) >= -1e-3).all()  # more designs find more


def test_a_search_repeats_itself_and_differs_from_the_next_one():
    of = table()
    search = Search("both", "nsga2", of.config.front)
    first, again = (found_by(search, of, 6, 2).area_SNK for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, found_by(search, of, 6, 1).area_SNK)


def test_searches_are_written(tmp_path, capsys):
    decay, beta = GRID["factors"]
    few = (dataclasses.replace(decay, levels=decay.levels[:3]), dataclasses.replace(beta, levels=beta.levels[:2]))
    run_study(study(**{**GRID, "factors": few, "seeds": (0, 1)}), tmp_path / "designs", outcome)
    compare_searches(tmp_path / "designs", tmp_path / "out", 4, 2)
    assert "with all 6 designs tried" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "out" / "searches.csv").read_text().splitlines()))
    assert [row["search"] for row in rows] == [name for name in NAMES for _ in range(4)]
    assert all(float(row["hypervolume low"]) <= float(row["hypervolume"]) for row in rows)
    gains = list(csv.DictReader((tmp_path / "out" / "gains.csv").read_text().splitlines()))
    assert {row["against"] for row in gains} == set(NAMES[1:]) and len(gains) == 9
    assert (tmp_path / "out" / "searches.png").stat().st_size > 1000


def test_what_is_no_table_is_one_line():
    config = study(**GRID)
    with pytest.raises(UserError, match="trials must lie in 1 … 31"):
        table_of(config, [], 32)
    with pytest.raises(UserError, match=r"96 runs of .* are missing or lack a metric"):
        table_of(config, [], 4)
    with pytest.raises(UserError, match="a grid with a front, its reference and two seeds"):
        table_of(study(**{**GRID, "seeds": (0,)}), [], 4)
