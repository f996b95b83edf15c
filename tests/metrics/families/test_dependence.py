"""Metrics of dependence by hand, against plain estimators, and on neurons whose dependence is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.metrics.families import dependence
from jaxinterp.metrics.registry import Neurons


def neurons(activation, weight=None, fact=None):
    x = jnp.asarray(activation)
    n = len(activation)
    weight = jnp.ones(n, x.dtype) if weight is None else jnp.asarray(weight, x.dtype)
    fact = jnp.arange(n) if fact is None else jnp.asarray(fact)
    return Neurons(x, jnp.zeros_like(x), jnp.zeros(n, jnp.int32), fact, weight, 1)


def value(metric, *arguments, **more):
    return float(jax.jit(getattr(dependence, metric))(neurons(*arguments, **more)))


# a, b = 2 a + 1, c uncorrelated with a, d that does not vary
X = np.array([[1.0, 3, 1, 7], [1, 3, -1, 7], [-1, -1, 1, 7], [-1, -1, -1, 7]])


def test_correlations_by_hand(float64):
    assert value("mean_correlation", X) == pytest.approx(1 / 3, rel=1e-9)
    assert value("correlated_pairs", X) == pytest.approx(1 / 3, rel=1e-9)
    assert np.isnan(value("square_correlation", X))  # no square varies
    assert np.isnan(value("mean_correlation", X[:, 2:]))  # no pair varies
    x = np.random.default_rng(0).standard_normal((20, 5)) ** 3
    upper = np.triu_indices(5, 1)
    expected = np.abs(np.corrcoef(x.T))[upper]
    assert value("mean_correlation", x) == pytest.approx(expected.mean(), rel=1e-9)
    assert value("correlated_pairs", x) == pytest.approx((expected > 0.3).mean(), rel=1e-9)
    energies = ((x - x.mean(0)) / x.std(0)) ** 2
    assert value("square_correlation", x) == pytest.approx(np.abs(np.corrcoef(energies.T))[upper].mean(), rel=1e-9)


def gaussian(x):
    z = (x - x.mean()) / x.std()
    return np.exp(-((z[:, None] - z[None]) ** 2) / 2)


def test_hsic_is_the_published_formula_and_its_definition(float64):
    x = np.random.default_rng(1).standard_normal((7, 2))
    x[:, 1] += x[:, 0] ** 2
    k, l = (gaussian(column) * (1 - np.eye(7)) for column in x.T)  # noqa: E741
    m, one = 7, np.ones(7)
    trace = np.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / ((m - 1) * (m - 2)) - 2 / (m - 2) * one @ k @ l @ one
    assert value("hsic", x) == pytest.approx(trace / (m * (m - 3)), rel=1e-9)
    pairs, triples, fours = (list(itertools.permutations(range(m), n)) for n in (2, 3, 4))
    by_loop = np.mean([k[i, j] * l[i, j] for i, j in pairs]) + np.mean([k[i, j] * l[q, r] for i, j, q, r in fours])
    by_loop -= 2 * np.mean([k[i, j] * l[i, q] for i, j, q in triples])
    assert value("hsic", x) == pytest.approx(by_loop, rel=1e-9)
    assert np.isnan(value("hsic", x[:3]))


def test_hsic_by_weights_and_facts(float64):
    x, w = np.random.default_rng(2).standard_normal((6, 2)), np.array([2.0, 0, 1, 3, 1, 1])
    mean = w @ x / w.sum()
    z = (x - mean) / np.sqrt(w @ (x - mean) ** 2 / w.sum())
    k, l = (np.exp(-((c[:, None] - c[None]) ** 2) / 2) for c in z.T)  # noqa: E741

    def expectation(n, of):
        terms = [(np.prod(w[list(i)]), of(*i)) for i in itertools.permutations(range(6), n)]
        return sum(a * b for a, b in terms) / sum(a for a, _ in terms)

    expected = expectation(2, lambda i, j: k[i, j] * l[i, j]) + expectation(4, lambda i, j, q, r: k[i, j] * l[q, r])
    expected -= 2 * expectation(3, lambda i, j, q: k[i, j] * l[i, q])
    assert value("hsic", x, weight=w) == pytest.approx(expected, rel=1e-9)
    # Two prompts of one fact are their mean, which counts twice.
    prompts = np.concatenate([x, x[:1] + np.array([[0.5, -1]])])
    prompts[0] -= [0.5, -1]
    found = value("hsic", prompts, weight=[1, 0, 1, 3, 1, 1, 1], fact=[0, 1, 2, 3, 4, 5, 0])
    assert found == pytest.approx(expected, rel=1e-9)


def test_hsic_is_unbiased_where_the_plain_estimator_is_not(float64):
    """Over draws of independent neurons its mean is 0; distance correlation's, by definition, is not."""
    draws = np.random.default_rng(3).standard_normal((60, 8, 6))
    found = np.array([value("hsic", x) for x in draws])
    error = found.std(ddof=1) / len(found) ** 0.5
    assert abs(found.mean()) < 3.5 * error and error < 2e-3
    # The V-statistic of the same draws is above 0 by far more than that.
    h = np.eye(8) - 1 / 8
    biased = np.mean([np.trace(gaussian(x[:, 0]) @ h @ gaussian(x[:, 1]) @ h) / 64 for x in draws])
    assert biased > 20 * error


