"""What an edit is told to keep is neither what it should change nor what it is judged by."""

import types

import numpy as np
import pytest

from jaxinterp.facts.worldfacts import world_facts
from jaxinterp.studies.editing.config import EditingConfig
from jaxinterp.studies.editing.posed import Posed


@pytest.fixture(scope="module")
def asked():
    facts = world_facts(["countries"]).answer_last()
    index = next(i for i, fact in enumerate(facts.facts) if (fact.relation, fact.subject) == ("capital", "France"))
    asked = object.__new__(Posed)  # without a model
    asked.facts, asked.known_N, asked.answers = facts, np.ones(len(facts), bool), {index: "Rome"}
    asked._kept, asked.config, asked.cases = {}, EditingConfig(kept=10_000), [types.SimpleNamespace(probes=())]
    return asked


def test_what_should_change_is_not_kept(asked):
    facts, prompts = asked.facts, {prompt for kind in asked.kept(0) for prompt in kind}
    judged = {facts.prompt(index, 0) for index in asked.untouched}
    by_name = {(fact.relation, fact.subject): facts.prompt(i, 0) for i, fact in enumerate(facts.facts)}
    for moved in (("capital", "France"), ("capital_of", "Paris"), ("capital_of", "Rome")):
        assert by_name[moved] not in prompts | judged, moved
    assert len(judged) == 500 and not judged & prompts
    # All the rest is.
    assert by_name["capital", "Peru"] in prompts | judged and len(prompts | judged) > 0.95 * len(set(by_name.values()))


def test_texts_of_perplexities_are_of_facts_that_nothing_reads(asked):
    texts, facts = asked.texts, asked.facts
    judged = {
        "".join(facts.text(i, n))
        for i in asked.untouched
        for n in range(len(facts.relation[facts.facts[i].relation].prompts))
    }
    assert set(texts.perplexity) <= judged and not set(texts.keys) & judged
    assert len(texts.keys) == 2000 and len(texts.perplexity) == 200
