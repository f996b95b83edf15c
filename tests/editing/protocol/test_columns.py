"""The columns of an outcome, by hand, and their means over edits."""

import dataclasses
import math

import numpy as np
import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.editing.protocol.case import CHANGED, KINDS, Probe, case
from jaxinterp.editing.protocol.columns import COLUMNS, COMBINED, DIFFERENCE, SHARE, SHORT, columns_of
from jaxinterp.editing.protocol.questions import Says
from jaxinterp.editing.protocol.summary import harmonic, summary
from jaxinterp.editing.request import request

ASKED = request("the {subject} is", "x", " new", " old", paraphrases=("{subject} is the",))
PROBES = (
    Probe("neighbourhood", "n1", " old", " new"),
    Probe("neighbourhood", "n2", " old", " new"),
    Probe("same_relation", "r1", " third", " new"),
    Probe("same_relation", "r2", " fourth", " new"),
    Probe("same_subject", "s1", " fifth"),
    Probe("inverse", "new is the", " x", " y"),
)
# edited, paraphrase, two neighbours, two of the relation, one of the subject, inverse, two neighbours after the edit.


def asked(probes=PROBES):
    return case(ASKED, probes).probes


def said(p, other, right, right_other=None, ended=None, forced=None, next_p=None, tokens=1, texts=()) -> Says:
    n = len(p)
    with np.errstate(divide="ignore"):
        log_p, log_other = np.log(np.array(p, float)), np.log(np.array(other, float))
    next_p = [[0.5, 0.5]] * 4 if next_p is None else next_p
    return Says(
        log_p,
        log_other,
        np.full(n, tokens),
        np.ones(n, int),
        np.array(right, bool),
        np.array([False] * n if right_other is None else right_other, bool),
        np.array([True] * n if ended is None else ended, bool),
        np.array(right if forced is None else forced, float),
        np.log(np.array(next_p)),
        texts,
    )


NAN = math.nan
BEFORE = said(
    [0.1, 0.2, 0.9, 0.8, 0.9, 0.3, 0.9, 0.2, 0.9, 0.8],
    [0.8, 0.6, 0.05, 0.1, 0.05, 0.1, NAN, 0.7, 0.05, 0.1],
    [0, 0, 1, 1, 1, 0, 1, 0, 1, 1],
    [1, 1, 0, 0, 0, 0, 0, 1, 0, 0],
)
AFTER = said(
    [0.9, 0.3, 0.6, 0.1, 0.8, 0.9, 0.2, 0.1, 0.3, 0.1],
    [0.05, 0.6, 0.2, 0.7, 0.1, 0.05, NAN, 0.8, 0.6, 0.8],
    [1, 0, 1, 0, 1, 1, 0, 0, 0, 0],
    ended=[0, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    forced=[1, 0.5, 1, 0, 1, 1, 0, 0, 0, 0],
    next_p=[[0.25, 0.75], [0.5, 0.5], [0.25, 0.75], [0.25, 0.75]],
)
KL = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)


def test_columns_by_hand():
    found = columns_of(BEFORE, AFTER, asked())
    expected = {
        "efficacy_score": 100, "efficacy_accuracy": 100, "efficacy_ended": 0, "efficacy_magnitude": 85,
        "efficacy_teacher_forced": 100, "efficacy_prompts": 1,
        "paraphrase_score": 0, "paraphrase_accuracy": 0, "paraphrase_magnitude": -30, "paraphrase_teacher_forced": 50,
        "neighbourhood_score": 50, "neighbourhood_accuracy": 50, "neighbourhood_magnitude": -10,
        "neighbourhood_kept": 50, "neighbourhood_kl": KL / 2, "neighbourhood_prompts": 2,
        "neighbourhood_plus_score": 0, "neighbourhood_plus_accuracy": 0, "neighbourhood_plus_magnitude": -50,
        "neighbourhood_plus_kl": KL, "neighbourhood_plus_prompts": 2,
        "same_relation_kept": 100, "same_relation_prompts": 2,  # one of the two was not known before
        "same_subject_kept": 0, "other_kept": NAN, "other_prompts": 0,
        "inverse_score": 0, "inverse_accuracy": 0, "inverse_accuracy_of_known": 0,
        "two_hop_score": NAN, "alias_accuracy": NAN, "perplexity_ratio": NAN, "disabling": NAN,
        "fluency": NAN, "consistency": NAN,
    }  # fmt: skip
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-9, err_msg=name)
    assert set(found) == set(COLUMNS) - set(COMBINED)
    assert columns_of(BEFORE, AFTER, asked(), (), (20.0, 30.0))["perplexity_ratio"] == 1.5
    for after, disabling in ((39.0, 0.0), (41.0, 100.0), (math.inf, 100.0)):
        assert columns_of(BEFORE, AFTER, asked(), (), (20.0, after))["disabling"] == disabling


def test_no_edit_changes_nothing():
    found = columns_of(BEFORE, BEFORE, asked())
    for name in (
        "efficacy_score",
        "efficacy_accuracy",
        "paraphrase_score",
        "neighbourhood_kl",
        "neighbourhood_plus_kl",
    ):
        assert found[name] == 0, name
    for name in ("neighbourhood_score", "neighbourhood_kept", "same_relation_kept", "same_subject_kept"):
        assert found[name] == 100, name


