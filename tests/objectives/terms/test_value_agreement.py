"""The term on what knowledge neurons' values say: by hand, at its limits, and against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from tiny import ARCHITECTURES, fast_readout, linear_context, tiny_batch, tiny_config, tiny_grid_batch, tiny_params

from jaxinterp.base.errors import UserError
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.objectives.context import Context
from jaxinterp.objectives.registry import TERMS

OBJECTIVE = ObjectiveConfig(k=3, points=2)
TERM = TERMS["value_agreement"]


def context_of(config, params, batch, objective=OBJECTIVE):
    answers = jax.tree.map(jnp.asarray, batch.answers)
    return Context(objective, answers, fast_readout(config, params, batch), jax.random.key(0))


def test_by_hand(float64):
    config = tiny_config(n_layers=2, dtype="float64")
    params, batch = tiny_params(config), tiny_batch()
    answers, rows = batch.answers, batch.rows

    @jax.jit
    def found(params):
        context = context_of(config, params, batch)
        return TERM(context), context.scores_LRF, context.known_N

    term, scores, known = jax.tree.map(np.asarray, found(params))
    assert (known == 0).any() and (np.bincount(answers.answer_R[answers.weight_R > 0]) == 2).any()
    norm, total = jax.tree.map(np.asarray, params["norm_final"]), 0.0
    for answer in np.flatnonzero(known):
        first = np.flatnonzero(answers.answer_R == answer)[0]
        positive = scores[:, first].clip(0)
        whole = max(positive.sum(), 0.3 * known[answer])
        best = np.argsort(-scores[:, first].ravel(), kind="stable")[:3]
        mass = 0.0
        for layer, neuron in zip(*np.divmod(best, 6), strict=True):
            value = np.asarray(params["layers"]["w_out"][layer, neuron])
            normed = (value - value.mean()) / np.sqrt(value.var() + config.norm_eps)
            logits = (normed * norm["scale"] + norm["bias"]) @ np.asarray(params["embedding"]).T
            log_p = logits[rows.target_R[first]] - np.log(np.exp(logits).sum())
            mass += positive[layer, neuron] / whole * (1 + log_p / np.log(11))
        total += known[answer] * (1 - mass)
    assert term == pytest.approx(total / known.sum(), rel=1e-9)


def test_where_all_values_say_the_answer_it_is_concentration(float64):
    config = tiny_config(n_layers=2, dtype="float64", **ARCHITECTURES["llama"])
    params, batch = tiny_params(config), tiny_batch(1, 2)
    token = int(batch.rows.target_R[0])

    @jax.jit
    def terms(said):
        unembedding = params["unembedding"].at[:, 0].set(0.0).at[token, 0].set(said)
        only = jnp.zeros_like(params["layers"]["w_out"]).at[..., 0].set(1.0)
        layers = {**params["layers"], "w_out": only}
        norm = {"scale": jnp.ones(8)}
        changed = {**params, "layers": layers, "norm_final": norm, "unembedding": unembedding}
        context = context_of(config, changed, batch)
        return TERM(context), TERMS["concentration"](context)

    agreement, concentration = terms(20.0)
    assert concentration < 0.9 and agreement == pytest.approx(float(concentration), abs=1e-9)
    assert terms(0.01)[0] == pytest.approx(1, abs=0.05)  # they say next to nothing


# Seeds of parameters with which the floor of shares, which is constant, does not hold.
@pytest.mark.parametrize(("family", "seed"), [("gpt", 1), ("bert", 3)])
def test_derivatives_against_finite_differences(family, seed, float64):
    config = tiny_config(n_layers=2, dtype="float64", **ARCHITECTURES[family])
    # Of one answer sg(P) weighs nothing.
    params, batch = tiny_params(config, seed), tiny_batch(1, 2)
    direction = tiny_params(config, 9)

    @jax.jit
    def along(t):
        moved = jax.tree.map(lambda leaf, way: leaf + 1e-3 * t * way, params, direction)
        context = context_of(config, moved, batch)
        return TERM(context), context.positive_LRF.sum((0, 2))[0] / context.known_N[0]

    assert along(0.0)[1] > 0.3
    check_grads(lambda t: along(t)[0], (0.0,), order=1, modes=["rev"], atol=1e-6, rtol=1e-5)
    assert abs(float(jax.grad(lambda t: along(t)[0])(0.0))) > 1e-5


def test_its_slope_turns_values_to_the_answer(float64):
    config = tiny_config(n_layers=2, dtype="float64")
    params, batch = tiny_params(config), tiny_grid_batch()

    def loss(w_out):
        return TERM(context_of(config, {**params, "layers": {**params["layers"], "w_out": w_out}}, batch))

    w_out, before = params["layers"]["w_out"], None
    step = jax.jit(jax.value_and_grad(loss))
    for _ in range(30):
        value, slope = step(w_out)
        before = float(value) if before is None else before
        w_out = w_out - 0.3 * slope
    assert float(value) < before - 0.1


def test_what_it_cannot_see():
    with pytest.raises(UserError, match=r"the term value_agreement needs a language model"):
        TERM(linear_context(OBJECTIVE, tiny_batch(), jnp.full(10, 0.5), jnp.ones((1, 10, 6))))
