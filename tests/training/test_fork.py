"""Runs that go on from another: equal to the run that did all steps itself, or refused."""

import contextlib
import dataclasses
import io
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_facts import DATA, made_up_data

from jaxinterp.base.errors import UserError
from jaxinterp.models.loading.bundle import load_model
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training.checkpoint import Checkpoints
from jaxinterp.training.config import TrainConfig
from jaxinterp.training.fork import branch, common_step
from jaxinterp.training.loop import train
from jaxinterp.training.state import initial_state

PLAIN = TrainConfig(
    preset="0.5m",
    model={"n_layers": "2", "d_model": "16", "d_mlp": "16", "n_heads": "2", "n_kv_heads": "1", "d_head": "8"},
    data=DATA,
    steps=8,
    batch_size=16,
    rows=8,
    log_every=2,
    checkpoint_every=4,
    evaluate_every=0,
)


def suppressable(text="0@4,1@5"):
    return dataclasses.replace(PLAIN, objective=ObjectiveConfig(weights={"suppression": text}, points=2))


def levelled(start, text=""):
    """A run with a level of P, and a checkpoint every other step."""
    weights = {"suppression": text} if text else {}
    objective = ObjectiveConfig(start=start, weights=weights, points=1)
    often = {"log_every": 1, "checkpoint_every": 2, "keep_checkpoints": 4}
    return dataclasses.replace(PLAIN, objective=objective, model={**PLAIN.model, "n_layers": "1"}, **often)


@pytest.fixture(scope="module")
def data():
    return made_up_data()


