"""What a model says to a case, against running and generating one text at a time."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from editable import editable
from knowing import WORDS, knowing, known
from small import masked_model
from tokenizers import Tokenizer, decoders, models

from jaxinterp.base.errors import UserError
from jaxinterp.editing.change import apply, change_of
from jaxinterp.editing.deltas import Rows
from jaxinterp.editing.places import VALUE_ROWS
from jaxinterp.editing.protocol.case import Probe, case
from jaxinterp.editing.protocol.columns import columns_of, outcome
from jaxinterp.editing.protocol.questions import _ended, _scored, known_facts, prepared, recalled, says
from jaxinterp.editing.protocol.texts import consistency, fluency, perplexity
from jaxinterp.editing.request import request


def world():
    model, facts = knowing(n_ctx=24)
    return model, facts.answer_last()


def log_p(model, prompt, answer):
    """Of an answer, token by token, one forward each."""
    ids, own = model.tokenizer.encode(prompt), model.tokenizer.encode(answer)
    total = 0.0
    for place, token in enumerate(own):
        logits = np.asarray(model.run(model.tokenizer.text([*ids, *own[:place]])).logits_BTV[0, -1], np.float64)
        total += logits[token] - np.log(np.exp(logits).sum())
    return total


def a_case(facts, fact, n_neighbours=2):
    own = facts.facts[fact]
    others = [f for f in facts.facts if f.relation == own.relation and f.subject != own.subject]
    new = next(f.answer for f in others if f.answer != own.answer and len(f.answer) == len(own.answer))
    probes = [Probe("neighbourhood", f"the {f.relation} of {f.subject}", f" {f.answer}", f" {new}") for f in others]
    asked = request(f"the {own.relation} of {{subject}}", own.subject, f" {new}", f" {own.answer}")
    return case(asked, [*probes[:n_neighbours], Probe("same_subject", f"the r4 of {own.subject}", " w3 w4 w5")])


def moved(model, size=100.0):
    """The model with a change of some value rows."""
    rng = np.random.default_rng(0)
    rows_kD = size * rng.normal(size=(3, model.config.d_model))
    change = change_of(model, [Rows(VALUE_ROWS, 1, np.arange(3), rows_kD)])
    return apply(change, model)


def test_what_a_model_says_is_what_it_does_text_by_text():
    model, facts = world()
    (asked,) = prepared(model, [a_case(facts, 3)])
    said = says(model, asked)
    kinds = ["edited", "neighbourhood", "neighbourhood", "same_subject", "neighbourhood_plus", "neighbourhood_plus"]
    assert [probe.kind for probe in asked.probes] == kinds and not asked.left_out
    for number, probe in enumerate(asked.probes):
        assert said.tokens_N[number] == len(probe.expected.split())
        np.testing.assert_allclose(said.log_p_N[number], log_p(model, probe.prompt, probe.expected), rtol=1e-4)
        if probe.other is None:
            assert np.isnan(said.log_p_other_N[number]) and not said.right_other_N[number]
            continue
        np.testing.assert_allclose(said.log_p_other_N[number], log_p(model, probe.prompt, probe.other), rtol=1e-4)
        for answer, right_N in ((probe.expected, said.right_N), (probe.other, said.right_other_N)):
            words = answer.split()
            assert right_N[number] == (model.generate(probe.prompt, len(words)).split() == words)
    assert said.next_log_p_KV.shape[0] == 4 and said.right_N[1] and said.right_other_N[0]
    for row, number in enumerate((1, 2, 4, 5)):
        logits = np.asarray(model.run(asked.probes[number].prompt).logits_BTV[0, -1], np.float64)
        np.testing.assert_allclose(said.next_log_p_KV[row], logits - np.log(np.exp(logits).sum()), rtol=1e-4)


def test_what_follows_an_answer_is_read_behind_it():
    model, facts = world()
    (asked,) = prepared(model, [a_case(facts, 3)])
    after_Q = np.asarray(
        _scored(model.model, asked.questions.expected, asked.questions.other, asked.questions.kl_K)[0][3]
    )
    assert len({probe.expected.count(" ") for probe in asked.probes}) > 1  # answers of several lengths
    for probe, after in zip(asked.probes, after_Q, strict=False):
        assert model.tokenizer.token(int(after)) == model.generate(probe.prompt + probe.expected, 1).strip()


def test_generation_and_teacher_forcing_differ():
    model, _ = world()
    prompt = "the r0 of s0"
    first, second = (model.generate(text, 1).strip() for text in (prompt, f"{prompt} w8"))
    third = model.generate(f"{prompt} w8 {second}", 1).strip()
    assert first != "w8"
    # Two of three tokens are right after the true ones, but the model never comes to them.
    expected = f" w8 {second} {third}"
    (asked,) = prepared(model, [case(request("the r0 of {subject}", "s0", expected, f" {first}"))])
    found = outcome(model, says(model, asked), asked)
    np.testing.assert_allclose(found["efficacy_teacher_forced"], 200 / 3, rtol=1e-6)
    assert found["efficacy_accuracy"] == found["efficacy_score"] == 0
    # Whole answers are another matter: all tokens right after the true ones is what greedy generation gives.
    rest = model.generate(prompt, 3)
    (asked,) = prepared(model, [case(request("the r0 of {subject}", "s0", rest, " w8"))])
    found = outcome(model, says(model, asked), asked)
    assert found["efficacy_teacher_forced"] == found["efficacy_accuracy"] == found["efficacy_score_per_token"] == 100
    # Each token is likelier than "w8", and all three together are not: a score is not an accuracy.
    assert found["efficacy_score"] == 0


def test_a_beginning_of_the_answer_is_not_the_answer():
    model, _ = world()
    first, second = model.generate("the r0 of s0", 2).split()
    wrong = next(word for word in WORDS if word != second)
    probes = [
        Probe("other", "the r0 of s0", f" {answer}") for answer in (first, f"{first} {second}", f"{first} {wrong}")
    ]
    assert recalled(model, probes).tolist() == [True, True, False]


def test_no_edit_and_an_edit():
    model, facts = world()
    (asked,) = prepared(model, [a_case(facts, 3)])
    before = says(model, asked)
    same = outcome(apply(change_of(model, []), model), before, asked)
    assert same["efficacy_score"] == same["efficacy_accuracy"] == 0
    assert same["neighbourhood_kept"] == 100 and same["neighbourhood_kl"] == same["neighbourhood_plus_kl"] == 0
    edited = moved(model)
    other = outcome(edited, before, asked, perplexities=(2.0, 3.0))
    assert other["neighbourhood_kl"] > 0.01 and other["perplexity_ratio"] == 1.5
    assert other == columns_of(before, says(edited, asked), asked.probes, (), (2.0, 3.0)) | {
        name: value for name, value in other.items() if np.isnan(value)
    }


def test_cases_together_are_as_each_alone():
    model, facts = world()
    cases = [a_case(facts, 3), a_case(facts, 10, 5), a_case(facts, 4, 0)]
    together = prepared(model, cases)
    shapes = {tuple(x.shape for x in (*one.questions.expected, *one.questions.other)) for one in together}
    assert len(shapes) == 1
    for one, asked in zip(cases, together, strict=True):
        (alone,) = prepared(model, [one])
        for name, own, other in zip(says(model, asked)._fields, says(model, asked), says(model, alone), strict=True):
            if name != "texts":
                np.testing.assert_allclose(own, other, rtol=2e-5, atol=1e-6, err_msg=name)


def test_answers_that_go_on():
    pieces = ("a", "ĠOman", "i", ".", "Ġand", "æĿ±", "äº¬")
    backend = Tokenizer(models.BPE({piece: id for id, piece in enumerate(pieces)}, []))
    backend.decoder = decoders.ByteLevel()
    tokenizer = dataclasses.replace(editable().tokenizer, backend=backend)
    assert tokenizer.text([0, 1, 2, 5, 6]) == "a Omani東京"
    assert [_ended(tokenizer, [0, 1], more) for more in (2, 3, 4)] == [False, True, True]
    assert _ended(tokenizer, [0, 5], 6)


def test_what_cannot_be_encoded_is_counted():
    model, facts = world()
    own = a_case(facts, 3)
    more = (Probe("two_hop", "the unheard of s0", " w1"), Probe("inverse", "the r0 of s1", " w1", " unheard"))
    (asked,) = prepared(model, [dataclasses.replace(own, probes=(*own.probes, *more))])
    assert len(asked.probes) == len(own.probes) and set(asked.left_out.values()) == {1}
    assert sorted(asked.left_out) == ["inverse: word outside the vocabulary", "two_hop: word outside the vocabulary"]
    short, _ = knowing()
    (asked,) = prepared(short, [own])
    assert asked.left_out == {"neighbourhood_plus: too long for the context": 2}
    found = outcome(short, says(short, asked), asked)
    assert found["neighbourhood_plus_prompts"] == 0 and np.isnan(found["neighbourhood_plus_kl"])
    with pytest.raises(UserError, match="does not know 'unheard'"):
        prepared(model, [case(request("the unheard of {subject}", "s0", " w1", " w2"))])
    with pytest.raises(UserError, match="does not know 'unheard'"):
        recalled(model, more)
    assert recalled(model, more, {}).tolist() == [False, True] or recalled(model, more, {}).tolist() == [False, False]


def test_what_the_model_knows():
    model, facts = world()
    expected = [known(int(fact.subject[1:])) for fact in facts.facts]
    found = known_facts(model, facts)
    assert found[:9].tolist() == expected[:9] and (found == expected).mean() > 0.9
    with pytest.raises(UserError, match="none of the"):
        recalled(model, [Probe("other", "unheard", " w1")], {})


def test_models_that_cannot_be_asked():
    with pytest.raises(UserError, match="has to be causal, not bidirectional"):
        prepared(masked_model(), [case(request("{subject} b", "a", " c", " d"))])
    with pytest.raises(UserError, match="no case to prepare"):
        prepared(editable(), [])


def test_continuations():
    model, facts = world()
    own = dataclasses.replace(a_case(facts, 3), generation=("the r0 of s0", "s1 has as"), references=("w1 w2 w3",))
    (asked, other) = prepared(model, [own, a_case(facts, 4)])
    said = says(model, asked, 9)
    texts = tuple(model.generate(prompt, 9) for prompt in own.generation)
    assert said.texts == texts and says(model, other, 9).texts == says(model, asked).texts == ()
    found = outcome(model, said, asked, n_generated=9)
    assert found["fluency"] == fluency(texts) and found["consistency"] == consistency(texts, own.references)
    assert np.isnan(outcome(model, said, asked)["fluency"])


def test_fluency_by_hand():
    # Pairs: ab ba ab ba, two each of two: 1 bit. Threes: aba bab aba: 2/3 and 1/3.
    threes = -(2 / 3 * np.log2(2 / 3) + 1 / 3 * np.log2(1 / 3))
    assert fluency(["a b a b a"]) == pytest.approx((2 / 3 * 1 + 4 / 3 * threes) / 2)
    assert fluency(["a a a a a a"]) == 0 and fluency(["a b c d e"]) > fluency(["a b a b a"])
    assert np.isnan(fluency(["a b"])) and np.isnan(fluency([]))


def test_consistency_by_hand():
    assert consistency(["a b"], ["A B."]) < consistency(["a b"], ["b a"]) == pytest.approx(1)
    assert consistency(["c"], ["a b"]) == 0 and np.isnan(consistency([], ["a"])) and np.isnan(consistency(["a"], []))
    # d = 2 of 2 for a, 1 for b, 0 for c.
    a, b, c = 1.0, 1 + np.log(3 / 2), 1 + np.log(3)
    expected = (2 * a * a) / (np.hypot(a, c) * np.hypot(2 * a, b))
    assert consistency(["a c"], ["a b", "a"]) == pytest.approx(expected)


def test_perplexity_text_by_text():
    model, _ = world()
    texts = ["the r0 of s0 w1", "s1 has as r2 w3 w4 ."]
    nll = [-log_p(model, "", text) for text in texts]
    expected = np.exp(sum(nll) / sum(len(text.split()) for text in texts))
    assert perplexity(model, texts) == pytest.approx(expected, rel=1e-4)
    broken = jax.tree.map(lambda x: x * jnp.nan, model.params)
    ruined = dataclasses.replace(model, model=model.model.replace(params=broken))
    assert perplexity(ruined, texts) == math.inf
    with pytest.raises(UserError, match="no text to take a perplexity of"):
        perplexity(model, [])
