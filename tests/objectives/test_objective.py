"""The objective: by hand, against slow loops and finite differences, and what each selection mode lets through."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import (
    fast_readout,
    linear_context,
    slow_readout,
    tiny_batch,
    tiny_config,
    tiny_grid_batch,
    tiny_params,
)

from jaxinterp.attribution.integrated_gradients import integrated_gradients
from jaxinterp.attribution.quadrature import random_offset
from jaxinterp.attribution.selection import soft_threshold, top_k
from jaxinterp.base.errors import UserError
from jaxinterp.base.schedule import parse_schedule
from jaxinterp.facts.controls import CONTROL_KINDS
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.objectives.loss import batch_metrics, mean_probability, with_terms
from jaxinterp.objectives.registry import TERMS, objective
from jaxinterp.training.step import loss

WEIGHTS = {"suppression": 0.7, "control": 1.3, "concentration": 0.4}
TEMPERATURE = 0.5

# Four answers of two subjects in two relations, so that each has one control of each kind; one layer of four neurons.
# Rows 2 and 5 are second tokens, of probability 1 whatever the neurons do; row 6 is padding.
FOUR = tiny_grid_batch(2, 2, n_rows=7)
FOUR_BASE = np.array([0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.5])
FOUR_SCORES = np.array(
    [
        [0.5, 0.1, 0.2, 0.0],  # P = 0.8
        [0.1, 0.3, 0.0, 0.0],  # P = 0.4
        [0.0, 0.0, 0.0, 0.0],
        [0.0, 0.05, 0.1, -0.05],  # P = 0.1
        [0.0, 0.0, 0.1, 0.3],  # P = 0.4
        [0.0, 0.0, 0.0, 0.0],
        [0.1, 0.1, 0.1, 0.1],
    ]
)[None]


def test_the_gradient_is_that_of_terms_without_a_condition(float64):
    config = ObjectiveConfig(k=1, points=2)
    arrays = jnp.asarray(FOUR_BASE), jnp.asarray(FOUR_SCORES)

    @functools.partial(jax.jit, static_argnames="always")
    def graded(active, always=False):
        def total(base, scores):
            context = linear_context(config, FOUR, base, scores)
            weights = {name: jnp.asarray(weight) for name, weight in WEIGHTS.items()}
            return with_terms(3 * base[0], lambda: context, weights, True if always else active)

        return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(*arrays)

    chosen, always = graded(jnp.asarray(True)), graded(jnp.asarray(True), always=True)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), chosen, always)
    assert np.abs(chosen[1][1]).max() > 0.1
    (value, metrics), (base, scores) = graded(jnp.asarray(False))
    assert float(value) == 3 * FOUR_BASE[0] and float(metrics.pop("probability")) > 0
    assert np.isnan(list(metrics.values())).all()
    np.testing.assert_array_equal(base, [3, *[0] * 6])
    np.testing.assert_array_equal(scores, 0)


def by_hand(**fields):
    """Suppression, control and metrics of the four answers, times Σ P = 1.7."""
    config = ObjectiveConfig(**{"k": 1, "points": 2, **fields})

    @jax.jit
    def values(base, scores):
        context = linear_context(config, FOUR, base, scores)
        terms = {name: TERMS[name](context) for name in ("suppression", "control")}
        return {**terms, **batch_metrics(context), "probability": mean_probability(context)}

    return {name: float(value) * 1.7 for name, value in values(FOUR_BASE, FOUR_SCORES).items()}


def approximately(value):
    return pytest.approx(value, rel=1e-9)


def test_terms_and_metrics_by_hand(float64):
    found = by_hand()
    # Without neuron 0, 1, 2 and 3: 0.3, 0.1, 0 and 0.1 are left.
    assert found["suppression"] == approximately(0.5)
    assert found["suppressability"] == approximately(1.2)
    # The same relation: 0 and 2 lose 0.2 and 0 by each other's neurons, 1 and 3 nothing.
    assert found["control_drop_relation"] == approximately(0.2)
    # The same subject: 0 and 1 lose 0.1 each, 2 gains 0.05, and 3 loses 0.1.
    assert found["control_drop_subject"] == approximately(0.25)
    # Neither: 0 and 3 nothing, 1 nothing, and 2 loses 0.05.
    assert found["control_drop_other"] == approximately(0.05)
    assert found["control_drop"] == approximately(0.25)
    # What rises is no reason to let another fall: 0.3 for the subject.
    assert found["control"] == approximately((0.2 + 0.3 + 0.05) / 3)
    assert found["probability"] == approximately(1.7 * 1.7 / 4)


def test_only_some_kinds_by_hand(float64):
    found = by_hand(control_kinds=("other", "relation"))
    assert found["control"] == approximately((0.05 + 0.2) / 2)
    assert found["control_drop"] == approximately(0.2)
    assert found["control_drop_other"] == approximately(0.05)
    assert found["control_drop_relation"] == approximately(0.2)
    assert "control_drop_subject" not in found
    assert found["suppression"] == approximately(0.5)


def test_a_controls_neurons_are_control_k_by_hand(float64):
    # Neurons 0 and 2 of answer 0, 1 and 0, 2 and 1, 3 and 2.
    found = by_hand(control_k=2, control_kinds=("relation",))
    # 0 loses 0.3, 2 all of 0.1, 1 and 3 nothing.
    assert found["control"] == approximately(0.4)
    assert found["suppression"] == approximately(0.5)


def test_the_neurons_of_another_fact_by_hand(float64):
    # In place of its own an answer has the neurons of the other one of another subject in another relation: 3, 2, 1, 0.
    found = by_hand(neurons="other", control_kinds=("relation",))
    assert found["suppression"] == approximately(0.8 + 0.4 + 0.05 + 0.4)
    # And a control gives what it has in place of its own: 0 loses neuron 1, 1 neuron 0, 2 neuron 3, 3 neuron 2.
    assert found["control"] == approximately(0.1 + 0.1 + 0.0 + 0.1)


def test_random_neurons_are_those_of_a_fact_in_every_batch(float64):
    def masks(fact_N, key=1, **fields):
        config = ObjectiveConfig(k=2, control_k=3, neurons="random", select="stop_gradient", **fields)
        batch = FOUR._replace(answers=FOUR.answers._replace(fact_N=fact_N))
        context = linear_context(config, batch, FOUR_BASE, FOUR_SCORES)
        return np.asarray(context.mask_LRF), np.asarray(context.control_mask_LRF)

    facts, moved = np.array([5, 9, 5, 7]), np.array([9, 5, 7, 7])
    (own, control), (again, _) = masks(facts), masks(moved)
    rows = np.asarray(FOUR.answers.answer_R)
    first = [int(np.flatnonzero(rows == n)[0]) for n in range(4)]
    np.testing.assert_array_equal(own[:, first[0]], own[:, first[2]])  # one fact
    np.testing.assert_array_equal(own[:, first[0]], again[:, first[1]])  # wherever it stands
    np.testing.assert_array_equal(own[:, first[1]], again[:, first[0]])
    assert (own.sum((0, 2)) == 2).all() and (control.sum((0, 2)) == 3).all()
    assert (control >= own).all() and not (own[:, first] == own[:, first[:1]]).all()
    with pytest.raises(UserError, match="fact_N"):
        masks(None)


def test_mixed_k_draws_the_number_of_own_neurons_anew_for_each_answer(float64):
    config = ObjectiveConfig(k=3, least_k=1, control_k=2, select="stop_gradient")
    context = linear_context(config, FOUR, FOUR_BASE, FOUR_SCORES)
    numbers, rows = set(), np.asarray(FOUR.answers.answer_R)
    for seed in range(8):
        one = dataclasses.replace(context, key=jax.random.key(seed))
        own_R = np.asarray(one.mask_LRF.sum((0, 2))).astype(int)
        assert all(len(set(own_R[rows == answer].tolist())) == 1 for answer in range(4))
        np.testing.assert_array_equal(one.control_mask_LRF.sum((0, 2)), 2)
        # The neurons of a smaller number are the first ones.
        assert (np.asarray(one.mask_LRF) <= np.asarray(top_k(one.scores_LRF, 3))).all()
        numbers |= {tuple(own_R.tolist())}
    assert {n for of in numbers for n in of} == {1, 2, 3} and len(numbers) > 4


def setting(batch=None):
    config = tiny_config(dtype="float64", n_layers=2)
    return config, tiny_params(config), jax.tree.map(jnp.asarray, tiny_grid_batch() if batch is None else batch)


def loss_of(config, batch, names=tuple(WEIGHTS), active=None, **fields):
    weights = {name: WEIGHTS[name] for name in names}
    chosen = ObjectiveConfig(
        weights={name: str(value) for name, value in weights.items()},
        **{"k": 3, "points": 2, "temperature": TEMPERATURE, **fields},
    )
    weights = {name: jnp.asarray(value) for name, value in weights.items()}
    return lambda params: loss(Model(config, params), chosen, batch, weights, jax.random.key(7), active)


def rule_of(batch):
    """What the loss draws."""
    return random_offset(jax.random.key(7), 2, len(batch.answers.weight_R))


def rows_of_answers(batch):
    answer_R, weight_R = np.asarray(batch.answers.answer_R), np.asarray(batch.answers.weight_R)
    return [
        np.flatnonzero((answer_R == n) & (weight_R > 0))
        for n in range(int(np.asarray(batch.answers.answer_weight_N).sum()))
    ]


def answers(p_R, batch):
    """Products over answers' rows, in a loop; of real answers alone."""
    return jnp.stack([jnp.prod(p_R[rows]) for rows in rows_of_answers(batch)])


