"""The model of a step: what was measured while the run went on is measured of its checkpoint again."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from training_facts import DATA, SMALL_EVALUATION, made_up_data

from jaxinterp.base.errors import UserError
from jaxinterp.studies.engine.trained import training_curve
from jaxinterp.training import loop
from jaxinterp.training.at_step import model_at
from jaxinterp.training.config import TrainConfig
from jaxinterp.training.loop import evaluated, train

TINY = {"n_layers": "1", "d_model": "16", "d_mlp": "16", "n_heads": "2", "n_kv_heads": "1", "d_head": "8"}
CONFIG = TrainConfig(
    preset="0.5m",
    model=TINY,
    data=DATA,
    steps=6,
    batch_size=16,
    rows=8,
    log_every=2,
    evaluate_every=3,
    checkpoint_every=1,
    keep_checkpoints=1,
    keep_every=3,
)


def test_a_step_s_model_is_what_the_run_had(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "EVALUATION", SMALL_EVALUATION)
    data, out = made_up_data(), tmp_path / "run"
    last = train(CONFIG, data, out)
    lines = [json.loads(line) for line in (out / "evaluations.jsonl").read_text().splitlines()]
    by_step = {line["step"]: line["sets"] for line in lines}
    assert by_step[3] != by_step[6]
    for step in (3, 6):
        assert evaluated(model_at(CONFIG, data, out, step), data) == by_step[step]
    for x, y in zip(*(jax.tree.leaves(of.model.params) for of in (last, model_at(CONFIG, data, out, 6))), strict=True):
        np.testing.assert_array_equal(x, y)
    # Steps that are logged for a checkpoint or an evaluation alone are not in the curve.
    assert [step for step, _ in training_curve(out, CONFIG)] == [2, 4, 6]
    assert [step for step, _ in training_curve(out, dataclasses.replace(CONFIG, log_every=4))] == [4, 6]
    with pytest.raises(UserError, match="no whole checkpoint of step 2"):
        model_at(CONFIG, data, out, 2)
    for path in (out / "checkpoints" / "3" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole"):
        model_at(CONFIG, data, out, 3)
