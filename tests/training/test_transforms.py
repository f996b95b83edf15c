"""Transforms by name in the config of a run: what is refused, and runs with them."""

import dataclasses
import json

import jax
import numpy as np
import optax
import pytest
from tiny import tiny_config
from training_facts import DATA, made_up_data

from jaxinterp.base.configs import from_json
from jaxinterp.base.errors import UserError
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training import loop
from jaxinterp.training.checkpoint import Checkpoints
from jaxinterp.training.config import OptimiserConfig, TrainConfig
from jaxinterp.training.finetune_config import FinetuneConfig
from jaxinterp.training.loop import train
from jaxinterp.training.registry import TRANSFORMS, transform
from jaxinterp.training.state import initial_state, optimiser

CONFIG = TrainConfig(
    preset="0.5m",
    model={"n_layers": "2", "d_model": "8", "d_mlp": "8", "n_heads": "1", "n_kv_heads": "1", "d_head": "8"},
    data=DATA,
    optimiser=OptimiserConfig(
        learning_rate=1e-2, warmup_steps=1, transforms={"swaps": "3", "sparse_weights_topk": "0.6"}
    ),
    steps=6,
    batch_size=4,
    accumulate=2,
    log_every=1,
    evaluate_every=0,
    checkpoint_every=4,
)


def test_a_run_ends_sparse_and_resumes_bit_for_bit(tmp_path, monkeypatch):
    data, save = made_up_data(), Checkpoints.save
    step = loop.step_of(CONFIG, loop.model_config(CONFIG, data), CONFIG.objective)
    monkeypatch.setattr(loop, "step_of", lambda *given: step)  # compiled once
    whole = train(CONFIG, data, tmp_path / "whole")

    def save_and_stop(self, step, state):
        save(self, step, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, data, tmp_path / "run")
    monkeypatch.setattr(Checkpoints, "save", save)
    resumed = train(CONFIG, data, tmp_path / "run", resume=True)
    for a, b in zip(jax.tree.leaves(resumed.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_array_equal(a, b)
    for name in ("w_in", "w_out", "w_q", "w_o"):
        assert [(np.asarray(layer) != 0).sum() for layer in resumed.params["layers"][name]] == [38, 38], name
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "run")]
    assert lines[0] == lines[1] and len(lines[0].splitlines()) == 6


def test_without_transforms_the_optimiser_is_as_it_was():
    params = initial_state(tiny_config(n_layers=1), OptimiserConfig(), 4, 0).params
    none = lambda params: jax.tree.map(lambda _: False, params)  # noqa: E731
    adamw = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.constant_schedule(1.0), mask=none))
    as_it_was = jax.eval_shape(adamw.init, params)
    for model in (None, tiny_config(n_layers=1)):
        state = jax.eval_shape(optimiser(OptimiserConfig(), 4, model).init, params)
        assert jax.tree.structure(state) == jax.tree.structure(as_it_was)


def test_the_order_is_that_of_names_whatever_that_of_the_config():
    given = CONFIG.optimiser
    turned = dataclasses.replace(given, transforms=dict(reversed(given.transforms.items())))
    model = tiny_config(n_layers=1)
    states = [jax.tree.structure(initial_state(model, config, 4, 0).opt_state) for config in (given, turned)]
    assert states[0] == states[1]


def test_a_transform_of_ones_own(monkeypatch):
    monkeypatch.setattr(TRANSFORMS, "registered", dict(TRANSFORMS.registered))

    @transform("mine")
    def mine(inner, text, model, steps):
        assert isinstance(inner, optax.GradientTransformation)
        return inner._replace(init=lambda params: (text, model, steps, inner.init(params)))

    model = tiny_config(n_layers=1)
    made = optimiser(OptimiserConfig(transforms={"mine": "4", "swaps": "2"}), 7, model)
    (text, of, steps, _), count = made.init({})  # swaps come after it
    assert (text, of, steps) == ("4", model, 7) and count == 0


def test_mistakes():
    model = tiny_config()
    known = r"unknown transform of the optimiser 'swap'; known: sparse_weights_topk, swaps; did you mean swaps\?"
    with pytest.raises(UserError, match=known):
        optimiser(OptimiserConfig(transforms={"swap": "3"}), 4, model)
    with pytest.raises(UserError, match="transforms need all parameters of a language model"):
        optimiser(OptimiserConfig(transforms={"swaps": "3"}), 4)
    with pytest.raises(UserError, match=r"transforms.swaps must be a finite number"):
        OptimiserConfig(transforms={"swaps": "nan"})
    moving = OptimiserConfig(transforms={"swaps": "3"})
    with pytest.raises(UserError, match=r"swaps moves neurons, and routing and objective.neurons random"):
        TrainConfig(optimiser=moving, routing=2)
    with pytest.raises(UserError, match=r"swaps moves neurons, and routing and objective.neurons random"):
        TrainConfig(optimiser=moving, objective=ObjectiveConfig(neurons="random"))
    with pytest.raises(UserError, match=r"transforms change the model's own weights and need adapt all, got lora"):
        FinetuneConfig(adapt="lora", optimiser=moving)


def test_a_config_comes_back_from_its_file():
    kept = json.loads(json.dumps(dataclasses.asdict(CONFIG)))
    assert from_json(TrainConfig, kept, "file") == CONFIG
