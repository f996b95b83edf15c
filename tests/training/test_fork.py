"""Runs that go on from another: equal to the run that did all steps itself, or refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic import SyntheticConfig, SyntheticFacts
from tiny import made_once

from jaxinterp.base.errors import UserError
from jaxinterp.facts.splits import SplitConfig
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training import loop
from jaxinterp.training.config import DataConfig, TrainConfig
from jaxinterp.training.data import data_of_facts
from jaxinterp.training.fork import branch, common_step
from jaxinterp.training.loop import train

PLAIN = TrainConfig(
    preset="0.5m",
    model={"n_layers": "2", "d_model": "16", "d_mlp": "16", "n_heads": "2", "n_kv_heads": "1", "d_head": "8"},
    data=DataConfig(split=SplitConfig(n_unseen_relations=2)),
    steps=8,
    batch_size=16,
    rows=8,
    log_every=2,
    checkpoint_every=4,
    evaluate_every=0,
)


def suppressable(text="0@4,1@5"):
    return dataclasses.replace(PLAIN, objective=ObjectiveConfig(weights={"suppression": text}, points=2))


@pytest.fixture(scope="module", autouse=True)
def one_compilation():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", made_once(loop.train_step))
        yield


@pytest.fixture(scope="module")
def data():
    facts = SyntheticFacts(SyntheticConfig(n_subjects=12, n_relations=6, n_answers=8, n_prompts=5)).fact_set()
    return data_of_facts(facts, PLAIN.data)


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
    assert steps == [6, 8]


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


def test_the_last_step_that_two_runs_have_in_common():
    assert common_step(suppressable(), PLAIN) == 4
    assert common_step(suppressable("0@7,1@8"), PLAIN) == 4  # the last one that has a checkpoint
    assert common_step(suppressable("0@3,1@8"), PLAIN) == 0  # none is early enough
    assert common_step(suppressable("1"), PLAIN) == 0
    assert common_step(dataclasses.replace(suppressable(), seed=1), PLAIN) == 0  # they never were alike
    often = dataclasses.replace(PLAIN, checkpoint_every=1, keep_checkpoints=3)
    objective = dataclasses.replace(often, objective=suppressable().objective)
    assert common_step(objective, often) == 0  # of steps 6 to 8 alone there are checkpoints
    assert (
        common_step(dataclasses.replace(objective, keep_checkpoints=5), dataclasses.replace(often, keep_checkpoints=5))
        == 4
    )
