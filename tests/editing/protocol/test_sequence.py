"""Edits one after the other, and controls."""

import dataclasses

import numpy as np
import pytest
from editable import covariances, editable, requests_for
from knowing import knowing

from jaxinterp.base.errors import UserError
from jaxinterp.editing.change import apply, change_of
from jaxinterp.editing.deltas import Rows
from jaxinterp.editing.edit import edit
from jaxinterp.editing.methods.kn_solve import KnSolveConfig
from jaxinterp.editing.methods.memit import MemitConfig
from jaxinterp.editing.methods.rome import RomeConfig
from jaxinterp.editing.places import VALUE_ROWS
from jaxinterp.editing.protocol.case import Probe
from jaxinterp.editing.protocol.controls import CONTROLS, Plan, active_neurons, control_change, wrong_layers
from jaxinterp.editing.protocol.questions import recalled
from jaxinterp.editing.protocol.sequence import Point, SequenceConfig, after_edits, ruined
from jaxinterp.editing.protocol.texts import perplexity
from jaxinterp.editing.registry import Given, Neurons
from jaxinterp.editing.request import requests_of
from jaxinterp.editing.target import TargetConfig

TEXTS = ["the r0 of s0 w1 w3", "s1 has as r2 w3 w4 ."]


def steps(model, sizes):
    """Changes one after the other, each of one value row by a size."""
    found, state = [], model
    for number, size in enumerate(sizes):
        row = size * np.random.default_rng(number).normal(size=(1, model.config.d_model))
        change = change_of(state, [Rows(VALUE_ROWS, 1, np.array([number % model.config.d_mlp]), row)])
        found.append(change)
        state = apply(change, state)
    return found


def world():
    model, facts = knowing()
    facts = facts.answer_last()
    requests = requests_of(facts, {i: f"w{i % 5}" for i in range(len(facts))})
    return model, requests


def test_points_are_what_they_are_one_at_a_time():
    model, requests = world()
    changes, others = steps(model, [0.5] * 4), requests[20:]
    found = after_edits(model, changes, requests[:4], others, TEXTS, SequenceConfig(at=(1, 3), factor=1e9))
    assert [point.edits for point in found.points] == [0, 1, 3, 4]
    assert found.points[0].others_kept == 100 and found.points[0].perplexity_ratio == 1
    assert np.isnan(found.points[0].recall) and 0 < found.n_others < len(others)
    olds = [Probe("other", one.prompt, one.old) for one in others]
    knew = recalled(model, olds)
    state = model
    for number, change in enumerate(changes, start=1):
        state = apply(change, state)
        for point in found.points:
            if point.edits == number:
                news = [Probe("other", one.prompt, one.new) for one in requests[:number]]
                assert point.recall == 100 * recalled(state, news).mean()
                assert point.others_kept == pytest.approx(100 * recalled(state, olds)[knew].mean())
                assert point.perplexity_ratio == pytest.approx(perplexity(state, TEXTS) / perplexity(model, TEXTS))


@pytest.mark.parametrize("bad", [1, 2, 5, 7])
def test_the_edit_that_ruins_the_model(bad):
    model, requests = world()
    changes = steps(model, [1e4 if number == bad else 1e-3 for number in range(1, 8)])
    config = SequenceConfig(at=(2, 6), factor=1e9, share=0.8)
    assert after_edits(model, changes, requests[:7], requests[20:], (), config).disabling == bad
    before = slice(bad - 1)
    if bad > 1:
        found = after_edits(model, changes[before], requests[before], requests[20:], (), config)
        assert found.disabling is None and found.points[-1].others_kept == 100


def test_a_prompt_that_is_edited_again():
    model, requests = world()
    says = model.generate(requests[0].prompt, 1)
    right = dataclasses.replace(requests[0], new=says)
    wrong = dataclasses.replace(requests[0], new=" w2" if says != " w2" else " w4")
    nothing = [change_of(model, [])] * 2
    assert after_edits(model, nothing, [wrong, right], (), ()).points[-1].recall == 100
    assert after_edits(model, nothing, [right, wrong], (), ()).points[-1].recall == 0


def test_when_a_model_is_ruined():
    config, nan = SequenceConfig(factor=2.0, share=0.5), float("nan")
    for kept, ratio, expected in ((100, 1, False), (50, 2, False), (49, 1, True), (100, 2.1, True), (nan, nan, False)):
        assert ruined(Point(1, 0.0, float(kept), float(ratio)), config) == expected


