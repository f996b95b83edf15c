"""Members of an ensemble against models trained alone, and what happens to one that stops being finite."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from training_facts import DATA, made_up_data

from jaxinterp.base.errors import UserError
from jaxinterp.models.loading.bundle import load_model
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.objectives.loss import any_active
from jaxinterp.training import driver, ensemble
from jaxinterp.training.checkpoint import Checkpoints
from jaxinterp.training.config import TrainConfig
from jaxinterp.training.ensemble import ensemble_step, member_weights, train_ensemble
from jaxinterp.training.ensemble_config import EnsembleConfig, Member
from jaxinterp.training.loop import batch_of, model_config
from jaxinterp.training.noise_config import DropoutConfig
from jaxinterp.training.state import initial_state
from jaxinterp.training.step import update

STEPS = 6
RUN = TrainConfig(
    preset="0.5m",
    model={"n_layers": "1", "d_model": "8", "d_mlp": "8", "n_heads": "1", "n_kv_heads": "1", "d_head": "8"},
    data=DATA,
    objective=ObjectiveConfig(weights={"suppression": "0@2,1@3", "control": "0@2,1@3"}, k=2, points=1),
    seed=3,
    steps=STEPS,
    batch_size=8,
    rows=4,
    log_every=1,
    checkpoint_every=4,
)
CONFIG = EnsembleConfig(RUN, seeds=2, weights=((0.0, 0.0), (0.5, 1.0)))
NAMES = ["lambda0-mu0-seed3", "lambda0-mu0-seed4", "lambda0.5-mu1-seed3", "lambda0.5-mu1-seed4"]


@pytest.fixture(scope="module")
def data():
    return made_up_data()


@pytest.fixture(scope="module")
def step(data):
    """Compiled once for all runs."""
    return ensemble_step(model_config(RUN, data), CONFIG)


@pytest.fixture(autouse=True)
def quick(monkeypatch, step):
    monkeypatch.setattr(ensemble, "ensemble_step", lambda model, config: step)
    monkeypatch.setattr(ensemble, "evaluated", lambda bundle, data: {"mean": float(bundle.params["embedding"].mean())})


@pytest.fixture(scope="module")
def finished(data, step, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensemble, "ensemble_step", lambda model, config: step)
        patch.setattr(ensemble, "evaluated", lambda bundle, data: {})
        out = tmp_path_factory.mktemp("ensembles") / "whole"
        return out, train_ensemble(CONFIG, data, out)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same(found, expected):
    """Bit for bit: of runs of one program."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_member_is_the_model_that_trains_alone(finished, data):
    out, trained = finished
    model = model_config(RUN, data)
    alone = jax.jit(update(model, RUN.objective, RUN.optimiser, STEPS))
    tokens = jax.numpy.asarray(batch_of(RUN, data, 0).tokens_BT)
    read = jax.jit(lambda params: forward(Model(model, params), tokens).logits_BTV)
    logged = lines(out / "metrics.jsonl")
    for member, seed, factors in ((0, 3, (0.0, 0.0)), (3, 4, (0.5, 1.0))):
        assert CONFIG.members[member] == Member(seed, *factors)
        state, initial = (initial_state(model, RUN.optimiser, STEPS, seed) for _ in range(2))
        for number in range(STEPS):
            height = np.clip(number - 2, 0, 1)
            weights = {
                name: jax.numpy.float32(height * f) for name, f in zip(RUN.objective.weights, factors, strict=True)
            }
            # The data's order is that of the first seed for all.
            state, metrics = alone(state, batch_of(RUN, data, number), number, weights)
            mine = logged[4 * number + member]
            assert (mine["step"], mine["member"]) == (number + 1, NAMES[member])
            assert mine["loss"] == pytest.approx(float(metrics["loss"]), abs=1e-4)
        # Logits and not parameters: the keys' bias changes no attention, so that its gradient is rounding alone, of
        # which Adam makes steps as long as any other.
        member_params = trained.models[CONFIG.members[member]].params
        found, expected, first = (np.asarray(read(params)) for params in (member_params, state.params, initial.params))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        assert np.abs(expected - first).max() > 1e-2


