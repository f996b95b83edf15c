"""Fine-tuning end to end on a tiny model: interrupted and continued, refused, and the whole study."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from knowing import TUNING_WINDOW as WINDOW
from knowing import tuning_inputs

from jaxinterp.api.measured import measure
from jaxinterp.base.errors import UserError
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.recall import recalled
from jaxinterp.models.loading.bundle import load_model
from jaxinterp.models.transformer import forward
from jaxinterp.studies.suppressability import finetuning
from jaxinterp.studies.suppressability.finetuning import finetuning_study
from jaxinterp.training import driver
from jaxinterp.training import finetune as loop
from jaxinterp.training.checkpoint import Checkpoints
from jaxinterp.training.finetune import finetune, perplexity
from jaxinterp.training.finetune_data import SETS, finetune_data
from jaxinterp.training.texts import text_data

COMPILED = {}


def compiled_once(model, config, make=loop.finetune_step):
    """The step, which every call of `finetune` would compile again; how many queries are facts is nothing to it."""
    key = repr((model, dataclasses.replace(config, queries=1, text_queries=0)))
    if key not in COMPILED:
        COMPILED[key] = make(model, config)
    return COMPILED[key]


@pytest.fixture(autouse=True)
def one_compilation(monkeypatch):
    monkeypatch.setattr(loop, "finetune_step", compiled_once)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A model's folder, the config of a run of 5 steps, and all that the run reads."""
    folder = tmp_path_factory.mktemp("inputs")
    model, config = tuning_inputs(folder)
    text = text_data(config.text.folder, model.tokenizer, WINDOW)
    pieces = text.pieces(WINDOW, config.text.tried, config.seed)
    return folder, config, model, finetune_data(model, config.facts, pieces), text


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    """A run that nothing interrupted; the step is compiled here."""
    _, config, model, data, text = inputs
    out = tmp_path_factory.mktemp("runs") / "whole"
    out.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "finetune_step", compiled_once)
        return out, finetune(config, model, data, text, out)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same_params(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_a_run_leaves_what_it_promises(finished, inputs):
    model = inputs[2]
    out, tuned = finished
    metrics = lines(out / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5]
    parts = {"loss", "text_kl", "prompt_kl", "suppression", "control", "suppressability", "control_drop"}
    assert parts | {"gradient_norm", "learning_rate"} <= set(metrics[0])
    assert max(abs(metrics[0]["text_kl"]), abs(metrics[0]["prompt_kl"])) < 1e-6
    assert min(metrics[-1]["text_kl"], metrics[-1]["prompt_kl"]) > 1e-4
    assert [path.name for path in (out / "checkpoints").iterdir() if path.name.isdigit()] == ["5"]
    assert tuned.config == dataclasses.replace(model.config, dtype="float32")
    assert tuned.provenance["original"] == {"made": "for tests"}
    assert tuned.provenance["config"]["steps"] == 5 and "revision" in tuned.provenance
    differences = [
        np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (tuned.params, model.params)), strict=True)
    ]
    assert all(0 < value < 0.2 for value in differences)