def distance_correlation(x, y):
    """Székely et al. 2007, definitions 3 to 5, by loops."""

    def centred(x):
        a = np.abs(x[:, None] - x[None])
        return np.array(
            [[a[i, j] - a[i].mean() - a[:, j].mean() + a.mean() for j in range(len(x))] for i in range(len(x))]
        )

    a, b = centred(x), centred(y)
    return np.sqrt((a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean()))


def test_distance_correlation_is_the_published_one(float64):
    x = np.random.default_rng(4).standard_normal((9, 3))
    x[:, 2] = x[:, 0] ** 2
    expected = np.mean([distance_correlation(x[:, i], x[:, j]) for i, j in ((0, 1), (0, 2), (1, 2))])
    assert value("distance_correlation", x) == pytest.approx(expected, rel=1e-9)
    assert value("distance_correlation", np.stack([x[:, 0], 3 - 2 * x[:, 0]], 1)) == pytest.approx(1, rel=1e-9)
    # Weights are repeated answers.
    twice = np.concatenate([x, x[:2]])
    once = value("distance_correlation", x, weight=[2, 2, 1, 1, 1, 1, 1, 1, 1])
    assert once == pytest.approx(value("distance_correlation", twice), rel=1e-9)


def test_what_escapes_correlation_is_seen():
    """Signs are independent and sizes common: no correlation, but dependence of second order."""
    rng = np.random.default_rng(5)
    size = rng.exponential(size=(60, 1))
    signs = rng.choice([-1.0, 1.0], (60, 8))
    apart, together = rng.exponential(size=(60, 8)) * signs, size * signs
    of = {name: [value(name, x.astype(np.float32)) for x in (apart, together)] for name in dependence_metrics()}
    assert abs(of["mean_correlation"][1] - of["mean_correlation"][0]) < 0.1
    assert of["square_correlation"][0] < 0.2 and of["square_correlation"][1] > 0.9
    assert of["hsic"][1] > 10 * abs(of["hsic"][0])
    assert of["distance_correlation"][1] > of["distance_correlation"][0] + 0.1


def dependence_metrics():
    return ("mean_correlation", "square_correlation", "hsic", "distance_correlation")


def test_many_neurons_and_answers_are_drawn_once(monkeypatch):
    x = np.random.default_rng(6).standard_normal((30, 20)).astype(np.float32)
    monkeypatch.setattr(dependence, "COLUMNS", 3)
    rng = np.random.default_rng(dependence.SEED)
    chosen = x[:, np.sort(rng.choice(20, 3, replace=False))]
    rows = np.sort(rng.choice(30, 10, replace=False))
    expected = np.abs(np.corrcoef(chosen.T))[np.triu_indices(3, 1)].mean()
    assert float(dependence.mean_correlation(neurons(x))) == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(dependence, "ROWS", 10)
    few = chosen[rows]
    expected = np.mean([distance_correlation(few[:, i], few[:, j]) for i, j in ((0, 1), (0, 2), (1, 2))])
    assert float(dependence.distance_correlation(neurons(x))) == pytest.approx(expected, rel=1e-4)
