"""The transformer against a plain one in numpy, and what must hold of any causal model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_transformer import plain_forward
from tiny import ARCHITECTURES, fast_readout, tiny_batch, tiny_config, tiny_params

from jaxinterp.attribution.edits import NeuronEdit
from jaxinterp.base.errors import UserError
from jaxinterp.models.layers import rotate
from jaxinterp.models.model import Model
from jaxinterp.models.places import PLACES, Change, of_neurons
from jaxinterp.models.rerun import Later, after_ffn, ffn_output, run_branches, run_layers, run_whole
from jaxinterp.models.transformer import forward, unembed

VARIANTS = {
    "gpt": ARCHITECTURES["gpt"],
    "llama": {**ARCHITECTURES["llama"], "n_heads": 4, "n_kv_heads": 2},
}
TOKENS = np.array([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
POSITION = np.array([3, 5])


@pytest.fixture(scope="module", params=VARIANTS)
def run(request):
    """One compiled forward with an edit, its results, and everything needed to call it again."""
    with jax.enable_x64(True):
        config = tiny_config(n_layers=2, dtype="float64", **VARIANTS[request.param])
        params = tiny_params(config)
        whole = jax.jit(
            lambda params, tokens, edit: forward(
                Model(config, params), tokens, edit=edit, query_B=jnp.asarray(POSITION), capture=tuple(PLACES)
            )
        )
        ones = np.ones((2, 2, config.d_mlp))
        yield config, params, whole, whole(params, TOKENS, NeuronEdit(ones, 0 * ones))


def test_forward_is_the_plain_one(run):
    config, params, _, result = run
    for row, tokens in enumerate(TOKENS):
        logits, activations = plain_forward(config, params, tokens)
        np.testing.assert_allclose(result.logits_BTV[row], logits, rtol=0, atol=1e-10)
        for name in PLACES:
            of_row = result.activations[name][row] if name == "embed" else result.activations[name][:, row]
            np.testing.assert_allclose(of_row, activations[name], rtol=0, atol=1e-10)
    assert float(jnp.abs(result.logits_BTV).max()) > 0.1


def test_later_layers_of_whole_sequences(run):
    config, params, _, result = run
    model = Model(config, params)
    for start, stream in enumerate((*result.activations["resid_pre"], result.resid_final_BTD)):
        found = jax.jit(run_whole, static_argnames="start")(model, stream, start=start)
        np.testing.assert_allclose(found, result.resid_final_BTD, rtol=0, atol=1e-12)


def test_activations_fit_together(run):
    config, _, _, result = run
    a, n_layers, d, f = result.activations, 2, config.d_model, config.d_mlp
    for name in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"):
        assert a[name].shape == (n_layers, 2, 6, d)
    assert a["mlp_pre"].shape == a["mlp_post"].shape == (n_layers, 2, 6, f)
    assert a["attn_pattern"].shape == (n_layers, 2, config.n_heads, 6, 6)
    assert result.cache.keys.shape == result.cache.values.shape == (n_layers, 2, 6, config.n_kv_heads, config.d_head)
    assert result.logits_BTV.shape == (2, 6, config.d_vocab)
    np.testing.assert_allclose(a["resid_mid"], a["resid_pre"] + a["attn_out"], atol=1e-14)
    np.testing.assert_allclose(a["resid_post"], a["resid_mid"] + a["mlp_out"], atol=1e-14)
    np.testing.assert_allclose(a["resid_post"][0], a["resid_pre"][1], atol=1e-14)
    np.testing.assert_allclose(a["attn_pattern"].sum(-1), 1, atol=1e-12)
    future = np.broadcast_to(~np.tri(6, dtype=bool), a["attn_pattern"].shape)
    np.testing.assert_array_equal(a["attn_pattern"] == 0, future)


def test_a_later_token_does_not_change_earlier_logits(run):
    _, params, whole, result = run
    ones = np.ones((2, 2, 6))
    changed = whole(params, np.where(np.arange(6)[None] >= 4, 7, TOKENS), NeuronEdit(ones, 0 * ones))
    np.testing.assert_array_equal(changed.logits_BTV[:, :4], result.logits_BTV[:, :4])
    assert float(jnp.abs(changed.logits_BTV - result.logits_BTV)[:, 4:].min(axis=-1).max()) > 1e-3


def test_an_edit_acts_at_the_query_position_alone(run):
    _, params, whole, result = run
    gates, shift = np.random.default_rng(0).uniform(0, 2, (2, 2, 2, 6))
    edited = whole(params, TOKENS, NeuronEdit(gates, shift))
    for row, query in enumerate(POSITION):
        before, after = (
            {
                name: np.asarray(value[:, row])
                for name, value in r.activations.items()
                if name not in ("attn_pattern", "embed")
            }
            for r in (result, edited)
        )
        for name in before:
            np.testing.assert_array_equal(after[name][:, :query], before[name][:, :query])
        # Nothing before the first layer's neurons moves; its neurons are gates · neurons + shift at the query only.
        np.testing.assert_array_equal(after["resid_mid"][0], before["resid_mid"][0])
        expected = before["mlp_post"][0].copy()
        expected[query] = gates[0, row] * expected[query] + shift[0, row]
        np.testing.assert_allclose(after["mlp_post"][0], expected, atol=1e-14)
        assert np.abs(after["resid_post"] - before["resid_post"])[:, query].max() > 1e-2
        # Later positions see the edit through attention in the second layer, and not before.
        np.testing.assert_array_equal(after["resid_post"][0, query + 1 :], before["resid_post"][0, query + 1 :])
    assert np.abs(edited.logits_BTV - result.logits_BTV)[0, POSITION[0] + 1 :].max() > 1e-6


def test_without_an_edit_and_with_one_everywhere(run):
    config, params, _, result = run
    gates = np.random.default_rng(0).uniform(0, 2, (2, 2, 6))

    @jax.jit
    def both(params):
        layers = {**params["layers"], "w_out": params["layers"]["w_out"] * gates[:, 0, :, None]}
        everywhere, tokens = NeuronEdit(jnp.repeat(gates[:, :1], 2, axis=1)), jnp.asarray(TOKENS)
        return (
            forward(Model(config, params), tokens),
            forward(Model(config, params), tokens, edit=everywhere).logits_BTV,
            forward(Model(config, {**params, "layers": layers}), tokens).logits_BTV,
        )

    untouched, edited, scaled = both(params)
    np.testing.assert_allclose(untouched.logits_BTV, result.logits_BTV, atol=1e-14)
    assert untouched.activations == {}
    np.testing.assert_allclose(edited, scaled, atol=1e-13)
    assert float(jnp.abs(edited - untouched.logits_BTV).max()) > 1e-2


def one_token(result, replaced=100.0) -> Later:
    """The query alone against the cache; what must not matter in it, the query and all that follows, is replaced."""
    position = jnp.asarray(POSITION)
    past = jnp.arange(6)[None] < position[:, None]
    cache = jax.tree.map(lambda x: jnp.where(past[None, :, :, None, None], x, replaced), result.cache)
    return Later(position[:, None], cache, past)


def test_running_one_token_is_the_forward(run):
    config, params, whole, result = run
    gates, shift = np.random.default_rng(1).uniform(0, 2, (2, 2, 2, 6))

    @functools.partial(jax.jit, static_argnums=4)
    def decoded(params, resid, later, changes, start):
        return unembed(
            Model(config, params), run_layers(Model(config, params), resid[:, None], later, changes, start=start)
        )

    rows = np.arange(2)
    edited = whole(params, TOKENS, NeuronEdit(gates, shift))
    for start in (0, 1):
        resid = edited.activations["resid_pre"][start, rows, POSITION]
        logits = decoded(params, resid, one_token(result), of_neurons(NeuronEdit(gates[start:], shift[start:])), start)
        np.testing.assert_allclose(logits, edited.logits_BTV[rows, POSITION], atol=1e-13)
    resid = result.activations["resid_post"][1, rows, POSITION]
    logits = decoded(params, resid, one_token(result), None, 2)
    np.testing.assert_allclose(logits, result.logits_BTV[rows, POSITION], atol=1e-13)


@pytest.mark.parametrize("layers", [[0, 1, 2, 3], [2, 0, 3, 1], [2, 2], [3]])
@pytest.mark.parametrize("name", ["llama", "bert", "olmo", "modernbert"])
def test_branches_are_runs_of_their_own(name, layers, float64):
    """Whatever their layers: all, near each other, none that is left to run."""
    config = tiny_config(n_layers=4, dtype="float64", **ARCHITECTURES[name])
    params = tiny_params(config)
    rng = np.random.default_rng(0)
    batch = tiny_batch()
    readout = fast_readout(config, params, batch)
    later, query = readout.later, rng.standard_normal((4, 10, 1, config.d_model))

    def start(layer):
        if later.query_RS is None:
            return jnp.asarray(query[layer])
        return jnp.where(later.query_RS[..., None], query[layer], readout.resid_post_LRTD[layer])

    @jax.jit
    def both(params):
        alone = [run_layers(Model(config, params), start(layer), later, None, start=layer + 1) for layer in layers]
        layer_NR = jnp.broadcast_to(jnp.array(layers)[:, None], (len(layers), 10))
        together = run_branches(Model(config, params), jnp.stack([start(layer) for layer in layers]), later, layer_NR)
        mixed = jnp.where(jnp.arange(10)[None] % 2 == 0, layer_NR, layer_NR[::-1])
        starts = jnp.stack([start(layer) for layer in range(4)])[mixed, jnp.arange(10)[None]]
        return together, jnp.stack(alone), run_branches(Model(config, params), starts, later, mixed)

    together, alone, mixed = both(params)
    np.testing.assert_allclose(together, alone, atol=1e-13)
    np.testing.assert_allclose(mixed[:, ::2], alone[:, ::2], atol=1e-13)
    np.testing.assert_allclose(mixed[:, 1::2], alone[::-1, 1::2], atol=1e-13)
    last = layers.index(3) if 3 in layers else None
    if last is not None:
        np.testing.assert_array_equal(together[last], query[3, :, 0])


def test_parts_of_the_ffn_are_the_forwards(run):
    config, params, _, result = run
    a = result.activations

    @jax.jit
    def parts(params):
        out = ffn_output(config, params["layers"], a["mlp_post"])
        layer = jnp.broadcast_to(jnp.arange(out.shape[0])[:, None, None], out.shape[:-1])
        return out, after_ffn(config, params["layers"], layer, a["resid_mid"], out)

    out, after = parts(params)
    np.testing.assert_allclose(out, a["mlp_out"], atol=1e-14)
    np.testing.assert_allclose(after, a["resid_post"], atol=1e-14)


def test_grouped_queries_are_many_heads_with_repeated_keys(float64):
    config = tiny_config(n_layers=2, n_heads=4, n_kv_heads=2, dtype="float64")
    params = tiny_params(config)
    repeated = {
        name: jnp.repeat(leaf, 2, axis=-2) if name in ("w_k", "w_v", "b_k", "b_v") else leaf
        for name, leaf in params["layers"].items()
    }
    full = tiny_config(n_layers=2, n_heads=4, n_kv_heads=4, dtype="float64")
    logits = [
        jax.jit(lambda p, c=c: forward(Model(c, p), jnp.asarray(TOKENS)).logits_BTV)(p)
        for c, p in [(config, params), (full, {**params, "layers": repeated})]
    ]
    np.testing.assert_allclose(*logits, atol=1e-13)


def test_rotary_products_depend_on_relative_positions_alone(float64):
    q, k = np.random.default_rng(0).standard_normal((2, 1, 1, 3, 4))

    @jax.jit
    def product(position):
        a, b = (
            rotate(jnp.asarray(x), jnp.full((1, 1), p), jnp.array([1.0, 0.1]))
            for x, p in zip((q, k), position, strict=True)
        )
        return (a * b).sum(-1)[0, 0]

    positions = [(0, 0), (9, 9), (5, 2), (1005, 1002), (2, 5)]
    same, also_same, near, far, back = (product(jnp.array(position)) for position in positions)
    np.testing.assert_allclose(same, (q * k).sum(-1)[0, 0], atol=1e-12)
    np.testing.assert_allclose(also_same, same, atol=1e-12)
    np.testing.assert_allclose(near, far, atol=1e-10)
    assert float(jnp.abs(near - same).max()) > 1e-3
    assert float(jnp.abs(near - back).max()) > 1e-3


def test_what_is_not_there():
    model = Model(tiny_config(), {})
    with pytest.raises(UserError, match="unknown place 'hook_resid_pre'; known: attn_k, attn_out, attn_pattern"):
        forward(model, jnp.asarray(TOKENS), capture=("hook_resid_pre",))
    with pytest.raises(UserError, match="unknown place 'neurons'"):
        forward(model, jnp.asarray(TOKENS), edit={"neurons": Change(jnp.zeros((2, 1, 1, 1)))})
    for wrong in (-1, model.config.d_vocab):
        with pytest.raises(UserError, match=f"token id {wrong} is out of range: at least 0 and below"):
            forward(model, jnp.full((1, 3), wrong))
    for name, position in (("query_B", 6), ("query_B", -1), ("length_B", 7), ("length_B", 0)):
        with pytest.raises(UserError, match=rf"{position} is out of range: at least [01] and below [67]"):
            forward(model, jnp.asarray(TOKENS), **{name: jnp.array([1, position])})
