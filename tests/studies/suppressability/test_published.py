"""Figures over seeds."""

import numpy as np
import pytest
import scipy.stats

from jaxinterp.base.errors import UserError
from jaxinterp.studies.suppressability.compare import single_seeds
from jaxinterp.studies.suppressability.published import over_seeds, published

ESTIMATES = np.array([0.90, 0.94, 0.86, 0.98])


def samples(estimates, error=0.0, n=400, seed=0):
    """Estimates and replicates that scatter about them."""
    noise = error * np.random.default_rng(seed).standard_normal((len(estimates), n))
    return np.concatenate([estimates[:, None], estimates[:, None] + noise], axis=1)


def test_the_mean_and_where_a_single_seed_is_expected():
    figure = over_seeds(samples(ESTIMATES), (-np.inf, np.inf))
    assert figure["value"] == pytest.approx(0.92) and figure["seeds"] == 4
    sd, t = np.std(ESTIMATES, ddof=1), scipy.stats.t(3).ppf(0.975)
    assert figure["from"] == pytest.approx(0.92 - t * sd * np.sqrt(1.25))
    assert figure["to"] == pytest.approx(0.92 + t * sd * np.sqrt(1.25))
    # Of the mean: the seeds' standard error alone, where facts add none.
    assert figure["low"] == pytest.approx(0.92 - t * sd / 2, abs=0.01)
    assert figure["from"] < figure["low"] < figure["value"] < figure["high"] < figure["to"]


def test_the_draw_of_facts_widens_the_interval_of_the_mean():
    quiet, noisy = (over_seeds(samples(ESTIMATES, error), (-np.inf, np.inf)) for error in (0.0, 0.2))
    assert noisy["high"] - noisy["low"] > 2 * (quiet["high"] - quiet["low"])


def test_figures_stay_within_what_a_metric_can_be():
    figure = over_seeds(samples(ESTIMATES), (-np.inf, 1.0))
    assert figure["to"] == 1.0 and figure["from"] < 0.86


def test_groups_of_models():
    model = lambda value: {"unseen_facts": {"suppressability": samples(np.array([value]))[0]}}  # noqa: E731
    measured = {"plain": [model(0.2), None, model(0.4)], "suppressable": [model(0.9), None, None]}
    found = published(measured, ("unseen_facts",), ("suppressability", "control_drop"))
    # One seed has no spread, and what was not measured no figure.
    assert list(found) == ["plain"] and list(found["plain"]["unseen_facts"]) == ["suppressability"]
    figure = found["plain"]["unseen_facts"]["suppressability"]
    assert figure["value"] == pytest.approx(0.3) and figure["seeds"] == 2


def test_a_single_seed_is_compared_with_single_seeds():
    figure = {"value": 0.9, "low": 0.89, "high": 0.91, "from": 0.8, "to": 1.0, "seeds": 8}
    file = {"models": {"plain": {"objective": {"suppressability": figure}}, "other": {}}}
    expected = {"plain": {"objective": {"suppressability": {"value": 0.9, "low": 0.8, "high": 1.0}}}}
    assert single_seeds(file, ("plain",)) == expected
    for wrong in ({}, {"models": []}, {"models": {"plain": {"objective": {"suppressability": 0.9}}}}):
        with pytest.raises(UserError, match=r"the published figures are not what `experiments/publish\.py` writes"):
            single_seeds(wrong, ("plain",))
