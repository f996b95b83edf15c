"""Runs with noise: the same bit for bit when they are resumed, and replayed when they fail."""

import json

import jax
import numpy as np
import pytest
from training_facts import DATA, made_up_data

from jaxinterp.training import loop, replay
from jaxinterp.training.checkpoint import Checkpoints
from jaxinterp.training.config import TrainConfig
from jaxinterp.training.driver import NotFinite
from jaxinterp.training.loop import train
from jaxinterp.training.noise_config import DropoutConfig, RobustConfig

CONFIG = TrainConfig(
    steps=4,
    data=DATA,
    model={"d_model": "8", "n_layers": "1", "n_heads": "2", "n_kv_heads": "2", "d_mlp": "12"},
    dropout=DropoutConfig(ffn=0.2, attention=0.1, residual=0.1),
    robust=RobustConfig(0.1, "mlp_post"),
    batch_size=4,
    rows=8,
    subjects=2,
    accumulate=2,
    log_every=1,
    evaluate_every=0,
    checkpoint_every=2,
)


@pytest.fixture(scope="module")
def data():
    return made_up_data()


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_resuming_is_bit_exact(data, tmp_path, monkeypatch):
    whole = train(CONFIG, data, tmp_path / "whole")
    save = Checkpoints.save

    def save_and_stop(self, step, state):
        save(self, step, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, data, tmp_path / "run")
    monkeypatch.setattr(Checkpoints, "save", save)
    resumed = train(CONFIG, data, tmp_path / "run", resume=True)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")
    for line in lines(tmp_path / "whole"):
        assert line["loss"] == pytest.approx((line["lm"] + line["adversarial"]) / 2, rel=1e-5)


def test_a_bad_step_is_computed_again(data, tmp_path, monkeypatch):
    def batch(config, data, step):
        found = of(config, data, step)
        if step == 5:  # the second half of the third step
            weight_BT = found.token_weight_BT.copy()
            weight_BT[0, 1] = np.inf
            found = found._replace(token_weight_BT=weight_BT)
        return found

    of = loop.batch_of
    monkeypatch.setattr(loop, "batch_of", batch)
    with pytest.raises(NotFinite, match="step 3 is not finite; the first bad array is loss term lm"):
        train(CONFIG, data, tmp_path / "run")
    found = replay.replay(tmp_path / "run", data=data)
    assert (found.step, found.array) == (3, "loss term lm") and found.operation is not None
