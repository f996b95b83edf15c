"""Training end to end on a tiny model: files, resuming, bad input, numbers that stop being finite."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import jax
import numpy as np
import pytest
from training_facts import DATA, SMALL_EVALUATION, made_up_data

from jaxinterp.base.errors import UserError
from jaxinterp.base.owner import LOCK, WAIT
from jaxinterp.models.loading.bundle import load_model, save_model
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training import loop
from jaxinterp.training.checkpoint import Checkpoints
from jaxinterp.training.config import OptimiserConfig, TrainConfig
from jaxinterp.training.loop import batch_of, train
from jaxinterp.training.routing import Routing, own_neurons

TINY = {"n_layers": "2", "d_model": "16", "d_mlp": "16", "n_heads": "2", "n_kv_heads": "1", "d_head": "8"}
CONFIG = TrainConfig(
    preset="0.5m",
    model=TINY,
    data=DATA,
    objective=ObjectiveConfig(weights={"suppression": "0@2,1@3", "control": "1"}, points=2),
    steps=8,
    batch_size=16,
    subjects=3,  # so that a batch has controls of every kind
    rows=8,
    log_every=2,
    checkpoint_every=4,
)


@pytest.fixture(scope="module")
def data():
    return made_up_data()


@pytest.fixture(autouse=True)
def small_evaluation(monkeypatch):
    monkeypatch.setattr(loop, "EVALUATION", SMALL_EVALUATION)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run of 8 steps that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "EVALUATION", SMALL_EVALUATION)
        model = train(CONFIG, data, out)
    return out, model


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same_params(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_run_leaves_what_it_promises(finished):
    out, model = finished
    assert json.loads((out / "config.json").read_text())["config"]["steps"] == 8
    metrics = lines(out / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [2, 4, 6, 8]
    expected = {"loss", "lm", "suppression", "control", "suppressability", "control_drop", "gradient_norm"}
    assert expected | {"completeness_residual", "learning_rate", "suppression_weight"} <= set(metrics[-1])
    assert metrics[0]["suppression_weight"] == 0 and metrics[-1]["suppression_weight"] == 1
    assert all(value is not None for value in metrics[-1].values())
    evaluation = lines(out / "evaluations.jsonl")
    assert [line["step"] for line in evaluation] == [8]
    assert set(evaluation[0]["sets"]) == {"objective", "held_out_prompts", "unseen_facts", "unseen_relations"}
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["4", "8"]
    assert_same_params(load_model(out / "model").params, model.params)


def test_resuming_is_bit_exact(finished, data, tmp_path, monkeypatch):
    saved = []
    save = Checkpoints.save

    def save_and_stop(self, step, state):
        save(self, step, state)
        saved.append(step)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, data, tmp_path / "run")
    monkeypatch.setattr(Checkpoints, "save", save)
    # What a killed run may leave: lines beyond the checkpoint, and half a line.
    with (tmp_path / "run" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 6, "loss": 1.0}\n{"step": 8, "lo')
    resumed = train(CONFIG, data, tmp_path / "run", resume=True)
    assert saved == [4]
    assert_same_params(resumed.params, finished[1].params)
    assert lines(tmp_path / "run" / "metrics.jsonl") == lines(finished[0] / "metrics.jsonl")


def test_the_best_checkpoint_stays(data, tmp_path, monkeypatch):
    values = iter([0.1, 0.7, 0.3, 0.2])
    made = lambda bundle, data: {"objective": {"suppressability": {"value": next(values)}}}  # noqa: E731
    monkeypatch.setattr(loop, "evaluated", made)
    config = dataclasses.replace(CONFIG, evaluate_every=2, keep_checkpoints=1, checkpoint_every=8)
    train(dataclasses.replace(config, keep_best="objective/suppressability"), data, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["4", "8"]
    for name, message in {
        "objective/suppression": "unknown metric",
        "facts/suppressability": "unknown set of keep_best",
        "objective/nll": "neither high nor low|unknown metric",
    }.items():
        with pytest.raises(UserError, match=message):
            train(dataclasses.replace(config, keep_best=name), data, tmp_path / "other")


def test_a_run_is_held_until_its_model_is_written(data, tmp_path, monkeypatch):
    held = []

    def saved(folder, model):
        lock = filelock.FileLock(folder.parent.resolve() / LOCK, timeout=WAIT, is_singleton=True, thread_local=False)
        held.append(lock.is_locked)
        save_model(folder, model)

    monkeypatch.setattr(loop, "save_model", saved)
    train(dataclasses.replace(CONFIG, objective=ObjectiveConfig(), steps=1), data, tmp_path / "run")
    assert held == [True]


def test_a_finished_run_is_not_trained_again(finished, data):
    before = (finished[0] / "metrics.jsonl").read_bytes()
    partial = finished[0] / ".model.partial-0123abcd"  # of a process that was killed while it wrote the model
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    assert_same_params(train(CONFIG, data, finished[0], resume=True).params, finished[1].params)
    assert (finished[0] / "metrics.jsonl").read_bytes() == before
    assert [line["step"] for line in lines(finished[0] / "evaluations.jsonl")] == [8]
    assert not partial.exists() and (finished[0] / "model").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 7}, "holds a run of another config: steps is 8 there and 7 here"),
        ({"objective": dataclasses.replace(CONFIG.objective, k=4)}, "objective.k is 8 there and 4 here"),
        (
            {"objective": dataclasses.replace(CONFIG.objective, weights={"control": "1"})},
            "objective.weights.suppression is '0@2,1@3' there and None here",
        ),
    ],
)
def test_resuming_another_config(finished, data, change, message):
    with pytest.raises(UserError, match=message):
        train(dataclasses.replace(CONFIG, **change), data, finished[0], resume=True)


def test_a_run_that_is_done_is_prolonged(data, tmp_path):
    out = tmp_path / "run"
    train(CONFIG, data, out)
    longer = dataclasses.replace(CONFIG, steps=12)
    model = train(longer, data, out, resume=True)
    assert [line["step"] for line in lines(out / "metrics.jsonl")] == [2, 4, 6, 8, 10, 12]
    kept = json.loads((out / "config.json").read_text())
    assert kept["config"]["steps"] == 12 and kept["grown"] == [{"steps": 8}]
    assert model.provenance["config"]["steps"] == 12
    with pytest.raises(UserError, match="steps is 12 there and 8 here"):
        train(CONFIG, data, out, resume=True)
    # The folder of a run is its model; one that is not done has none.
    assert_same_params(load_model(out).params, model.params)
    (out / "model").rename(tmp_path / "taken")
    with pytest.raises(UserError, match=r"holds a run that is not done; continue it with .*--resume"):
        load_model(out)


def test_folders(finished, data, tmp_path):
    with pytest.raises(UserError, match="holds a run already; continue it with --resume"):
        train(CONFIG, data, finished[0])
    with pytest.raises(UserError, match="holds no run to resume"):
        train(CONFIG, data, tmp_path / "nothing", resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*file.*; choose another folder"):
        train(CONFIG, data, tmp_path / "file" / "run")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {**TINY, "d_mpl": "3"}}, "unknown model field 'd_mpl'; did you mean d_mlp"),
        ({"model": {**TINY, "d_mlp": "x"}}, "model.d_mlp must be of type int, got 'x'"),
        ({"model": {**TINY, "n_kv_heads": "3"}}, "must be a multiple of model.n_kv_heads"),
        ({"model": {**TINY, "n_ctx": "4"}}, "model.n_ctx is 4, but the longest"),
        ({"routing": 16}, "routing must be below the 16 neurons of a layer, got 16"),
        ({"objective": dataclasses.replace(CONFIG.objective, k=32)}, r"below the model's number of neurons \(32\)"),
        ({"objective": dataclasses.replace(CONFIG.objective, weights={"supression": "1"})}, "unknown objective"),
    ],
)
def test_mistakes_stop_before_anything_is_written(data, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        train(dataclasses.replace(CONFIG, **change), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_arms_reach_the_batch(data):
    config = dataclasses.replace(CONFIG, rows=40)
    plain, text = (batch_of(dataclasses.replace(config, text_rows=on), data, 3) for on in (False, True))
    assert text.answers.weight_R.sum() == len(text.tokens_BT) > plain.answers.weight_R.sum()
    assert plain.route is None
    route, other = (batch_of(dataclasses.replace(config, routing=5, seed=seed), data, 3).route for seed in (0, 1))
    assert route.neurons.shape == (2, 16, 5) and route.routed.any()
    drawn = [own_neurons(Routing(5, 2, 16, 1), fact) for fact in range(len(data.facts))]
    assert all(any(np.array_equal(own, one) for one in drawn) for own in other.neurons.transpose(1, 0, 2))


def test_configs_check_themselves():
    for mistake in ({"preset": "1g"}, {"steps": 0}, {"model": {"dtype": "bfloat16"}}, {"routing": -1}):
        with pytest.raises(UserError):
            TrainConfig(**mistake)
    for mistake in ({"points": 0}, {"temperature": 0.0}, {"k": 0}, {"weights": {"control": "x"}}):
        with pytest.raises(UserError):
            ObjectiveConfig(**mistake)


def test_the_first_array_that_is_not_finite_is_named(data, tmp_path):
    huge = dataclasses.replace(CONFIG, optimiser=OptimiserConfig(learning_rate=1e38, warmup_steps=1), steps=20)
    with pytest.raises(
        UserError,
        match=r"step \d+ is not finite; the first bad array is \w+ .*; see `jaxinterp .*; .*checkpoint",
    ) as error:
        train(huge, data, tmp_path / "run")
    assert "activation" in str(error.value) or "loss term" in str(error.value) or "parameter" in str(error.value)
    # Nothing but finite states is ever saved.
    for step in (tmp_path / "run" / "checkpoints").iterdir():
        assert int(step.name) < int(str(error.value).split()[1])


def test_killed_and_resumed_is_bit_identical(tmp_path):
    """SIGKILL at a step that nobody chose, through the command line."""
    command = [Path(sys.executable).with_name("jaxinterp"), "train", "--preset", "0.5m", "--steps", "60"]
    command += ["--model", *(word for pair in TINY.items() for word in pair), "--batch-size", "8", "--rows", "4"]
    command += ["--data.relations", "capital", "currency", "calling_code", "demonym", "--log-every", "1"]
    command += ["--objective.weights", "suppression", "1", "control", "1", "--objective.points", "1"]
    command += ["--checkpoint-every", "7", "--evaluate-every", "0"]  # the weights alone are compared
    command += ["--data.split.unseen-relations", "currency", "calling_code"]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def run(folder: str, *more: str) -> subprocess.Popen:
        words = [str(word) for word in command] + ["--out", str(tmp_path / folder), *more]
        return subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    whole = run("whole")
    assert whole.wait() == 0, whole.stderr.read()
    killed = run("killed")
    log = tmp_path / "killed" / "metrics.jsonl"
    after = np.random.default_rng().integers(8, 40)
    while killed.poll() is None and not (log.exists() and log.read_text().count("\n") >= after):
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL, "the run was over before it could be killed"
    resumed = run("killed", "--resume")
    assert resumed.wait() == 0, resumed.stderr.read()
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    for process in (whole, killed, resumed):
        process.stderr.close()
