"""The definition of a metric is printed alone, so that it must say for itself what it speaks of."""

import re

import pytest

from jaxinterp.metrics.registry import METRICS

DANGLING = (
    r"\bthe same\b(?! (relation|subject|fact|answer))",  # the same as what?
    r"\b(that|the other|another) (method|kind|number|length)\b",
    r"\bso many\b",
    r"\bsuch\b",
    r"\bas (above|before)\b",
    r"\bas for\b",
    r"\bof (these|those|this|that)\b",
    r"[{}`]",  # a name that was not filled in, or one of the code
    r"^[a-z]",
    r"^(Of|What) ",
)
BAD = (
    "The same share when as many random neurons are off.",
    "Suppressability with another number of neurons.",
    "Suppressability by that method.",
    "The largest of these over the kinds of other facts.",
    "Share of answers that a regression on so many neurons names.",
    "Of completeness, over the whole path.",
    "What it costs to give another fact's neurons such activations.",
    "mean log P.",
    "I(X; Y), as for `concept_auroc`.",
)


def dangling(text):
    return [
        found.group()
        for pattern in DANGLING
        if (found := re.search(pattern, text, re.IGNORECASE * (pattern[0] != "^")))
    ]


@pytest.mark.parametrize("name", METRICS.names())
def test_a_definition_stands_alone(name):
    text = METRICS[name].label.definition
    assert text.endswith(".") and not dangling(text), text


def test_definitions_of_different_metrics_differ():
    texts = [METRICS[name].label.definition for name in METRICS.names()]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("text", BAD)
def test_what_hangs_in_the_air_is_found(text):
    assert dangling(text)
