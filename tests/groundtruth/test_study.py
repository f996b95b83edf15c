"""The study's results, and its chart; with few methods and no training, for speed."""

import json

import pytest

from jaxinterp.attribution.registry import METHODS
from jaxinterp.base.errors import UserError
from jaxinterp.groundtruth.registry import PLANTS
from jaxinterp.groundtruth.routing import RoutingConfig
from jaxinterp.groundtruth.scores import MEASURES
from jaxinterp.studies.groundtruth import study as ground_truth
from jaxinterp.studies.groundtruth.chart import precision_map

SHOWN = ("activation", "random")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(METHODS, "names", lambda: SHOWN)
        patch.setattr(PLANTS, "names", lambda: ("one", "decoy"))
        patch.setattr(ground_truth, "RoutingConfig", lambda: RoutingConfig(steps=1))
        return out, ground_truth.ground_truth_study(2, out)


def test_results(results):
    out, found = results
    assert json.loads((out / "results.json").read_text()) == found
    assert list(found["plants"]) == ["one", "decoy", "routed"]
    one, decoy = found["plants"]["one"], found["plants"]["decoy"]
    same = pytest.approx(0.025 ** (1 / 48))  # of facts that do not differ
    assert one["methods"]["activation"]["precision"] == {"value": 1, "low": same, "high": 1, "n": 48}
    same = pytest.approx(1 - 0.025 ** (1 / 48))
    assert decoy["methods"]["activation"]["precision"] == {"value": 0, "low": 0, "high": same, "n": 48}
    assert (one["true_neurons"], one["neurons"], one["n_facts"]) == (1, 192, 48)
    assert one["p"] > 0.9 and one["p_without"] == one["p_without_all"] < 0.1
    for plant in found["plants"].values():
        for method in SHOWN:
            assert set(plant["methods"][method]) == set(MEASURES)
    assert {"own_off", "others_off"} == set(found["routing"])
    assert (out / "charts" / "ground_truth.png").stat().st_size > 1000


def test_chart_shows_every_cell(results):
    found = results[1]
    chart = precision_map(found).to_dict()
    rows = next(iter(chart["datasets"].values())) if "datasets" in chart else chart["data"]["values"]
    assert len(rows) == len(found["plants"]) * len(SHOWN)
    for row in rows:
        plant = next(plant for plant in found["plants"].values() if plant["title"] == row["plant"])
        method = next(name for name in SHOWN if METHODS[name].title == row["method"].replace("\n", " "))
        assert row["value"] == plant["methods"][method]["precision"]["value"]


def test_mistakes_are_told(tmp_path):
    with pytest.raises(UserError, match="seeds must be at least 1, got 0"):
        ground_truth.ground_truth_study(0, tmp_path)
