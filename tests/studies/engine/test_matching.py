"""Runs at an equal loss: places along curves by hand, and an effect that is one of the loss alone."""

import made_up_studies as made_up
import numpy as np
import pytest
from made_up_studies import LOSS, S

from jaxinterp.base.errors import UserError
from jaxinterp.studies.engine.along import keeping, measured_steps
from jaxinterp.studies.engine.config import Hypothesis, training_of
from jaxinterp.studies.engine.contrasts import beside, findings
from jaxinterp.studies.engine.matching import at_common_loss, matched_change, matched_gap, reached
from jaxinterp.studies.engine.run import Result
from jaxinterp.training.config import TrainConfig


def run(losses, values, seed=0, **point):
    along = {
        10 * (n + 1): {LOSS: np.full(4, loss), S: value + 0.1 * np.arange(4.0)}
        for n, (loss, value) in enumerate(zip(losses, values, strict=True))
    }
    last = along[max(along)]
    return Result(point, seed, {name: float(of[0]) for name, of in last.items()}, last, "", 1.0, {}, along)


def test_places_by_hand():
    assert reached([3.0, 2.0, 1.0], 1.5) == (1, 0.5)
    assert reached([3.0, 2.0, 1.0], 1.0) == (2, 0.0)
    assert reached([3.0, 2.0, 1.0], 3.0) == (0, 0.0)
    assert reached([3.0, 2.0, 1.0], 0.5) is None  # never so low
    assert reached([3.0, 2.0, 1.0], 3.5) is None  # below it when it was measured first
    assert reached([3.0, 1.0, 2.0, 1.0], 1.75) == (2, 0.25)  # the last of three places
    assert reached([3.0, 1.0, 2.0], 2.0) == (2, 0.0)  # as it ends
    assert reached([3.0, np.nan, 1.0], 2.0) is None


def test_a_pair_is_compared_at_the_larger_of_its_final_losses():
    slow, quick = run([4.0, 3.0, 2.0], [0.1, 0.2, 0.4]), run([3.0, 1.0, 0.5], [0.5, 0.7, 0.9])
    np.testing.assert_allclose(matched_change(slow, quick, S, LOSS), 0.6 - 0.4)  # half way from 3 to 1
    np.testing.assert_allclose(matched_change(quick, slow, S, LOSS), 0.4 - 0.6)
    below = run([1.5, 1.0, 0.5], [0.5, 0.7, 0.9])
    assert matched_change(slow, below, S, LOSS) is None
    assert matched_change(slow, slow._replace(along={}), S, LOSS) is None


def test_replicates_are_those_of_the_same_place():
    quick = run([3.0, 1.0], [0.5, 0.7])
    quick.along[10][S][2] += 1.0
    change = matched_change(run([4.0, 2.0], [0.0, 0.4]), quick, S, LOSS)
    np.testing.assert_allclose(change, [0.2, 0.2, 0.7, 0.2])


def test_all_points_stand_at_the_worst_one_s_loss():
    runs = [run([4.0, 2.0 + s], [0.0, 0.4 + s], s, arm="plain") for s in (0, 1)]
    runs += [run([3.5, 0.5 + s], [0.2, 0.8], s, arm="slow") for s in (0, 1)]
    runs += [run([1.5, 0.1], [0.2, 0.8], 0, arm="quick")]
    common = at_common_loss(made_up.study(), runs)
    assert common.loss == 2.5 and common.missed == [{"arm": "quick"}]
    values = {(of.point["arm"], of.seed): of.values[S] for of in common.results}
    assert values == pytest.approx({("plain", 0): 0.4, ("plain", 1): 1.4, ("slow", 0): 0.44, ("slow", 1): 0.44})
    fixed = at_common_loss(made_up.study(match_at=3.0), runs)
    assert fixed.loss == 3.0 and {of.values[S] for of in fixed.results if of.point["arm"] == "plain"} == {
        0.4 / 3 * 2,
        1.4 * 2 / 3,
    }
    assert at_common_loss(made_up.study(match="", hypotheses=()), runs) is None


