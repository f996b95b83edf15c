"""Examples of any readout: every figure against a slow loop in numpy, controls, what needs text, mistakes, training."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

from jaxinterp.attribution.readout import FunctionReadout
from jaxinterp.base.errors import UserError
from jaxinterp.facts.controls import KINDS
from jaxinterp.metrics.columns import GROUPS
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.examples import ReadoutExamples
from jaxinterp.metrics.measure import measure_examples
from jaxinterp.metrics.registry import METRICS
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training.readout_step import objective_step
from jaxinterp.training.state import first_state

L, D, F, V, N, K = 2, 5, 6, 4, 12, 2
POINTS, SEED = 5, 3
RELATIONS = ("shape", "colour", "size")
RELATION_N = np.arange(N) % 3
SUBJECT_N = 100 + np.arange(N) // 3  # apart from the answers' numbers
ANSWER_N = np.array([0, 1, 2, 1, 0, 2, 0, 3, 1, 2, 3, 3])
CONFIG = MeasureConfig(k=K, points=POINTS, seed=SEED, controls=N, rows=5, replicates=10)  # all controls there are


def network(seed, n=N, f=F, v=V):
    """Inputs of n examples, and the weights of two hidden layers and of what is read."""
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(shape) for shape in ((n, D), (D, f), (f, f), (f, v)))


INPUTS = network(0)


def probability(gates_LRF, x_RD, answer_R, w_DF, w_FF, w_FV):
    """P(answer) of each row."""
    first_RF = gates_LRF[0] * jax.nn.relu(x_RD @ w_DF)
    second_RF = gates_LRF[1] * jax.nn.relu(first_RF @ w_FF)
    return jnp.take_along_axis(jax.nn.softmax(second_RF @ w_FV), answer_R[:, None], axis=1)[:, 0]


def units(x_D, w_DF, w_FF):
    first_F = np.maximum(x_D @ w_DF, 0)
    return np.stack([first_F, np.maximum(first_F @ w_FF, 0)])


def read(number_R):
    x_ND, *weights = INPUTS
    units_LRF = np.stack([units(x_ND[n], *weights[:2]) for n in number_R], axis=1)
    inputs = (x_ND[number_R], ANSWER_N[number_R], *weights)
    return FunctionReadout(probability, units_LRF.shape, jnp.asarray(units_LRF), tuple(map(jnp.asarray, inputs)))


def examples():
    return ReadoutExamples(read, (L, F), ANSWER_N, RELATION_N, SUBJECT_N)


def slow_p(n, gates_LF):
    """P(answer) of one example."""
    x_ND, w_DF, w_FF, w_FV = INPUTS
    first_F = gates_LF[0] * np.maximum(x_ND[n] @ w_DF, 0)
    logits_V = gates_LF[1] * np.maximum(first_F @ w_FF, 0) @ w_FV
    return np.exp(logits_V[ANSWER_N[n]]) / np.exp(logits_V).sum()


def slow_scores(n):
    """Integrated gradients along each layer's own path by the midpoint rule, with central differences."""
    scores_LF = np.zeros((L, F))
    for layer, unit, point in np.ndindex(L, F, POINTS):
        gates = np.ones((L, F))
        gates[layer] = (point + 0.5) / POINTS
        step = np.zeros((L, F))
        step[layer, unit] = 1e-6
        scores_LF[layer, unit] += (slow_p(n, gates + step) - slow_p(n, gates - step)) / 2e-6 / POINTS
    return scores_LF


def slow_residual(n):
    """How far the scores of each layer are from adding up, a mean over layers."""
    off_LLF = 1 - np.eye(L)[:, :, None] * np.ones(F)
    change_L = [slow_p(n, np.ones((L, F))) - slow_p(n, off_LF) for off_LF in off_LLF]
    return np.abs(slow_scores(n).sum(1) - change_L).mean()


@functools.cache
def slow_neurons(n, k=K):
    """The k units of the highest scores, as (layer, unit)."""
    return [divmod(unit, F) for unit in np.argsort(-slow_scores(n).ravel(), kind="stable")[:k]]


def edited(n, neurons, gate=0.0):
    gates = np.ones((L, F))
    for place in neurons:
        gates[place] = gate
    return slow_p(n, gates)


def is_control(kind, n, other):
    relation, subject, answer = (x[n] == x[other] for x in (RELATION_N, SUBJECT_N, ANSWER_N))
    return {
        "relation": relation and not subject and not answer,
        "subject": subject and not relation and not answer,
        "other": not (relation or subject or answer),
        "answer": answer and not subject,
    }[kind]


def slow_control(kind, n):
    """P with each control's units off in turn, a mean; NaN without a control."""
    controls = [other for other in range(N) if is_control(kind, n, other)]
    return np.mean([edited(n, slow_neurons(other)) for other in controls]) if controls else np.nan


