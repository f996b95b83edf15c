"""Requests by hand and from facts, and where their subjects stand in tokens."""

import dataclasses
import json

import numpy as np
import pytest
from editable import editable
from knowing import knowing
from small import WORDS, masked_model
from tokenizers import Tokenizer, models, pre_tokenizers

from jaxinterp.base.errors import UserError
from jaxinterp.editing.answers import answer_tokens, answered, old_answer
from jaxinterp.editing.places import check_layers, key_position, texts_of, value_rows, with_value_rows
from jaxinterp.editing.request import Request, described, request, requests_of
from jaxinterp.facts.facts import Fact, FactSet, Relation, Text


def test_a_request_by_hand():
    asked = request("Where is {subject}? It is in", "Rome", " Spain", " Italy", paraphrases=("{subject} lies in",))
    assert asked.prompt == "Where is Rome? It is in" and asked.subject_text == "Rome" and asked.subject == (9, 13)
    assert asked.paraphrases == (Request("Rome lies in", (0, 4), " Spain", " Italy"),)
    assert asked.text(asked.new) == ("Where is Rome? It is in", " Spain", "")
    assert json.loads(json.dumps(described([asked])))[0]["subject"] == "Rome"
    for wrong, match in (
        (lambda: request("Rome is in", "Rome", " Spain"), "0 times {subject}; write it once"),
        (lambda: request("{subject} is in", "Rome", " "), "new answer of 'Rome is in' is empty"),
        (lambda: request("{subject} is in", "Rome", " Spain", ""), "old answer"),
        (lambda: Request("Rome is in", (8, 12), " Spain"), "place 8:12 is not in the prompt"),
    ):
        with pytest.raises(UserError, match=match):
            wrong()


def test_requests_of_facts():
    prompts = ("{subject} is in", "The city of {subject} is in {answer} .", "{answer} has a city, {subject} .")
    facts = FactSet((Relation("country", prompts, "cities"),), (Fact("country", "Rome", "Italy"),))
    first, *others = (requests_of(facts, {0: "Spain"}, prompt)[0] for prompt in range(3))
    second, third = (dataclasses.replace(other, paraphrases=()) for other in others)
    assert (first.prompt, first.new, first.old, first.after) == ("Rome is in", " Spain", " Italy", ".")
    assert first.paraphrases == (second, third) and first.relation == "country"
    assert (second.subject_text, second.after) == ("Rome", " .")
    assert (third.prompt, third.new, third.after, third.subject_text) == ("", "Spain", " has a city, Rome .", "Rome")
    (causal,) = requests_of(facts.answer_last(), {0: "Spain"}, 1)
    assert causal.prompt == "The city of Rome is in" and causal.after == "" and causal.subject_text == "Rome"
    with pytest.raises(UserError, match="no fact 1; the set has 0 to 0"):
        requests_of(facts, {1: "Spain"})
    with pytest.raises(UserError, match="has no prompt 3; it has 0 to 2"):
        requests_of(facts, {0: "Spain"}, 3)


def test_what_the_model_knows():
    model, facts = knowing()
    facts = facts.answer_last()
    requests = requests_of(facts, {index: fact.answer for index, fact in enumerate(facts.facts[:9])})
    assert answered(model, requests) == [subject % 3 != 2 for subject in range(9)]
    assert answered(model, [dataclasses.replace(one, old=None) for one in requests]) == [True] * 9
    one_token = requests[0]
    assert answer_tokens(old_answer(model, dataclasses.replace(one_token, old=None))) == answer_tokens(
        old_answer(model, one_token)
    )


def test_a_masked_model_is_asked_in_the_middle():
    model = masked_model()
    tops = model.top([f"{word} b [MASK] d" for word in WORDS.split()], 1, control_tokens=True)
    word, best = next((word, top[0][0]) for word, top in zip(WORDS.split(), tops, strict=True) if top[0][0] in WORDS)
    asked = Request(f"{word} b", (0, 1), " c", None, " d")
    assert model.tokenizer.token(answer_tokens(old_answer(model, asked))[0]) == best
    known, unknown = (dataclasses.replace(asked, old=f" {old}") for old in (best, "a" if best != "a" else "b"))
    assert answered(model, [known, unknown]) == [True, False]


def test_the_last_token_of_a_subject():
    model = editable()
    asked = request("a {subject} d", "b c", " e")
    start = len(model.tokenizer.prefix)
    assert key_position(model, asked, "subject") == start + 2
    assert key_position(model, asked, "subject", "f f ") == start + 4
    assert key_position(model, asked, "prompt") == start + 3 == key_position(model, asked, "prompt", "f ") - 1
    with pytest.raises(UserError, match="stands after the answer"):
        key_position(model, Request("a b", (4, 5), " c", None, " d"), "subject")


def test_a_subject_of_pieces_ends_with_its_last_one():
    backend = Tokenizer(models.BPE({letter: id for id, letter in enumerate("abcdeĠ")} | {"ab": 6}, [("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = dataclasses.replace(editable().tokenizer, backend=backend, prefix=(0,), pad=1, unk=None)
    model = dataclasses.replace(editable(), tokenizer=tokenizer)
    asked = request("d {subject} e", "abc", " d")  # d, Ġ, ab, c, Ġ, e
    assert key_position(model, asked, "subject") == 1 + 3
    assert key_position(model, dataclasses.replace(asked, subject=(2, 3)), "subject") == 1 + 2  # inside of a token


def test_texts_and_rows():
    model = editable()
    texts = texts_of(model, [Text("a b", " c", ""), Text("a", " c d", "")])
    assert texts.tokens_QT.shape == (2, 8) and texts.weight_QA.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0]]
    letters = [[model.tokenizer.token(int(id)) for id in row] for row in texts.target_QA]
    assert letters[0][0] == "c" and letters[1][:2] == ["c", "d"]
    start = len(model.tokenizer.prefix)
    assert texts.read_QA.tolist() == [[start + 1] * 4, [start, start + 1, start, start]]
    with pytest.raises(UserError, match="above the model's context of 8"):
        texts_of(model, [Text("a " * 8 + "b", " c", "")])
    rows = np.asarray(value_rows(model.model, 1))
    other = with_value_rows(model.model, 1, rows + 1)
    np.testing.assert_array_equal(value_rows(other, 1), rows + 1)
    np.testing.assert_array_equal(value_rows(other, 0), value_rows(model.model, 0))
    for wrong in ((), (3,), (-1,), (1, 0), (1, 1)):
        with pytest.raises(UserError, match="numbers from 0 to 2, each once"):
            check_layers(model, wrong)