def test_how_far_apart_the_measured_values_are():
    runs = [run([4.0, 3.0, 2.0], [0.1, 0.2, 0.4 + s], s, arm="plain") for s in (0, 1)]
    runs += [run([3.0, 1.0 + s, 0.5], [0.5, 0.9, 0.7], s, arm="slow") for s in (0, 1)]
    runs += [run([2.1, 1.1, 0.1], [0.5, 0.9, 0.7], s, arm="quick") for s in (0, 1)]
    common = at_common_loss(made_up.study(), runs)
    plain, slow, quick = (common.read_off[("arm", arm),] for arm in ("plain", "slow", "quick"))
    assert (plain.steps, plain.share, plain.is_far, plain.gaps[S]) == ((30, 30), 0.0, False, 0.0)
    assert (slow.steps, slow.share, slow.is_far) == ((10, 20), pytest.approx(2 / 3), True)  # from 3 to 1.5
    assert slow.gaps == pytest.approx({S: 0.4, LOSS: 1.5})
    assert (quick.share, quick.is_far) == (pytest.approx(0.1), False)
    assert matched_gap(runs[0], runs[2], S, LOSS) == pytest.approx(0.4)  # of the second alone, half way from 3 to 1
    assert matched_gap(runs[2], runs[0], S, LOSS) == pytest.approx(0.4)
    assert np.isnan(matched_gap(runs[0], run([1.5, 1.0], [0.5, 0.7]), S, LOSS))


def test_an_effect_of_the_loss_alone_is_none_at_one_loss():
    config, runs = made_up.study(), made_up.results()
    steps, loss = findings(config, runs)[:2]
    assert (steps.verdict, loss.verdict) == ("refuted", "supported")  # that arms are the same within 0.05
    assert steps.effect.value == pytest.approx(-0.09, abs=0.01) and abs(loss.effect.value) < 0.005
    flipped = beside(config, runs)
    assert [tuple(of.verdict for of in pair) for pair in flipped] == [("refuted", "supported")] * 2


def test_a_pair_that_never_had_one_loss_is_said():
    claim = Hypothesis("h", S, "arm", "plain", "slow", "higher", at="loss")
    runs = [run([4.0, 3.0], [0.1, 0.2], s, arm="plain") for s in (0, 1)]
    runs += [run([2.0, 1.0], [0.1, 0.2], s, arm="slow") for s in (0, 1)]
    found = findings(made_up.study(hypotheses=(claim,)), runs)[0]
    assert (found.verdict, found.because) == ("undecided", "no two paired runs have had one loss")


def test_checkpoints_are_kept_where_the_run_is_measured():
    assert keeping(TrainConfig(), 1) == TrainConfig()  # a study as before changes nothing
    for steps, along, every, measured in (
        (1200, 4, 250, [300, 600, 900, 1200]),
        (30, 4, 10, [7, 14, 21, 30]),
        (1000, 3, 100, [332, 664, 1000]),  # 333 steps have no four equal parts
    ):
        kept = keeping(TrainConfig(steps=steps, checkpoint_every=every), along)
        assert measured_steps(kept, along) == measured
        assert kept.checkpoint_every <= every and kept.keep_every % kept.checkpoint_every == 0
    assert measured_steps(TrainConfig(steps=9), 1) == [9]


BAD = {
    "no loss": ({"match": "", "hypotheses": (Hypothesis("h", S, "arm", "plain", "slow", at="loss"),)}, "needs match"),
    "not measured": ({"match": "ability/brightness"}, "not measured"),
    "once": ({"along": 1}, "set along to 2 or more"),
    "at no loss": ({"match": "", "match_at": 1.0, "hypotheses": ()}, "needs match"),
    "loss at loss": (
        {"hypotheses": (Hypothesis("h", LOSS, "arm", "plain", "slow", at="loss"),)},
        "none of its metrics",
    ),
    "reference": ({"reference": {S: 0.0}}, "a number for each metric of front"),
    "trend of names": ({"hypotheses": (Hypothesis("h", S, "arm", kind="trend"),)}, "three or more numbers"),
    "other": ({"hypotheses": (Hypothesis("h", S, kind="association", other="ability/x"),)}, "not measured"),
    "along": ({"along": 0, "match": "", "hypotheses": ()}, "along must be at least 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_study_that_cannot_be_is_one_line(name):
    changes, words = BAD[name]
    with pytest.raises(UserError, match=words):
        made_up.study(**changes)


def test_a_run_with_too_few_steps_is_one_line():
    with pytest.raises(UserError, match="a run has 3 steps"):
        keeping(TrainConfig(steps=3), 4)
    with pytest.raises(UserError, match="leave keep_every out"):
        keeping(TrainConfig(keep_every=10), 4)


def test_along_is_in_the_training_config():
    config = made_up.study(factors=made_up.study().factors[:1], hypotheses=(), base=TrainConfig(steps=400))
    assert training_of(config, {"arm": "plain"}, 3).keep_every == 100
