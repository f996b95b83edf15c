"""Trends, associations and retests as hypotheses: by hand, and how often they are wrong."""

import made_up_studies as made_up
import numpy as np
import pytest
from made_up_studies import LOSS, RECALL, S

from jaxinterp.base.errors import UserError
from jaxinterp.studies.engine.config import Factor, Hypothesis
from jaxinterp.studies.engine.contrasts import findings, over_relations
from jaxinterp.studies.engine.evidence import evidence
from jaxinterp.studies.engine.pairs import relation_changes
from jaxinterp.studies.engine.run import Result

RATES = (0.1, 0.2, 0.4, 0.8)


def result(value, seed, **point):
    samples = value + 1e-4 * np.concatenate([[0.0], np.sin(np.arange(9.0) + value)])
    return Result(point, seed, {S: float(value)}, {S: samples}, "", 1.0, {})


def trend(values_by_seed, direction="higher", margin=0.0):
    claim = Hypothesis("h", S, "rate", direction=direction, margin=margin, kind="trend")
    factors = (Factor("rate", field="steps", levels=RATES),)
    config = made_up.study(factors=factors, metrics=(S, LOSS), hypotheses=(claim,))
    runs = [
        result(value, seed, rate=rate)
        for seed, values in enumerate(values_by_seed)
        for rate, value in zip(RATES, values, strict=True)
    ]
    return findings(config, runs)[0]


def test_a_trend_is_a_mean_over_seeds():
    found = trend([[1, 2, 3, 4], [1, 3, 2, 4], [1, 2, 4, 3]])
    assert found.effect.value == pytest.approx((1.0 + 0.8 + 0.8) / 3)
    assert found.effect.seed_sd == pytest.approx(0.2)  # one exchange of neighbours, above 0.115
    assert (found.verdict, found.found.n, found.found.n_runs) == ("supported", 3, 12)
    assert trend([[4, 3, 2, 1]] * 3).verdict == "refuted"
    assert trend([[4, 3, 2, 1]] * 3, "lower", 0.3).verdict == "supported"
    assert trend([[1, 4, 2, 3], [4, 1, 3, 2]]).verdict == "undecided"
    assert trend([[1, 2, 3, 4]]).because == "one seed says nothing of others"


def test_a_trend_is_within_the_other_factors():
    """Arms have a size of their own, in which levels would drown."""
    runs = [
        result(rate + 10 * arm * (-1) ** n, seed, rate=rate, arm=str(arm))
        for seed in range(3)
        for arm in range(3)
        for n, rate in enumerate(RATES if arm == 0 else RATES[:3])
    ]
    claim = Hypothesis("h", S, "rate", kind="trend")
    found = evidence(made_up.study(hypotheses=()), runs, claim)
    ordered, mixed = 1.0, [0.5, 0.5]  # 10.1, −9.8, 10.4: in the order 2, 1, 3
    assert found.effect.value == pytest.approx((ordered + sum(mixed)) / 3)


def test_associations_and_retests_are_judged():
    config, runs = made_up.study(), made_up.results()
    by_name = {of.hypothesis.name: of for of in findings(config, runs)}
    assert by_name["again"].verdict == "supported" and by_name["again"].found.n == 12
    assert by_name["with recall"].found.unit == "points" and by_name["with recall"].found.n_runs == 60
    claim = Hypothesis("h", S, kind="association", other=LOSS, direction="lower", margin=0.5)
    assert findings(made_up.study(hypotheses=(claim,)), runs)[0].verdict == "supported"
    few = [run for run in runs if run.point["rate"] == 0.0]
    found = findings(made_up.study(hypotheses=(claim,)), few)[0]
    assert found.verdict == "undecided" and found.because.startswith("fewer than five points")


def test_at_one_loss_points_are_taken_at_the_common_one():
    runs = made_up.results({S: lambda loss, *_: loss, RECALL: made_up.of_dose})
    claim = Hypothesis("h", S, kind="retest", at="loss")
    at_loss = evidence(made_up.study(hypotheses=(claim,)), runs, claim)
    assert abs(at_loss.effect.value) < 0.3  # all points have one mean loss there
    steps = evidence(made_up.study(), runs, Hypothesis("h", S, kind="retest"))
    assert steps.effect.value > 0.9


def test_relations_of_a_contrast_by_hand():
    runs = [
        result(0.0, seed, arm=arm)._replace(
            relations={S: {"a": float(seed + up), "b": 3.0 * up} | ({"c": 1.0} if up else {})}
        )
        for seed in range(2)
        for arm, up in (("plain", 0), ("slow", 1 + seed))
    ]
    np.testing.assert_array_equal(relation_changes(runs, "arm", "plain", "slow", S), [[1, 3], [2, 6]])
    claim = Hypothesis("h", S, "arm", "plain", "slow")
    assert over_relations(claim, runs).value == 3.0
    assert over_relations(claim, runs[:2]) is None
    assert over_relations(claim, [run._replace(relations={}) for run in runs]) is None


BAD = {
    "half a contrast": (("h", S, "arm", "plain"), {}, "after is missing"),
    "a level of a trend": (("h", S, "rate", 0.1), {"kind": "trend"}, "which has no before"),
    "no other": (("h", S), {"kind": "association"}, "other is missing"),
    "itself": (("h", S), {"kind": "association", "other": S}, "names a metric twice"),
    "given to a retest": (("h", S), {"kind": "retest", "given": LOSS}, "which has no given"),
    "ρ above 1": (("h", S, "rate"), {"kind": "trend", "margin": 1.5}, "must be below 1"),
    "a low retest": (("h", S), {"kind": "retest", "direction": "lower"}, "can only claim higher"),
}


@pytest.mark.parametrize("name", BAD)
def test_hypotheses_that_cannot_be_are_one_line(name):
    given, more, words = BAD[name]
    with pytest.raises(UserError, match=words):
        Hypothesis(*given, **more)


@pytest.mark.parametrize("n_seeds", [2, 5])
def test_no_trend_is_seldom_called_one(n_seeds):
    rng, n = np.random.default_rng(0), 150
    wrong = sum(trend(rng.standard_normal((n_seeds, 4))).verdict != "undecided" for _ in range(n))
    assert wrong <= 14  # of a binomial with 0.05, 99 %


@pytest.mark.parametrize("at", ["steps", "loss"])
def test_no_difference_is_seldom_called_one(at):
    rng, n = np.random.default_rng(1), 150
    claim = Hypothesis("h", S, "arm", "plain", "slow", at=at)
    config = made_up.study(hypotheses=(claim,))
    noise = {S: lambda loss, arm, rate, own: 0.3 * loss * (at == "loss") + 0.1 * rng.standard_normal()}
    runs = lambda: made_up.results(noise, arms=("plain", "slow"), rates=(0.1,), seeds=range(4))  # noqa: E731
    wrong = sum(findings(config, runs())[0].verdict != "undecided" for _ in range(n))
    assert wrong <= 14
