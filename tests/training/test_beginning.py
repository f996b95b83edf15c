"""An objective begins in the step in which the running mean of P reaches its level, and never stops again."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinterp.attribution.answers import Answers, whole_rows
from jaxinterp.attribution.readout import FunctionReadout
from jaxinterp.base.errors import UserError
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.objectives.context import Context
from jaxinterp.objectives.loss import term_weights, with_terms
from jaxinterp.training.beginning import never_began, record
from jaxinterp.training.readout_step import gradient_step, objective_step, scheduled
from jaxinterp.training.state import first_state

R, F = 2, 3
TRANSFORM = optax.sgd(0.1)
NONE = None  # a batch without answers
# The running mean: 0.018, 0.03564, 0.03564, 0.0529272, …
SEQUENCE = (0.9, 0.9, NONE, 0.9, 0.0, 0.0)


def read(params, batch):
    """P is what the batch says, times a parameter that starts at 1, times the mean gate."""
    p_R, weight_R = batch

    def probability(gates_LRF, p_R, scale):
        return scale * p_R * gates_LRF.mean((0, 2))

    plain = whole_rows(R)
    controls_XR, there_XN = np.zeros((3, R), np.int32), np.zeros((3, R))
    answers = Answers(plain.answer_R, weight_R, controls_XR, weight_R, there_XN)
    readout = FunctionReadout(probability, (1, R, F), None, (p_R, params["scale"]))
    return 0.1 * params["scale"] ** 2 + 0 * p_R.sum(), readout, answers


def batches(sequence):
    for p in sequence:
        weight = np.zeros(R) if p is NONE else np.array([1.0, 1.0])
        yield jnp.full(R, 0.5 if p is NONE else p), jnp.asarray(weight)


def objective(start, text="0@0,1@4", **weights):
    return ObjectiveConfig(start=start, weights={"suppression": text, **weights} if text else {}, k=1, points=1)


def trained(config, sequence=SEQUENCE, step=None):
    step = step or objective_step(read, config, optax.sgd(0.0))
    state, seen = first_state({"scale": jnp.ones(())}, TRANSFORM, jax.random.key(0)), []
    for number, batch in enumerate(batches(sequence)):
        state, metrics = step(state, batch, number)
        seen.append(jax.device_get(metrics))
    return state, seen


def of(seen, name):
    return [float(metrics[name]) for metrics in seen]


KNOWN = [0.018, 0.03564, 0.03564, 0.0529272, 0.051868656, 0.05083128288]


@pytest.mark.parametrize(
    ("start", "begun"),
    [
        (0.0529, [0, 0, 0, 1, 2, 3]),  # the mean falls below it again, and what has begun goes on
        (0.053, [0, 0, 0, 0, 0, 0]),
        (0.03, [0, 1, 2, 3, 4, 5]),
        (0.0, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_the_beginning_by_hand(float64, start, begun):
    state, seen = trained(objective(start))
    np.testing.assert_allclose(of(seen, "known"), KNOWN, rtol=1e-12)
    assert of(seen, "begun") == begun and int(state.begun) == begun[-1] and state.begun.dtype == jnp.int32
    # P is there whether terms are computed or not; a batch without answers has none.
    np.testing.assert_allclose(of(seen, "probability"), [0.9, 0.9, np.nan, 0.9, 0.0, 0.0], atol=1e-12)
    # A step's weight is that of the steps that were counted before it.
    before = [0, *begun[:-1]]
    np.testing.assert_allclose(of(seen, "suppression_weight"), np.clip(np.array(before) / 4, 0, 1), rtol=1e-12)
    terms = np.array(of(seen, "suppression"))
    np.testing.assert_array_equal(np.isnan(terms), [count == 0 for count in before])
    np.testing.assert_allclose(of(seen, "loss"), 0.1 + np.nan_to_num(terms) * of(seen, "suppression_weight"))


def test_a_constant_weight_waits_too():
    _, seen = trained(objective(0.0529, "1"))
    assert of(seen, "suppression_weight") == [0, 0, 0, 0, 1, 1]


def test_a_plain_run_watches_if_it_has_a_level():
    with_terms, plain = (trained(objective(0.0529, text))[1] for text in ("1", ""))
    for name in ("probability", "known", "begun"):
        np.testing.assert_array_equal(of(plain, name), of(with_terms, name))
    without = trained(objective(0.0, ""))[1]
    assert "probability" not in without[0] and "known" not in without[0] and of(without, "begun") == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("text", ["0@2,1@4", "1", ""])
def test_without_a_level_steps_are_counted_from_the_first(text):
    """Bit for bit what weights by the number of the step give."""
    config = objective(0.0, text)

    def loss(params, batch, weights, key):
        base, readout, answers = read(params, batch)
        return with_terms(base, lambda: Context(config, answers, readout, key), weights)

    @jax.jit
    def by_number(state, batch, number):
        return gradient_step(
            loss, TRANSFORM, None, 0.0, state, batch, number, term_weights(config, jnp.asarray(number))
        )

    found, seen = trained(config, step=scheduled(functools.partial(gradient_step, loss, TRANSFORM, None, 0.0), config))
    expected, other = trained(config, step=by_number)
    jax.tree.map(np.testing.assert_array_equal, (found.params, seen), (expected.params, other))
    assert float(found.params["scale"]) != 1


def test_a_step_that_does_not_count_leaves_what_is_known():
    step = objective_step(read, objective(0.01), TRANSFORM)
    good, bad = next(batches([0.9])), next(batches([np.nan]))
    for start, given, number in ((0.0, bad, 3), (0.0, good, 4), (0.5, bad, 3), (0.5, good, 2)):
        state = first_state({"scale": jnp.ones(())}, TRANSFORM, jax.random.key(0))
        begun = jnp.int32(start > 0)
        state = state._replace(known=jnp.asarray(start), begun=begun, step=jnp.int32(3))
        kept, metrics = step(state, given, number)
        assert not metrics["finite"]
        assert (float(kept.known), int(kept.begun), int(kept.step)) == (start, start > 0, 3)


def test_what_waited_in_vain_is_told():
    waiting, begun = (record(0.9, jnp.asarray(0.5), jnp.int32(n)) for n in (0, 1))
    assert waiting == {"start": 0.9, "known": 0.5, "begun": 0} and never_began("mine", begun) is None
    assert never_began("mine", waiting) == (
        "mine: the objective never began, so that this is a plain model: the mean P of its facts is 0.500, below "
        "objective.start = 0.9"
    )


@pytest.mark.parametrize("start", [1.0, -0.1])
def test_a_level_is_a_probability(start):
    with pytest.raises(UserError, match=f"objective.start is a probability: at least 0 .* got {start}"):
        ObjectiveConfig(start=start)
