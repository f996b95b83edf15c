"""Every way to edit, on tiny models: new answers win, an edit to the same answer does nothing, mistakes are told."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from editable import bits, covariances, editable, requests_for
from small import masked_model

from jaxinterp.base.errors import UserError
from jaxinterp.editing.answers import answered
from jaxinterp.editing.change import apply, revert
from jaxinterp.editing.deltas import Rows
from jaxinterp.editing.edit import edit
from jaxinterp.editing.keys import request_keys, request_streams, sampled_prefixes
from jaxinterp.editing.methods.alphaedit import AlphaEditConfig
from jaxinterp.editing.methods.emmet import EmmetConfig
from jaxinterp.editing.methods.erase import EraseConfig
from jaxinterp.editing.methods.ft_l import FtlConfig
from jaxinterp.editing.methods.kn_solve import KnSolveConfig
from jaxinterp.editing.methods.memit import MemitConfig
from jaxinterp.editing.methods.rome import RomeConfig
from jaxinterp.editing.methods.update import UpdateConfig
from jaxinterp.editing.neurons import request_neurons
from jaxinterp.editing.places import value_rows
from jaxinterp.editing.registry import METHODS, Given, Neurons
from jaxinterp.editing.request import request
from jaxinterp.editing.target import TargetConfig, targets

TARGET = TargetConfig(steps=40, clamp=30.0, weight_decay=1e-3, essence="{subject} b")
SETTINGS = {
    "rome": RomeConfig(1, TARGET),
    "emmet": EmmetConfig(1, TARGET),
    "memit": MemitConfig((0, 1), 1e-6, TARGET),
    "alphaedit": AlphaEditConfig((1,), 0.4, 1e-6, TARGET),
    "kn_solve": KnSolveConfig(),
    "ft_l": FtlConfig(1, most=1.0, steps=60, step_size=0.05),
}


def given_for(model, method):
    return Given(covariances=covariances(model, ridge=1e-6)) if "covariances" in METHODS[method].reads else None


def newly(requests):
    """The requests as facts that should be known after the edit."""
    return [dataclasses.replace(one, old=one.new) for one in requests]


@pytest.fixture(scope="module")
def model():
    return editable()


@pytest.mark.parametrize("method", SETTINGS)
def test_the_new_answers_win_and_the_edit_can_be_undone(model, method):
    requests = requests_for(model)
    assert not any(answered(model, newly(requests)))
    change = edit(model, requests, method, SETTINGS[method], given_for(model, method))
    edited = apply(change, model)
    assert all(answered(edited, newly(requests)))
    assert bits(revert(change, edited)) == bits(model)
    assert {about["method"] for about in change.about} == {method}
    assert [one["new"] for about in change.about for one in about["requests"]] == [one.new for one in requests]
    changed = {delta.layer for delta in change.deltas}
    assert changed <= set(getattr(SETTINGS[method], "layers", [getattr(SETTINGS[method], "layer", 1)])) | (
        {0, 1, 2} if method == "kn_solve" else set()
    )


@pytest.mark.parametrize("method", SETTINGS)
def test_an_edit_to_the_same_answer_changes_nothing(model, method):
    (asked,) = requests_for(model, 1)
    settings = SETTINGS[method]
    # Where the answer is as probable as asked for, there is nothing to do.
    if hasattr(settings, "target"):
        settings = dataclasses.replace(settings, target=dataclasses.replace(TARGET, enough=5.0))
    elif method == "kn_solve":
        settings = KnSolveConfig(enough=0.05)
    else:
        settings = dataclasses.replace(settings, enough=5.0)
    change = edit(model, dataclasses.replace(asked, new=asked.old), method, settings, given_for(model, method))
    assert bits(apply(change, model)) == bits(model)


@pytest.mark.parametrize("name", ["gpt", "neox", "olmo", "gemma"])
def test_layers_write_what_the_target_asks_for(name):
    """ROME: at the target's layer, in any architecture. MEMIT: exactly where layers add what FFNs write; to first
    order, and as far as norms allow, where that is normed.
    """
    model = editable(name)
    (asked,) = requests_for(model, 1)
    given = given_for(model, "rome")
    (found,) = targets(model, [asked], 1, TARGET)
    assert found.loss < targets(model, [asked], 1, dataclasses.replace(TARGET, enough=1e9))[0].loss
    (before_D,) = request_streams(model, [asked], 1)
    wanted = np.linalg.norm(before_D - found.stream_D)
    missed = {}
    for method, settings in (("rome", RomeConfig(1, TARGET)), ("memit", MemitConfig((0, 1), 0.0, TARGET))):
        (after_D,) = request_streams(apply(edit(model, asked, method, settings, given), model), [asked], 1)
        missed[method] = np.linalg.norm(after_D - found.stream_D) / wanted
    assert missed["rome"] < 1e-3 and missed["memit"] < (1e-3 if name in ("gpt", "neox") else 0.9)


def test_one_request_of_emmet_is_rome(model):
    (asked,) = requests_for(model, 1)
    given = given_for(model, "rome")
    changes = [
        edit(model, asked, "rome", SETTINGS["rome"], given),
        edit(model, asked, "emmet", SETTINGS["emmet"], given),
    ]
    assert bits(apply(changes[0], model)) == bits(apply(changes[1], model))
    several = edit(model, requests_for(model, 2), "emmet", SETTINGS["emmet"], given)
    assert several.deltas[0].left_FN.shape[1] == 2


def test_keys_and_targets_are_means_over_prefixes(model):
    (asked,) = requests_for(model, 1)
    plain, prefixed = (request_keys(model, [asked], 1, prefixes)[0] for prefixes in ((), ("a b ", "e ")))
    runs = [model.run(text, capture="mlp_post").activations["mlp_post"][1, 0] for text in ("c a", "a b c a", "e c a")]
    np.testing.assert_allclose(plain, runs[0][-1], atol=1e-6)
    np.testing.assert_allclose(prefixed, np.mean([run[-1] for run in runs], 0), atol=1e-6)
    earlier = request("c {subject} d", "a", " b")
    posts_T = model.run("c a d", capture="mlp_post").activations["mlp_post"][1, 0]
    for at, position in (("subject", -2), ("prompt", -1)):
        np.testing.assert_allclose(request_keys(model, [earlier], 1, (), at)[0], posts_T[position], atol=1e-6)


def test_targets_side_by_side_are_those_one_by_one(model):
    requests = [*requests_for(model, 3), request("c {subject} d", "a", " b c", " a")]
    config = dataclasses.replace(TARGET, enough=1.3)
    several = targets(model, requests, 1, config, ("a b ",))
    assert len(several) == len(requests) and len({found.steps for found in several}) > 1  # some end before others
    for asked, found in zip(requests, several, strict=True):
        (alone,) = targets(model, [asked], 1, config, ("a b ",))
        np.testing.assert_allclose(found.delta_D, alone.delta_D, atol=1e-4)
        np.testing.assert_allclose(found.stream_D, alone.stream_D, atol=1e-4)
        assert (found.steps, found.layer, found.model) == (alone.steps, 1, model.digest())


def test_targets_that_were_found_before_serve(model):
    requests = requests_for(model)
    given = given_for(model, "rome")
    found = targets(model, requests, 1, TARGET)
    for method in ("emmet", "memit"):
        own = edit(model, requests, method, SETTINGS[method], dataclasses.replace(given, targets=found))
        assert bits(apply(own, model)) == bits(apply(edit(model, requests, method, SETTINGS[method], given), model))
    # The second request is edited in the model that the first one left, of which no target is given.
    for asked, aims, match in (
        (requests, found, "a target is of layer 1 of model"),
        (requests[:1], targets(model, requests[:1], 0, TARGET), "a target is of layer 0 of model"),
        (requests, found[:1], "there are targets of 1 requests for 2"),
    ):
        with pytest.raises(UserError, match=match):
            edit(model, asked, "rome", SETTINGS["rome"], dataclasses.replace(given, targets=aims))


def test_prefixes_are_drawn_from_the_model(model):
    lengths, words = ((2, 3), (3, 2)), ("a", "b")
    found, again, other = (sampled_prefixes(model, lengths, words, seed) for seed in (0, 0, 1))
    assert found == again != other
    assert [text[0] for text in found] == ["a", "b", "a", "a", "b"] and all(text.endswith(". ") for text in found)


def test_earlier_keys_keep_their_outputs(model):
    first, second = requests_for(model, 2)
    given = given_for(model, "alphaedit")
    earlier_PF = request_keys(model, [first], 1)
    moved = {}
    for l2, keys in ((1e-3, {}), (1e-3, {1: 100 * earlier_PF})):
        own = dataclasses.replace(given, earlier=keys)
        change = edit(model, second, "alphaedit", AlphaEditConfig((1,), 0.4, l2, TARGET), own)
        moved[bool(keys)] = np.abs(earlier_PF @ change.deltas[0].left_FN @ change.deltas[0].right_ND).max()
    assert moved[True] < 0.05 * moved[False]


def test_kn_solve_changes_its_neurons_alone_and_just_enough(model):
    (asked,) = requests_for(model, 1)
    neurons = request_neurons(model, [asked], 5)
    change = edit(model, asked, "kn_solve", KnSolveConfig(enough=0.7), Given(neurons=neurons))
    rows = {(delta.layer, int(row)) for delta in change.deltas for row in delta.row_K}
    assert rows <= set(zip(*(part.tolist() for part in neurons[0]), strict=True)) and len(rows) <= 5
    assert all(isinstance(delta, Rows) for delta in change.deltas)
    ((_, p),) = [top for top in apply(change, model).top(asked.prompt, 6) if top[0] == asked.new.strip()]
    assert p == pytest.approx(0.7, abs=0.01)


def test_kn_solve_edits_a_request_in_other_words_as_well(model):
    (asked,), (other,) = requests_for(model, 1), requests_for(model, 1, "d {subject}")
    other = dataclasses.replace(other, new=asked.new)
    neurons = [Neurons(np.full(12, 2), np.arange(12))]

    def probabilities(rephrased):
        given = Given(neurons=neurons, rephrased=rephrased)
        edited = apply(edit(model, asked, "kn_solve", KnSolveConfig(enough=0.7), given), model)
        return [dict(edited.top(one.prompt, 6))[asked.new.strip()] for one in (asked, other)]

    alone, both = probabilities(None), probabilities([(other,)])
    assert alone[0] == pytest.approx(0.7, abs=0.01) and np.sqrt(np.prod(both)) == pytest.approx(0.7, abs=0.01)
    assert abs(alone[1] - 0.7) > 0.02
    with pytest.raises(UserError, match="there are rephrased of 2 requests for 1"):
        probabilities([(other,), ()])


def test_kn_solve_keeps_what_kept_prompts_get(model):
    (asked,) = requests_for(model, 1)
    neurons = [Neurons(np.full(6, 2), np.arange(6))]
    kept = ("b c", "c d e")

    def moved(settings, kept=kept):
        edited = apply(edit(model, asked, "kn_solve", settings, Given(neurons=neurons, kept=kept)), model)
        runs = [[one.run(text).log_probabilities()[0] for text in ("b c", "c d e")] for one in (model, edited)]
        assert answered(edited, newly([asked])) == [True]
        return np.abs(np.subtract(*runs)).max()

    free = moved(KnSolveConfig(), ())
    assert moved(KnSolveConfig(keep=None)) < 1e-4 < free
    assert moved(KnSolveConfig(keep=1e4)) < 0.3 * free


def test_fine_tuning_stays_within_its_bound(model):
    requests = requests_for(model, 2)
    (delta,) = edit(model, requests, "ft_l", FtlConfig(2, most=1e-3, step_size=1e-2)).deltas
    assert delta.layer == 2 and np.abs(delta.delta_KD).max() == pytest.approx(1e-3)


def test_updates_win_where_logits_are_products_with_embeddings(model):
    plain = {"scale": jnp.ones(16), "bias": jnp.zeros(16)}
    params = {**model.params, "norm_final": plain}
    model = dataclasses.replace(model, model=dataclasses.replace(model.model, params=params))
    (asked,) = requests_for(model, 1)
    neurons = request_neurons(model, [asked], 6, "activation")  # large and positive
    edited = apply(edit(model, asked, "update", given=Given(neurons=neurons)), model)
    assert not any(answered(model, newly([asked]))) and all(answered(edited, newly([asked])))


@pytest.mark.parametrize("masked", [False, True])
def test_update_by_hand(model, masked):
    model = masked_model() if masked else model
    neurons = Neurons(np.array([1, 0]), np.array([2, 5]))
    parts = {"prompt": "a b", "subject": (0, 1), "after": " d"} if masked else {"prompt": "a b", "subject": (0, 1)}
    asked = dataclasses.replace(request("{subject} b", "a", " c", " e"), **parts)
    change = edit(model, asked, "update", UpdateConfig(1.0, 8.0), Given(neurons=[neurons]), unknown_too=True)
    edited = apply(change, model)
    table = np.asarray(model.params["embedding"], np.float64)
    e, new = (table[model.tokenizer.encode(word)[0]] for word in ("e", "c"))
    for layer, row in zip(*(part.tolist() for part in neurons), strict=True):
        v = np.asarray(value_rows(model.model, layer)[row], np.float64)
        size = np.linalg.norm(v)
        by_hand = v - size / np.linalg.norm(e) * e + 8 * size / np.linalg.norm(new) * new
        np.testing.assert_allclose(value_rows(edited.model, layer)[row], by_hand, rtol=1e-5)
    untouched = np.asarray(value_rows(edited.model, 1))
    assert (np.delete(untouched, 2, 0) == np.delete(np.asarray(value_rows(model.model, 1)), 2, 0)).all()


@pytest.mark.parametrize("masked", [False, True])
def test_erasure_takes_the_most_frequent_neurons(model, masked):
    model = masked_model() if masked else model
    sets = [
        Neurons(np.array(layers), np.array(neurons)) for layers, neurons in (([0, 1], [3, 3]), ([1], [3]), ([0], [1]))
    ]
    requests = [request("{subject} b", word, " c", relation="r") for word in "abc"]
    change = edit(model, requests, "erase", EraseConfig(n=2), Given(neurons=sets))
    rows = np.asarray(apply(change, model).params["layers"]["w_out"])
    silent = {tuple(place) for place in np.argwhere(~rows.any(-1)).tolist()}
    assert silent == {(1, 3), (0, 1)}  # (0, 1) and (0, 3) are in one set each
    own = edit(model, requests, "erase", EraseConfig(n=3, k=4))
    assert sum(len(delta.row_K) for delta in own.deltas) == 3
    with pytest.raises(UserError, match="is of one relation, got requests of r, s"):
        edit(model, [requests[0], dataclasses.replace(requests[1], relation="s")], "erase")


def test_mistakes_are_told_in_one_line(model):
    asked = requests_for(model, 2)
    given = given_for(model, "rome")
    own = Neurons(np.array([0]), np.array([0]))

    def refused(match, *arguments, **more):
        with pytest.raises(UserError, match=match) as error:
            edit(model, *arguments, **more)
        assert "\n" not in str(error.value)

    refused("unknown editing method 'rom'; .*did you mean rome", asked, "rom")
    refused("nothing to edit", [], "rome")
    refused(r"rome needs settings: RomeConfig\(layer=…\)", asked, "rome")
    refused("settings of rome are a RomeConfig, got EmmetConfig", asked, "rome", EmmetConfig(1))
    refused(
        "rome does not read neurons; it reads covariances, prefixes", asked, "rome", RomeConfig(1), Given([own] * 2)
    )
    refused("neurons of 1 requests for 2", asked, "update", None, Given([own]))
    refused(r"covariance of layer 1 is needed \(given: none\)", asked, "rome", SETTINGS["rome"])
    refused("numbers from 0 to 2", asked, "rome", RomeConfig(3, TARGET), given)
    refused("numbers from 0 to 2", asked, "memit", MemitConfig((1, 1), 1.0, TARGET), given)
    wrong = [dataclasses.replace(asked[0], old=asked[0].new)]
    refused("the model does not answer 'c a…' with .* unknown_too=True", wrong, "kn_solve")
    refused("does not know 'zebra'", dataclasses.replace(asked[0], new=" zebra"), "kn_solve")
    refused("set the target's essence", asked, "rome", RomeConfig(1), given)
    earlier = requests_for(model, 1, "c {subject} d")
    refused("nothing reads what the last layer", earlier, "rome", RomeConfig(2, TARGET), given)
    other = given_for(editable(seed=2), "rome")
    refused("covariance that is given for layer 1 is of layer 1 of model", asked, "rome", SETTINGS["rome"], other)
    few = {1: dataclasses.replace(given.covariances[1], ridge=0.0, mean_FF=np.ones((12, 12)))}
    refused("covariance of layer 1 is singular: 12 neurons", asked, "rome", SETTINGS["rome"], Given(covariances=few))
    twice = [asked[0], dataclasses.replace(asked[0])]
    refused("keys depend on each other", twice, "emmet", SETTINGS["emmet"], given)
    refused("no eigenvalue", asked, "alphaedit", AlphaEditConfig((1,), 1e-12, 1.0, TARGET), given)
    refused("no neuron 12 in layer 0", asked[:1], "update", None, Given([Neurons(np.array([0]), np.array([12]))]))
    kept = Given([own], kept=(asked[0].prompt,))
    refused(
        "not active where the answer is read, or only as kept", asked[:1], "kn_solve", KnSolveConfig(keep=None), kept
    )
    bert = masked_model()
    with pytest.raises(UserError, match="rome is for causal models; this one is bidirectional; take update or erase"):
        edit(bert, asked, "rome", SETTINGS["rome"])
    for wrong, match in (
        (lambda: TargetConfig(clamp=0.0), "clamp of a target must be above 0"),
        (lambda: TargetConfig(essence="it is a"), "essence has to have {subject} once"),
        (lambda: MemitConfig((1,), -1.0), "weight of MEMIT"),
        (lambda: KnSolveConfig(enough=1.0), "enough of KN-solve"),
        (lambda: FtlConfig(1, most=0.0), "most of FT-L"),
    ):
        with pytest.raises(UserError, match=match):
            wrong()