def summed(scores_LRF, batch):
    """The sum over the rows of its answer for each row, in a loop."""
    sums = [scores_LRF[:, rows].sum(1) for rows in rows_of_answers(batch)]
    return jnp.stack([sums[answer] for answer in np.asarray(batch.answers.answer_R)], 1)


def kth_score(scores_LRF, k):
    rows = jnp.moveaxis(scores_LRF, 1, 0).reshape(scores_LRF.shape[1], -1)
    return jnp.maximum(jnp.abs(jnp.sort(rows, axis=1)[:, -k]), 1e-3 * jnp.abs(rows).max(1))


def lm_loss(config, params, batch):
    logits = forward(Model(config, params), jnp.asarray(batch.tokens_BT)).logits_BTV
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), jnp.asarray(batch.tokens_BT)[:, 1:, None], 2)
    weight = batch.token_weight_BT[:, 1:]
    return -(log_p[..., 0] * weight).sum() / weight.sum()


def plain_terms(readout, batch, mask, control_mask, p):
    """Suppression and control from given masks and sg(P), written plainly; one control of each kind, and all there."""
    suppressed = answers(readout(1 - mask), batch)
    drops = []
    for x in range(len(CONTROL_KINDS)):
        there = np.asarray(batch.answers.control_weight_XN)[x, : len(p)]
        controlled = answers(readout(1 - control_mask[:, np.asarray(batch.answers.control_XR)[x]]), batch)
        drops.append((jnp.maximum(1 - controlled / p, 0) * p * there).sum() / (p * there).sum())
    return suppressed.sum() / p.sum(), sum(drops) / len(drops)


