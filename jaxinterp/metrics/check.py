"""A harness for metrics, built in or one's own: what every metric must hold to.

from jaxinterp.metrics.check import check_metric

def test_my_metric():
    check_metric("my_metric")
"""

import functools
import math
import warnings
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.attribution.quadrature import quadrature
from jaxinterp.base.errors import UserError
from jaxinterp.facts.controls import CONTROL_KINDS, KINDS
from jaxinterp.facts.encoding import EncodedQueries
from jaxinterp.metrics.answers import ABILITY, LENGTHS, measured_answers
from jaxinterp.metrics.columns import get_group, group_names, groups_giving
from jaxinterp.metrics.estimates import estimate
from jaxinterp.metrics.examples import LanguageExamples
from jaxinterp.metrics.families.faithfulness import BUDGETS
from jaxinterp.metrics.families.selectors import CHEAP
from jaxinterp.metrics.families.suppression import CLEAN
from jaxinterp.metrics.registry import METRICS, NEURONS, Metric, Neurons, base_metrics
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import init

N_FACTS, N_CONCEPTS, N_NEURONS = 24, 3, 90
SELECTORS = ("ablation", *CHEAP)
TOLERANCE = 1e-4  # of comparisons in float32, relative to max(1, |value|)
# What built-in columns are like in a model whose facts sit in neurons of their own, and in one where nothing does: as
# shares of P. A group of one's own says it itself, by `like`, and so may a built-in one.
SHARES = {
    "suppressed": (0.05, 0.95),
    **{f"control_{kind}": (0.99, 0.3) for kind in KINDS},
    **{f"control_{kind}_lost": (0.02, 0.7) for kind in KINDS},
    **{f"control_{kind}_moved": (0.03, 0.7) for kind in KINDS},
    "random": (1.0, 0.7),
    "amplified": (1.5, 0.8),
    "token_probability": (1.0, 1.0),
    "token_suppressed": (0.1, 0.97),
    "each_suppressed": (0.04, 0.94),
    **{f"suppressed_length_{n}": (0.05, 0.95) for n in LENGTHS},
    **{f"suppressed_{name}": (0.05, 0.95) for name in CLEAN},
    "mean_ablated": (0.1, 0.97),
    "resampled": (0.06, 0.98),
    **{f"resampled_control_{kind}": (0.98, 0.7) for kind in CONTROL_KINDS},
    "paraphrase_suppressed": (0.1, 0.9),
    "restored": (0.1, 0.9),
    **{f"without_{k}": (0.1, 0.9) for k in BUDGETS},
    "deletion_area": (0.1, 0.8),
    "insertion_area": (0.9, 0.1),
    "kept_alone": (0.8, 0.05),
    "nothing_kept": (0.01, 0.01),
    "interchanged": (0.9, 0.02),
    "interchange_base": (0.01, 0.01),
    "erased": (0.1, 0.1),
    "relearned": (0.12, 0.9),
    **{f"{name}_suppressed": (0.1, 0.9) for name in SELECTORS},
    **{f"{name}_control_{kind}": (0.99, 0.5) for name in SELECTORS for kind in CONTROL_KINDS},
}
VALUES = {  # the same of columns that are no probabilities
    **{f"{name}_overlap": (0.9, 0.1) for name in SELECTORS},
    "ablation_rank_agreement": (0.9, 0.1),
    "attribution_share": (0.9, 0.1),
    "suppressed_ratio": (0.05, 0.95),
    "log_probability": (-0.3, -0.3),
    "suppressed_log_probability": (-4.0, -0.4),
    "log_odds": (1.0, 1.0),
    "suppressed_log_odds": (-4.0, 0.9),
    "residual": (1e-4, 0.2),
    "correct": (0.95, 0.3),
    "sentence_nll": (10.0, 30.0),
    "sentence_tokens": (8.0, 8.0),
    **{f"probe_{name}": (0.95, 0.4) for name in (1, 2, 5, "all")},
}
# Columns that `measure` makes without a group.
UNGROUPED = {*ABILITY, *(f"suppressed_{name}" for name in CLEAN)}


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
    group = get_group(name)
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
    given = set(found.columns) - set(ABILITY)
    assert given == set(group.gives), (
        f"the group {name} says that it gives {', '.join(group.gives)}, and gives {', '.join(sorted(given))}"
    )


def _check_columns(metric: Metric, needs: set[str], good: Mapping[str, float], bad: Mapping[str, float]) -> None:
    """A metric of columns, or a derived one."""
    worlds = [_columns(needs - set(NEURONS), world, given) for world, given in enumerate((good, bad))]
    arrays = [_arrays(needs, world) for world in (0, 1)]
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
            _of_values(metric, world)
        found = value(columns, world)
        _in_range(metric, found)
        _equal(metric, "the order of the facts", found, value(columns, world, rng.permutation(N_FACTS)))
        _equal(metric, "facts that are there twice", found, value(columns, world, np.repeat(fact, 2)))
        if not metric.of:
            _of_means(metric, columns)
    _direction(metric, value(worlds[0], 0), value(worlds[1], 1))
    if not arrays[0]:
        missing = {key: np.where(fact == 0, np.nan, column) for key, column in worlds[0].items()}
        _equal(metric, "a fact that was not measured", value(worlds[0], 0, fact[1:]), value(missing, 0))
    _empty(metric, *({key: x[:0] for key, x in of.items()} for of in (worlds[0], arrays[0])))


