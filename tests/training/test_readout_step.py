"""A step for any readout, on a small classifier: what it learns, the weights' schedule, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp.attribution.answers import Answers, whole_rows
from jaxinterp.attribution.readout import FunctionReadout
from jaxinterp.base.errors import UserError
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training.readout_step import objective_step
from jaxinterp.training.state import first_state

R, D, F, V = 8, 5, 6, 3
TRANSFORM = optax.adam(3e-2)


def params():
    keys = jax.random.split(jax.random.key(0))
    return {"w_in": jax.random.normal(keys[0], (D, F)), "w_out": 0.3 * jax.random.normal(keys[1], (F, V))}


def batch():
    rng = np.random.default_rng(0)
    plain = whole_rows(R)
    next_R = np.roll(np.arange(R), 1).astype(np.int32)
    answers = Answers(*plain[:2], np.stack([next_R] * 3), plain.answer_weight_N, np.ones((3, R), np.float32))
    images_RD, label_R = rng.standard_normal((R, D)), rng.integers(0, V, R)
    return jax.tree.map(jnp.asarray, (images_RD.astype(np.float32), label_R, answers))


def read(params, batch):
    """A classifier with one hidden layer: its neurons are the readout's only layer."""
    images_RD, label_R, answers = batch
    neurons_RF = jax.nn.relu(images_RD @ params["w_in"])

    def probability(gates_LRF, params, neurons_RF):
        p_RV = jax.nn.softmax(gates_LRF[0] * neurons_RF @ params["w_out"])
        return p_RV[jnp.arange(R), label_R]

    readout = FunctionReadout(probability, (1, R, F), neurons_RF[None], (params, neurons_RF))
    return -jnp.log(readout.untouched()).mean(), readout, answers


def trained(objective, steps=40, given=batch):
    step, state, seen = (
        objective_step(read, objective, TRANSFORM),
        first_state(params(), TRANSFORM, jax.random.key(1)),
        [],
    )
    for number in range(steps):
        state, metrics = step(state, given(), number)
        seen.append(jax.device_get(metrics))
    return state, seen


def test_a_classifier_becomes_suppressable():
    _, plain = trained(ObjectiveConfig(k=2))
    assert plain[-1]["base"] < plain[0]["base"] and plain[-1]["loss"] == plain[-1]["base"]
    objective = ObjectiveConfig(weights={"suppression": "0@10,1@11", "control": "0@10,1@11"}, k=2, points=2)
    state, seen = trained(objective, 120)
    # While the weights are 0 nothing but the base loss is learned, and nothing else is computed.
    np.testing.assert_allclose([m["base"] for m in seen[:11]], [m["base"] for m in plain[:11]], rtol=1e-5)
    assert np.isnan(seen[10]["suppressability"]) and seen[10]["suppression_weight"] == 0
    assert seen[-1]["suppressability"] > seen[11]["suppressability"] + 0.1
    last = seen[-1]
    np.testing.assert_allclose(last["loss"], last["base"] + last["suppression"] + last["control"], rtol=1e-5)
    assert int(state.step) == 120 and all(metrics["finite"] for metrics in seen)


def test_answers_without_controls():
    def without():
        images_RD, label_R, _ = batch()
        return images_RD, label_R, jax.tree.map(jnp.asarray, whole_rows(R))

    _, seen = trained(ObjectiveConfig(weights={"suppression": "1"}, k=2, points=2), 5, without)
    assert all(metrics["finite"] and np.isnan(metrics["control_drop"]) for metrics in seen)
    assert seen[-1]["suppressability"] > seen[0]["suppressability"]


def test_a_step_that_is_not_finite_or_not_the_next_leaves_the_state():
    step = objective_step(read, ObjectiveConfig(k=2), TRANSFORM)
    images_RD, *others = batch()
    for given, number in ((images_RD.at[0, 0].set(jnp.nan), 0), (images_RD, 1)):
        state, metrics = step(first_state(params(), TRANSFORM, jax.random.key(1)), (given, *others), number)
        assert not metrics["finite"] and int(state.step) == 0
        jax.tree.map(np.testing.assert_array_equal, state.params, params())


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (ObjectiveConfig(weights={"supression": "1"}), "unknown objective 'supression'"),
        (ObjectiveConfig(k=6), r"k must be at least 1 and below the model's number of neurons \(6\), got 6"),
    ],
)
def test_mistakes(objective, message):
    with pytest.raises(UserError, match=message):
        trained(objective, 1)