def test_what_an_ensemble_leaves(finished, data):
    out, trained = finished
    assert [member.name for member in trained.models] == NAMES and not trained.failed
    assert sorted(path.name for path in (out / "models").iterdir()) == sorted(NAMES)
    for member, model in trained.models.items():
        assert_same(load_model(out / "models" / member.name).params, model.params)
        assert model.provenance["member"] == dataclasses.asdict(member) and model.provenance["data_seed"] == 3
    embeddings = [model.params["embedding"] for model in trained.models.values()]
    assert min(np.abs(a - b).max() for i, a in enumerate(embeddings) for b in embeddings[:i]) > 1e-4
    last = lines(out / "metrics.jsonl")[-4:]
    assert [line["suppression_weight"] for line in last] == [0, 0, 0.5, 0.5]
    assert all(line["finite"] and line["suppressability"] is not None for line in last)
    assert [line["member"] for line in lines(out / "evaluations.jsonl")] == NAMES
    # Nothing is left to do.
    again = train_ensemble(CONFIG, data, out, resume=True)
    assert_same([model.params for model in again.models.values()], [model.params for model in trained.models.values()])
    with pytest.raises(UserError, match="holds a run already"):
        train_ensemble(CONFIG, data, out)


def test_terms_cost_nothing_while_no_member_has_a_weight(data, step):
    states = ensemble.stacked([initial_state(model_config(RUN, data), RUN.optimiser, STEPS, 0)] * 4)
    equations = jax.make_jaxpr(step)(states, batch_of(RUN, data, 0), 0).eqns
    (inner,) = (equation.params["jaxpr"] for equation in equations if equation.primitive.name in ("jit", "pjit"))
    conditions = [equation for equation in inner.eqns if equation.primitive.name == "cond"]
    assert conditions and conditions[0].invars[0].aval.shape == ()
    early, late = (member_weights(CONFIG, jax.numpy.full(4, begun)) for begun in (2, 3))
    assert not any_active(early) and any_active(late)
    np.testing.assert_array_equal(late["suppression"], [0, 0, 0.5, 0.5])


def test_members_have_the_noise_of_their_run(data, monkeypatch):
    """What a step is kept by, and made of, has everything that decides it."""
    monkeypatch.setattr(ensemble, "ensemble_step", ensemble_step)
    model = model_config(RUN, data)
    seeds = [member.seed for member in CONFIG.members]
    states = ensemble.stacked([initial_state(model, RUN.optimiser, RUN.steps, seed) for seed in seeds])
    losses = []
    for dropout in (DropoutConfig(), DropoutConfig(ffn=0.6)):
        config = dataclasses.replace(CONFIG, run=dataclasses.replace(RUN, dropout=dropout))
        step = ensemble._Members(config, model, data).step(RUN.objective)
        metrics = step(jax.tree.map(jax.numpy.copy, states), batch_of(RUN, data, 0), 0)[1]
        losses.append(np.asarray(metrics["lm"]))
    assert (losses[0] != losses[1]).all(), losses


def test_members_begin_when_each_knows_its_facts(data):
    level, known = 0.01, np.array([0.0, 0.5, 0.0, 0.0098], np.float32)
    objective = dataclasses.replace(RUN.objective, start=level, weights=dict.fromkeys(RUN.objective.weights, "1"))
    config = dataclasses.replace(CONFIG, run=dataclasses.replace(RUN, objective=objective))
    # What the members know before the first step is made up: the last one is below the level, and its P above it.
    model = model_config(RUN, data)
    of_members = [initial_state(model, RUN.optimiser, STEPS, member.seed) for member in config.members]
    states = ensemble.stacked(of_members)._replace(known=jax.numpy.asarray(known))
    step, begun = ensemble_step(model, config), np.zeros(4)
    seen = []
    for number in range(STEPS):
        before = begun
        states, metrics = step(states, batch_of(RUN, data, number), number)
        moved = np.float32(0.98) * known + np.float32(0.02) * np.asarray(metrics["probability"])
        known = np.where(np.isnan(moved), known, moved)  # a batch may have no answers
        np.testing.assert_allclose(metrics["known"], known, rtol=1e-5)
        begun = np.where((begun > 0) | (np.asarray(states.known) >= level), begun + 1, 0)
        np.testing.assert_array_equal(metrics["begun"], begun)
        np.testing.assert_array_equal(metrics["suppression_weight"], np.where(before > 0, [0, 0, 0.5, 0.5], 0))
        # The terms are computed for all as soon as one has a weight.
        assert np.isnan(metrics["suppressability"]).all() == (not (before[2:] > 0).any())
        seen.append(begun)
    assert seen[-1][:3].tolist() == [0, STEPS, 0] and 0 < seen[-1][3] < STEPS