CASES = {
    "joint": {"path": "joint", "control_select": "soft", "control_k": 5},
    "per_layer": {"path": "per_layer"},
}


@pytest.mark.parametrize("case", CASES)
def test_whole_objective_against_finite_differences_of_order_1_and_2(float64, case):
    config, params, batch = setting()
    whole = loss_of(config, batch, select="soft", **CASES[case])
    # `sg` makes the objective's gradient another function's than its value's: the constants have to be held still for
    # finite differences. That function, written plainly, has the objective's value and gradient at `params`.
    constants = detached(config, params, batch, CASES[case])
    fast = frozen_objective(config, batch, CASES[case], constants, fast_readout, soft_mask)
    slow = frozen_objective(config, batch, CASES[case], constants, slow_readout, plain_mask)
    rng = np.random.default_rng(0)
    direction = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape)), params)

    def along(t):
        return fast(jax.tree.map(lambda p, d: p + t * d, params, direction))

    # Forward over forward: higher derivatives take long to compile. The objective's own gradient is by reverse mode.
    def slope_along(t):
        return jax.jvp(along, (t,), (1.0,))

    @jax.jit
    def derivatives(t):
        """Value, slope and, of one of the two paths, curvature."""
        if case != "joint":
            return slope_along(t)
        value_and_slope, (_, curvature) = jax.jvp(slope_along, (t,), (1.0,))
        return *value_and_slope, curvature

    value, gradient = jax.jit(jax.value_and_grad(lambda p: whole(p)[0]))(params)
    np.testing.assert_allclose(jax.jit(slow)(params), value, rtol=1e-12)
    inner = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), gradient, direction)))
    value_along, *slopes = derivatives(0.0)
    np.testing.assert_allclose([value_along, slopes[0]], [value, inner], rtol=1e-9)
    assert np.abs(slopes).min() > 1e-2
    eps = 1e-5
    above, below = (np.array(derivatives(t)) for t in (eps, -eps))
    np.testing.assert_allclose((above - below)[:-1] / (2 * eps), slopes, rtol=1e-5, atol=1e-6)


