"""Groups of models over seeds: who belongs to whom, what is said of them, and that work goes on where it was."""

import csv
import dataclasses
import json
import math

import jax
import numpy as np
import pytest
import scipy.stats
from knowing import knowing, table

from jaxinterp.base.errors import UserError
from jaxinterp.models.loading.bundle import save_model
from jaxinterp.studies.editing import seeds as of_seeds
from jaxinterp.studies.editing.config import EditingConfig
from jaxinterp.studies.editing.seeds_config import EditingSeedsConfig, InformsConfig
from jaxinterp.studies.editing.seeds_tables import differences, means


def jittered(model, seed):
    """Nearly the same model, so that it knows the same facts."""
    leaves, tree = jax.tree.flatten(model.params)
    rng = np.random.default_rng(seed)
    noisy = [x * np.asarray(1 + 1e-3 * rng.normal(size=x.shape), x.dtype) for x in leaves]
    return dataclasses.replace(model, model=dataclasses.replace(model.model, params=jax.tree.unflatten(tree, noisy)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    model, facts = knowing(n_ctx=24)
    (folder / "facts.csv").write_text(table(facts))
    for seed in (0, 1):
        save_model(folder / "first" / "models" / f"plain-seed{seed}", jittered(model, seed))
        save_model(folder / "second" / "models" / f"seed{seed}", jittered(model, seed + 2))
    return folder


@pytest.fixture(scope="module")
def config(folder):
    edits = EditingConfig(facts=str(folder / "facts.csv"), windows=40, edits=1, probes=2, kept=3, k=3, ways=("update",))
    return EditingSeedsConfig(
        folders=(folder / "first" / "models", folder / "second" / "models"),
        edits=edits,
        informs=InformsConfig(facts=3, k=2, shares=(0.0, 1.0), shuffles=5),
        legible=4,
    )


def test_who_belongs_to_whom(folder, tmp_path):
    found = of_seeds.members_of([folder / "first" / "models", folder / "second" / "models"])
    assert [(one.group, one.seed) for one in found] == [("plain", 0), ("plain", 1), ("second", 0), ("second", 1)]
    with pytest.raises(UserError, match="has no models called"):
        of_seeds.members_of([tmp_path])
    with pytest.raises(UserError, match="has seed 0 twice"):
        of_seeds.members_of([folder / "first" / "models"] * 2)


def test_means_and_differences_are_those_of_t_tests():
    rng = np.random.default_rng(0)
    values = {group: {seed: {"S": float(rng.normal(size=1)[0])} for seed in range(5)} for group in ("a", "b")}
    values["b"][9] = {"S": 100.0}  # a seed that the other group lacks
    values["a"][4]["S"] = math.nan
    own = np.array([values["a"][seed]["S"] for seed in range(4)])
    other = np.array([values["b"][seed]["S"] for seed in range(4)])
    mean, difference = means(values, 0.9)["a", "S"], differences(values, 0.9)["b", "S"]
    low, high = scipy.stats.ttest_1samp(own, 0).confidence_interval(0.9)
    assert (mean.value, mean.low, mean.high, mean.n_seeds) == pytest.approx((own.mean(), low, high, 4))
    paired = scipy.stats.ttest_rel(other, own)
    low, high = paired.confidence_interval(0.9)
    assert (difference.low, difference.high, difference.p) == pytest.approx((low, high, paired.pvalue))


def test_the_study(config, folder, monkeypatch):
    results = of_seeds.editing_seeds_study(config, folder / "out")
    assert set(results["means"]) == {"plain", "second"} and set(results["differences"]) == {"second"}
    saved = json.loads((folder / "out" / "results.json").read_text(), parse_constant=pytest.fail)
    assert saved["means"] == json.loads(json.dumps(results["means"]))
    lines = list(csv.DictReader((folder / "out" / "seeds.csv").read_text().splitlines()))
    rows = {(line["of"], line["group"], line["figure"]): line for line in lines}
    one = rows["mean", "second", "informs/rewrite/partial"]
    values = [results["models"][f"second-seed{seed}"]["informs/rewrite/partial"] for seed in (0, 1)]
    assert float(one["value"]) == pytest.approx(np.mean(values), rel=1e-5) and all(0 <= value <= 1 for value in values)
    assert rows["difference", "second", "legible/fact_top/own"]["seeds"] == "2"
    kept = [json.loads(line) for line in (folder / "out/plain-seed0/more/informs.jsonl").read_text().splitlines()]
    by_share = {
        share: [line["mass"] for line in kept if line["share"] == share and "mass" in line] for share in (0.0, 1.0)
    }
    assert np.mean(by_share[1.0]) > np.mean(by_share[0.0]) and max(by_share[1.0]) <= 1
    # Nothing is edited twice.
    monkeypatch.setattr("jaxinterp.studies.editing.informs.edit", None)
    again = of_seeds.editing_seeds_study(config, folder / "out")
    assert again["models"] == results["models"] and again["differences"] == results["differences"]