def test_a_member_that_is_not_finite_stands_still_alone(finished, data, tmp_path, monkeypatch, capsys):
    seen, first = finished[1].models, ensemble.initial_state

    def broken(model, optimiser, steps, seed):
        state = first(model, optimiser, steps, seed)
        params = dict(state.params)
        if seed == 4 and not made:
            params["embedding"] = params["embedding"].at[:, 2].set(np.inf)
        made.append(seed) if seed == 4 else None
        return state._replace(params=params)

    made: list[int] = []
    monkeypatch.setattr(ensemble, "initial_state", broken)
    found = train_ensemble(CONFIG, data, tmp_path / "run")
    bad = Member(4, 0.0, 0.0)
    assert found.failed == {bad: "step 1 is not finite; the first bad array is parameter embedding"}
    assert "lambda0-mu0-seed4 (seed 4) stands still" in capsys.readouterr().out
    assert list(found.models) == [member for member in CONFIG.members if member != bad]
    for member, model in found.models.items():
        assert_same(model.params, seen[member].params)
    logged = lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["finite"] for line in logged[-4:]] == [True, False, True, True] and logged[-3]["loss"] is None
    assert not (tmp_path / "run" / "models" / bad.name).exists()


def test_an_ensemble_without_a_finite_member(data, tmp_path, monkeypatch):
    first = ensemble.initial_state

    def broken(*arguments):
        state = first(*arguments)
        return state._replace(params=jax.tree.map(lambda leaf: leaf * np.nan, state.params))

    monkeypatch.setattr(ensemble, "initial_state", broken)
    with pytest.raises(UserError, match="no member is finite: step 1 is not finite; the first bad array is parameter"):
        train_ensemble(CONFIG, data, tmp_path / "run")


def test_members_on_devices_of_their_own(finished, data, tmp_path, monkeypatch):
    lay, planned = [], driver.planned_step
    shapes = lambda tree: [leaf.sharding.shard_shape(leaf.shape) for leaf in jax.tree.leaves(tree)]  # noqa: E731
    monkeypatch.setattr(
        driver, "planned_step", lambda *given: lay.append(shapes(given[2][0].params)) or planned(*given)
    )
    train_ensemble(CONFIG, data, tmp_path / "many", mesh="data=4")
    # A member of the four to a device.
    assert {shape[0] for shape in lay[0]} == {1}
    pairs = zip(lines(finished[0] / "metrics.jsonl"), lines(tmp_path / "many" / "metrics.jsonl"), strict=True)
    for one, many in pairs:
        assert (one["step"], one["member"]) == (many["step"], many["member"])
        assert many["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert many["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-4)


def test_resuming_is_bit_exact(finished, data, tmp_path, monkeypatch):
    save = Checkpoints.save

    def save_and_stop(self, step, state):
        save(self, step, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train_ensemble(CONFIG, data, tmp_path / "run")
    monkeypatch.setattr(Checkpoints, "save", save)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["4"]
    resumed = train_ensemble(CONFIG, data, tmp_path / "run", resume=True)
    for member, model in finished[1].models.items():
        assert_same(resumed.models[member].params, model.params)
    assert lines(tmp_path / "run" / "metrics.jsonl") == lines(finished[0] / "metrics.jsonl")
    other = dataclasses.replace(CONFIG, seeds=3)
    with pytest.raises(UserError, match="seeds is 2 there and 3 here"):
        train_ensemble(other, data, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"run": dataclasses.replace(RUN, skip=2)}, "takes no accumulate, skip or keep_best"),
        ({"weights": ((0.0, 1.0), (0.0, 1.0))}, "each once"),
        ({"weights": ((float("nan"), 1.0),)}, "must be a finite number"),
        (
            {"run": dataclasses.replace(RUN, objective=ObjectiveConfig(weights={"control": "1"}))},
            "a schedule for each of",
        ),
    ],
)
def test_configs_check_themselves(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **change)