@pytest.fixture(scope="module")
def trunk(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "trunk"
    train(PLAIN, data, out)
    assert not (out / "evaluations.jsonl").read_text()
    return out


def test_a_branch_is_the_run_that_did_all_steps(data, trunk, tmp_path):
    branch(suppressable(), trunk, 4, tmp_path / "branch")
    found = train(suppressable(), data, tmp_path / "branch", resume=True)
    whole = train(suppressable(), data, tmp_path / "whole")
    plain = train(PLAIN, data, trunk, resume=True)
    # Not bit for bit: steps without an objective, and with one whose weight is 0, are two programs. And logits, not
    # parameters: the keys' bias changes no attention, so that its gradient is rounding alone, of which Adam makes steps
    # as long as any other.
    tokens = jnp.asarray(data.queries.tokens_NT[:16])
    read = jax.jit(lambda params: forward(Model(found.config, params), tokens).logits_BTV)
    mine, other, without = (np.asarray(read(model.params)) for model in (found, whole, plain))
    np.testing.assert_allclose(mine, other, rtol=0, atol=1e-4)
    # The objective has done something.
    assert np.abs(other - without).max() > 1e-3
    steps = [json.loads(line)["step"] for line in (tmp_path / "branch" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6, 8]  # those of the trunk are its own


@pytest.mark.parametrize(
    ("config", "step", "message"),
    [
        (suppressable(), 5, "has no checkpoint of step 5"),
        (suppressable("0@2,1@5"), 4, "the weight of suppression is not 0 up to step 4 here"),
        (suppressable("1"), 4, "the weight of suppression is not 0 up to step 4 here"),
        (dataclasses.replace(suppressable(), seed=1), 4, "a run of another config: seed is 0 there and 1 here"),
    ],
)
def test_what_is_not_a_branch(trunk, tmp_path, config, step, message):
    with pytest.raises(UserError, match=message):
        branch(config, trunk, step, tmp_path / "branch")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there(trunk, tmp_path):
    with pytest.raises(UserError, match="exists already"):
        branch(suppressable(), trunk, 4, tmp_path)


def made_up(folder, config, begun):
    """A trunk's folder as far as its common steps depend on it: step -> steps begun, of the checkpoints kept."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"config": dataclasses.asdict(config)}))
    # There are more lines than checkpoints.
    lines = [{"step": step, "begun": float(n)} for at, n in begun.items() for step in (at - 1, at)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step in begun:
        (folder / "checkpoints" / str(step)).mkdir(parents=True)
    return folder


def test_the_last_step_that_two_runs_have_in_common(tmp_path):
    plain = made_up(tmp_path / "plain", PLAIN, {4: 4, 8: 8})
    assert common_step(suppressable(), plain) == 4
    assert common_step(suppressable("0@7,1@8"), plain) == 4  # the last one that has a checkpoint before the end
    assert common_step(suppressable("0@3,1@8"), plain) == 4  # steps 0 to 3
    assert common_step(suppressable("0@2,1@8"), plain) == 0  # none is early enough
    assert common_step(suppressable("1"), plain) == 0
    assert common_step(dataclasses.replace(suppressable(), seed=1), plain) == 0  # they never were alike
    # How many checkpoints are kept does not matter; which are there does.
    assert common_step(dataclasses.replace(suppressable(), keep_checkpoints=5), plain) == 4
    assert common_step(suppressable(), made_up(tmp_path / "late", PLAIN, {8: 8})) == 0
    # The trunk's own objective counts as well.
    assert common_step(PLAIN, made_up(tmp_path / "other", suppressable("0@2,1@8"), {4: 4, 8: 8})) == 0


@pytest.mark.parametrize(
    ("text", "begun", "step"),
    [
        ("0@0,1@3", {2: 0, 4: 0, 6: 2, 8: 4}, 4),
        ("0@0,1@3", {2: 0, 4: 1, 6: 3, 8: 5}, 4),  # the step that reaches the level has no weights yet
        ("1", {2: 0, 4: 1, 6: 3, 8: 5}, 4),
        ("0@1,1@3", {2: 0, 4: 0, 6: 2, 8: 4}, 6),
        ("0@0,1@3", {2: 2, 4: 4, 6: 6, 8: 8}, 0),
        ("0@0,1@3", {2: 0, 4: 0, 6: 0, 8: 0}, 6),  # never
    ],
)
def test_the_data_say_up_to_where_runs_with_a_level_are_alike(tmp_path, text, begun, step):
    trunk = made_up(tmp_path / "trunk", levelled(0.5), begun)
    assert common_step(levelled(0.5, text), trunk) == step
    assert common_step(levelled(0.6, text), trunk) == 0 and common_step(suppressable(text), trunk) == 0
    for at in begun:
        out = tmp_path / f"from{at}"
        if at <= step or begun[at] == 0:
            branch(levelled(0.5, text), trunk, at, out)
            assert json.loads((out / "config.json").read_text())["config"]["objective"]["start"] == 0.5
        else:
            with pytest.raises(UserError, match=f"the weight of suppression is not 0 up to step {at} here"):
                branch(levelled(0.5, text), trunk, at, out)


def states(folder):
    """The state of the last checkpoint, as arrays."""
    checkpoints = Checkpoints(folder / "checkpoints", keep=9)
    model = load_model(folder / "model").config
    found = checkpoints.restore(initial_state(model, PLAIN.optimiser, PLAIN.steps, PLAIN.seed))[1]
    checkpoints.close()
    return jax.tree.leaves(found._replace(key=jax.random.key_data(found.key)))


def lines(folder, after=0):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["step"] > after]


@pytest.fixture(scope="module")
def begins(data, tmp_path_factory):
    """A level that the running mean reaches in the fifth of eight steps, a trunk with it, and a run that never begins
    with what it prints.
    """
    folder = tmp_path_factory.mktemp("levels")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        train(levelled(0.99, "0@0,1@3"), data, folder / "probe", title="mine")
    known = {line["step"]: line["known"] for line in lines(folder / "probe")}
    level = (known[4] + known[5]) / 2
    train(levelled(level, "0@0,2@2"), data, folder / "trunk")
    return level, folder / "trunk", folder / "probe", printed.getvalue()


def test_a_branch_before_the_beginning_is_the_whole_run_bit_for_bit(begins, data, tmp_path):
    level, trunk, *_ = begins
    assert [line["begun"] for line in lines(trunk)] == [0, 0, 0, 0, 1, 2, 3, 4]
    config = levelled(level, "0@0,1@3")
    train(config, data, tmp_path / "whole")
    # From a trunk with other weights: with them and without them, steps are two programs.
    assert common_step(config, trunk) == 4
    branch(config, trunk, 4, tmp_path / "branch")
    train(config, data, tmp_path / "branch", resume=True)
    for mine, other in zip(states(tmp_path / "branch"), states(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert lines(tmp_path / "branch", after=4) == lines(tmp_path / "whole", after=4)
    assert any(np.any(a != b) for a, b in zip(states(tmp_path / "whole"), states(trunk), strict=True))


def test_resuming_after_the_beginning_is_bit_exact(begins, data, tmp_path):
    level, trunk, *_ = begins
    cut, kept = tmp_path / "cut", trunk / "checkpoints" / "6"
    shutil.copytree(trunk, cut)
    shutil.rmtree(cut / "checkpoints" / "8")
    shutil.rmtree(cut / "model")
    assert kept.exists()
    train(levelled(level, "0@0,2@2"), data, cut, resume=True)
    for mine, other in zip(states(cut), states(trunk), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert lines(cut) == lines(trunk)


def test_an_objective_that_never_begins_is_told(begins, data, tmp_path, capsys):
    *_, run, printed = begins
    assert "mine: the objective never began, so that this is a plain model" in printed
    beginning = load_model(run / "model").provenance["beginning"]
    assert beginning["begun"] == 0 and beginning["start"] == 0.99 and 0 < beginning["known"] < 0.1
    assert all(line["begun"] == 0 and line["suppression_weight"] == 0 for line in lines(run))
    assert all(0 < line["probability"] < 1 and line["suppressability"] is None for line in lines(run))
    train(levelled(0.99), data, tmp_path / "plain")
    assert "never began" not in capsys.readouterr().out
