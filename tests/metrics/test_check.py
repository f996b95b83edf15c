"""Every built-in metric passes the harness, and broken metrics do not."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from jaxinterp.attribution.edits import suppress
from jaxinterp.base.errors import UserError
from jaxinterp.cli.metrics import described, needed
from jaxinterp.metrics import check, columns
from jaxinterp.metrics.check import check_metric
from jaxinterp.metrics.columns import column_group
from jaxinterp.metrics.families.specificity import overlap_within
from jaxinterp.metrics.families.suppression import suppressability
from jaxinterp.metrics.made_up import made_up_neurons
from jaxinterp.metrics.registry import METRICS, Label, Metric, Neurons, derived, largest, metric


@pytest.mark.parametrize("name", METRICS.names())
def test_built_in(name):
    check_metric(name)


def forget(registry, monkeypatch):
    """After the test the registry has what it has now."""
    registry.names()
    for field in ("registered", "_module"):
        monkeypatch.setattr(registry, field, dict(getattr(registry, field)))


@pytest.fixture
def broken(monkeypatch):
    """Checks a changed copy of a built-in metric, or a new one."""
    forget(METRICS, monkeypatch)

    def checked(name, **changes):
        changed = dataclasses.replace(BUILT_IN[name], name=f"broken_{name}", **changes)
        METRICS.add(changed.name, changed, "")
        check_metric(changed.name)

    return checked


BUILT_IN = {name: METRICS[name] for name in METRICS.names()}


@pytest.mark.parametrize("name", [name for name in BUILT_IN if BUILT_IN[name].better != "neither"])
def test_a_flipped_sign_is_caught(name, broken):
    formula = BUILT_IN[name].formula
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
        ("purity", {"label": Label("Purity", "")}, "has no docstring"),
        ("gini", {"formula": lambda n: n.activation_NU.mean(1)}, "has the shape"),
        # Counts prompts of one fact as pairs.
        (
            "overlap_within",
            {"formula": lambda n: overlap_within(n._replace(fact_N=jnp.arange(len(n.fact_N))))},
            "twice",
        ),
        ("selective", {"formula": lambda v: v["control_drop"] - v["suppressability"]}, "higher is better"),
        ("selective", {"formula": lambda v: v["suppressability"] - v["control_drop"].mean()}, "number of samples"),
        ("selective", {"formula": lambda v: np.mean(list(v.values()))}, r"of the shape \(4, 2\) into \(\)"),
        (
            "selective",
            {"formula": lambda v: np.floor(7e5 * (v["suppressability"] - v["control_drop"])) / 7e5},
            "the side from",
        ),
        ("selective", {"range": (0.0, 0.5)}, "outside its range"),
        ("control_drop", {"formula": lambda v: np.max(list(v.values()), 0)}, "has no value in a sample where"),
        ("control_drop", {"formula": lambda v: np.nanmax(list(v.values()), 0)}, "control_drop warns: All-NaN"),
        ("control_drop", {"formula": lambda v: np.nan_to_num(largest(v))}, "has a value where nothing was measured"),
    ],
)
def test_broken_copies_are_caught(name, changes, message, broken):
    with pytest.raises(AssertionError, match=message):
        broken(name, **changes)


def test_columns_of_ones_own_need_values(broken, monkeypatch):
    warmth = Metric(
        "warmth",
        ("warmth",),
        Label("Warmth", "How warm it is."),
        lambda mean: mean("warmth"),
        (0.0, math.inf),
        "higher",
        "none",
        True,
        "",
    )
    METRICS.add("warmth", warmth, "")
    with pytest.raises(UserError, match="no group of columns gives 'warmth'"):
        check_metric("warmth")
    check_metric("warmth", good={"warmth": 30.0}, bad={"warmth": 2.0})
    with pytest.raises(AssertionError, match="higher is better"):
        check_metric("warmth", good={"warmth": 2.0}, bad={"warmth": 30.0})


@pytest.fixture
def groups(monkeypatch):
    """Groups of columns that are forgotten after the test."""
    forget(columns.GROUPS, monkeypatch)
    monkeypatch.setattr(check, "_check_group", check._check_group.__wrapped__)


def test_a_column_of_ones_own_says_what_it_is_like_and_is_run(broken, groups):
    def warm(name, gives, column):
        column_group(name, gives=gives, cost="passes")(column)
        metric(name, needs=tuple(gives), title="Warmth", better="higher")(documented)

    def documented(mean):
        """How warm it is."""
        return mean(next(iter(columns.GROUPS[name].gives)))

    def probability(measured):
        return {"warmth": measured.probability(suppress(measured.mask_LRF))}

    name = "without"
    warm(name, ("no_likeness",), probability)
    with pytest.raises(UserError, match="does not know the column 'no_likeness': say in its group what it is like"):
        check_metric(name)
    name = "good"
    warm(name, {"warmth": (0.9, 0.1)}, probability)
    check_metric(name)
    name = "other"
    warm(name, {"cold": (0.9, 0.1)}, probability)
    with pytest.raises(AssertionError, match="the group other says that it gives cold, and gives warmth"):
        check_metric(name)
    name = "failing"
    warm(name, {"hot": (0.9, 0.1)}, lambda measured: measured.no_such_thing)
    with pytest.raises(AttributeError):
        check_metric(name)


def test_mistakes_in_the_decorators(broken, groups):
    # The tests' own check of types is faster in some.
    mistake = (ValueError, TypeCheckError)
    with pytest.raises(mistake, match=r"needs must be a tuple of names, such as \('probability',\)|parameter 'needs'"):
        metric("mine", needs=("halved"), title="Mine")
    with pytest.raises(mistake, match=r"better must be one of higher, lower, neither, got 'up'|parameter 'better'"):
        metric("mine", needs=("probability",), title="Mine", better="up")
    with pytest.raises(mistake, match=r"cost must be one of base, .*, got 'cheap'|parameter 'cost'"):
        column_group("mine", gives=("mine",), cost="cheap")
    with pytest.raises(mistake, match=r"gives must be a tuple of names, got 'mine'|parameter 'gives'"):
        column_group("mine", gives="mine", cost="passes")
    metric("typo", needs=("supressed",), title="Typo")(suppressability)
    with pytest.raises(UserError, match="no group of columns gives 'supressed'; did you mean suppressed"):
        check_metric("typo")
    metric("forgotten", needs=("probability",), title="Forgotten")(suppressability)
    with pytest.raises(UserError, match="'forgotten' takes the mean of 'suppressed', which is not in its needs"):
        check_metric("forgotten")


def test_made_up_neurons_are_of_two_kinds():
    apart, together = made_up_neurons(0), made_up_neurons(1)
    assert isinstance(apart, Neurons) and apart.activation_NU.shape == together.activation_NU.shape
    assert apart.selected_NU.sum(1).tolist() == together.selected_NU.sum(1).tolist() == [4.0] * 24
    # Where facts have neurons of their own they share one of four with their relation; otherwise all.
    for found, expected in ((apart, 0.25), (together, 1.0)):
        assert overlap_within(found).tolist() == pytest.approx([expected] * 3)


def test_mistakes_in_derived_metrics(broken):
    mistake = (ValueError, TypeCheckError)
    with pytest.raises(mistake, match=r"of must be a tuple of metrics, such as \('recall',\)|parameter 'of'"):
        derived("mine", of=("recall"), title="Mine")
    with pytest.raises(mistake, match=r"masks must be one of hard, soft, none, got 'weak'|parameter 'masks'"):
        derived("mine", of=("recall",), title="Mine", masks="weak")
    derived("mine", of=("suppressabilty",), title="Mine")(doubled)
    with pytest.raises(UserError, match="unknown metric 'suppressabilty'; did you mean suppressability"):
        check_metric("mine")
    derived("ours", of=("recall",), title="Ours", better="higher")(doubled)
    check_metric("ours")
    # Of a metric of neurons, and of another derived one.
    derived("both", of=("overlap_across", "ours"), every=False, title="Both")(largest_documented)
    check_metric("both")


def doubled(values):
    """Twice what it is of."""
    return 2 * next(iter(values.values()))


def largest_documented(values):
    """The largest."""
    return largest(values)


def test_the_list_says_what_derived_metrics_are_of():
    entries = {entry["name"]: entry for entry in described()}
    assert needed(entries["selective"]) == "metrics suppressability, control_drop"
    assert needed(entries["control_drop"]).startswith("some of the metrics control_drop_relation, ")
    assert needed(entries["suppressability"]) == "probability, suppressed"
    assert [entries[name]["of"] for name in ("selective", "recall", "gini")] == ["metrics", "columns", "neurons"]
    assert entries["ablation_selective"]["cost"] == "ablations"
