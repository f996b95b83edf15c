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
from jaxinterp.studies.engine.tables import finding_row

RATES = (0.1, 0.2, 0.4, 0.8)


def result(value, seed, **point):
    samples = value + 1e-4 * np.concatenate([[0.0], np.sin(np.arange(9.0) + value)])
    return Result(point, seed, {S: float(value)}, {S: samples}, "", 1.0, {})


def trend(values_by_seed, direction="higher", margin=0.0, lacking=()):
    claim = Hypothesis("h", S, "rate", direction=direction, margin=margin, kind="trend")
    factors = (Factor("rate", field="steps", levels=RATES),)
    seeds = tuple(range(len(values_by_seed)))
    config = made_up.study(factors=factors, metrics=(S, LOSS), hypotheses=(claim,), seeds=seeds)
    runs = [
        result(value, seed, rate=rate)
        for seed, values in enumerate(values_by_seed)
        for rate, value in zip(RATES, values, strict=True)
        if (seed, rate) not in lacking
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
    found = evidence(made_up.study(hypotheses=()), runs, [claim])[0]
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
    at_loss = evidence(made_up.study(), runs, [claim])[0]
    assert abs(at_loss.effect.value) < 0.3  # all points have one mean loss there
    steps = evidence(made_up.study(), runs, [Hypothesis("h", S, kind="retest")])[0]
    assert steps.effect.value > 0.9


def judged(claim, runs, **changes):
    """The verdict on one claim of the made-up study, whose 12 points have five seeds each."""
    found = findings(made_up.study(hypotheses=(claim,), **changes), runs)[0]
    return found.verdict, found.because


def is_at(run, seed=None, **levels):
    return seed in (None, run.seed) and all(run.point[name] == level for name, level in levels.items())


def without_value(runs, **where):
    return [run._replace(values={**run.values, S: float("nan")}) if is_at(run, **where) else run for run in runs]


CONTRAST = Hypothesis("h", S, "arm", "plain", "slow", "lower", 0.01)
TREND = Hypothesis("h", S, "rate", margin=0.3, kind="trend")
ASSOCIATION = Hypothesis("h", S, margin=0.2, kind="association", other=RECALL)
RETEST = Hypothesis("h", S, margin=0.5, kind="retest")
DOSES = {S: made_up.of_dose, RECALL: made_up.of_dose}
LACKS = {
    "contrast": (CONTRAST, made_up.results(), "4 of 5 seeds have both runs of every pair"),
    "trend": (TREND, made_up.results(DOSES), "seed 2 lacks the point arm slow, rate 0.4"),
    "association": (ASSOCIATION, made_up.results(DOSES), "seed 2 lacks the point arm slow, rate 0.4"),
    "retest": (RETEST, made_up.results(), "seed 2 lacks the point arm slow, rate 0.4"),
}


@pytest.mark.parametrize("kind", LACKS)
def test_a_seed_without_a_value_leaves_a_claim_undecided(kind):
    claim, runs, words = LACKS[kind]
    assert judged(claim, runs) == ("supported", "the interval decides")
    one = {"seed": 2, "arm": "slow", "rate": 0.4}
    assert judged(claim, without_value(runs, **one)) == ("undecided", words)
    failed = [run._replace(values={}, samples={}, failed="not finite") if is_at(run, **one) else run for run in runs]
    assert judged(claim, failed) == ("undecided", words)
    assert judged(claim, [run for run in runs if not is_at(run, **one)]) == ("undecided", words)


@pytest.mark.parametrize("kind", LACKS)
def test_a_point_without_a_value_in_any_seed_is_left_out_and_counted(kind):
    claim, runs, _ = LACKS[kind]
    what = "1 of 4 pairs has no value" if kind == "contrast" else "1 of 12 points has no value"
    nowhere = {"arm": "slow", "rate": 0.4}
    assert judged(claim, without_value(runs, **nowhere)) == ("supported", f"the interval decides; {what}")
    # While the last seed of that point is to come, nobody knows that it will have none.
    waiting = [run for run in without_value(runs, **nowhere) if not is_at(run, seed=4, **nowhere)]
    assert judged(claim, waiting)[0] == "undecided"


def test_a_study_that_runs_has_intervals_and_no_verdict():
    runs = [run for run in made_up.results() if run.seed < 3 and run.point["rate"] == 0.0]
    runs = [run._replace(point={"arm": run.point["arm"]}) for run in runs]
    config = made_up.study(factors=made_up.study().factors[:1], hypotheses=(CONTRAST,))
    found = findings(config, runs)[0]
    assert (found.verdict, found.because) == ("undecided", "3 of 5 seeds have both runs")
    assert finding_row(found)["low"] < found.effect.value < finding_row(found)["high"] < -0.01


def test_words_of_what_a_claim_lacks():
    values = [[1, 2, 3, 4], [1, 3, 2, 4], [1, 2, 4, 3]]
    assert trend(values, lacking=[(2, 0.4)]).because == "seed 2 lacks the level 0.4"
    two = trend(values, lacking=[(2, 0.4), (2, 0.8)])
    assert two.because == "seed 2 lacks the level 0.4, and 1 more run has no value"
    at_loss = Hypothesis("h", S, "arm", "plain", "slow", at="loss")
    runs = made_up.results()
    for run in runs:
        if is_at(run, seed=1, arm="plain"):  # below the loss of slow when it is measured first
            run.along.update({step: {**of, LOSS: np.ones_like(of[LOSS])} for step, of in run.along.items()})
    assert judged(at_loss, runs)[1] == "4 of 5 seeds have both runs of every pair at one loss"


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
    found = [trend(rng.standard_normal((n_seeds, 4))) for _ in range(n)]
    assert not any(of.found.missing.lacks for of in found)
    wrong = sum(of.verdict != "undecided" for of in found)
    assert wrong <= 14  # of a binomial with 0.05, 99 %


@pytest.mark.parametrize("at", ["steps", "loss"])
def test_no_difference_is_seldom_called_one(at):
    rng, n = np.random.default_rng(1), 150
    claim = Hypothesis("h", S, "arm", "plain", "slow", at=at)
    config = made_up.study(factors=made_up.study().factors[:1], hypotheses=(claim,), seeds=tuple(range(4)))
    noise = {S: lambda loss, arm, rate, own: 0.3 * loss * (at == "loss") + 0.1 * rng.standard_normal()}

    def verdict() -> str:
        runs = made_up.results(noise, arms=("plain", "slow"), rates=(0.1,), seeds=range(4))
        found = findings(config, [run._replace(point={"arm": run.point["arm"]}) for run in runs])[0]
        assert not found.found.missing.lacks
        return found.verdict

    assert sum(verdict() != "undecided" for _ in range(n)) <= 14