def slow_random(n):
    """P with as many active units of each layer off, by the example's own key."""
    draw_LF = jax.random.uniform(jax.random.fold_in(jax.random.key(SEED), n), (L, 1, F))[:, 0]
    active_LF = units(INPUTS[0][n], *INPUTS[1:3]) > 0
    chosen = []
    for layer in range(L):
        order = sorted(range(F), key=lambda unit: (not active_LF[layer, unit], draw_LF[layer, unit]))
        chosen += [(layer, unit) for unit in order[: sum(place[0] == layer for place in slow_neurons(n))]]
    return edited(n, chosen)


def slow_drop(values_N):
    """1 − mean / mean P inside each relation, over the examples that have a value; a mean over relations."""
    p_N = np.array([slow_p(n, np.ones((L, F))) for n in range(N)])
    there_N = ~np.isnan(values_N)
    inside = [(relation == RELATION_N) & there_N for relation in range(len(RELATIONS))]
    return np.mean([1 - values_N[among].mean() / p_N[among].mean() for among in inside if among.any()])


def slow_gini(n):
    size = np.abs(units(INPUTS[0][n], *INPUTS[1:3])).ravel()
    return np.abs(size[:, None] - size).sum() / (2 * len(size) * size.sum())


def slow_overlap():
    """Of each relation, the mean share of units that two of its examples have in common; a mean."""
    chosen = [set(slow_neurons(n)) for n in range(N)]
    pairs = [(a, b) for a, b in np.ndindex(N, N) if a != b and RELATION_N[a] == RELATION_N[b]]
    return np.mean(
        [np.mean([len(chosen[a] & chosen[b]) / K for a, b in pairs if RELATION_N[a] == r]) for r in range(3)]
    )


def values(names, given=None):
    config = dataclasses.replace(CONFIG, metrics=names)
    return measure_examples({"toys": given or examples()}, RELATIONS, config).sets["toys"]


def test_every_figure_is_that_of_a_slow_loop(float64):
    slow = {
        "suppressability": slow_drop(np.array([edited(n, slow_neurons(n)) for n in range(N)])),
        **{f"control_drop_{kind}": slow_drop(np.array([slow_control(kind, n) for n in range(N)])) for kind in KINDS},
        "random_drop": slow_drop(np.array([slow_random(n) for n in range(N)])),
        "amplification": -slow_drop(np.array([edited(n, slow_neurons(n), 2.0) for n in range(N)])),
        "drop_at_1": slow_drop(np.array([edited(n, slow_neurons(n, 1)) for n in range(N)])),
        "drop_at_4": slow_drop(np.array([edited(n, slow_neurons(n, 4)) for n in range(N)])),
        "completeness_residual": np.mean([slow_residual(n) for n in range(N)]),
        "overlap_within": slow_overlap(),
    }
    found = values((*slow, "control_drop", "gini"))
    for name, value in slow.items():
        np.testing.assert_allclose(found[name].overall.value, value, rtol=1e-6, err_msg=name)
    worst = max(slow[f"control_drop_{kind}"] for kind in KINDS[:3])
    np.testing.assert_allclose(found["control_drop"].overall.value, worst, rtol=1e-6)
    np.testing.assert_allclose(found["gini"].overall.value, np.mean([slow_gini(n) for n in range(N)]), rtol=1e-5)
    assert len({round(value, 6) for value in slow.values()}) == len(slow), "no two figures are the same by chance"
    assert set(found["suppressability"].by_relation) == set(RELATIONS)


TEXT = {name for name in GROUPS.names() if GROUPS[name].text}


def test_a_metric_of_text_is_told_by_its_name():
    for name in ("paraphrase_suppressability", "edit_success"):
        with pytest.raises(UserError) as told:
            values(("suppressability", name))
        assert str(told.value) == f"metric {name!r} needs a language model's text, which these examples do not have"


@pytest.mark.parametrize("names", [(), ("all",)])
def test_groups_of_text_are_left_out_unless_they_are_named(names):
    found = values(names)
    of_text = {column for name in TEXT for column in GROUPS[name].gives}
    assert {"suppressability", "control_drop"} <= set(found)
    assert not any(of_text & set(METRICS[name].needs) for name in found)
    if names:  # what costs more than the defaults, and needs no text
        assert {"drop_at_4", "deletion_area", "gini", "probe_all"} <= set(found)


def test_a_readout_without_activations_is_measured_by_default():
    """Its neurons all count as active."""

    def without(number_R):
        return dataclasses.replace(read(number_R), neurons_LRF=None)

    whole, bare = (
        measure_examples({"all": dataclasses.replace(examples(), read=of)}, RELATIONS, CONFIG).sets["all"]
        for of in (read, without)
    )
    assert {"suppressability", "control_drop", "ablation_rank_agreement"} <= set(bare)
    assert bare["suppressability"].overall.value == whole["suppressability"].overall.value


