"""Runs of one shape compile once; seeds that are trained together; runs that their levels do not allow."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from study_stubs import LOSS, SEEDS, WEIGHTS, S, at_once, at_once_together, study

from jaxinterp.base.errors import UserError
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.studies.engine import run, storage, together, work
from jaxinterp.studies.engine.config import Budget, Factor, StudyConfig, training_of
from jaxinterp.studies.engine.page import write_report
from jaxinterp.studies.engine.results import results_of, status_of, told
from jaxinterp.studies.engine.trained import trained
from jaxinterp.studies.engine.verify import verify_study
from jaxinterp.training import ensemble
from jaxinterp.training.checkpoint import Checkpoints
from jaxinterp.training.config import DataConfig, TrainConfig
from jaxinterp.training.driver import NotFinite
from jaxinterp.training.kept_steps import kept_step

pytest.importorskip("optuna")
TINY = StudyConfig(
    "tiny",
    (Factor("log", field="log_every", levels=(5, 10)), Factor("k", field="objective.k", levels=(2, 8))),
    (S, LOSS),
    base=TrainConfig(
        preset="0.5m",
        model={"n_layers": "1", "d_model": "8", "d_mlp": "8", "n_heads": "1", "n_kv_heads": "1", "d_head": "8"},
        data=DataConfig(domains=("elements",), limit=4),
        objective=ObjectiveConfig(k=2, points=1, weights={"suppression": "1"}),
        steps=4,
        batch_size=8,
        rows=4,
        evaluate_every=0,
        checkpoint_every=2,
    ),
    seeds=(0, 1),
    measure=MeasureConfig(k=2, queries=8, ability_queries=8, rows=8, points=1, replicates=5, ablation_queries=0),
)
POINT = {"log": 5, "k": 2}


@pytest.fixture
def compilations():
    """Grows by one for each program that XLA compiles, or that is read from the cache on disk."""
    found: list[str] = []

    def listen(event: str, _seconds: float, **_more) -> None:
        if event.endswith("backend_compile_duration"):
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


def refused(*_):
    raise AssertionError("computed twice")


def test_a_second_run_of_a_shape_compiles_nothing(tmp_path, compilations):
    first = trained(training_of(TINY, POINT, 0), TINY, tmp_path / "a")
    assert compilations
    compilations.clear()
    # Another seed, and another level that is no part of the step.
    second = trained(training_of(TINY, {**POINT, "log": 10}, 1), TINY, tmp_path / "b")
    assert not compilations and first.parameters != second.parameters
    again = trained(training_of(TINY, POINT, 0), TINY, tmp_path / "c")
    assert again.parameters == first.parameters


def test_steps_are_kept_by_every_field_of_their_configs():
    def make(*configs, **more):
        return jax.jit(lambda x: x)

    objective = ObjectiveConfig(weights={"suppression": "1", "control": "1"})
    base = kept_step(make, objective, 5, skip=False)
    others = [
        kept_step(make, dataclasses.replace(objective, memory="flat"), 5, skip=False),
        kept_step(make, dataclasses.replace(objective, weights={"suppression": "1", "control": "2"}), 5, skip=False),
        kept_step(make, dataclasses.replace(objective, weights={"control": "1", "suppression": "1"}), 5, skip=False),
        kept_step(make, objective, 6, skip=False),
        kept_step(make, objective, 5, skip=True),
        kept_step(lambda *configs, **more: make(*configs, **more), objective, 5, skip=False),
    ]
    assert len({*map(id, [base, *others])}) == 7
    assert kept_step(make, dataclasses.replace(objective), 5, skip=False) is base


def test_seeds_trained_together_are_kept_apart_from_single_runs(tmp_path):
    own = study(vmapped=True)
    assert work.run_study(own, tmp_path / "s", refused, at_once_together) == len(WEIGHTS) * 2  # a trial for each point
    attached = storage.attach(tmp_path / "s")
    results = results_of(attached)
    assert len(results) == len(WEIGHTS) * 2 * len(SEEDS) and {of.seed for of in results} == set(SEEDS)
    single = study()
    keys = {run.key_of(single, of.point, of.seed, "code") for of in results}
    assert not keys & {run.key_of(own, of.point, of.seed, "code") for of in results}
    # Members depend on who the first seed is, and on how many there are.
    point = results[0].point
    assert run.key_of(own, point, 1, "code") != run.key_of(study(vmapped=True, seeds=(0, 1, 2)), point, 1, "code")
    key = results[0].record["key"]
    assert verify_study(tmp_path / "s", key, refused, at_once_together).record["key"] == key
    with pytest.raises(UserError, match="is not reproduced: its values"):
        verify_study(tmp_path / "s", key, refused, lambda *given: {seed: at_once(*given) for seed in SEEDS})
    # One of a group's results is lost: the group is computed, and what is there stays.
    shutil.rmtree(run.folder_of(tmp_path / "s", key))
    together.done_together(own, tmp_path / "s", results[0].point, at_once_together)
    assert run.read_result(run.folder_of(tmp_path / "s", key)).record["values"] == results[0].record["values"]


def test_a_member_that_is_not_finite_is_a_failed_result(tmp_path):
    def one_fails(of, config, out):
        if of.model:
            raise NotFinite("no member is finite")
        return {**at_once_together(of, config, out), 1: "step 3 is not finite"}

    work.run_study(study(vmapped=True), tmp_path / "s", refused, one_fails)
    reasons = {(of.point["arm"], of.seed): of.failed for of in results_of(storage.attach(tmp_path / "s"))}
    assert reasons == {
        ("plain", 0): "",
        ("plain", 1): "step 3 is not finite",
        **{("relu", seed): "no member is finite" for seed in SEEDS},
    }


def test_seeds_trained_together_go_on_from_their_checkpoint(tmp_path, monkeypatch):
    own = dataclasses.replace(TINY, vmapped=True)
    whole = together.done_together(own, tmp_path / "whole", POINT, together.trained_together)
    assert not any(of.failed for of in whole.values())
    params = {seed: of.record["parameters"] for seed, of in whole.items()}
    assert len({*params.values()}) == 2
    save = Checkpoints.save

    def save_and_stop(self, step, state):
        save(self, step, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            together.done_together(own, tmp_path / "cut", POINT, together.trained_together)
    cut = together.done_together(own, tmp_path / "cut", POINT, together.trained_together)
    assert {seed: of.record["parameters"] for seed, of in cut.items()} == params
    assert {of.record["resumed_from"] for of in cut.values()} == {2}
    for seed, of in cut.items():
        assert all(np.array_equal(of.samples[name], whole[seed].samples[name]) for name in of.samples)


def test_a_run_that_its_levels_do_not_allow_is_a_failed_result(tmp_path):
    # k = 8 of 8 neurons; told before anything is trained.
    found = run.done(TINY, tmp_path / "s", {**POINT, "k": 8}, 0, trained)
    assert (
        found.failed == "k must be at least 1 and below the model's number of neurons (8), got 8" and not found.values
    )
    pair = together.done_together(
        dataclasses.replace(TINY, vmapped=True), tmp_path / "t", {**POINT, "k": 8}, together.trained_together
    )
    assert {of.failed for of in pair.values()} == {found.failed}
    skips = dataclasses.replace(TINY, vmapped=True, base=dataclasses.replace(TINY.base, skip=1))
    pair = together.done_together(skips, tmp_path / "t", POINT, together.trained_together)
    assert all("an ensemble takes no accumulate, skip" in of.failed for of in pair.values())


def test_points_of_a_search_that_cannot_be_are_told_in_status_and_report(tmp_path):
    least = Factor("least", field="objective.least_k", low=1.0, high=16.0, whole=True)  # alone each may be, with k = 16
    k = Factor("k", field="objective.k", low=4.0, high=16.0, whole=True)
    own = study(
        factors=(k, least), design="tpe", optimise={LOSS: "minimize"}, hypotheses=(), budget=Budget(trials=8), front={}
    )
    own = dataclasses.replace(own, base=dataclasses.replace(own.base, objective=ObjectiveConfig(k=16)))
    assert work.run_study(own, tmp_path / "s", at_once) == 8
    attached = storage.attach(tmp_path / "s")
    cannot = [of for of in results_of(attached) if of.point["least"] > of.point["k"]]
    status = status_of(attached)
    points = [of.user_attrs[storage.POINT] for of in attached.trials()]  # two trials may have the same
    assert cannot and status.counts["failed"] == sum(point["least"] > point["k"] for point in points)
    assert all("least_k must be" in of.failed for of in cannot)
    lines = told(status)
    assert lines and all("failed: factor 'least'" in line or "least_k must be" in line for line in lines)
    assert "least_k must be" in write_report(tmp_path / "s").read_text()


def test_what_concerns_all_runs_stops_the_worker(tmp_path):
    def full(*_):
        raise UserError("cannot write: no space left on device")

    with pytest.raises(UserError, match="no space left"):
        work.run_study(study(), tmp_path / "s", full)
    assert status_of(storage.attach(tmp_path / "s")).counts["failed"] == 0


def test_seeds_that_are_trained_together_are_consecutive():
    with pytest.raises(UserError, match=r"vmapped needs consecutive seeds, as \[0, 1, 2\], got \[0, 2\]"):
        study(vmapped=True, seeds=(0, 2))


def test_members_without_weights_of_their_own_have_those_of_the_run():
    config = ensemble.EnsembleConfig(TINY.base, seeds=2, weights=())
    assert [member.name for member in config.members] == ["seed0", "seed1"]
    weights = ensemble.member_weights(config, jax.numpy.zeros(2, int))
    np.testing.assert_array_equal(weights["suppression"], [1, 1])
