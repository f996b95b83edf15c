"""Groups of columns: what the slow loops hold them to, and how they are registered."""

import pytest
from loops import CHECKS, columns_and_loops

from jaxinterp.base.errors import UserError
from jaxinterp.metrics.columns import GROUPS, column_group, compared_group, groups_giving, set_group


@pytest.fixture(scope="module")
def found():
    with columns_and_loops() as both:
        yield both


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_columns_are_those_of_the_loops(check, found):
    check(found)


def test_groups_are_found_by_their_columns():
    assert groups_giving(["restored", "probability"]) == ("answers", "other_neurons")
    assert groups_giving([]) == ()
    with pytest.raises(UserError, match="no group of columns gives 'charm'; known: "):
        groups_giving(["probability", "charm"])
    with pytest.raises(UserError, match="unknown group of columns"):
        GROUPS["charm"]


@pytest.mark.parametrize("register", [column_group, compared_group, set_group])
def test_a_column_has_one_giver(register):
    assert GROUPS.names()  # all of them are registered
    with pytest.raises(ValueError, match="column 'restored' is given by 'other_neurons' already"):
        register("mine", gives=("restored",), cost="passes")(lambda measured: {})
    with pytest.raises(ValueError, match="'curve' exists already"):
        register("curve", gives=("mine",), cost="passes")(lambda measured: {})
