import itertools

import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.facts.facts import Fact, FactSet, Relation
from jaxinterp.facts.folds import APART, SHARE, relation_folds, spelled_out, spelled_out_groups
from jaxinterp.facts.worldfacts import world_facts

TEN = tuple("abcdefghij")


def test_each_relation_is_in_one_fold_and_folds_are_nearly_equal():
    for seed, n_folds in itertools.product(range(10), (2, 3, 4, 5)):
        folds = relation_folds(TEN, n_folds, seed)
        assert sorted(itertools.chain(*folds)) == list(TEN)
        assert all(10 // n_folds <= len(fold) <= -(-10 // n_folds) for fold in folds)
        assert all(fold == tuple(sorted(fold)) for fold in folds)


def test_folds_are_drawn_by_the_seed_whatever_the_order_of_the_names():
    assert relation_folds(TEN, 5, 3) == relation_folds(TEN[::-1], 5, 3)
    assert len({frozenset(map(frozenset, relation_folds(TEN, 5, seed))) for seed in range(10)}) == 10


def test_groups_stay_together_and_no_fold_has_one_relation_where_two_are_possible():
    for seed in range(20):
        folds = relation_folds(TEN, 4, seed, apart=(("a", "j", "c"), ("d", "e"), ("b", "elsewhere")))
        assert sum({"a", "c", "j"} <= set(fold) for fold in folds) == 1
        assert sum({"d", "e"} <= set(fold) for fold in folds) == 1
        assert sorted(itertools.chain(*folds)) == list(TEN)
        assert sorted(map(len, folds)) == [2, 2, 3, 3]
    # Three relations are left for two folds: one of them has a single relation, whatever is done.
    assert sorted(map(len, relation_folds("abcdef", 3, 0, apart=("def",)))) == [1, 2, 3]
    assert relation_folds("abcd", 2, 0, apart=("cd", "ab")) in ((tuple("ab"), tuple("cd")), (tuple("cd"), tuple("ab")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("abcd", 1, 0), "n_folds must be at least 2, got 1"),
        (("abcd", 2, -1), "seed must be at least 0, got -1"),
        (("abca", 2, 0), "relation 'a' is named twice in the relations"),
        (("abcd", 2, 0, ("ab", "bc")), "relation 'b' is named twice in the groups"),
        (("abcd", 4, 0, ("ab",)), "4 relations in 3 groups that stay together cannot fill 4 folds.*at most 3"),
    ],
)
def test_folds_that_cannot_be_dealt(arguments: tuple, message: str):
    with pytest.raises(UserError, match=message):
        relation_folds(*arguments)


def test_spelled_out_by_hand():
    relations = tuple(Relation(name, ("{subject}:",), "") for name in ("domain", "code", "capital", "capital_of", "no"))
    rows = {
        "domain": {"Denmark": ".dk", "Chad": ".td", "Peru": ".pe", "Cuba": ".cu", "Fiji": ".fj"},
        # Equal but for case and dot; contained; contained, but "pe" stands in "Peru"; other; without the relation.
        "code": {"Denmark": "DK", "Chad": "TDX", "Peru": "PER", "Cuba": "XY"},
        "capital": {"Peru": "Lima", "Cuba": "Havana", "Fiji": "Suva"},
        "capital_of": {"lima": "Peru", "Havana": "Haiti"},
    }
    facts = FactSet(relations, tuple(Fact(name, *row) for name, column in rows.items() for row in column.items()))
    assert spelled_out(facts, "domain", "code") == spelled_out(facts, "code", "domain") == 2 / 4
    assert spelled_out(facts, "capital", "capital_of") == 1 / 3
    assert spelled_out(facts, "capital_of", "capital") == 1 / 2
    assert spelled_out(facts, "capital_of", "code") == 0
    names = ["domain", "code", "capital", "capital_of"]
    # The larger share of either order counts, and at least.
    for share, groups in (
        (0.5, (("capital", "capital_of"), ("code", "domain"))),
        (0.51, ()),
        (0.34, (("capital", "capital_of"), ("code", "domain"))),
    ):
        assert spelled_out_groups(facts, names, share) == spelled_out_groups(facts, names[::-1], share) == groups
    with pytest.raises(UserError, match="unknown relation 'size'"):
        spelled_out(facts, "code", "size")
    with pytest.raises(UserError, match="relation 'no' has no facts"):
        spelled_out(facts, "no", "code")


def test_relations_that_a_chain_connects_are_one_group():
    relations = tuple(Relation(name, ("{subject}:",), "") for name in "dcba")
    rows = {"a": "x", "b": "xy", "c": "yz", "d": "q"}
    # a with b by one subject, b with c by another one, a and c have nothing in common, and d is alone.
    facts = [Fact(name, "one", rows[name]) for name in "abd"] + [Fact(name, "two", "same") for name in "bc"]
    facts = FactSet(relations, tuple(facts))
    assert spelled_out_groups(facts, "dcba") == (("a", "b", "c"),)
    assert spelled_out(facts, "a", "c") == 0
    for names, share, message in (("aba", 0.25, "'a' is named twice"), ("ab", 0.0, "share must lie above 0")):
        with pytest.raises(UserError, match=message):
            spelled_out_groups(facts, names, share)


def test_groups_are_what_the_facts_say():
    facts = world_facts()
    names = [relation.name for relation in facts.relations]
    assert set(spelled_out_groups(facts, names)) == {tuple(sorted(group)) for group in APART}


def test_groups_also_serve_a_choice_of_their_relations():
    facts = world_facts(("countries",))
    names = [relation.name for relation in facts.relations]
    share = {frozenset((one, other)): spelled_out(facts, one, other) for one, other in itertools.combinations(names, 2)}
    together = {pair for pair, value in share.items() if value >= SHARE}
    groups = [sorted({*group} & {*names}) for group in APART]
    inside = {frozenset(pair) for group in groups for pair in itertools.combinations(group, 2)}
    # Currency and language are in one group because both go with the demonym.
    assert together == inside - {frozenset(("currency", "official_language"))}
    assert max(value for pair, value in share.items() if pair not in together) < 0.21
    for seed in range(5):
        folds = relation_folds(names, 5, seed, APART)
        assert sorted(map(len, folds)) == [2, 2, 2, 3, 3]
        assert sum(map(len, folds)) == 12