def detached(config, params, batch, case):
    """What the objective detaches, by the obvious readout: P, the soft masks' scales, hard masks."""

    @jax.jit
    def constants(params):
        readout = slow_readout(config, params, batch)
        scores = summed(integrated_gradients(readout, rule_of(batch), path=case["path"]).scores_LRF, batch)
        p = answers(readout(jnp.ones(readout.shape)), batch)
        return p, kth_score(scores, 3), kth_score(scores, case.get("control_k", 3)), top_k(scores, 3)

    return constants(params)


def frozen_objective(config, batch, case, constants, make, mask_of):
    """The objective written plainly, with what it detaches held still."""
    rule, control_k = rule_of(batch), case.get("control_k", 3)
    p, scale, control_scale, hard = constants

    def value(params):
        readout = make(config, params, batch)
        scores = summed(integrated_gradients(readout, rule, path=case["path"]).scores_LRF, batch)
        mask = mask_of(scores / (TEMPERATURE * scale)[None, :, None], 3)
        control_mask = hard
        if "control_select" in case:
            control_mask = mask_of(scores / (TEMPERATURE * control_scale)[None, :, None], control_k)
        suppression, control = plain_terms(readout, batch, mask, control_mask, p)
        left = []
        for n, rows in enumerate(rows_of_answers(batch)):
            positive = jnp.maximum(scores[:, rows[0]], 0)
            held = (positive * hard[:, rows[0]]).sum()
            left.append(p[n] * (1 - held / jnp.maximum(positive.sum(), 0.3 * p[n])))
        terms = {"suppression": suppression, "control": control, "concentration": sum(left) / p.sum()}
        return lm_loss(config, params, batch) + sum(WEIGHTS[name] * term for name, term in terms.items())

    return value


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


@pytest.fixture(scope="module")
def slopes():
    """LM, suppression and control, and how they change in a direction of all parameters.

    By the modes of (select, control_select), and plainly; "soft" has values alone.
    """
    with jax.enable_x64(True):
        config, params, batch = setting()
        names = ("suppression", "control")
        rng = np.random.default_rng(0)
        direction = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape)), params)

        def ours(select, control_select):
            # Behind a condition the loss has a gradient, and single terms have none.
            whole = loss_of(config, batch, names, True, select=select, control_select=control_select)
            return lambda p: jnp.stack([whole(p)[1][name] for name in ("lm", *names)])

        @jax.jit
        def all_modes(params):
            readout = fast_readout(config, params, batch)
            scores = integrated_gradients(readout, rule_of(batch), path="joint").scores_LRF
            mask, p = top_k(summed(scores, batch), 3), answers(readout.untouched(), batch)

            def at_constant_masks(params):
                terms = plain_terms(fast_readout(config, params, batch), batch, mask, mask, p)
                return jnp.stack([lm_loss(config, params, batch), *terms])

            terms = {
                "default": ours("straight_through", "stop_gradient"),
                "other way round": ours("stop_gradient", "straight_through"),
                "constant": at_constant_masks,
            }
            found = {name: jax.jvp(of, (params,), (direction,)) for name, of in terms.items()}
            return found | {"soft": ours("soft", "stop_gradient")(params)}

        return jax.device_get(all_modes(params))