def _arrays(needs: set[str], world: int) -> dict[str, np.ndarray]:
    """Those of the made-up neurons that a derived metric needs."""
    neurons = made_up_neurons(world)
    known = {
        "activations": ("activation_NU", neurons.activation_NU),
        "selections": ("selected_NU", neurons.selected_NU),
    }
    return {key: np.asarray(array) for need, (key, array) in known.items() if need in needs}


def _of_values(metric: Metric, world: int) -> None:
    """Shape, missing values and differentiability of the formula of a derived metric."""
    rng = np.random.default_rng(world)
    values = {name: rng.uniform(*_bounds(METRICS[name]), (4, 2)) for name in metric.of}
    found = _derived(metric, values)
    assert found.shape == (4, 2), f"{metric.name} turns values of the shape (4, 2) into {found.shape}"
    nothing = _derived(metric, {name: np.full((4, 2), np.nan) for name in metric.of})
    assert np.isnan(nothing).all(), f"{metric.name} has a value where nothing was measured"
    alone = [_derived(metric, {name: x[row : row + 1] for name, x in values.items()}) for row in range(4)]
    for a, b in zip(found.ravel(), np.concatenate(alone).ravel(), strict=True):
        _equal(metric, "the number of samples", float(a), float(b))
    for name in metric.of:
        holed = {key: x.copy() for key, x in values.items()}
        holed[name][0, 0] = np.nan
        rest = _derived(metric, holed).ravel()[1:]
        for a, b in zip(found.ravel()[1:], rest, strict=True):
            _equal(metric, f"a missing value of {name} in another sample", float(a), float(b))
        if not metric.every:
            only = _derived(metric, {name: values[name]})
            assert np.isfinite(only).all(), f"{metric.name} has no value where {name} alone was measured"
            there = np.isfinite(_derived(metric, holed)).all() or len(metric.of) == 1
            assert there, f"{metric.name} has no value in a sample where {name} has none and others have"
        if metric.differentiable:
            slopes = [
                (_derived(metric, {**values, name: values[name] + step}) - found) / step for step in (1e-6, -1e-6)
            ]
            for a, b in zip(*(slope.ravel() for slope in slopes), strict=True):
                _equal(metric, f"the side from which {name} is differentiated", float(a), float(b))


def _bounds(metric: Metric) -> tuple[float, float]:
    """Inside a metric's range, around 0.5."""
    low, high = metric.range
    return max(low, min(high, 1.0) - 1.0), min(high, max(low, 0.0) + 1.0)


def _derived(metric: Metric, values: Mapping[str, np.ndarray]) -> np.ndarray:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = np.asarray(metric.formula(values))
    assert not caught, f"{metric.name} warns: {caught[0].message}"
    return found


def _of_means(metric: Metric, columns: Mapping[str, np.ndarray]) -> None:
    """jit, dtype and gradients of the formula as a function of means."""
    means = {key: float(columns[key].mean()) for key in metric.needs}

    def formula(values: Mapping[str, jax.Array]) -> jax.Array:
        return jnp.sum(metric.formula(lambda column: values[column][None, None]))

    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            values = {key: jnp.asarray(value, dtype) for key, value in means.items()}
            found = formula(values)
            assert found.dtype == dtype, f"{metric.name} turns {dtype} into {found.dtype}"
            _equal(metric, f"jit, in {dtype}", float(found), float(jax.jit(formula)(values)))
    if metric.differentiable:
        _gradients(metric, formula, means)


