"""Dai et al.'s protocol, for causal and masked models, against one answer at a time."""

import dataclasses
import math

import numpy as np
import pytest
from editable import editable
from knowing import knowing
from small import WORDS, masked_model

from jaxinterp.base.errors import UserError
from jaxinterp.editing.answers import answer_of, answer_readout, answer_tokens, answered
from jaxinterp.editing.change import apply
from jaxinterp.editing.edit import edit
from jaxinterp.editing.methods.update import UpdateConfig
from jaxinterp.editing.protocol.dai import (
    DAI_COLUMNS,
    answers_said,
    dai_neurons,
    dai_outcomes,
    random_neurons,
)
from jaxinterp.editing.protocol.summary import summary
from jaxinterp.editing.registry import Given, Neurons
from jaxinterp.editing.request import Request, request, requests_of


def slow(model, asked, answer):
    """log P of an answer and whether it is said, by the readout of one answer."""
    queries = answer_of(model, asked, answer)
    logits_RV = np.asarray(answer_readout(model, queries)[1], np.float64)
    tokens = answer_tokens(queries)
    log_p_RV = logits_RV - np.log(np.exp(logits_RV).sum(1, keepdims=True))
    return sum(log_p_RV[row, token] for row, token in enumerate(tokens)), logits_RV.argmax(1).tolist() == tokens


def masked_requests(model):
    words = WORDS.split()
    found = []
    for word in words:
        for relation, after in (("b", " d"), ("c", " e")):
            top = model.top(f"{word} {relation} [MASK]{after}", 5, control_tokens=True)
            old = next(token for token, _ in top if token in words)
            new = next(one for one in words if one != old)
            found.append(Request(f"{word} {relation}", (0, 1), f" {new}", f" {old}", after, relation))
    return found


def causal_requests(model, facts):
    own = {i: f"w{1 + i % 3}" for i, fact in enumerate(facts.facts) if fact.relation in ("r0", "r1")}
    return requests_of(facts, own)


def test_answers_are_what_they_are_one_at_a_time():
    model, facts = knowing()
    masked = masked_model()
    for one, requests in ((model, causal_requests(model, facts.answer_last())), (masked, masked_requests(masked))):
        found = answers_said(one, requests)
        for row, asked in enumerate(requests[:6]):
            log_p, said = slow(one, asked, asked.old)
            np.testing.assert_allclose(found.log_p_N[row], log_p, rtol=1e-4)
            assert found.said_N[row] == said
        assert found.said_N.tolist() == answered(one, requests)
        assert found.tokens_N.tolist() == [len(asked.old.split()) for asked in requests]


def test_an_answer_is_said_if_all_its_tokens_are():
    model, facts = knowing()
    asked = causal_requests(model, facts.answer_last())[0]
    first = model.generate(asked.prompt, 1)
    wrong = " w8" if first != " w8" else " w0"
    second = model.generate(asked.prompt + wrong, 1)  # right after the wrong one
    answers = [first, wrong + second, first + model.generate(asked.prompt + first, 1)]
    assert answers_said(model, [asked] * 3, answers).said_N.tolist() == [True, False, True]


def test_many_answers_are_read_in_parts():
    model, facts = knowing()
    requests = causal_requests(model, facts.answer_last())
    once, often = answers_said(model, requests), answers_said(model, requests * 5)
    np.testing.assert_allclose(often.log_p_N, np.tile(once.log_p_N, 5), rtol=1e-5)
    np.testing.assert_array_equal(often.said_N, np.tile(once.said_N, 5))


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_the_protocol_by_hand(kind):
    if kind == "masked":
        model = masked_model()
        requests = masked_requests(model)
    else:
        model, facts = knowing()
        requests = causal_requests(model, facts.answer_last())  # of one token and of two
    requests = [one for one, knows in zip(requests, answered(model, requests), strict=True) if knows]
    own = Neurons(np.array([0, 1]), np.array([2, 3]))
    settings = UpdateConfig(more=30.0)
    (found, none) = dai_outcomes(
        model, requests[:2], requests, [own, Neurons(np.zeros(0, int), np.zeros(0, int))], settings=settings
    )
    assert set(found) == set(DAI_COLUMNS) and none["neurons"] == 0 and math.isnan(none["success_rate"])
    asked = requests[0]
    edited = apply(edit(model, asked, "update", settings, Given(neurons=[own])), model)
    assert found["success_rate"] == 100 * slow(edited, asked, asked.new)[1]
    assert found["change_rate"] == 100 * (not slow(edited, asked, asked.old)[1])
    for name, rows in (
        ("inside", [one for one in requests[1:] if one.relation == asked.relation]),
        ("across", [one for one in requests if one.relation != asked.relation]),
    ):
        assert rows
        before, after = ([slow(m, one, one.old)[0] for one in rows] for m in (model, edited))
        tokens = np.array([len(one.old.split()) for one in rows])
        perplexity = np.exp(-np.mean(after / tokens)) - np.exp(-np.mean(before / tokens))
        np.testing.assert_allclose(found[f"{name}_perplexity"], perplexity, rtol=1e-3)
        change = 100 * (np.exp(after).mean() - np.exp(before).mean())
        np.testing.assert_allclose(found[f"{name}_probability"], change, rtol=1e-3, atol=1e-5)
    table = summary([found, none], columns=DAI_COLUMNS)
    assert table.rows["success_rate"].n == 1 and table.without["success_rate"] == 1
    assert table.rows["neurons"].value == 1


def test_no_update_changes_nothing():
    model = masked_model()
    requests = [one for one in masked_requests(model) if answered(model, [one])[0]]
    own = [Neurons(np.array([0]), np.array([2]))]
    (found,) = dai_outcomes(model, requests[:1], requests, own, settings=UpdateConfig(less=0.0, more=0.0))
    for name in set(DAI_COLUMNS) - {"neurons"}:
        assert found[name] == 0, name


def test_common_neurons_are_dropped():
    model = masked_model()
    requests = masked_requests(model)
    found = dai_neurons(model, requests, 4, share=0.5)
    for relation in ("b", "c"):
        own = [
            set(zip(sets.layer_k.tolist(), sets.neuron_k.tolist(), strict=True))
            for one, sets in zip(requests, found, strict=True)
            if one.relation == relation
        ]
        counts = [sum(place in other for other in own) for place in set().union(*own)]
        assert max(counts, default=0) <= 3  # of 6 facts
    drawn = random_neurons(model, found, 0)
    assert [len(one.layer_k) for one in drawn] == [len(one.layer_k) for one in found]
    assert any(one.neuron_k.tolist() != other.neuron_k.tolist() for one, other in zip(drawn, found, strict=True))
    with pytest.raises(UserError, match=r"relation 'b' has 6 requests.*more than 10%.*at least 10"):
        dai_neurons(model, requests, 4)
    with pytest.raises(UserError, match="above 0 and at most 1"):
        dai_neurons(model, requests, 4, share=0.0)


def test_what_the_protocol_needs():
    model = editable()
    asked = request("c {subject}", "a", " b", " d")
    own = [Neurons(np.array([0]), np.array([0]))]
    with pytest.raises(UserError, match="neurons of 1 requests for 2"):
        dai_outcomes(model, [asked, asked], [asked], own)
    with pytest.raises(UserError, match="has no old answer"):
        dai_outcomes(model, [asked], [dataclasses.replace(asked, old=None)], own)
