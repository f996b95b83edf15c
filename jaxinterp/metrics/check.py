"""A harness for metrics, built in or one's own: what every metric must hold to.

from jaxinterp.metrics.check import check_metric

def test_my_metric():
    check_metric("my_metric")
"""

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.attribution.quadrature import quadrature
from jaxinterp.base.errors import UserError
from jaxinterp.facts.encoding import EncodedQueries
from jaxinterp.metrics.answers import measured_answers
from jaxinterp.metrics.check_formula import TOLERANCE, check_means, check_values, equal
from jaxinterp.metrics.columns import GROUPS, groups_giving
from jaxinterp.metrics.estimates import estimate
from jaxinterp.metrics.examples import LanguageExamples
from jaxinterp.metrics.made_up import (
    N_CONCEPTS,
    N_FACTS,
    N_NEURONS,
    UNGROUPED,
    made_up_arrays,
    made_up_columns,
    made_up_neurons,
)
from jaxinterp.metrics.registry import METRICS, NEURONS, Metric, Neurons, base_metrics
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import init


def check_metric(name: str, *, good: Mapping[str, float] | None = None, bad: Mapping[str, float] | None = None) -> None:
    """Checks a registered metric: range, direction, permutations, repetition, jit, dtype, NaN, empty input, gradients.

    Made-up columns and neurons stand for a model whose facts sit in neurons of their own and for one where they do not.
    The groups of columns that the metric needs are run once, on a small model that knows nothing. A derived metric is
    checked with the metrics that it is of.

    Args:
      name: of the metric.
      good, bad: values of columns in a model of the one kind and of the other, in place of those that its group says
        it is like.
    Raises:
      AssertionError: that says what does not hold.
      UserError: if the metric is unknown, or needs a column whose values must be given.
    """
    metric = METRICS[name]
    assert metric.label.definition, f"{name} has no docstring: reports print it"
    needs = {need for base in base_metrics(name) for need in METRICS[base].needs}
    if metric.of_neurons:
        _check_neurons(metric)
    else:
        _check_columns(metric, needs, dict(good or {}), dict(bad or {}))
    for group in groups_giving(needs - {*UNGROUPED, *NEURONS, *(good or {})}):
        _check_group(group)


@functools.cache
def _check_group(name: str) -> None:
    """The columns that a group says it gives, of all answers; groups of whole sets need a language model's facts."""
    group = GROUPS[name]
    if group.of_set:
        return
    config = ModelConfig(d_vocab=9, n_ctx=6, n_layers=2, d_model=8, d_mlp=8, n_heads=2, n_kv_heads=2, d_head=4)
    rng, index = np.random.default_rng(0), np.arange(6)
    length, start, answer = np.full(6, 6), 3 + index % 2, 2 - index % 2
    tokens = rng.integers(1, 9, (6, 6)).astype(np.int32)
    queries = EncodedQueries(tokens, length, start, answer, index, 0 * index, index % 2, index)
    rule = quadrature("midpoint", 2)
    examples = LanguageExamples(Model(config, init(config, jax.random.key(0))), queries)
    found = measured_answers(examples, k=2, n_relations=2, integral=rule, groups=(name,), rows=16)
    given = set(found.columns) - set(UNGROUPED)
    assert given == set(group.gives), (
        f"the group {name} says that it gives {', '.join(group.gives)}, and gives {', '.join(sorted(given))}"
    )


def _check_columns(metric: Metric, needs: set[str], good: Mapping[str, float], bad: Mapping[str, float]) -> None:
    """A metric of columns, or a derived one."""
    worlds = [made_up_columns(needs - set(NEURONS), world, given) for world, given in enumerate((good, bad))]
    arrays = [made_up_arrays(needs, world) for world in (0, 1)]
    fact = np.arange(N_FACTS)
    relation = np.array([f"r{index % N_CONCEPTS}" for index in fact])

    def value(columns: Mapping[str, np.ndarray], world: int, index: np.ndarray = fact) -> float:
        columns = {key: column[index] for key, column in columns.items()}
        neurons = {key: array[index] for key, array in arrays[world].items()}
        names = relation[index].tolist()
        found = estimate([metric.name], columns, fact[index], names, **neurons, relations="fixed", replicates=2)
        return found[metric.name].overall.value

    rng = np.random.default_rng(0)
    for world, columns in enumerate(worlds):
        if metric.of:
            check_values(metric, world)
        found = value(columns, world)
        _in_range(metric, found)
        equal(metric, "the order of the facts", found, value(columns, world, rng.permutation(N_FACTS)))
        equal(metric, "facts that are there twice", found, value(columns, world, np.repeat(fact, 2)))
        if not metric.of:
            check_means(metric, columns)
    _direction(metric, value(worlds[0], 0), value(worlds[1], 1))
    if not arrays[0]:
        missing = {key: np.where(fact == 0, np.nan, column) for key, column in worlds[0].items()}
        equal(metric, "a fact that was not measured", value(worlds[0], 0, fact[1:]), value(missing, 0))
    _empty(metric, *({key: x[:0] for key, x in of.items()} for of in (worlds[0], arrays[0])))


