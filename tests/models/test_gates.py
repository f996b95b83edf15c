"""Neurons of several units, experts and gates of layers: by hand, against the plain forward, and at their limits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from plain_transformer import plain_forward
from tiny import ARCHITECTURES, UNPUBLISHED, fast_readout, tiny_batch, tiny_config, tiny_params

from jaxinterp.attribution.integrated_gradients import integrated_gradients
from jaxinterp.attribution.quadrature import quadrature
from jaxinterp.base.errors import UserError
from jaxinterp.models.config import ModelConfig, parsed_fields
from jaxinterp.models.gates import expert_shares
from jaxinterp.models.loading.expressing import family_for, family_named
from jaxinterp.models.model import Model, logical_axes
from jaxinterp.models.parameters import matched_d_mlp, n_params, transformer
from jaxinterp.models.row_layers import depth_gates, lens_nll, lens_top, router_logits
from jaxinterp.models.transformer import forward, init, unembed
from jaxinterp.training.cost_model import decode_flops

TOKENS = np.array([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
ALL = {"ffn_units": 2, "experts": 3, "experts_active": 2, "depth_gates": True}


def test_shares_by_hand(float64):
    logits = jnp.log(jnp.array([[1.0, 2, 4], [6, 1, 3]]))
    np.testing.assert_allclose(expert_shares(logits, 1), [[0, 0, 4 / 7], [0.6, 0, 0]], atol=1e-15)
    np.testing.assert_allclose(expert_shares(logits, 2), [[0, 1 / 3, 2 / 3], [2 / 3, 0, 1 / 3]], atol=1e-15)
    np.testing.assert_allclose(expert_shares(logits, 3), [[1 / 7, 2 / 7, 4 / 7], [0.6, 0.1, 0.3]], atol=1e-15)
    np.testing.assert_array_equal(expert_shares(logits[:, :1], 1), [[1], [1]])
    for n_active in (1, 2, 3):  # away from ties
        check_grads(lambda x, n=n_active: expert_shares(jnp.asarray(x), n), (logits,), order=2, modes=["rev"])


@pytest.mark.parametrize(
    "fields",
    [
        {"ffn_units": 3},
        {"ffn": "swiglu", "experts": 3, "experts_active": 2, "mlp_bias": False},
        {**ALL, "experts_active": 1, "position": "rotary"},
    ],
    ids=["units", "experts", "all"],
)
def test_forward_and_gradient(fields, float64):
    config = tiny_config(n_layers=2, dtype="float64", **fields)
    params, direction = tiny_params(config), tiny_params(config, seed=1)
    places = ("attn_z", "mlp_pre", "mlp_post")

    @jax.jit
    def found(params, t):
        moved = jax.tree.map(lambda leaf, way: leaf + 1e-3 * t * way, params, direction)
        result = forward(Model(config, moved), jnp.asarray(TOKENS), capture=places)
        return result.logits_BTV, result.activations

    logits_BTV, activations = found(params, 0.0)
    for number, tokens in enumerate(TOKENS):
        expected, plain = plain_forward(config, params, tokens)
        np.testing.assert_allclose(logits_BTV[number], expected, rtol=0, atol=1e-10)
        for place in places:
            np.testing.assert_allclose(activations[place][:, number], plain[place], rtol=0, atol=1e-10)
    if config.experts > 1:
        of_experts = np.asarray(activations["mlp_post"]).reshape(2, 2, 6, 3, 2).any(-1)
        assert (of_experts.sum(-1) <= config.experts_active).all() and of_experts.any((0, 1, 2)).all()
    check_grads(lambda t: found(params, t)[0].sum(0), (0.0,), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


def test_limits_are_the_plain_model(float64):
    plain = tiny_config(n_layers=2, dtype="float64", ffn="relu")
    params, tokens = tiny_params(plain), jnp.asarray(TOKENS)
    layers = params["layers"]
    kept = jnp.zeros((2, 6, 3)).at[..., 0].set(1.0)
    others = jax.random.normal(jax.random.key(0), (2, 8, 6, 2)), jnp.ones((2, 6, 2))
    same = {
        # relu(1 · relu(w x + b) + 0 · others)
        "units": (
            {"ffn_units": 3},
            {
                "w_in": jnp.concatenate([layers["w_in"][..., None], others[0]], -1),
                "b_in": jnp.concatenate([layers["b_in"][..., None], others[1]], -1),
                "w_unit": kept,
                "b_unit": jnp.zeros((2, 6)),
            },
        ),
        # All experts with a third each.
        "experts": (
            {"experts": 3, "experts_active": 3},
            {"w_router": jnp.zeros((2, 8, 3)), "w_out": 3 * layers["w_out"]},
        ),
        "open": ({"depth_gates": True}, {"depth_gate": {"weight": jnp.zeros((2, 8)), "bias": jnp.full(2, 40.0)}}),
    }
    expected = jax.jit(lambda p: forward(Model(plain, p), tokens).logits_BTV)(params)
    for name, (fields, changed) in same.items():
        model = Model(dataclasses.replace(plain, **fields), {**params, "layers": {**layers, **changed}})
        found = jax.jit(lambda model: forward(model, tokens).logits_BTV)(model)
        np.testing.assert_allclose(found, expected, atol=1e-12, err_msg=name)
    # Gates at 0: layers write their biases.
    shut = {"depth_gate": {"weight": jnp.zeros((2, 8)), "bias": jnp.full(2, -1e4)}}
    model = Model(dataclasses.replace(plain, depth_gates=True), {**params, "layers": {**layers, **shut}})
    places = ("resid_pre", "resid_post")
    stream = jax.jit(lambda model: forward(model, tokens, capture=places).activations)(model)
    biases = np.broadcast_to((layers["b_o"] + layers["b_out"])[:, None, None], stream["resid_pre"].shape)
    np.testing.assert_allclose(stream["resid_post"] - stream["resid_pre"], biases, atol=1e-12)


def test_permuting_experts_permutes_attributions(float64):
    config = tiny_config(n_layers=2, dtype="float64", **{**ALL, "experts": 3})
    params, batch = tiny_params(config), tiny_batch()
    expert, neuron = np.array([2, 0, 1]), np.array([4, 5, 0, 1, 2, 3])
    axes = logical_axes(config)

    def permuted(leaf, spec):
        for axis, name in enumerate(spec):
            order = {"experts": expert, "mlp": neuron}.get(name)
            leaf = leaf if order is None else jnp.take(leaf, order, axis=axis)
        return leaf

    moved = jax.tree.map(permuted, params, axes, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec))
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), params, moved)

    @jax.jit
    @jax.vmap
    def scores(params):
        readout = fast_readout(config, params, batch)
        return integrated_gradients(readout, quadrature("midpoint", 2), path="joint").scores_LRF

    before, after = scores(both)
    np.testing.assert_allclose(after, before[..., neuron], atol=1e-12)
    assert np.abs(before - after).max() > 1e-3


@pytest.mark.parametrize("name", ["experts", "masked", "bert"])
def test_layers_at_the_rows_are_those_of_the_forward(name, float64):
    more = {"experts": 3, "experts_active": 2, "depth_gates": True}
    config = tiny_config(dtype="float64", **{**ARCHITECTURES, **UNPUBLISHED}[name], **(more if name == "bert" else {}))
    model, batch = Model(config, tiny_params(config)), tiny_batch()
    rows, places = batch.rows, ("resid_pre", "resid_post", "mlp_post", "attn_z")

    @jax.jit
    def found(model, gated):
        readout = fast_readout(config, model.params, batch)
        result = forward(model, jnp.asarray(batch.tokens_BT), length_B=jnp.asarray(batch.length_B), capture=places)
        ungated = dataclasses.replace(model.config, depth_gates=False)
        layers = {name: leaf for name, leaf in model.params["layers"].items() if name != "depth_gate"}
        first = forward(
            Model(ungated, {**model.params, "layers": layers}),
            jnp.asarray(batch.tokens_BT),
            length_B=jnp.asarray(batch.length_B),
            capture=places,
        )
        at = lambda x: x[:, rows.sequence_R, rows.position_R]  # noqa: E731
        logits_LRV = unembed(model, at(result.activations["resid_post"]))
        return (
            (depth_gates(readout), expert_shares(router_logits(readout), config.experts_active)),
            (
                at(result.activations["attn_z"])[0] / at(first.activations["attn_z"])[0],
                at(result.activations["mlp_post"]),
            ),
            (lens_nll(readout), lens_top(readout), readout.untouched()),
            jax.nn.log_softmax(logits_LRV),
        )

    (gate_LR, share_LRE), (first_RHK, neurons_LRF), (nll_LR, top_LR, p_R), log_p_LRV = found(model, None)
    # The first layer's heads are those of the model without gates, times the gate.
    np.testing.assert_allclose(first_RHK, np.broadcast_to(gate_LR[0][:, None, None], first_RHK.shape), rtol=1e-9)
    of_experts = np.asarray(neurons_LRF).reshape(*share_LRE.shape, -1).any(-1)
    np.testing.assert_array_equal(of_experts, np.asarray(share_LRE) > 0)
    expected = -np.take_along_axis(log_p_LRV, np.asarray(rows.target_R)[None, :, None], -1)[..., 0]
    np.testing.assert_allclose(nll_LR, expected, atol=1e-10)
    np.testing.assert_allclose(jnp.exp(-nll_LR[-1]), p_R, atol=1e-12)
    np.testing.assert_array_equal(top_LR, log_p_LRV.argmax(-1))
    assert len(np.unique(gate_LR)) > 10 and len(np.unique(top_LR)) > 1


def test_draws_and_sizes():
    plain = tiny_config(d_model=96, d_mlp=384)
    for units in (2, 4, 8):
        width = matched_d_mlp(plain, ffn_units=units)
        rich = dataclasses.replace(plain, ffn_units=units, d_mlp=width)
        assert width == pytest.approx(2 * 384 / (units + 1), rel=0.02)
        assert abs(n_params(rich) - n_params(plain)) <= 3 * (units * 97 + units + 1 + 96) / 2
    assert matched_d_mlp(plain) == 384
    assert matched_d_mlp(plain, experts=5, experts_active=2) % 5 == 0
    # D + 1 into each of 2 units, 2 + 1 inside, D out; a router of D · 3; D + 1 for the gate; b_out, for all neurons, D.
    small = tiny_config(n_layers=1, **ALL)
    of_ffn = 6 * (2 * 9 + 3 + 8) + 8 * 3 + 9 + 8
    names = ("w_in", "b_in", "w_unit", "b_unit", "w_out", "b_out", "w_router", "depth_gate.weight", "depth_gate.bias")
    table = transformer(small)
    assert sum(int(np.prod(table[f"layers.{name}"].shape)) for name in names) == of_ffn
    # 2 · (matrices): w_in is twice as large, and 2 · 6 products inside, 8 · 3 of the router, 8 of the gate.
    more = decode_flops(small, 1, 1) - decode_flops(tiny_config(n_layers=1), 1, 1)
    assert more == 2 * (8 * 6 + 2 * 6 + 8 * 3 + 8)
    # A gate is 0.95 at first, and leaves the other draws as they are.
    gated, bare = (init(dataclasses.replace(plain, depth_gates=gates), jax.random.key(0)) for gates in (True, False))
    gate = gated["layers"].pop("depth_gate")
    np.testing.assert_allclose(jax.nn.sigmoid(gate["bias"]) + gate["weight"].sum(-1), 0.9526, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, gated, bare)


def test_what_a_config_refuses():
    for fields, message in (
        ({"ffn_units": 0}, "model.ffn_units must be at least 1, got 0"),
        ({"ffn_units": 2, "ffn": "swiglu"}, "needs model.ffn gelu, gelu_exact, relu or relu2, got swiglu"),
        ({"ffn_units": 2, "ffn": "topk", "ffn_k": 2}, "needs model.ffn gelu, gelu_exact, relu or relu2, got topk"),
        (
            {"experts": 2, "ffn": "solu"},
            "model.experts needs neurons that do not look at each other's, got model.ffn solu",
        ),
        ({"experts": 5}, r"model.d_mlp \(384\) must be a multiple of model.experts \(5\)"),
        ({"experts": 4, "experts_active": 5}, "model.experts_active must lie in 1 … experts = 4, got 5"),
        ({"experts_active": 2}, "model.experts_active must lie in 1 … experts = 1, got 2"),
    ):
        with pytest.raises(UserError, match=message):
            ModelConfig(d_vocab=10, n_ctx=8, **fields)
    assert parsed_fields({"experts": "4", "depth_gates": "true"}) == {"experts": 4, "depth_gates": True}


@pytest.mark.parametrize("field", ["ffn_units", "experts", "depth_gates"])
def test_no_family_has_them(field):
    config = tiny_config(**{field: {"ffn_units": 2, "experts": 3, "depth_gates": True}[field]})
    with pytest.raises(UserError, match=f"no family of transformers has model.{field} "):
        family_for(config)
    with pytest.raises(UserError, match=f"the family gpt2 cannot express this model: it does not have model.{field} "):
        family_named(config, "gpt2")
