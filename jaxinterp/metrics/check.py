"""A harness for metrics, built in or one's own: what every metric must hold to.

from jaxinterp.metrics.check import check_metric

def test_my_metric():
    check_metric("my_metric")
"""

import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.errors import UserError
from jaxinterp.facts.encoding import EncodedQueries
from jaxinterp.metrics import builtin  # noqa: F401  (registers the metrics)
from jaxinterp.metrics.answers import ABILITY, measured_answers
from jaxinterp.metrics.columns import get_group, group_names, groups_giving
from jaxinterp.metrics.estimates import estimate
from jaxinterp.metrics.faithfulness import BUDGETS
from jaxinterp.metrics.registry import NEURONS, Metric, Neurons, get_metric
from jaxinterp.metrics.selectors import CHEAP
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.transformer import init
from jaxinterp.quadrature import quadrature

N_FACTS, N_CONCEPTS, N_NEURONS = 24, 3, 40
TOLERANCE = 1e-4  # of comparisons in float32, relative to max(1, |value|)
# What columns are like in a model whose facts sit in neurons of their own, and in one where nothing does: shares of P.
SHARES = {
    "suppressed": (0.05, 0.95),
    "control": (0.99, 0.3),
    "random": (1.0, 0.7),
    "amplified": (1.5, 0.8),
    "mean_ablated": (0.1, 0.97),
    "resampled": (0.06, 0.98),
    "resampled_control": (0.98, 0.7),
    "ablation_suppressed": (0.05, 0.95),
    "ablation_control": (0.99, 0.3),
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
    **{f"{name}_suppressed": (0.1, 0.9) for name in CHEAP},
    **{f"{name}_control": (0.99, 0.5) for name in CHEAP},
}
VALUES = {  # the same of columns that are no probabilities
    **{f"{name}_overlap": (0.9, 0.1) for name in ("ablation", *CHEAP)},
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


def check_metric(name: str, *, good: Mapping[str, float] | None = None, bad: Mapping[str, float] | None = None) -> None:
    """Checks a registered metric: range, direction, permutations, repetition, jit, dtype, NaN, empty input, gradients.

    Made-up columns and neurons stand for a model whose facts sit in neurons of their own and for one where they do not.
    The groups of columns that the metric needs are run once, on a small model that knows nothing.

    Args:
      name: of the metric.
      good, bad: values of columns in a model of the one kind and of the other, in place of those that its group says
        it is like.
    Raises:
      AssertionError: that says what does not hold.
      UserError: if the metric is unknown, or needs a column whose values must be given.
    """
    metric = get_metric(name)
    assert metric.term.definition, f"{name} has no docstring: reports print it"
    check = _check_neurons if metric.of_neurons else _check_columns
    check(metric, dict(good or {}), dict(bad or {}))
    for group in groups_giving(set(metric.needs) - {*ABILITY, *NEURONS, *(good or {})}):
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
    params = init(config, jax.random.key(0))
    found = measured_answers(config, params, queries, k=2, n_relations=2, integral=rule, groups=(name,), rows=16)
    given = set(found.columns) - set(ABILITY)
    assert given == set(group.gives), (
        f"the group {name} says that it gives {', '.join(group.gives)}, and gives {', '.join(sorted(given))}"
    )


def _check_columns(metric: Metric, good: Mapping[str, float], bad: Mapping[str, float]) -> None:
    worlds = {"good": _columns(metric, 0, good), "bad": _columns(metric, 1, bad)}
    fact = np.arange(N_FACTS)
    relation = np.array([f"r{index % N_CONCEPTS}" for index in fact])

    def value(columns: Mapping[str, np.ndarray], index: np.ndarray = fact) -> float:
        columns = {key: column[index] for key, column in columns.items()}
        found = estimate([metric.name], columns, fact[index], relation[index].tolist(), replicates=2)
        return found[metric.name].overall.value

    rng = np.random.default_rng(0)
    for columns in worlds.values():
        found = value(columns)
        _in_range(metric, found)
        _equal(metric, "the order of the facts", found, value(columns, rng.permutation(N_FACTS)))
        _equal(metric, "facts that are there twice", found, value(columns, np.repeat(fact, 2)))
        _of_means(metric, columns)
    _direction(metric, value(worlds["good"]), value(worlds["bad"]))
    missing = {key: np.where(fact == 0, np.nan, column) for key, column in worlds["good"].items()}
    _equal(metric, "a fact that was not measured", value(worlds["good"], fact[1:]), value(missing))
    _empty(metric, {key: column[:0] for key, column in worlds["good"].items()}, {})


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


def _columns(metric: Metric, world: int, given: Mapping[str, float]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(world)
    p = rng.uniform(0.5, 0.7, N_FACTS)
    columns = {}
    of_groups = {name: get_group(name).like for name in group_names()}
    like = {column: values[world] for of in of_groups.values() for column, values in of.items()} | dict(given)
    for column in metric.needs:
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
    if metric.needs == ("probability",):
        columns["probability"] = p * (1.0, 0.5)[world]
    return columns


def _check_neurons(metric: Metric, good: Mapping[str, float], bad: Mapping[str, float]) -> None:
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
        moved = neurons._replace(
            activation_NU=neurons.activation_NU[order],
            selected_NU=neurons.selected_NU[order],
            concept_N=neurons.concept_N[order],
        )
        _equal(metric, "the order of the facts", found, value(moved))
        turned = neurons._replace(
            activation_NU=neurons.activation_NU[:, places], selected_NU=neurons.selected_NU[:, places]
        )
        _equal(metric, "the order of the neurons", found, value(turned))
        padded = Neurons(
            jnp.concatenate([neurons.activation_NU, 5 + neurons.activation_NU[:2]]),
            *(jnp.concatenate([x, x[:2]]) for x in neurons[1:3]),
            jnp.concatenate([neurons.weight_N, jnp.zeros(2)]),
            neurons.n_concepts,
        )
        _equal(metric, "facts of weight 0", found, value(padded))
        jitted = jax.jit(lambda *arrays: metric.formula(Neurons(*arrays, N_CONCEPTS)))(*neurons[:4])
        _equal(metric, "jit", found, float(np.nanmean(np.asarray(jitted))))
        _equal(metric, "the unit of activations", found, value(neurons._replace(activation_NU=3 * neurons[0])))
        with jax.enable_x64(True):
            exact = Neurons(*(jnp.asarray(np.asarray(x), "float64") for x in neurons[:2]), *neurons[2:])
            _equal(metric, "float64", found, value(exact._replace(weight_N=jnp.ones(N_FACTS, "float64"))))
    _direction(metric, value(worlds[0]), value(worlds[1]))
    nothing = worlds[0]._replace(weight_N=jnp.zeros(N_FACTS))
    assert not math.isinf(value(nothing)), f"{metric.name} of no facts is infinite; it must be NaN, or a number"
    _empty(metric, {}, {key: np.zeros((0, N_NEURONS), np.float32) for key in ("activation_NU", "selected_NU")})
    if metric.differentiable:
        _neuron_gradients(metric, worlds[1])


def made_up_neurons(world: int) -> Neurons:
    """0: each relation has four neurons of its own and each fact one more; most others are a little below 0, and two
    never differ from it. 1: half of the neurons are active for everything, and the same four serve all facts.
    """
    rng = np.random.default_rng(world)
    concept = np.arange(N_FACTS) % N_CONCEPTS
    activation, selected = np.zeros((N_FACTS, N_NEURONS)), np.zeros((N_FACTS, N_NEURONS))
    if world == 0:
        own = 4 * N_CONCEPTS + np.arange(N_FACTS)
        for fact in range(N_FACTS):
            relation = slice(4 * concept[fact], 4 * concept[fact] + 4)
            activation[fact, relation] = rng.uniform(1, 2, 4)
            activation[fact, own[fact]] = 2.0
            selected[fact, 4 * concept[fact] : 4 * concept[fact] + 3] = 1
            selected[fact, own[fact]] = 1
        activation -= 0.01 * rng.uniform(size=activation.shape) * (np.arange(N_NEURONS) < 38)
    else:
        activation = rng.uniform(0.5, 1.5, activation.shape) * (np.arange(N_NEURONS) < 20)
        selected[:, :4] = 1
    arrays = (jnp.asarray(x, "float32") for x in (activation, selected))
    return Neurons(*arrays, jnp.asarray(concept), jnp.ones(N_FACTS), N_CONCEPTS)


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
        exact = Neurons(
            *(jnp.asarray(np.asarray(x), "float64") for x in neurons[:2]), *neurons[2:4], neurons.n_concepts
        )
        exact = exact._replace(weight_N=jnp.ones(N_FACTS, "float64"))
        direction = jnp.asarray(np.random.default_rng(2).standard_normal((N_FACTS, N_NEURONS)))
        # What is exactly zero stays so: metrics have kinks there.
        direction = direction * (getattr(exact, field) != 0)

        def along(t: jax.Array) -> jax.Array:
            return jnp.nanmean(metric.formula(exact._replace(**{field: getattr(exact, field) + t * direction})))

        slope = float(jax.grad(along)(jnp.zeros((), "float64")))
        step = 1e-6
        difference = (float(along(jnp.asarray(step))) - float(along(jnp.asarray(-step)))) / (2 * step)
        _equal(metric, "how it is differentiated", slope, difference)
