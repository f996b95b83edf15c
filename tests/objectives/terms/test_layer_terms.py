"""The terms on experts, gates and what layers would say: by hand, against finite differences, and at their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from tiny import UNPUBLISHED, fast_readout, linear_context, tiny_batch, tiny_config, tiny_grid_batch, tiny_params

from jaxinterp.base.errors import UserError
from jaxinterp.models.row_layers import depth_gates, lens_nll, router_logits
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.objectives.context import Context
from jaxinterp.objectives.registry import TERMS

NAMES = ("balance", "depth", "early_exit")
OBJECTIVE = ObjectiveConfig(k=2, points=2)


def context_of(config, params, batch):
    answers = jax.tree.map(jnp.asarray, batch.answers)
    return Context(OBJECTIVE, answers, fast_readout(config, params, batch), jax.random.key(0))


def test_terms_by_hand_and_gradients(float64):
    config = tiny_config(n_layers=2, dtype="float64", **UNPUBLISHED["experts"])
    params, direction, batch = tiny_params(config), tiny_params(config, 1), tiny_batch()
    assert np.sum(np.asarray(batch.answers.weight_R) == 0) > 0  # there is padding

    @jax.jit
    def found(t):
        moved = jax.tree.map(lambda leaf, way: leaf + 1e-3 * t * way, params, direction)
        context = context_of(config, moved, batch)
        seen = router_logits(context.readout), depth_gates(context.readout), lens_nll(context.readout)
        return {name: TERMS[name](context) for name in NAMES}, seen

    terms, (logits_LRE, gate_LR, nll_LR) = jax.tree.map(np.asarray, found(0.0))
    real = np.asarray(batch.answers.weight_R) > 0
    of_layers = []
    for logits_RE in logits_LRE[:, real]:
        p_RE = np.exp(logits_RE) / np.exp(logits_RE).sum(-1, keepdims=True)
        first_two = np.argsort(-logits_RE)[:, :2]
        f_E = np.bincount(first_two.ravel(), minlength=3) / first_two.size
        of_layers.append(3 * sum(f_E[e] * p_RE[:, e].mean() for e in range(3)))
    assert terms["balance"] == pytest.approx(np.mean(of_layers), rel=1e-6)
    assert terms["depth"] == pytest.approx(gate_LR[:, real].mean(), rel=1e-6)
    assert terms["early_exit"] == pytest.approx(nll_LR[:, real].mean(), rel=1e-6)
    check_grads(lambda t: found(t)[0], (0.0,), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


def test_limits(float64):
    config = tiny_config(n_layers=2, dtype="float64", experts=3, depth_gates=True)
    params, batch = tiny_params(config), tiny_batch()

    def value(name, **layers):
        return float(TERMS[name](context_of(config, {**params, "layers": {**params["layers"], **layers}}, batch)))

    # A router that says nothing is balanced; one that always says the same (a norm's bias, which it reads) is 3.
    assert value("balance", w_router=jnp.zeros((2, 8, 3))) == pytest.approx(1, rel=1e-6)
    norm = {"scale": jnp.zeros((2, 8)), "bias": jnp.ones((2, 8))}
    same = jnp.zeros((2, 8, 3)).at[..., 1].set(10.0)
    assert value("balance", w_router=same, norm_mlp=norm) == pytest.approx(3)
    for bias, expected in ((40.0, 1.0), (-40.0, 0.0), (0.0, 0.5)):
        gate = {"weight": jnp.zeros((2, 8)), "bias": jnp.full(2, bias)}
        assert value("depth", depth_gate=gate) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["units", "experts"])
def test_the_meta_gradient_of_suppression_is_finite(name):
    config, batch = tiny_config(n_layers=2, **UNPUBLISHED[name]), tiny_grid_batch()
    slopes = jax.jit(jax.grad(lambda params: TERMS["suppression"](context_of(config, params, batch))))(
        tiny_params(config)
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    layers = slopes["layers"]
    own = [layers["w_unit"]] if name == "units" else [layers["w_router"], layers["depth_gate"]["weight"]]
    assert all(np.abs(leaf).max() > 1e-5 for leaf in own)


def test_what_a_term_cannot_see():
    plain, batch = tiny_config(n_layers=1), tiny_batch()
    context = context_of(plain, tiny_params(plain), batch)
    with pytest.raises(UserError, match=r"the term balance needs a language model with model.experts above 1"):
        TERMS["balance"](context)
    with pytest.raises(UserError, match=r"the term depth needs a language model with model.depth_gates"):
        TERMS["depth"](context)
    scores = jnp.ones((1, 10, 6))
    for name in NAMES:
        with pytest.raises(UserError, match=f"the term {name} needs a language model"):
            TERMS[name](linear_context(OBJECTIVE, batch, jnp.full(10, 0.5), scores))