def _columns(needs: set[str], world: int, given: Mapping[str, float]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(world)
    p = rng.uniform(0.5, 0.7, N_FACTS)
    columns = {}
    of_groups = {name: get_group(name).like for name in group_names()}
    like = {column: values[world] for of in of_groups.values() for column, values in of.items()} | dict(given)
    for column in sorted(needs):
        if column in like:
            columns[column] = np.full(N_FACTS, float(like[column])) + 1e-3 * rng.uniform(size=N_FACTS)
        elif column == "probability":
            columns[column] = p
        elif column in SHARES:
            columns[column] = p * SHARES[column][world]
        elif column in VALUES:
            columns[column] = np.full(N_FACTS, VALUES[column][world]) * rng.uniform(0.99, 1.01, N_FACTS)
        else:
            groups_giving([column])  # says if there is no such column
            raise UserError(f"check_metric does not know the column {column!r}: say in its group what it is like")
    if needs == {"probability"}:
        columns["probability"] = p * (1.0, 0.5)[world]
    return columns


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
        moved = neurons._replace(**{name: getattr(neurons, name)[order] for name in BY_ANSWER})
        _equal(metric, "the order of the facts", found, value(moved))
        turned = neurons._replace(
            activation_NU=neurons.activation_NU[:, places], selected_NU=neurons.selected_NU[:, places]
        )
        _equal(metric, "the order of the neurons", found, value(turned))
        padded = neurons._replace(
            activation_NU=jnp.concatenate([neurons.activation_NU, 5 + neurons.activation_NU[:2]]),
            selected_NU=jnp.concatenate([neurons.selected_NU, neurons.selected_NU[:2]]),
            concept_N=jnp.concatenate([neurons.concept_N, neurons.concept_N[:2]]),
            fact_N=jnp.concatenate([neurons.fact_N, N_FACTS + jnp.arange(2)]),
            weight_N=jnp.concatenate([neurons.weight_N, jnp.zeros(2)]),
        )
        _equal(metric, "facts of weight 0", found, value(padded))
        twice = neurons._replace(
            **{name: jnp.repeat(getattr(neurons, name), 2, axis=0) for name in BY_ANSWER},
        )
        _equal(metric, "facts that are there twice", found, value(twice))
        jitted = jax.jit(lambda *arrays: metric.formula(Neurons(*arrays, N_CONCEPTS)))(*neurons[:-1])
        _equal(metric, "jit", found, float(np.nanmean(np.asarray(jitted))))
        _equal(metric, "the unit of activations", found, value(neurons._replace(activation_NU=3 * neurons[0])))
        with jax.enable_x64(True):
            _equal(metric, "float64", found, value(_exact(neurons)))
    _direction(metric, value(worlds[0]), value(worlds[1]))
    nothing = worlds[0]._replace(weight_N=jnp.zeros(N_FACTS))
    assert not math.isinf(value(nothing)), f"{metric.name} of no facts is infinite; it must be NaN, or a number"
    _empty(metric, {}, {key: np.zeros((0, N_NEURONS), np.float32) for key in ("activation_NU", "selected_NU")})
    if metric.differentiable:
        _neuron_gradients(metric, worlds[1])


BY_ANSWER = ("activation_NU", "selected_NU", "concept_N", "fact_N", "weight_N")  # fields with an entry an answer


def made_up_neurons(world: int) -> Neurons:
    """0: each relation has four neurons of its own and each fact three more, which are its knowledge neurons with one
    of the relation's; most others are a little below 0, and two never differ from it. 1: half of the neurons are active
    for everything, and the same four serve all facts.
    """
    rng = np.random.default_rng(world)
    concept = np.arange(N_FACTS) % N_CONCEPTS
    activation, selected = np.zeros((N_FACTS, N_NEURONS)), np.zeros((N_FACTS, N_NEURONS))
    if world == 0:
        for fact in range(N_FACTS):
            relation, own = 4 * concept[fact], 4 * N_CONCEPTS + 3 * fact
            activation[fact, relation : relation + 4] = rng.uniform(1, 2, 4)
            activation[fact, own : own + 3] = 2.0
            selected[fact, [relation, own, own + 1, own + 2]] = 1
        activation -= 0.01 * rng.uniform(size=activation.shape) * (np.arange(N_NEURONS) < N_NEURONS - 2)
    else:
        activation = rng.uniform(0.5, 1.5, activation.shape) * (np.arange(N_NEURONS) < N_NEURONS // 2)
        selected[:, :4] = 1
    arrays = (jnp.asarray(x, "float32") for x in (activation, selected))
    return Neurons(*arrays, jnp.asarray(concept), jnp.arange(N_FACTS), jnp.ones(N_FACTS), N_CONCEPTS)


def _exact(neurons: Neurons) -> Neurons:
    """In float64."""
    names = ("activation_NU", "selected_NU", "weight_N")
    return neurons._replace(**{name: jnp.asarray(np.asarray(getattr(neurons, name)), "float64") for name in names})


def _in_range(metric: Metric, value: float) -> None:
    low, high = metric.range
    slack = TOLERANCE * max(1.0, abs(value))
    assert low - slack <= value <= high + slack, f"{metric.name} is {value:.4g}, outside its range {low} … {high}"


def _equal(metric: Metric, what: str, a: float, b: float) -> None:
    close = math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE) or (math.isnan(a) and math.isnan(b))
    assert close, f"{metric.name} changes with {what}: {a} and {b}"


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


def _gradients(metric: Metric, formula: Callable, means: Mapping[str, float]) -> None:
    with jax.enable_x64(True):
        values = {key: jnp.asarray(value, "float64") for key, value in means.items()}
        slope = jax.grad(formula)(values)
        for key in values:
            step = 1e-5 * max(1.0, abs(means[key]))
            above, below = (float(formula({**values, key: values[key] + sign * step})) for sign in (1, -1))
            _equal(metric, f"how it is differentiated by {key}", float(slope[key]), (above - below) / (2 * step))


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
        _equal(metric, "how it is differentiated", slope, difference)
