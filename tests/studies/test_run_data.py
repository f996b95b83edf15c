"""What a study's runs are measured on, where their data differ in width."""

import numpy as np
import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.facts.splits import SplitConfig
from jaxinterp.studies.run_data import run_data
from jaxinterp.training.config import DataConfig
from jaxinterp.training.data import limited_facts

NARROW, WIDE = (
    DataConfig(domains=("elements",), limit=limit, split=SplitConfig(unseen_facts=0.5)) for limit in (6, 12)
)


def test_wide_data_are_measured_on_the_facts_of_narrow_ones():
    few, all_of_it = run_data(WIDE, ("unseen_facts",), 6), run_data(WIDE, ("unseen_facts",))
    names = {few.training.facts.facts[index] for index in few.sets["unseen_facts"].fact_N.tolist()}
    assert names and names <= set(limited_facts(NARROW).facts)
    others = {few.training.facts.facts[index] for index in all_of_it.sets["unseen_facts"].fact_N.tolist()} - names
    assert others and not others & set(limited_facts(NARROW).facts)
    for marks in (few.clean["unseen_facts"], all_of_it.clean["unseen_facts"]):
        assert set(marks) == {"answer", "subject"}
    assert {len(marks) for marks in few.clean["unseen_facts"].values()} == {len(few.sets["unseen_facts"])}
    np.testing.assert_array_equal(few.ability.tokens_NT, all_of_it.ability.tokens_NT)


def test_marks_stay_with_their_queries():
    few, whole = run_data(WIDE, ("unseen_facts",), 6), run_data(WIDE, ("unseen_facts",))
    by_query = {
        (fact, prompt): mark
        for fact, prompt, mark in zip(
            whole.sets["unseen_facts"].fact_N.tolist(),
            whole.sets["unseen_facts"].prompt_N.tolist(),
            whole.clean["unseen_facts"]["subject"].tolist(),
            strict=True,
        )
    }
    own = few.sets["unseen_facts"]
    expected = [by_query[key] for key in zip(own.fact_N.tolist(), own.prompt_N.tolist(), strict=True)]
    assert few.clean["unseen_facts"]["subject"].tolist() == expected


def test_a_limit_without_facts_is_one_line():
    few = DataConfig(domains=("elements",), limit=12, split=SplitConfig(unseen_facts=0.05, seed=2))
    with pytest.raises(UserError, match=r"no fact of data.limit 1 is in the set unseen_facts"):
        run_data(few, ("unseen_facts",), 1)
