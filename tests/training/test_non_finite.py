"""Steps that are not finite: passed over, or kept and computed again."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_facts import DATA, made_up_data

from jaxinterp.base.errors import UserError
from jaxinterp.models.model import Model
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.objectives.loss import term_weights
from jaxinterp.training import loop, replay
from jaxinterp.training.config import OptimiserConfig, TrainConfig
from jaxinterp.training.driver import NotFinite
from jaxinterp.training.loop import inputs_of, train
from jaxinterp.training.non_finite import parts_of
from jaxinterp.training.state import initial_state, step_key
from jaxinterp.training.step import loss, update

SIZES = {"d_model": "8", "n_layers": "1", "n_heads": "2", "n_kv_heads": "2", "d_mlp": "12"}
CONFIG = TrainConfig(
    steps=8,
    data=DATA,
    model=SIZES,
    batch_size=8,
    rows=8,
    subjects=4,
    log_every=3,
    evaluate_every=0,
    checkpoint_every=2,
)


@pytest.fixture(scope="module")
def data():
    return made_up_data()


@pytest.fixture
def bad_batches(monkeypatch):
    """Batches 2 and 4 have a weight that is not finite."""

    def batch(config, data, step):
        found = of(config, data, step)
        if step in (2, 4):
            weight_BT = found.token_weight_BT.copy()
            weight_BT[0, 1] = np.inf
            found = found._replace(token_weight_BT=weight_BT)
        return found

    of = loop.batch_of
    monkeypatch.setattr(loop, "batch_of", batch)


def logged(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_bad_steps_are_passed_over_as_often_as_is_allowed(data, tmp_path, bad_batches, capsys):
    model = train(dataclasses.replace(CONFIG, skip=2), data, tmp_path / "run")
    assert all(
        np.isfinite(np.asarray(leaf)).all() for leaf in model.params["layers"].values() if hasattr(leaf, "shape")
    )
    told = capsys.readouterr().err
    assert "step 3 is not finite" in told and "passed over, 2 of at most 2" in told
    assert [line["step"] for line in logged(tmp_path / "run" / "non_finite.jsonl")] == [3, 5]
    kept = np.load(tmp_path / "run" / "non_finite" / "step-3.npz")
    np.testing.assert_array_equal(kept["tokens_BT"], inputs_of(CONFIG, data, 2).tokens_BT)
    assert int(kept["step"]) == 2 and not np.isfinite(kept["token_weight_BT"]).all()
    # The checkpoints before them stay, though two newer ones were kept.
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"2", "4", "6", "8"}

    with pytest.raises(NotFinite, match=r"step 5 is not finite; .*; 2 steps were not finite, above skip = 1; see"):
        train(dataclasses.replace(CONFIG, skip=1), data, tmp_path / "fewer")

    # The steps beside them are those of a run that never had them.
    lines = {line["step"]: line["loss"] for line in logged(tmp_path / "run" / "metrics.jsonl")}
    assert all(np.isfinite(lines[step]) for step in (2, 6, 8))


def test_a_bad_step_is_computed_again(data, tmp_path, bad_batches):
    config = dataclasses.replace(CONFIG, log_every=1)
    with pytest.raises(NotFinite, match=r"step 3 is not finite; the first bad array is loss term lm; see `jaxinterp"):
        train(config, data, tmp_path / "run")
    found = replay.replay(tmp_path / "run", data=data)
    assert (found.step, found.array) == (3, "loss term lm")
    assert found.operation.kind in ("NaN", "infinite") and "training/step.py" in found.operation.where
    assert np.isfinite(found.largest[1]) and found.remedy
    with pytest.raises(UserError, match="step 2 was finite; those that were not: 3"):
        replay.replay(tmp_path / "run", 2, data=data)


def test_numbers_that_grew_too_large_are_recognised(data, tmp_path):
    config = dataclasses.replace(CONFIG, optimiser=OptimiserConfig(learning_rate=1e30, warmup_steps=1), log_every=1)
    with pytest.raises(NotFinite):
        train(config, data, tmp_path / "run")
    found = replay.replay(tmp_path / "run", data=data)
    assert found.operation is not None and found.largest[1] > 1e4
    assert "lower optimiser.learning_rate" in found.remedy
    # The state before the step is made again, bit for bit, also without a checkpoint.
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert replay.replay(tmp_path / "run", data=data) == found


def test_a_run_without_a_bad_step(data, tmp_path):
    train(dataclasses.replace(CONFIG, steps=2), data, tmp_path / "run")
    with pytest.raises(UserError, match="every step was finite"):
        replay.replay(tmp_path / "run", data=data)


@pytest.mark.parametrize("weights", [{}, {"suppression": "1", "control": "0.5"}])
def test_an_accumulated_gradient_is_the_mean_of_its_parts(data, weights):
    """Against the gradient of the mean of the parts' losses, taken at once."""
    config = dataclasses.replace(CONFIG, accumulate=2, objective=ObjectiveConfig(weights=weights, k=3, points=2))
    model, batch = loop.model_config(config, data), inputs_of(config, data, 0)
    np.testing.assert_array_equal(batch.tokens_BT[1], loop.batch_of(config, data, 1).tokens_BT)
    state = initial_state(model, config.optimiser, config.steps, 0)
    at = term_weights(config.objective, state.begun)
    step = jax.jit(update(model, config.objective, config.optimiser, config.steps, accumulate=2))
    _, metrics = step(state, batch, 0, at)

    def mean(params):
        parts = parts_of(config, jax.tree.map(jnp.asarray, batch), step_key(state))
        return sum(loss(Model(model, params), config.objective, part, at, key)[0] for part, key in parts) / len(parts)

    value, grads = jax.jit(jax.value_and_grad(mean))(state.params)
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-6)
    assert float(metrics["gradient_norm"]) == pytest.approx(float(optax.tree.norm(grads)), rel=1e-5)
    assert bool(metrics["finite"])
