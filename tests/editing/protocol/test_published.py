"""Cases out of small files in the published forms."""

import json

import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.editing.protocol.published import read_counterfact_cases, read_zsre_cases


def counterfact(**changes):
    rewrite = {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": "Danielle Darrieux",
    }
    return {
        "case_id": 0,
        "requested_rewrite": rewrite | changes.pop("rewrite", {}),
        "paraphrase_prompts": ["Shayna does this. Danielle Darrieux, a native"],
        "neighborhood_prompts": ["The mother tongue of Leon Blum is", "Montesquieu spoke"],
        "attribute_prompts": ["The mother tongue of Ian Rankin is"],
        "generation_prompts": ["Danielle Darrieux was born in"],
        **changes,
    }


def zsre(**changes):
    return {
        "subject": "Watts Humphrey",
        "src": "What university did Watts Humphrey attend?",
        "pred": "Trinity College",
        "rephrase": "What university did Watts Humphrey take part in?",
        "alt": "University of Michigan",
        "answers": ["Illinois Institute of Technology"],
        "loc": "nq question: who played desmond doss father",
        "loc_ans": "Hugo Weaving",
        "cond": "Trinity College >> University of Michigan || What university did Watts Humphrey attend?",
        **changes,
    }


def write(path, records):
    (path / "x.json").write_text(json.dumps(records))
    return path / "x.json"


def test_counterfact(tmp_path):
    (own,) = read_counterfact_cases(write(tmp_path, [counterfact()]))
    asked = own.request
    assert (asked.prompt, asked.old, asked.new) == ("The mother tongue of Danielle Darrieux is", " French", " English")
    assert asked.subject_text == "Danielle Darrieux" and asked.relation == "P103"
    pairs = [(probe.kind, probe.prompt, probe.expected, probe.other) for probe in own.probes]
    assert pairs == [
        ("edited", "The mother tongue of Danielle Darrieux is", " English", " French"),
        ("paraphrase", "Shayna does this. Danielle Darrieux, a native", " English", " French"),
        ("neighbourhood", "The mother tongue of Leon Blum is", " French", " English"),
        ("neighbourhood", "Montesquieu spoke", " French", " English"),
        ("same_relation", "The mother tongue of Ian Rankin is", " English", " French"),
        *(
            (
                "neighbourhood_plus",
                f"The mother tongue of Danielle Darrieux is English. {prompt}",
                " French",
                " English",
            )
            for prompt in ("The mother tongue of Leon Blum is", "Montesquieu spoke")
        ),
    ]
    assert own.generation == ("Danielle Darrieux was born in",) and not own.left_out
    bare = {name: value for name, value in counterfact().items() if name != "neighborhood_prompts"}
    (own,) = read_counterfact_cases(write(tmp_path, [bare]))
    assert own.left_out == {"the record has no neighborhood_prompts": 1} and not own.of("neighbourhood")


def test_zsre(tmp_path):
    path = write(tmp_path, [zsre()])
    (own,) = read_zsre_cases(path)
    assert own.request.prompt == "What university did Watts Humphrey attend?"
    assert (own.request.old, own.request.new) == (" Illinois Institute of Technology", " University of Michigan")
    assert own.request.subject_text == "Watts Humphrey"
    (paraphrase,), (other,) = own.of("paraphrase"), own.of("other")
    assert paraphrase.prompt.endswith("take part in?") and paraphrase.expected == " University of Michigan"
    assert (other.prompt, other.expected) == ("nq question: who played desmond doss father?", " Hugo Weaving")
    (taught,) = read_zsre_cases(path, "answers")
    assert (taught.request.old, taught.request.new) == (None, " Illinois Institute of Technology")
    assert taught.probes[0].other is None


@pytest.mark.parametrize(
    ("record", "match"),
    [
        (3, "record 2: expected an object"),
        ({"case_id": 1}, "record 2: the field 'requested_rewrite' is missing"),
        (counterfact(rewrite={"target_new": "English"}), "record 2, .*'target_new' must be a dict, got str"),
        (
            counterfact(rewrite={"target_new": {"str": " "}}),
            "record 2, requested_rewrite, target_new: the answer is empty",
        ),
        (counterfact(rewrite={"prompt": "The mother tongue is"}), "record 2, .* 0 times"),
        (counterfact(rewrite={"target_new": {"str": "French"}}), "record 2: the new answer is the old one, 'French'"),
        (counterfact(paraphrase_prompts="one"), "record 2: the field 'paraphrase_prompts' must be a list, got str"),
        (counterfact(neighborhood_prompts=["a", 3]), "record 2: neighborhood_prompts must be a list of texts, got 3"),
    ],
)
def test_a_broken_record_of_counterfact(tmp_path, record, match):
    with pytest.raises(UserError, match=match) as caught:
        read_counterfact_cases(write(tmp_path, [counterfact(), record]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("record", "match"),
    [
        ([], "record 2: expected an object"),
        (zsre(subject="Nobody"), "record 2: the subject 'Nobody' is not in the prompt"),
        (zsre(subject=""), "record 2: the subject '' is not in the prompt"),
        (zsre(answers=[]), "record 2: the field 'answers' must be a list that begins with a text"),
        (zsre(answers=[3]), "record 2: the field 'answers' must be a list that begins with a text"),
        (zsre(alt="Illinois Institute of Technology"), "record 2: the new answer is the old one"),
        ({k: v for k, v in zsre().items() if k != "loc"}, "record 2: the field 'loc' is missing"),
        (zsre(loc_ans=""), "record 2, loc_ans: the answer is empty"),
    ],
)
def test_a_broken_record_of_zsre(tmp_path, record, match):
    with pytest.raises(UserError, match=match) as caught:
        read_zsre_cases(write(tmp_path, [zsre(), record]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [read_counterfact_cases, read_zsre_cases])
def test_files_that_are_no_list_of_records(tmp_path, read):
    for content, match in (("{}", "expected a list of"), ("[]", "an empty list"), ("[\n{,", "line 2: no valid JSON")):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(UserError, match=match):
            read(tmp_path / "x.json")