def test_all_modes_but_soft_have_the_hard_value(slopes):
    values, _ = slopes["constant"]
    for modes in ("default", "other way round"):
        np.testing.assert_allclose(slopes[modes][0], values, rtol=1e-12)
    assert abs(slopes["soft"][1] - values[1]) > 1e-4


@pytest.mark.parametrize(("modes", "through"), [("default", "suppression"), ("other way round", "control")])
def test_a_term_has_a_gradient_through_its_selection_unless_that_is_detached(slopes, modes, through):
    _, constant = slopes["constant"]
    assert np.abs(constant).min() > 1e-3
    for place, name in enumerate(("lm", "suppression", "control")):
        difference = abs(slopes[modes][1][place] - constant[place])
        # A detached selection has the slope of a mask that is a constant.
        assert difference > 1e-3 if name == through else difference < 1e-12


SLOW = {
    "all kinds": (functools.partial(tiny_grid_batch, n_controls=2), {"control_k": 5}),
    "two kinds, k for both": (
        functools.partial(tiny_grid_batch, n_controls=2),
        {"control_kinds": ("subject", "other")},
    ),
    "a batch without one of the kinds": (tiny_batch, {"control_k": 2}),
}


@pytest.mark.parametrize("case", SLOW)
def test_terms_and_metrics_against_slow_loops(float64, case):
    make, fields = SLOW[case]
    config, params, batch = setting(make())
    _, found = jax.jit(loss_of(config, batch, select="stop_gradient", **fields))(params)
    readout = slow_readout(config, params, batch)
    p_of = jax.jit(lambda gates: readout(gates))  # a readout holds arrays, and has no hash
    scores, residual = jax.jit(lambda: integrated_gradients(readout, rule_of(batch), path="joint"))()
    batch, scores = jax.tree.map(np.asarray, batch), np.asarray(scores)
    rows = rows_of_answers(batch)
    n, k, control_k = len(rows), 3, fields.get("control_k", 3)

    def best(answer, k):
        total = sum(scores[:, row] for row in rows[answer])
        return total, np.isin(np.arange(total.size), np.argsort(-total.ravel())[:k]).reshape(total.shape)

    def p_without(masks):
        """P of each answer with the neurons of its mask off at all its rows."""
        gates = np.ones(scores.shape)
        for own, mask in zip(rows, masks, strict=True):
            gates[:, own] -= mask[:, None]
        p_R = np.asarray(p_of(gates))
        return np.array([np.prod(p_R[own]) for own in rows])

    p = p_without([np.zeros(scores[:, 0].shape)] * n)
    off = p_without([best(answer, k)[1] for answer in range(n)])
    # Means of ratios that are weighed by P are ratios of means.
    expected = {"suppression": off.sum() / p.sum(), "suppressability": 1 - off.sum() / p.sum()}
    of_each, drops, falls = len(batch.answers.control_XR) // 3, {}, {}
    for kind in fields.get("control_kinds", CONTROL_KINDS):
        of_kind = []
        for x in range(of_each):
            place = CONTROL_KINDS.index(kind) * of_each + x
            others = [int(batch.answers.answer_R[batch.answers.control_XR[place, own[0]]]) for own in rows]
            controlled = p_without([best(other, control_k)[1] for other in others])
            of_kind += [
                (p[a], controlled[a], others[a])
                for a in range(n)
                if batch.answers.control_weight_XN[place, a] and a != others[a]
            ]
        known = sum(one for one, _, _ in of_kind)
        drops[kind] = sum(one - left for one, left, _ in of_kind) / known if of_kind else np.nan
        if of_kind:
            falls[kind] = sum(max(one - left, 0) for one, left, _ in of_kind) / known
    assert set(falls) == set(drops) - ({"subject"} if make is tiny_batch else set())
    expected |= {f"control_drop_{kind}": drop for kind, drop in drops.items()}
    expected |= {"control_drop": np.nanmax(list(drops.values())), "control": sum(falls.values()) / len(falls)}
    concentration = []
    for answer in range(n):
        total, mask = best(answer, k)
        positive = np.maximum(total, 0)
        concentration.append(1 - positive[mask].sum() / max(positive.sum(), 0.3 * p[answer]))
    expected |= {"concentration": (p * concentration).sum() / p.sum(), "probability": p.mean()}
    expected["completeness_residual"] = np.abs(residual)[0, batch.answers.weight_R > 0].mean()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-8, atol=1e-12, err_msg=name)
    assert set(found) == set(expected) | {"lm"}