def _check_neurons(metric: Metric) -> None:
    worlds = [made_up_neurons(world) for world in (0, 1)]
    rng = np.random.default_rng(0)

    def value(neurons: Neurons) -> float:
        found = np.asarray(metric.formula(neurons))
        assert found.shape in ((), (neurons.n_concepts,)), f"{metric.name} has the shape {found.shape}"
        return float(np.nanmean(found)) if np.isfinite(found).any() else math.nan

    for neurons in worlds:
        found = value(neurons)
        _in_range(metric, found)
        order, places = rng.permutation(N_FACTS), rng.permutation(N_NEURONS)
        moved = Neurons(*(x[order] for x in neurons[:-1]), N_CONCEPTS)
        equal(metric, "the order of the facts", found, value(moved))
        turned = Neurons(*(x[:, places] for x in neurons[:2]), *neurons[2:])
        equal(metric, "the order of the neurons", found, value(turned))
        padded = neurons._replace(
            activation_NU=jnp.concatenate([neurons.activation_NU, 5 + neurons.activation_NU[:2]]),
            selected_NU=jnp.concatenate([neurons.selected_NU, neurons.selected_NU[:2]]),
            concept_N=jnp.concatenate([neurons.concept_N, neurons.concept_N[:2]]),
            fact_N=jnp.concatenate([neurons.fact_N, N_FACTS + jnp.arange(2)]),
            weight_N=jnp.concatenate([neurons.weight_N, jnp.zeros(2)]),
        )
        equal(metric, "facts of weight 0", found, value(padded))
        twice = Neurons(*(jnp.repeat(x, 2, axis=0) for x in neurons[:-1]), N_CONCEPTS)
        equal(metric, "facts that are there twice", found, value(twice))
        jitted = jax.jit(lambda *arrays: metric.formula(Neurons(*arrays, N_CONCEPTS)))(*neurons[:-1])
        equal(metric, "jit", found, float(np.nanmean(np.asarray(jitted))))
        equal(metric, "the unit of activations", found, value(neurons._replace(activation_NU=3 * neurons[0])))
        with jax.enable_x64(True):
            equal(metric, "float64", found, value(_exact(neurons)))
    _direction(metric, value(worlds[0]), value(worlds[1]))
    nothing = worlds[0]._replace(weight_N=jnp.zeros(N_FACTS))
    assert not math.isinf(value(nothing)), f"{metric.name} of no facts is infinite; it must be NaN, or a number"
    _empty(metric, {}, {key: np.zeros((0, N_NEURONS), np.float32) for key in ("activation_NU", "selected_NU")})
    if metric.differentiable:
        _neuron_gradients(metric, worlds[1])


def _exact(neurons: Neurons) -> Neurons:
    """In float64."""
    names = ("activation_NU", "selected_NU", "weight_N")
    return neurons._replace(**{name: jnp.asarray(np.asarray(getattr(neurons, name)), "float64") for name in names})


def _in_range(metric: Metric, value: float) -> None:
    low, high = metric.range
    slack = TOLERANCE * max(1.0, abs(value))
    assert low - slack <= value <= high + slack, f"{metric.name} is {value:.4g}, outside its range {low} … {high}"


def _direction(metric: Metric, good: float, bad: float) -> None:
    sign = {"higher": 1, "lower": -1, "neither": 0}[metric.better]
    assert sign == 0 or sign * (good - bad) > 0, (
        f"{metric.name} says that {metric.better} is better, and is {good:.4g} for a model whose facts have neurons "
        f"of their own and {bad:.4g} for one whose facts have not"
    )


def _empty(metric: Metric, columns: Mapping[str, np.ndarray], neurons: Mapping[str, np.ndarray]) -> None:
    try:
        estimate([metric.name], columns, np.zeros(0, int), [], **neurons)
    except UserError:
        return
    raise AssertionError(f"{metric.name} has a value where nothing was measured")


def _neuron_gradients(metric: Metric, neurons: Neurons) -> None:
    field = "activation_NU" if "activations" in metric.needs else "selected_NU"
    with jax.enable_x64(True):
        exact = _exact(neurons)
        direction = jnp.asarray(np.random.default_rng(2).standard_normal((N_FACTS, N_NEURONS)))
        # What is exactly zero stays so: metrics have kinks there.
        direction = direction * (getattr(exact, field) != 0)

        def along(t: jax.Array) -> jax.Array:
            return jnp.nanmean(metric.formula(exact._replace(**{field: getattr(exact, field) + t * direction})))

        slope = float(jax.grad(along)(jnp.zeros((), "float64")))
        step = 1e-6
        difference = (float(along(jnp.asarray(step))) - float(along(jnp.asarray(-step)))) / (2 * step)
        equal(metric, "how it is differentiated", slope, difference)