def test_answers_of_a_batch_have_the_right_controls():
    answers = examples().answers(np.random.default_rng(0), 2)
    assert answers.control_XR.shape == (2 * 3, N)
    for x, kind in enumerate(np.repeat(KINDS[:3], 2)):
        for n in range(N):
            fits = [other for other in range(N) if is_control(kind, n, other)]
            assert answers.control_weight_XN[x, n] == (len(fits) > x % 2)
            assert answers.control_XR[x, n] in (fits if len(fits) > x % 2 else [n])
    for first, second in answers.control_XR.reshape(3, 2, N).transpose(0, 2, 1).reshape(-1, 2):
        assert first != second or answers.control_weight_XN[:, first].min() == 0

    # A classifier: all images share a relation, each is its own subject, and a control shows another digit.
    digit_N = np.random.default_rng(1).integers(0, 10, 40)
    plain = ReadoutExamples(read, (L, F), digit_N)
    for seed in range(5):
        answers = plain.answers(np.random.default_rng(seed))
        assert answers.control_weight_XN.tolist() == [[1] * 40, [0] * 40, [0] * 40]
        assert (digit_N[answers.control_XR[0]] != digit_N).all()
        assert (answers.control_XR[1:] == np.arange(40)).all()


@pytest.mark.parametrize("name", ["relation_N", "subject_N", "correct_N", "number_N"])
def test_lengths_that_differ_are_told(name):
    jaxtyping.config.update("jaxtyping_disable", True)  # it would tell first; users have no such check
    values_N = np.zeros(11, float if name == "correct_N" else int)
    try:
        with pytest.raises(UserError, match=f"{name} has 11 values for 12 answers; give one for each"):
            ReadoutExamples(read, (L, F), ANSWER_N, **{name: values_N})
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_metrics_of_neurons_need_activations():
    blind = dataclasses.replace(examples(), read=lambda number_R: read(number_R).replace(neurons_LRF=None))
    with pytest.raises(UserError, match="metrics of neurons need activations; give the readout its neurons_LRF"):
        values(("overlap_within",), blind)


def test_examples_that_only_give_answers_are_not_measured():
    with pytest.raises(UserError, match="cannot be read; give them the function `read`"):
        values(("probability",), dataclasses.replace(examples(), read=None))


def test_some_examples_are_read_by_their_own_numbers(float64):
    index = np.array([7, 2, 9])
    probability = values(("probability",), examples()[index])["probability"].overall.value
    by_relation = [[slow_p(n, np.ones((L, F))) for n in index if RELATION_N[n] == r] for r in range(3)]
    np.testing.assert_allclose(probability, np.mean([np.mean(p) for p in by_relation if p]), rtol=1e-6)


def test_training_raises_s_above_c():
    n, n_units, n_classes = 16, 24, 4
    x_ND, *weights = (x.astype(np.float32) for x in network(0, n, n_units, n_classes))
    answer_N = np.arange(n) % n_classes
    x_ND = 0.3 * x_ND + np.eye(n_classes, D, dtype=np.float32)[answer_N]

    def readout(weights, number_R):
        first_RF = jax.nn.relu(x_ND[number_R] @ weights[0])
        units_LRF = jnp.stack([first_RF, jax.nn.relu(first_RF @ weights[1])])
        return FunctionReadout(probability, units_LRF.shape, units_LRF, (x_ND[number_R], answer_N[number_R], *weights))

    def read(weights, answers):
        found = readout(weights, np.arange(n))
        return -jnp.log(found.untouched()).mean(), found, answers

    def trained(**schedules):
        transform, rng = optax.adam(1e-2), np.random.default_rng(0)
        step = objective_step(read, ObjectiveConfig(schedules, k=K, control_kinds=("relation",)), transform)
        scaled = [jnp.asarray(w / len(w) ** 0.5) for w in weights]
        state = first_state(scaled, transform, jax.random.key(0))
        for number in range(150):
            state, _ = step(state, ReadoutExamples(None, (L, n_units), answer_N).answers(rng), number)
        return state.params

    def s_c_p(weights):
        toys = ReadoutExamples(lambda number_R: readout(weights, number_R), (L, n_units), answer_N)
        found = values(("suppressability", "control_drop", "probability"), toys)
        return [estimates.overall.value for estimates in found.values()]

    plain, suppressable = s_c_p(trained()), s_c_p(trained(suppression="0@40,1@41", control="0@40,2@41"))
    assert plain[0] < 0.5 and plain[2] > 0.9
    assert suppressable[0] > 0.8 and suppressable[1] < 0.2 and suppressable[2] > 0.9


def test_a_readout_of_another_shape_is_told():
    with pytest.raises(UserError, match=r"with shape=\(2, 7\) \(layers, neurons\) it must be"):
        values(("suppressability",), dataclasses.replace(examples(), shape=(2, 7)))