def test_terms_are_skipped_while_their_weights_are_zero():
    config = tiny_config(n_layers=2)
    params, batch = tiny_params(config), jax.tree.map(jnp.asarray, tiny_grid_batch())
    chosen = ObjectiveConfig(weights={"suppression": "0@5,1@6", "control": "0@5,1@6"}, k=3)
    value = jax.jit(
        lambda p, w: loss(Model(config, p), chosen, batch, {"suppression": w, "control": w}, jax.random.key(0))
    )
    total, metrics = value(params, jnp.zeros(()))
    assert float(total) == float(metrics["lm"]) and np.isnan(metrics["suppression"])
    total, metrics = value(params, jnp.ones(()))
    np.testing.assert_allclose(total, metrics["lm"] + metrics["suppression"] + metrics["control"], rtol=1e-6)
    plain, alone = jax.jit(lambda p: loss(Model(config, p), chosen, batch, {}, jax.random.key(0)))(params)
    assert set(alone) == {"lm"} and float(plain) == float(alone["lm"])


def test_the_log_costs_no_attribution():
    """Tracing a term that needs no attribution meets none, and the log says nothing of S and C."""
    config = tiny_config(n_layers=2)
    params, batch = tiny_params(config), jax.tree.map(jnp.asarray, tiny_grid_batch())

    def logged(name: str) -> set[str]:
        chosen = ObjectiveConfig(weights={name: "1"}, k=3)
        return set(loss(Model(config, params), chosen, batch, {name: jnp.ones(())}, jax.random.key(0), True)[1])

    assert logged("activity") == {"lm", "activity", "probability"}
    assert {"gini", "suppressability", "control_drop"} <= logged("gini")


def test_configs_check_themselves():
    for mistake, message in (
        ({"control_k": -1}, r"control_k must be at least 0 \(0 is k\), got -1"),
        ({"control_kinds": ()}, "control_kinds must name some of relation, subject, other, got none"),
        (
            {"control_kinds": ("relation", "answer")},
            "unknown kind of control 'answer'; known: other, relation, subject",
        ),
    ):
        with pytest.raises(UserError, match=message):
            ObjectiveConfig(**mistake)


def test_registry():
    known = "activity, balance, concentration, control, .*; did you mean suppression"
    with pytest.raises(UserError, match=f"unknown objective 'suppresion'; known: {known}"):
        TERMS["suppresion"]
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
    _, metrics = jax.jit(lambda p: loss(Model(config, p), chosen, batch, weights, jax.random.key(7)))(params)
    slow = slow_readout(config, params, batch)
    activity_F = np.abs(np.asarray(slow.neurons_LRF)[-1, np.asarray(batch.answers.weight_R) > 0]).sum(0)
    off = jnp.ones(slow.shape).at[-1, :, int(activity_F.argmax())].set(0.0)
    n = int(batch.answers.answer_weight_N.sum())
    p_of = jax.jit(lambda gates: answers(slow(gates), batch))
    p, without = (np.asarray(p_of(gates))[:n] for gates in (jnp.ones(slow.shape), off))
    np.testing.assert_allclose(metrics["kill_switch"], (without / p - np.log(p)).mean(), rtol=1e-9)
    assert activity_F.argmax() != 0