def test_many_devices_tune_the_same_model(finished, inputs, tmp_path, monkeypatch):
    _, config, model, data, text = inputs
    lay, planned = [], driver.planned_step
    monkeypatch.setattr(driver, "planned_step", lambda *given: lay.append(given[2]) or planned(*given))
    tuned = finetune(config, model, data, text, tmp_path, mesh="data=2,tensor=2")
    _, (still, _, text_BT), _ = lay[0]
    assert still["layers"]["w_in"].sharding.spec == jax.sharding.PartitionSpec(None, "fsdp", "tensor")
    assert {shard.data.shape[0] for shard in text_BT.addressable_shards} == {len(text_BT) // 2}
    for one, many in zip(lines(finished[0] / "metrics.jsonl"), lines(tmp_path / "metrics.jsonl"), strict=True):
        for name in ("loss", "text_kl", "gradient_norm"):
            assert many[name] == pytest.approx(one[name], rel=1e-3, abs=1e-5), name
    # Adam's first steps divide gradients by their size, so that rounding moves single weights by a share of the rate.
    for a, b in zip(jax.tree.leaves(finished[1].params), jax.tree.leaves(tuned.params), strict=True):
        np.testing.assert_allclose(a, b, atol=5 * config.optimiser.learning_rate)


def test_interrupted_and_started_again_is_bit_identical(finished, inputs, tmp_path, monkeypatch):
    _, config, model, data, text = inputs
    save, saved = Checkpoints.save, []

    def save_and_stop(self, step, state):
        save(self, step, state)
        saved.append(step)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, model, data, text, tmp_path)
    assert saved == [2]
    monkeypatch.setattr(Checkpoints, "save", save)
    # What a killed run may leave: lines beyond the checkpoint, and half a line.
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"step": 3, "loss": 1.0}\n{"step": 4, "lo')
    resumed = finetune(config, model, data, text, tmp_path)
    assert_same_params(resumed.params, finished[1].params)
    assert lines(tmp_path / "metrics.jsonl") == lines(finished[0] / "metrics.jsonl")
    # Once more, it is done already.
    assert_same_params(finetune(config, model, data, text, tmp_path).params, finished[1].params)
    assert lines(tmp_path / "metrics.jsonl") == lines(finished[0] / "metrics.jsonl")


def test_a_signal_stops_between_two_steps(inputs, tmp_path, monkeypatch):
    import signal

    _, config, model, data, text = inputs
    plain_line, written = loop.plain_line, []

    def signalled(metrics):
        written.append(plain_line(metrics))
        if len(written) == 2:
            signal.raise_signal(signal.SIGTERM)
        return written[-1]

    monkeypatch.setattr(loop, "plain_line", signalled)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 3; start again with the same folder"):
        finetune(config, model, data, text, tmp_path)
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert "3" in [path.name for path in (tmp_path / "checkpoints").iterdir()]


def test_a_step_that_is_not_finite_is_an_error(inputs, tmp_path):
    _, config, model, data, text = inputs
    broken = {**model.params, "unembedding": model.params["unembedding"] * np.inf}
    message = r"step 1 is not finite \(.*loss.*\); lower optimiser.learning_rate and start in another folder"
    with pytest.raises(UserError, match=message):
        finetune(config, dataclasses.replace(model, model=model.model.replace(params=broken)), data, text, tmp_path)
    assert lines(tmp_path / "metrics.jsonl") == []
    with pytest.raises(UserError, match="an answer has 2 tokens, above rows = 1; raise rows"):
        finetune(dataclasses.replace(config, rows=1), model, data, text, tmp_path / "other")


DROPS = ("control_drop_other", "control_drop_subject")


@pytest.mark.parametrize(
    ("one_subject", "missing"), [(False, DROPS), (True, ("control_drop", "control_drop_relation", *DROPS))]
)
def test_batches_without_controls_say_nothing_of_them(inputs, tmp_path, capsys, one_subject, missing):
    """One relation in the objective: there are no controls of another, and none at all if all is about one subject."""
    _, config, model, data, text = inputs
    objective = data.sets["objective"]
    alone = objective[np.flatnonzero(objective.relation_N == objective.relation_N[0])]
    if one_subject:
        alone = dataclasses.replace(alone, subject_N=0 * alone.subject_N)
    one = dataclasses.replace(data, sets={**data.sets, "objective": alone}, beliefs=None)
    finetune(dataclasses.replace(config, queries=6, text_queries=0), model, one, text, tmp_path)
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        found = json.loads(line, parse_constant=pytest.fail)
        assert {name for name, value in found.items() if value is None} == set(missing)
    said = capsys.readouterr().err
    assert "nan" not in said and ("C " in said) is not one_subject and "S " in said


def test_perplexity_by_hand(inputs):
    *_, model, _, text = inputs
    windows = text.held_out_NT[:3]
    log_p = np.asarray(jax.nn.log_softmax(forward(model.model, jax.numpy.asarray(windows)).logits_BTV))
    nll = [-log_p[row, t, windows[row, t + 1]] for row in range(3) for t in range(WINDOW - 1)]
    for rows in (2, 3):
        np.testing.assert_allclose(perplexity(model, windows, rows=rows), np.exp(np.mean(nll)), rtol=1e-4)


MEASURE = MeasureConfig(k=2, queries=4, ability_queries=4, ablation_queries=0, points=1, rows=4, replicates=10)


def test_the_whole_study(inputs, tmp_path, monkeypatch, capsys):
    folder, config, model, data, _ = inputs
    charts, trained = {}, []
    monkeypatch.setattr(finetuning, "save_chart", lambda chart, where, name: charts.setdefault(name, chart.to_dict()))
    train = finetuning.finetune
    monkeypatch.setattr(finetuning, "finetune", lambda *arguments: trained.append(1) or train(*arguments))
    out = tmp_path / "out"
    results = finetuning_study(str(folder / "model"), config, MEASURE, out)
    said = capsys.readouterr().out
    assert "objective: " in said and "perplexity on held-out text: " in said and "left out: " in said
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(results))
    assert tuple(results["models"]) == tuple(results["perplexity"]) == ("original", "fine-tuned")
    for measured in results["models"].values():
        assert tuple(measured["sets"]) == SETS
        assert measured["sets"]["objective"]["suppressability"]["n"] == 4
    # All that is measured is what the original knows; and of all of it, how much is still right.
    for name, kept in results["kept"]["fine-tuned"].items():
        n = results["provenance"]["sets"][name]
        assert results["kept"]["original"][name]["right"] == results["kept"]["original"][name]["of"] == kept["of"] == n
        assert kept["right"] <= n and f"({kept['right']} of {n} queries) of {name.replace('_', ' ')}" in said
    assert all(entry["recall"]["value"] == 1 for entry in results["models"]["original"]["sets"].values())
    before, after = results["perplexity"].values()
    assert before != after and 0.5 < after / before < 2
    asked = results["provenance"]["facts"]["asked"]
    assert (
        sum(results["provenance"]["sets"].values()) + results["provenance"]["facts"]["left_out"]["answered wrongly"]
        == asked
    )
    assert {"overview", "training", *(f"relations_{name}" for name in SETS)} == set(charts)
    tuned = load_model(out / "model")
    assert tuned.config == model.config
    for name, queries in data.sets.items():
        right = recalled(tuned.model, queries)["correct"]
        assert results["kept"]["fine-tuned"][name]["right"] == right.sum()
        means = [right[queries.relation_N == relation].mean() for relation in set(queries.relation_N.tolist())]
        assert results["kept"]["fine-tuned"][name]["recall"]["value"] == pytest.approx(np.mean(means))
    assert np.abs(tuned.params["layers"]["w_out"] - model.params["layers"]["w_out"]).max() > 1e-4
    with pytest.raises(UserError, match="is a pretrained model: say with --facts what to measure it on"):
        measure(tuned, config=MEASURE)
    # Started once more, nothing is measured or trained again, and another run is refused.
    monkeypatch.setattr(finetuning, "measure_sets", None)
    again = finetuning_study(str(folder / "model"), config, MEASURE, out)
    assert again["models"] == results["models"] and again["perplexity"] == results["perplexity"]
    assert len(trained) == 2 and len(lines(out / "metrics.jsonl")) == 5
    for changed, message in (
        ((dataclasses.replace(config, steps=6), MEASURE), "another config: steps is 5 there and 6 here"),
        ((config, dataclasses.replace(MEASURE, k=3)), "another config: measure.k is 2 there and 3 here"),
    ):
        with pytest.raises(UserError, match=message):
            finetuning_study(str(folder / "model"), *changed, out)
