"""The objective: by hand, against finite differences, and what each selection mode lets through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from tiny import fast_readout, slow_readout, tiny_batch, tiny_config, tiny_params

from jaxinterp.attribution import integrated_gradients
from jaxinterp.errors import UserError
from jaxinterp.models.transformer import forward
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.objectives.registry import objective, objective_term
from jaxinterp.quadrature import random_offset
from jaxinterp.schedule import parse_schedule
from jaxinterp.selection import soft_threshold, top_k
from jaxinterp.training.step import loss

WEIGHTS = {"suppression": 0.7, "control": 1.3}


def setting(**changes):
    config = tiny_config(dtype="float64", n_layers=2, **changes)
    return config, tiny_params(config), jax.tree.map(jnp.asarray, tiny_batch())


def objective_of(config, batch, **fields):
    chosen = ObjectiveConfig(weights={name: str(value) for name, value in WEIGHTS.items()}, k=3, points=2, **fields)
    weights = {name: jnp.asarray(value) for name, value in WEIGHTS.items()}
    return lambda params: loss(config, chosen, params, batch, weights, jax.random.key(7))


@pytest.mark.parametrize("path", ["joint", "per_layer"])
def test_whole_objective_against_finite_differences_of_order_1_and_2(float64, path):
    config, params, batch = setting()
    whole = objective_of(config, batch, select="soft", path=path)
    # `sg` makes the objective's gradient another function's than its value's: the constants have to be held still for
    # finite differences. That function, written plainly, has the objective's value and gradient at `params`.
    fast = frozen_objective(config, params, batch, path, fast_readout, soft_mask)
    slow = frozen_objective(config, params, batch, path, slow_readout, plain_mask)
    rng = np.random.default_rng(0)
    direction = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape)), params)

    def along(t):
        return fast(jax.tree.map(lambda p, d: p + t * d, params, direction))

    value, gradient = jax.jit(jax.value_and_grad(lambda p: whole(p)[0]))(params)
    np.testing.assert_allclose(jax.jit(slow)(params), value, rtol=1e-12)
    inner = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), gradient, direction)))
    value_along, slope = jax.jit(jax.value_and_grad(along))(0.0)
    np.testing.assert_allclose([value_along, slope], [value, inner], rtol=1e-9)
    assert abs(float(inner)) > 1e-2
    # Forward over forward: the slope above has tied reverse mode to it, and third derivatives take long to compile.
    check_grads(jax.jit(along), (jnp.zeros(()),), order=2, modes=["fwd"], atol=1e-6, rtol=1e-5, eps=1e-5)


def frozen_objective(config, at, batch, path, make, mask_of):
    """The objective written plainly, with sg(P) and sg(the soft mask's scale) frozen at `at`."""
    rule = random_offset(jax.random.key(7), 2)

    @jax.jit
    def constants(params):
        readout = make(config, params, batch)
        scores = integrated_gradients(readout, rule, path=path).scores_LRF
        return answers(readout(jnp.ones(readout.shape)), batch), jnp.sqrt(jnp.square(scores).mean((0, 2)))

    p, scale = constants(at)

    def value(params):
        readout = make(config, params, batch)
        scores = integrated_gradients(readout, rule, path=path).scores_LRF
        mask = mask_of(scores / scale[None, :, None], 3)
        logits = forward(config, params, jnp.asarray(batch.tokens_BT)).logits_BTV
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), jnp.asarray(batch.tokens_BT)[:, 1:, None], 2)
        weight = batch.token_weight_BT[:, 1:]
        lm = -(log_p[..., 0] * weight).sum() / weight.sum()
        ratio = answers(readout(1 - mask), batch) / p
        control = answers(readout(1 - mask[:, batch.control_XR[0]]), batch) / p
        real, has_control = batch.answer_weight_N, batch.control_weight_XN[0]
        return (
            lm
            + WEIGHTS["suppression"] * (ratio * real).sum() / real.sum()
            + WEIGHTS["control"] * (jnp.maximum(1 - control, 0) * has_control).sum() / has_control.sum()
        )

    return value


def answers(p_R, batch):
    """Products over answers' rows, in a loop."""
    products = [
        jnp.prod(p_R[np.flatnonzero((np.asarray(batch.answer_R) == n) & (np.asarray(batch.weight_R) > 0))])
        for n in range(int(np.asarray(batch.answer_weight_N).sum()))
    ]
    return jnp.stack(products + [jnp.ones(())] * (len(batch.answer_weight_N) - len(products)))


def soft_mask(x_LRF, k):
    """Sigmoids that sum to k, through the library's implicitly differentiated threshold."""
    x = x_LRF.transpose(1, 0, 2).reshape(x_LRF.shape[1], -1)
    mask = jax.nn.sigmoid(x - soft_threshold(x, jnp.asarray(k, x.dtype))[:, None])
    return mask.reshape(x_LRF.shape[1], x_LRF.shape[0], -1).transpose(1, 0, 2)


