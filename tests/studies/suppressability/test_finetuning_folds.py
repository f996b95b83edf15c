"""Fine-tuning by folds on a tiny model: who is unseen, what is pooled, and a run that was interrupted."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from knowing import RELATIONS, tuning_inputs

from jaxinterp.base.errors import UserError
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.estimates import estimate
from jaxinterp.metrics.measure import QueryColumns
from jaxinterp.studies.suppressability import finetuning, finetuning_folds
from jaxinterp.studies.suppressability.finetuning import ORIGINAL, TUNED, UNSEEN, finetuning_study
from jaxinterp.studies.suppressability.query_columns import joined, load_columns, save_columns
from jaxinterp.training import finetune as loop
from jaxinterp.training.finetune_config import FactsConfig

CONTROLS = ("control_drop_relation", "control_drop_subject", "control_drop_other")
MEASURE = MeasureConfig(k=2, queries=12, ability_queries=4, ablation_queries=0, points=1, rows=8, replicates=50)
COMPILED = {}


def compiled_once(model, config, make=loop.finetune_step):
    """The step, to which the facts are nothing."""
    key = repr((model, dataclasses.replace(config, facts=FactsConfig())))
    if key not in COMPILED:
        COMPILED[key] = make(model, config)
    return COMPILED[key]


@pytest.fixture(scope="module", autouse=True)
def quick():
    """One compilation, no charts, and a share by which not all of the tiny facts' relations stay together."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "finetune_step", compiled_once)
        patch.setattr(finetuning, "save_chart", lambda *_: None)
        patch.setattr(finetuning_folds, "save_chart", lambda *_: None)
        patch.setattr(finetuning_folds, "SHARE", 0.7)
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    return str(folder / "model"), tuning_inputs(folder)[1]


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    """The folder and results of a run of two folds that nothing interrupted, and how often it asked."""
    out, asked = tmp_path_factory.mktemp("folds") / "whole", []
    with pytest.MonkeyPatch.context() as patch:
        ask = finetuning_folds.ask
        patch.setattr(finetuning_folds, "ask", lambda *args, **more: asked.append(1) or ask(*args, **more))
        return out, finetuning_folds.finetuning_folds(*inputs, MEASURE, out, 2), len(asked)


def test_every_relation_is_unseen_once_and_groups_stay_together(finished):
    out, results, n_asked = finished
    unseen = [fold["unseen_relations"] for fold in results["folds"]]
    assert sorted(itertools.chain(*unseen)) == list(RELATIONS) and len(unseen) == 2 and n_asked == 1
    # By test_folds.py's rule, at 0.7 of these facts.
    assert results["apart"] == {"share": 0.7, "groups": (("r0", "r3"), ("r1", "r2"))}
    assert all(any(set(group) <= set(fold) for fold in unseen) for group in results["apart"]["groups"])
    for fold, names in zip(results["folds"], unseen, strict=True):
        own = json.loads((out / fold["folder"] / "results.json").read_text())
        assert own["provenance"]["config"]["facts"]["unseen_relations"] == names
        for title, model in own["models"].items():
            assert set(model["by_relation"][UNSEEN]) == set(names)
            assert not set(model["by_relation"]["objective"]) & set(names)
            assert fold["models"][title]["sets"] == model["sets"]
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(results))
    quoted = json.loads((out / "published.json").read_text())
    assert quoted["change"].keys() == results["change"].keys() and "config" not in quoted["provenance"]


def test_pooling_by_hand(finished):
    out, results, _ = finished
    folds = [json.loads((out / fold["folder"] / "results.json").read_text()) for fold in results["folds"]]
    for title in (ORIGINAL, TUNED):
        of_relation = {}
        for fold in folds:
            of_relation |= fold["models"][title]["by_relation"][UNSEEN]
        pooled = results["models"][title]["sets"][UNSEEN]
        for name in ("suppressability", "probability", "recall", *CONTROLS):
            values = [metrics[name] for metrics in of_relation.values() if name in metrics]
            known = [value["value"] for value in values if value["value"] is not None]
            assert pooled[name]["value"] == pytest.approx(np.mean(known), abs=1e-6) and len(known) > 2
            assert pooled[name]["n"] == sum(value["n"] for value in values if value["value"] is not None)
        # The largest of the kinds' means, and not the mean of the largest.
        assert pooled["control_drop"]["value"] == max(pooled[name]["value"] for name in CONTROLS)
        difference = pooled["suppressability"]["value"] - pooled["control_drop"]["value"]
        assert pooled["selective"]["value"] == pytest.approx(difference)
        assert pooled["suppressability"]["low"] < pooled["suppressability"]["value"] < pooled["suppressability"]["high"]
        assert set(results["mean_over_folds"][title]) == {"objective", "unseen_facts"}
        for part in ("objective", "unseen_facts"):
            values = [fold["models"][title]["sets"][part]["suppressability"]["value"] for fold in folds]
            expected = {"mean": np.mean(values), "sd": np.std(values, ddof=1), "min": min(values), "max": max(values)}
            assert results["mean_over_folds"][title][part]["suppressability"] == pytest.approx({**expected, "n": 2})
        kept = [fold["kept"][title][UNSEEN] for fold in folds]
        for part in ("right", "of"):
            assert results["kept"][title][part] == sum(value[part] for value in kept)
    assert results["kept"][ORIGINAL]["recall"]["value"] == 1
    # All that is known of the relations, each query once.
    known = sum(fold["provenance"]["sets"][UNSEEN] for fold in folds)
    assert results["kept"][TUNED]["of"] == known == results["provenance"]["facts"]["known"]
    change = results["change"]["suppressability"]
    before, after = (results["models"][title]["sets"][UNSEEN]["suppressability"] for title in (ORIGINAL, TUNED))
    assert change["value"] == pytest.approx(after["value"] - before["value"]) and change["low"] < change["value"]
    ratios = [fold["perplexity"][TUNED] / fold["perplexity"][ORIGINAL] for fold in folds]
    assert results["perplexity"]["ratio"]["mean"] == pytest.approx(np.mean(ratios))


