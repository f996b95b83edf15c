"""What a model says to a case, against running and generating one text at a time."""

import dataclasses

import numpy as np
import pytest
from editable import editable
from knowing import WORDS, known, knowing, n_tokens
from small import masked_model

from jaxinterp.base.errors import UserError
from jaxinterp.editing.change import apply, change_of
from jaxinterp.editing.protocol.case import Probe, case
from jaxinterp.editing.protocol.columns import columns_of, outcome
from jaxinterp.editing.protocol.questions import known_facts, prepared, recalled, says
from jaxinterp.editing.protocol.texts import perplexity
from jaxinterp.editing.request import request
from jaxinterp.facts.facts import Fact


def world():
    model, facts = knowing()
    return model, facts.answer_last()


def log_p(model, prompt, answer):
    """Of an answer, token by token, one forward each."""
    ids, own = model.tokenizer.encode(prompt), model.tokenizer.encode(answer)
    total = 0.0
    for place, token in enumerate(own):
        text = model.tokenizer.text([*ids, *own[:place]])
        logits = np.asarray(model.run(text).logits_BTV[0, -1], np.float64)
        total += logits[token] - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    return total


def words_after(model, prompt, n):
    return model.generate(prompt, n).split()


def a_case(model, facts, fact, n_neighbours=2):
    own = facts.facts[fact]
    others = [f for f in facts.facts if f.relation == own.relation and f.subject != own.subject]
    new = next(f.answer for f in others if f.answer != own.answer)
    probes = [Probe("neighbourhood", f"the {f.relation} of {f.subject}", f" {f.answer}", f" {new}") for f in others]
    asked = request(f"the {own.relation} of {{subject}}", own.subject, f" {new}", f" {own.answer}")
    return case(asked, [*probes[:n_neighbours], Probe("same_subject", f"the r4 of {own.subject}", " w3 w4 w5")])


def test_what_a_model_says_is_what_it_does_text_by_text():
    model, facts = world()
    (asked,) = prepared(model, [a_case(model, facts, 3)])
    said = says(model, asked)
    assert len(asked.probes) == 6 - 2 and not asked.case.of("neighbourhood_plus") == ()
    assert asked.left_out == {"neighbourhood_plus: word outside the vocabulary": 0} or asked.left_out
    for number, probe in enumerate(asked.probes):
        np.testing.assert_allclose(said.log_p_N[number], log_p(model, probe.prompt, probe.expected), rtol=1e-5)
        if probe.other is None:
            assert np.isnan(said.log_p_other_N[number])
        else:
            np.testing.assert_allclose(said.log_p_other_N[number], log_p(model, probe.prompt, probe.other), rtol=1e-5)
        for answer, right in ((probe.expected, said.right_N), (probe.other, said.right_other_N)):
            words = [] if answer is None else answer.split()
            assert right[number] == (bool(words) and words_after(model, probe.prompt, len(words)) == words)
        assert said.tokens_N[number] == len(probe.expected.split())
    after = model.run(asked.probes[1].prompt).logits_BTV[0, -1]
    np.testing.assert_allclose(np.exp(said.next_log_p_KV[0]), np.exp(after) / np.exp(after).sum(), rtol=1e-4)