def test_sequences_that_cannot_be():
    model, requests = world()
    bare = dataclasses.replace(requests[1], old=None)
    for wrong, match in (
        (lambda: SequenceConfig(at=(10, 1)), "from the lowest, got"),
        (lambda: SequenceConfig(at=()), "from the lowest, got"),
        (lambda: SequenceConfig(factor=1.0), "factor must be above 1"),
        (lambda: SequenceConfig(share=0.0), "share must be above 0"),
        (lambda: after_edits(model, [], [], (), ()), "0 changes and 0 requests"),
        (lambda: after_edits(model, steps(model, [1]), requests[:2], (), ()), "1 changes and 2 requests"),
        (lambda: after_edits(model, steps(model, [1]), requests[:1], [bare], ()), "no old answer to be kept"),
    ):
        with pytest.raises(UserError, match=match):
            wrong()


def test_controls():
    model = editable()
    (asked,) = requests_for(model, 1)
    given = Given(neurons=[Neurons(np.array([0, 1, 2]), np.array([1, 2, 3]))])
    plan = Plan((asked,), "kn_solve", KnSolveConfig(), given)
    assert set(CONTROLS) == {"no_op", "identity", "random_active", "most_active", "wrong_layer"}
    assert not control_change("no_op", model, plan).deltas
    identity = control_change("identity", model, plan)
    assert [one["new"] for about in identity.about for one in about["requests"]] == [asked.old]
    same = apply(identity, model)
    assert same.top(asked.prompt, 1)[0][0] == model.top(asked.prompt, 1)[0][0] == asked.old.strip()
    for name in ("random_active", "most_active"):
        change = control_change(name, model, plan)
        assert sum(len(delta.rows_n) if hasattr(delta, "rows_n") else len(delta[2]) for delta in change.deltas) == 3, (
            name
        )
    (one,), (again,), (other,) = (active_neurons(model, [asked], [3], seed) for seed in (0, 0, 1))
    (here,) = active_neurons(model, [asked], [3], 0, layer=1)
    assert here.layer_k.tolist() == [1, 1, 1]
    assert one.neuron_k.tolist() == again.neuron_k.tolist()
    assert (one.layer_k.tolist(), one.neuron_k.tolist()) != (other.layer_k.tolist(), other.neuron_k.tolist())
    with pytest.raises(UserError, match="unknown control 'x'; known: no_op"):
        control_change("x", model, plan)
    with pytest.raises(UserError, match="neurons are active after"):
        active_neurons(model, [asked], [10**6], 0)
    with pytest.raises(UserError, match="has no old answer to be edited to"):
        control_change("identity", model, plan._replace(requests=(dataclasses.replace(asked, old=None),)))
    with pytest.raises(UserError, match="does not edit chosen neurons"):
        control_change("random_active", model, Plan((asked,), "rome", RomeConfig(1)))


def test_wrong_layers():
    model = editable()
    (asked,) = requests_for(model, 1)
    given = Given(covariances=covariances(model, ridge=1e-2))
    config = RomeConfig(0, TargetConfig(essence=""))
    rome = Plan((asked,), "rome", config, given)
    # Nothing reads the subject's last token in the last of three layers.
    assert {wrong_layers(model, rome, seed).layer for seed in range(9)} == {1}
    at_prompt = rome._replace(settings=RomeConfig(0, TargetConfig(at="prompt")))
    assert {wrong_layers(model, at_prompt, seed).layer for seed in range(9)} == {1, 2}
    change = control_change("wrong_layer", model, rome)
    assert {delta.layer for delta in change.deltas} == {1}
    assert {delta.layer for delta in edit(model, asked, "rome", config, given).deltas} == {0}
    memit = Plan((asked,), "memit", MemitConfig((0, 1), target=TargetConfig(at="prompt")), given)
    with pytest.raises(UserError, match="no 2 other layers side by side"):
        wrong_layers(model, memit, 0)
    few = rome._replace(given=Given(covariances={0: given.covariances[0]}))
    with pytest.raises(UserError, match="no 1 other layers side by side"):
        wrong_layers(model, few, 0)
    with pytest.raises(UserError, match="name no layer"):
        wrong_layers(model, Plan((asked,), "kn_solve", KnSolveConfig()), 0)