def test_a_fold_is_the_study_with_its_relations_unseen(finished, inputs, tmp_path):
    out, results, _ = finished
    name, config = inputs
    unseen = tuple(results["folds"][0]["unseen_relations"])
    own = dataclasses.replace(config, facts=dataclasses.replace(config.facts, unseen_relations=unseen))
    alone = finetuning_study(name, own, MEASURE, tmp_path / "alone")
    fold = json.loads((out / "fold1" / "results.json").read_text())
    for part in ("perplexity", "kept", "models"):
        assert json.loads(json.dumps(alone[part])) == fold[part]
    assert alone["provenance"]["sets"] == fold["provenance"]["sets"]


def test_an_interrupted_run_goes_on_and_gives_the_same(finished, inputs, tmp_path, monkeypatch, capsys):
    train, trained = finetuning.finetune, []

    def stopped_in_the_second(config, *arguments):
        trained.append(config.facts.unseen_relations)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train(config, *arguments)

    monkeypatch.setattr(finetuning, "finetune", stopped_in_the_second)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        finetuning_folds.finetuning_folds(*inputs, MEASURE, out, 2)
    assert (out / "fold1" / "results.json").exists() and not (out / "fold2" / "results.json").exists()
    results = finetuning_folds.finetuning_folds(*inputs, MEASURE, out, 2)
    parts = set(results) - {"provenance"}
    assert {part: results[part] for part in parts} == {part: finished[1][part] for part in parts}
    # The first fold is not trained again.
    assert trained == [trained[0], trained[1], trained[1]]
    said = capsys.readouterr().out
    kept = results["kept"][TUNED]
    assert f"({kept['right']} of {kept['of']} queries)" in said and "fine-tuned − original" in said
    assert "perplexity, mean over folds and range: " in said and "mean ± standard deviation over folds" in said
    with pytest.raises(UserError, match="another config: folds is 2 there and 3 here"):
        finetuning_folds.finetuning_folds(*inputs, MEASURE, out, 3)


def test_folds_that_cannot_be(inputs, tmp_path):
    name, config = inputs
    named = dataclasses.replace(config, facts=dataclasses.replace(config.facts, unseen_relations=("r1",)))
    with pytest.raises(UserError, match=r"every relation is unseen once; leave facts.unseen_relations empty"):
        finetuning_folds.finetuning_folds(name, named, MEASURE, tmp_path / "a", 2)
    with pytest.raises(UserError, match="5 relations in 3 groups that stay together cannot fill 4 folds"):
        finetuning_folds.finetuning_folds(name, config, MEASURE, tmp_path / "b", 4)


def estimates_of_values(values, relations, fact_N=None):
    fact_N = np.arange(len(values)) if fact_N is None else fact_N
    return estimate(("recall",), {"correct": np.array(values)}, fact_N, relations, replicates=200)["recall"]


def test_a_change_is_paired_by_relation():
    relations = [name for name in "abcd" for _ in range(2)]
    before = np.array([0.1, 0.1, 0.9, 0.9, 0.5, 0.5, 0.3, 0.3])
    shift = np.array([0.08, 0.08, 0.1, 0.1, 0.12, 0.12, 0.1, 0.1])
    change = finetuning_folds.change_of(
        estimates_of_values(before, relations), estimates_of_values(before + shift, relations)
    )
    # Student's t with three degrees of freedom, of four differences.
    half = 3.182 * np.std(shift[::2], ddof=1) / 2
    assert change["value"] == pytest.approx(0.1) and change["n"] == 8
    assert change["high"] - change["value"] == pytest.approx(half, rel=0.15)
    assert change["value"] - change["low"] == pytest.approx(change["high"] - change["value"])
    # Another relation, or too few of them.
    other = estimates_of_values(before, [{"d": "e"}.get(name, name) for name in relations])
    assert finetuning_folds.change_of(estimates_of_values(before, relations), other) is None
    two = estimates_of_values(before[:4], relations[:4]), estimates_of_values(before[:4] + shift[:4], relations[:4])
    assert finetuning_folds.change_of(*two) == {"value": pytest.approx(0.09), "low": None, "high": None, "n": 4}


def test_columns_are_read_as_they_were_written(tmp_path):
    first = QueryColumns({"s": np.array([0.1, math.nan], np.float32)}, np.array([4, 7]), ["a", "b"])
    second = QueryColumns({"s": np.array([math.inf])}, np.array([5]), ["c"])
    path = tmp_path / "columns.npz"
    save_columns(path, {"one": first, "two": second})
    both = joined([load_columns(path, "one"), load_columns(path, "two")])
    assert both.columns["s"].tolist()[0] == np.float32(0.1) and np.isnan(both.columns["s"][1])
    assert math.isinf(both.columns["s"][2])
    assert both.fact_N.tolist() == [4, 7, 5] and both.relation_N == ["a", "b", "c"]
    with pytest.raises(UserError, match=r"columns.npz cannot be read as measured columns: .*; delete it"):
        load_columns(path, "three")
    with pytest.raises(UserError, match="a relation was measured in two of the sets"):
        joined([first, second._replace(relation_N=["b"])])
    with pytest.raises(UserError, match="measured with other columns"):
        joined([first, second._replace(columns={"t": second.columns["s"]})])