def plain_mask(x_LRF, k):
    """The same by plain bisection, not differentiable."""

    def halve(_, bracket):
        middle = (bracket[0] + bracket[1]) / 2
        above = jax.nn.sigmoid(x_LRF - middle[None, :, None]).sum((0, 2)) > k
        return jnp.where(above, middle, bracket[0]), jnp.where(above, bracket[1], middle)

    low, _ = jax.lax.fori_loop(0, 80, halve, (x_LRF.min((0, 2)) - 50, x_LRF.max((0, 2)) + 50))
    return jax.nn.sigmoid(x_LRF - low[None, :, None])


def test_straight_through_has_the_hard_value_and_its_own_gradient(float64):
    config, params, batch = setting()
    results = {
        name: jax.jit(jax.value_and_grad(lambda p, name=name: objective_of(config, batch, select=name)(p)[0]))(params)
        for name in ("straight_through", "stop_gradient", "soft")
    }
    np.testing.assert_allclose(results["straight_through"][0], results["stop_gradient"][0], rtol=1e-12)
    assert abs(float(results["soft"][0] - results["stop_gradient"][0])) > 1e-4

    def difference(a, b):
        return max(float(jnp.abs(x - y).max()) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))

    assert difference(results["straight_through"][1], results["stop_gradient"][1]) > 1e-3
    # Detached selection is the gradient at a mask that is a constant.
    readout = fast_readout(config, params, batch)
    rule = random_offset(jax.random.key(7), 2)
    mask = top_k(jax.jit(lambda: integrated_gradients(readout, rule, path="joint").scores_LRF)(), 3)
    p = jax.jit(lambda: answers(readout.untouched(), batch))()

    def at_constant_mask(params):
        logits = forward(config, params, jnp.asarray(batch.tokens_BT)).logits_BTV
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), jnp.asarray(batch.tokens_BT)[:, 1:, None], 2)
        weight = batch.token_weight_BT[:, 1:]
        readout = fast_readout(config, params, batch)
        ratio = answers(readout(1 - mask), batch) / p
        control = jnp.maximum(1 - answers(readout(1 - mask[:, batch.control_XR[0]]), batch) / p, 0)
        real, has_control = batch.answer_weight_N, batch.control_weight_XN[0]
        terms = 0.7 * (ratio * real).sum() / real.sum() + 1.3 * (control * has_control).sum() / has_control.sum()
        return terms - (log_p[..., 0] * weight).sum() / weight.sum()

    value, gradient = jax.jit(jax.value_and_grad(at_constant_mask))(params)
    np.testing.assert_allclose(value, results["stop_gradient"][0], rtol=1e-12)
    assert difference(gradient, results["stop_gradient"][1]) < 1e-12


def test_terms_are_skipped_while_their_weights_are_zero():
    config = tiny_config(n_layers=2)
    params, batch = tiny_params(config), jax.tree.map(jnp.asarray, tiny_batch())
    chosen = ObjectiveConfig(weights={"suppression": "0@5,1@6", "control": "0@5,1@6"}, k=3)
    value = jax.jit(lambda p, w: loss(config, chosen, p, batch, {"suppression": w, "control": w}, jax.random.key(0)))
    total, metrics = value(params, jnp.zeros(()))
    assert float(total) == float(metrics["lm"]) and np.isnan(metrics["suppression"])
    total, metrics = value(params, jnp.ones(()))
    np.testing.assert_allclose(total, metrics["lm"] + metrics["suppression"] + metrics["control"], rtol=1e-6)
    plain, alone = jax.jit(lambda p: loss(config, chosen, p, batch, {}, jax.random.key(0)))(params)
    assert set(alone) == {"lm"} and float(plain) == float(alone["lm"])


def test_registry():
    with pytest.raises(UserError, match="unknown objective 'suppresion'; known: control, kill_switch, suppression"):
        objective_term("suppresion")
    with pytest.raises(ValueError, match="exists already"):
        objective("control")(lambda context: None)


def test_schedules():
    assert parse_schedule("1").values == (1.0,)
    schedule = parse_schedule("0@300,1@500")
    assert schedule.steps == (300, 500) and schedule.values == (0, 1)
    for text in ("a", "1@", "0@5,1@5", "1@5,0@3", ""):
        with pytest.raises(UserError, match="schedule"):
            parse_schedule(text)


def test_the_kill_switch_by_hand(float64):
    config, params, batch = setting()
    chosen = ObjectiveConfig(weights={"kill_switch": "1"}, k=3, points=2)
    weights = {"kill_switch": jnp.ones(())}
    _, metrics = jax.jit(lambda p: loss(config, chosen, p, batch, weights, jax.random.key(7)))(params)
    slow = slow_readout(config, params, batch)
    activity_F = np.abs(np.asarray(slow.neurons_LRF)[-1, np.asarray(batch.weight_R) > 0]).sum(0)
    off = jnp.ones(slow.shape).at[-1, :, int(activity_F.argmax())].set(0.0)
    n = int(batch.answer_weight_N.sum())
    p, without = (np.asarray(answers(slow(gates), batch))[:n] for gates in (jnp.ones(slow.shape), off))
    np.testing.assert_allclose(metrics["kill_switch"], (without / p - np.log(p)).mean(), rtol=1e-9)
    assert activity_F.argmax() != 0
