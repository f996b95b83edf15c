"""What attribution explains of edits, against regressions that are written out."""

import numpy as np
import pytest

from jaxinterp.studies.editing.informs import chosen_neurons, informs


def lines_of(seed, on_mass, on_activity, n=240):
    """Edits whose outcome is a sum of a layer's, of what mass and activity do, and of noise."""
    rng = np.random.default_rng(seed)
    layer_N, activity_N = np.arange(n) % 3, rng.normal(size=n)
    mass_N = 0.7 * activity_N + rng.normal(size=n) + layer_N
    outcome_N = np.array([0.0, 2.0, 5.0])[layer_N] + on_mass * mass_N + on_activity * activity_N + rng.normal(size=n)
    names = ("layer", "mass", "activity", "kept")
    return [
        dict(zip(names, map(float, row), strict=True))
        for row in zip(layer_N, mass_N, activity_N, outcome_N, strict=True)
    ]


def r_squared(columns, y_N):
    x_NP = np.stack([np.ones(len(y_N)), *columns], 1)
    rest_N = y_N - x_NP @ np.linalg.solve(x_NP.T @ x_NP, x_NP.T @ y_N)
    return 1 - rest_N @ rest_N / np.square(y_N - y_N.mean()).sum()


def test_it_is_the_difference_of_two_regressions():
    lines = lines_of(0, 0.5, 0.3)
    layer_N, mass_N, activity_N, y_N = (
        np.array([line[name] for line in lines]) for name in ("layer", "mass", "activity", "kept")
    )
    layers = [layer_N == 1.0, layer_N == 2.0]
    base, full = r_squared(layers, y_N), r_squared([*layers, mass_N], y_N)
    beside, both = r_squared([*layers, activity_N], y_N), r_squared([*layers, activity_N, mass_N], y_N)
    found = informs(lines, "kept")
    assert found.n == 240
    assert found.layer == pytest.approx(base, abs=1e-12) and found.added == pytest.approx(full - base, abs=1e-12)
    assert found.partial == pytest.approx((full - base) / (1 - base), abs=1e-12)
    assert found.beside_activity == pytest.approx((both - beside) / (1 - beside), abs=1e-12)
    assert found.slope > 0 and found.slope**2 == pytest.approx(found.partial)


def test_activity_that_is_the_whole_reason_takes_it_all():
    found = [informs(lines_of(seed, 0.0, 1.5), "kept") for seed in range(5)]
    assert min(one.partial for one in found) > 0.1  # mass goes with activity
    assert np.mean([one.beside_activity for one in found]) < 0.02
    # What chance explains of one number more: about 1 / (edits − layers).
    assert np.mean([one.shuffled for one in found]) == pytest.approx(1 / 237, rel=0.3)


def test_without_an_outcome_or_without_variation_there_is_nothing():
    lines = lines_of(1, 0.5, 0.3)
    some = [{**line, "kept": 1.0} for line in lines]
    assert informs(some, "kept") is None and informs(lines[:9], "kept") is None and informs(lines, "cost") is None
    missing = [{name: value for name, value in line.items() if name != "kept"} for line in lines[:40]]
    assert informs([*missing, *lines[40:]], "kept") == informs(lines[40:], "kept")


def test_neurons_are_the_first_by_score_and_others_that_are_active():
    rng = np.random.default_rng(0)
    scores_F, activation_F = rng.normal(size=50), rng.normal(size=50)
    activation_F[::2] = 0
    scores_F[::2] = 9  # of neurons that are silent
    active = np.flatnonzero(activation_F)
    best = active[np.argsort(-scores_F[active])]
    for share, n_first in ((0.0, 0), (0.5, 2), (1.0, 4)):
        chosen = chosen_neurons(scores_F, activation_F, 4, share, rng)
        assert len(set(chosen)) == 4 and set(chosen) <= set(active) and set(best[:n_first]) <= set(chosen)
    drawn = {int(n) for _ in range(200) for n in chosen_neurons(scores_F, activation_F, 4, 0.0, rng)}
    assert drawn == set(active.tolist())
    assert chosen_neurons(scores_F, activation_F, 26, 0.5, rng) is None
