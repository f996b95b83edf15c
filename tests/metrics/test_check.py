"""Every built-in metric passes the harness, and broken metrics do not."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

from jaxinterp.errors import UserError
from jaxinterp.metrics import check, registry
from jaxinterp.metrics.check import check_metric
from jaxinterp.metrics.registry import Metric, Neurons, Term, get_metric, metric_names
from jaxinterp.registry import Registry


@pytest.mark.parametrize("name", metric_names())
def test_built_in(name):
    check_metric(name)


@pytest.fixture
def broken(monkeypatch):
    """Checks a changed copy of a built-in metric, or a new one."""
    metrics = Registry("metric")
    monkeypatch.setattr(registry, "_METRICS", metrics)
    built_in = {name: get_metric_of(name) for name in NAMES}

    def checked(name, **changes):
        metric = dataclasses.replace(built_in[name], name=f"broken_{name}", **changes)
        metrics.add(metric.name, metric)
        check_metric(metric.name)

    return checked


NAMES = metric_names()
get_metric_of = dict(zip(NAMES, map(get_metric, NAMES), strict=True)).get


@pytest.mark.parametrize("name", [name for name in NAMES if get_metric_of(name).better != "neither"])
def test_a_flipped_sign_is_caught(name, broken):
    formula = get_metric_of(name).formula
    with pytest.raises(AssertionError, match=r"better|outside its range"):
        broken(name, formula=lambda given: -formula(given))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("recall", {"range": (0.0, 0.5)}, "outside its range"),
        ("recall", {"better": "lower"}, "lower is better"),
        ("suppressability", {"formula": lambda mean: 0 * mean("suppressed")}, "better"),
        ("probability", {"formula": lambda mean: jnp.asarray(mean("probability"), "float32") + 0.0}, "turns float64"),
        ("suppressability", {"formula": lambda mean: 1 - jax.lax.stop_gradient(mean("suppressed"))}, "differentiated"),
        ("gini", {"formula": lambda n: (n.activation_NU[0] > 1).mean()}, "order of the facts"),
        ("gini", {"formula": lambda n: jnp.abs(n.activation_NU[:, :4]).mean()}, "order of the neurons"),
        ("hoyer", {"formula": lambda n: (n.activation_NU > 0).mean()}, "facts of weight 0"),
        ("dead_fraction", {"formula": lambda n: (n.activation_NU < 0.9).mean(0).mean()}, "facts of weight 0|unit"),
        ("purity", {"term": Term("Purity", "")}, "has no docstring"),
        ("gini", {"formula": lambda n: n.activation_NU.mean(1)}, "has the shape"),
    ],
)
def test_broken_copies_are_caught(name, changes, message, broken):
    with pytest.raises(AssertionError, match=message):
        broken(name, **changes)


def test_columns_of_ones_own_need_values(broken, monkeypatch):
    metric = Metric(
        "warmth",
        ("warmth",),
        Term("Warmth", "How warm it is."),
        lambda mean: mean("warmth"),
        (0.0, math.inf),
        "higher",
        "none",
        True,
        "",
    )
    registry._METRICS.add("warmth", metric)
    with pytest.raises(UserError, match="does not know the column 'warmth'"):
        check_metric("warmth")
    check_metric("warmth", good={"warmth": 30.0}, bad={"warmth": 2.0})
    with pytest.raises(AssertionError, match="higher is better"):
        check_metric("warmth", good={"warmth": 2.0}, bad={"warmth": 30.0})


def test_made_up_neurons_are_of_two_kinds():
    apart, together = check.made_up_neurons(0), check.made_up_neurons(1)
    assert isinstance(apart, Neurons) and apart.activation_NU.shape == together.activation_NU.shape
    assert apart.selected_NU.sum(1).tolist() == together.selected_NU.sum(1).tolist() == [4.0] * 24