def test_swapped_answers_give_the_rest():
    swapped = AFTER._replace(log_p_N=AFTER.log_p_other_N, log_p_other_N=AFTER.log_p_N)
    one, other = columns_of(BEFORE, AFTER, asked()), columns_of(BEFORE, swapped, asked())
    for kind in ("efficacy", "paraphrase", "neighbourhood", "neighbourhood_plus"):
        assert one[f"{kind}_score"] + other[f"{kind}_score"] == 100
        assert one[f"{kind}_magnitude"] == -other[f"{kind}_magnitude"]


def test_scores_of_answers_of_several_tokens():
    # P(new) = 0.09 in two tokens, 0.3 each; P(old) = 0.2 in one.
    after = AFTER._replace(
        log_p_N=np.log(np.full(10, 0.09)), log_p_other_N=np.log(np.full(10, 0.2)), tokens_N=np.full(10, 2)
    )
    found = columns_of(BEFORE, after, asked())
    assert (found["efficacy_score"], found["efficacy_score_per_token"]) == (0, 100)


def test_equal_answers_are_no_success():
    same = AFTER._replace(log_p_other_N=AFTER.log_p_N)
    found = columns_of(BEFORE, same, asked())
    assert found["efficacy_score"] == found["neighbourhood_score"] == 0


def test_what_is_said_of_another_case_is_refused():
    with pytest.raises(ValueError, match="of another case"):
        columns_of(BEFORE, AFTER, asked(PROBES[1:]))


def test_every_column_has_a_formula():
    assert all(column.formula and "\n" not in column.formula for column in COLUMNS.values())
    assert set(SHORT) <= set(COLUMNS) and len(set(SHORT.values())) == len(SHORT)
    forced = {name for name, column in COLUMNS.items() if "true tokens" in column.formula}
    assert forced and all("teacher_forced" in name for name in forced)
    assert {name for name in COLUMNS if "teacher_forced" in name} == forced
    for name, column in COLUMNS.items():
        if name.endswith(("_score", "_accuracy", "_kept", "_ended")):
            assert column.limits == SHARE, name
        if name.endswith("_magnitude"):
            assert column.limits == DIFFERENCE, name


def outcomes(*pairs):
    base = dict.fromkeys(set(COLUMNS) - set(COMBINED), NAN)
    names = ("efficacy_score", "paraphrase_score", "neighbourhood_score")
    return [{**base, **dict(zip(names, map(float, values), strict=True))} for values in pairs]


def test_means_over_edits():
    table = summary(outcomes((100, 50, 40), (0, 100, NAN), (100, 30, 80)))
    row = table.rows
    assert row["efficacy_score"].value == pytest.approx(200 / 3) and row["efficacy_score"].n == 3
    assert row["neighbourhood_score"].value == 60 and row["neighbourhood_score"].n == 2
    assert table.without["neighbourhood_score"] == 1 and table.without["paraphrase_score"] == 0
    # Of the means over edits: a mean of each edit's S would be 0 for the second one.
    assert row["overall_score"].value == pytest.approx(3 / (3 / 200 + 1 / 60 + 1 / 60))
    assert row["overall_score"].n == 2
    assert math.isnan(row["overall_plus"].value) and row["overall_plus"].n == 0 and table.without["overall_plus"] == 3
    assert "neighbourhood_score" in str(table) and list(row) == [name for name in COLUMNS if name in row]


def test_intervals_hold_what_all_edits_have():
    row = summary(outcomes(*[(100, 50, 0)] * 20)).rows
    assert row["efficacy_score"].high == 100 and 80 < row["efficacy_score"].low < 85
    assert row["neighbourhood_score"].low == 0 and 15 < row["neighbourhood_score"].high < 20
    values = np.random.default_rng(0).choice([0.0, 100.0], 40)
    found = summary(outcomes(*[(value, 50, 50) for value in values])).rows["efficacy_score"]
    error = values.std(ddof=1) / 40**0.5
    assert found.low <= values.mean() - 1.9 * error and found.high >= values.mean() + 1.9 * error


def test_summaries_that_cannot_be():
    for given, match in (
        ([], "no outcome to summarise"),
        ([{"efficiency": 1.0}], "efficiency"),
        ([{"efficacy_score": 1.0}, {"paraphrase_score": 1.0}], "differ in their columns"),
        ([{"overall_score": 1.0}], "overall_score"),
    ):
        with pytest.raises(UserError, match=match):
            summary(given)
    with pytest.raises(UserError, match=r"between 0 and 1, got 1\.0"):
        summary(outcomes((1, 1, 1)), 1.0)


def test_harmonic_means():
    np.testing.assert_allclose(harmonic(np.array([[100.0, 50.0, 25.0], [0.0, 50.0, 50.0]])), [300 / 7, 0])
    assert math.isnan(harmonic(np.array([[NAN, 50.0]]))[0])


def test_cases_and_probes_by_hand():
    own = case(ASKED, PROBES, generation=["x"])
    assert [probe.kind for probe in own.probes[:2]] == ["edited", "paraphrase"] and own.generation == ("x",)
    assert own.of("neighbourhood_plus")[0].prompt == "the x is new. n1"
    assert set(CHANGED) < set(KINDS) and not own.of("alias")
    for wrong, match in (
        (lambda: Probe("neighborhood", "a", " b"), "neighborhood"),
        (lambda: Probe("other", "a", " "), "expected answer of the probe 'a' is empty"),
        (lambda: Probe("other", "a", " b", ""), "other answer of the probe 'a' is empty"),
        (lambda: case(ASKED, [Probe("edited", "a", " b")]), "made of the request"),
        (lambda: dataclasses.replace(own, probes=own.probes[1:]), "needs its edited prompt"),
        (lambda: own.of("nobody"), "nobody"),
    ):
        with pytest.raises(UserError, match=match):
            wrong()
