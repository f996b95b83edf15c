"""Estimates as plain data and as text: what is missing is null, a dash, and told."""

import json

import numpy as np
import pytest

from jaxinterp.metrics.estimates import estimate
from jaxinterp.metrics.results import (
    has_interval,
    is_few,
    is_known,
    left_out_in_words,
    left_out_relations,
    left_out_sentences,
    marks_sentence,
    other_queries,
    other_queries_in_words,
    plain,
)
from jaxinterp.report.printed import models_shown
from jaxinterp.report.shown import print_parts
from jaxinterp.studies.suppressability.published import published

RELATION = [*"aaaaaabbbbbbccz"]
FACT = np.arange(len(RELATION))


def measured(seed=0):
    """Relation "c" has no probability, "z" a fact alone, and not every fact has a control of each kind."""
    rng = np.random.default_rng(seed)
    p = np.where(np.array(RELATION) == "c", 0.0, rng.uniform(0.3, 1, len(RELATION)))
    columns = {"probability": p, "correct": (p > 0.5) * 1.0}
    for name in ("suppressed", "random", "control_relation", "control_subject", "control_other", "control_answer"):
        columns[name] = p * rng.uniform(0, 1, len(p))
    columns["control_subject"] = np.where(FACT % 3 == 0, np.nan, columns["control_subject"])
    columns["control_relation"] = np.where(np.array(RELATION) == "z", np.nan, columns["control_relation"])
    names = ["suppressability", "control_drop", "selective", "random_drop", "recall", "probability"]
    names += [f"control_drop_{kind}" for kind in ("relation", "subject", "other", "answer")]
    return estimate(names, columns, FACT, RELATION, replicates=100, seed=seed)


def as_results(found):
    by_relation = {
        relation: {name: plain(of.by_relation[relation]) for name, of in found.items() if relation in of.by_relation}
        for relation in "abcz"
    }
    model = {
        "recall": plain(found["recall"].overall),
        "sets": {"facts": {name: plain(of.overall) for name, of in found.items()}},
        "by_relation": {"facts": by_relation},
        "left_out_relations": left_out_relations({"facts": found}),
        "neurons": [],
        "layers": [],
    }
    return {"models": {"mine": model}}


def test_null_stands_for_what_is_not_there():
    results = as_results(measured())
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    model = results["models"]["mine"]
    assert model["left_out_relations"] == {"facts": {"c": "P = 0"}}
    inside = model["by_relation"]["facts"]
    for name in ("suppressability", "control_drop", "selective", "random_drop"):
        assert inside["c"][name] == {"value": None, "low": None, "high": None, "n": 2}
        assert is_known(inside["z"][name]) and not has_interval(inside["z"][name]) and is_few(inside["z"][name])
        assert has_interval(inside["a"][name]) and not is_few(model["sets"]["facts"][name])
        assert has_interval(model["sets"]["facts"][name])
    assert inside["c"]["recall"]["value"] == inside["c"]["probability"]["value"] == 0
    assert not is_known(None) and not is_known(inside["c"]["selective"])


@pytest.mark.parametrize("seed", range(5))
def test_selective_is_the_s_and_the_c_beside_it(seed):
    found = measured(seed)
    s, c, selective = (found[name] for name in ("suppressability", "control_drop", "selective"))
    np.testing.assert_allclose(selective.overall.value, s.overall.value - c.overall.value, rtol=1e-12)
    assert selective.by_relation.keys() == s.by_relation.keys() == c.by_relation.keys() == set("abcz")
    for relation, value in selective.by_relation.items():
        both = s.by_relation[relation].value - c.by_relation[relation].value
        np.testing.assert_allclose(value.value, both, rtol=1e-12)
    np.testing.assert_array_equal(selective.samples, s.samples - c.samples)
    # S is over the 13 facts that have a probability, 12 of them of relations with others of their relation.
    metrics = {name: plain(of.overall) for name, of in found.items()}
    with_subject = sum(FACT % 3 != 0) - sum(FACT[12:14] % 3 != 0)
    assert other_queries(metrics) == {"relation": 12, "subject": with_subject}
    assert selective.overall.n == c.overall.n == with_subject < s.overall.n == 13
    assert other_queries_in_words(metrics) == (
        f"S is over 13 facts, C_relation over 12, C_subject over {with_subject} that have such a control"
    )
    assert not other_queries({"control_drop_other": metrics["control_drop_other"]})


def test_what_is_missing_is_told(capsys):
    print_parts(models_shown(as_results(measured())))
    out = " ".join(capsys.readouterr().out.split())
    assert "facts: 1 relation left out: c (P = 0)" in out
    assert "facts: S is over 13 facts, C_relation over 12" in out
    assert "nan" not in out
    one = estimate(
        ["recall", "suppressability"],
        {name: np.array([0.5]) for name in ("probability", "suppressed", "correct")},
        np.zeros(1, int),
        ["a"],
    )
    assert plain(one["recall"].overall)["low"] is None
    model = {"recall": plain(one["recall"].overall), "sets": {"facts": {k: plain(v.overall) for k, v in one.items()}}}
    print_parts(models_shown({"models": {"mine": model}}))
    out = capsys.readouterr().out
    assert "50.0 [–]" in out and "[–]: no interval, because there is one fact alone" in out


def test_words():
    assert left_out_in_words({"motto": "P = 0"}) == "1 relation left out: motto (P = 0)"
    both = {"motto": "P = 0", "x": "no finite value of relearned"}
    assert left_out_in_words(both) == "2 relations left out: motto (P = 0), x (no finite value of relearned)"
    assert left_out_sentences({"left_out_relations": {"known_facts": {"motto": "P = 0"}}}) == [
        "known facts: 1 relation left out: motto (P = 0)"
    ]
    assert left_out_sentences({}) == []
    few, one = {"value": 1.0, "low": 0.0, "high": 1.0, "n": 4}, {"value": 1.0, "low": None, "high": None, "n": 1}
    assert marks_sentence([few]) == "*: fewer than 5 facts are behind the interval"
    assert marks_sentence([{**few, "n": 5}, {**one, "value": None}]) == ""
    assert "no interval" in marks_sentence([one]) and "fewer" not in marks_sentence([one])


def test_a_reason_that_is_no_missing_probability():
    columns = {"probability": np.array([0.5, 0.4, 0.2]), "kept_alone": np.array([0.2, 0.1, 0.1])}
    columns["nothing_kept"] = np.array([0.1, 0.1, 0.2])  # in "b" as much as P
    found = estimate(["sufficiency", "probability"], columns, np.arange(3), ["a", "a", "b"])
    assert left_out_relations({"facts": found}) == {"facts": {"b": "no finite value of sufficiency"}}
    assert found["sufficiency"].overall.value == found["sufficiency"].by_relation["a"].value


def test_published_figures_leave_out_what_a_seed_has_no_value_of():
    models = [
        {"facts": {"recall": np.full(4, 0.5 + 0.1 * seed), "suppressability": np.full(4, seed or np.nan)}}
        for seed in (0, 1)
    ]
    found = published({"plain": models}, ("facts",), ("recall", "suppressability"))
    assert set(found["plain"]["facts"]) == {"recall"}
    json.dumps(found, allow_nan=False)
