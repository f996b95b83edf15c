"""The transformer against a plain one in numpy, and what must hold of any causal model."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import ARCHITECTURES, fast_readout, tiny_batch, tiny_config, tiny_params

from jaxinterp.attribution.edits import Edit
from jaxinterp.base.errors import UserError
from jaxinterp.models.layers import rotate
from jaxinterp.models.model import Model
from jaxinterp.models.rerun import Later, after_ffn, ffn_output, run_branches, run_layers
from jaxinterp.models.transformer import ACTIVATIONS, forward, unembed

VARIANTS = {
    "gpt": ARCHITECTURES["gpt"],
    "llama": {**ARCHITECTURES["llama"], "n_heads": 4, "n_kv_heads": 2},
}
TOKENS = np.array([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
POSITION = np.array([3, 5])


def plain_norm(config, weights, x):
    if config.norm == "layernorm":
        x = x - np.mean(x)
    y = x / math.sqrt(np.mean(x**2) + config.norm_eps) * weights["scale"]
    return y + weights.get("bias", 0.0)


def plain_rotate(config, x, position):
    """A head's vector, as complex numbers turned by position · θ^(−2i/K)."""
    half = len(x) // 2
    turned = [
        complex(x[i], x[i + half]) * np.exp(1j * position * config.rope_theta ** (-2 * i / len(x))) for i in range(half)
    ]
    return np.array([z.real for z in turned] + [z.imag for z in turned])


def plain_neurons(config, w, x):
    up = x @ w["w_in"] + w.get("b_in", 0.0)
    if config.ffn == "swiglu":
        gate = x @ w["w_gate"] + w.get("b_gate", 0.0)
        return gate, gate / (1 + np.exp(-gate)) * up
    if config.ffn == "relu":
        return up, np.maximum(up, 0)
    return up, 0.5 * up * (1 + np.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))


def plain_forward(config, params, tokens):
    """One sequence, position by position and head by head. Returns logits [T, V] and activations [L, T, …]."""
    p = jax.tree.map(np.asarray, params)
    n, group = len(tokens), config.n_heads // config.n_kv_heads
    resid = [p["embedding"][token] for token in tokens]
    if config.position == "learned":
        resid = [x + p["positions"][t] for t, x in enumerate(resid)]
    found = {name: [] for name in ACTIVATIONS}
    for layer in range(config.n_layers):
        w = jax.tree.map(lambda leaf, layer=layer: leaf[layer], p["layers"])
        found["resid_pre"].append(np.stack(resid))
        x = [plain_norm(config, w["norm_attn"], r) for r in resid]
        pattern = np.zeros((config.n_heads, n, n))
        attn_out = [np.zeros(config.d_model) + w.get("b_o", 0.0) for _ in range(n)]
        queries = np.zeros((n, config.n_heads, config.d_head))
        for head in range(config.n_heads):
            shared = head // group

            def projected(kind, h, x=x, w=w):
                bias = w[f"b_{kind}"][h] if config.qkv_bias else 0.0
                return [vector @ w[f"w_{kind}"][:, h] + bias for vector in x]

            q, k, v = projected("q", head), projected("k", shared), projected("v", shared)
            if config.position == "rotary":
                q = [plain_rotate(config, vector, t) for t, vector in enumerate(q)]
                k = [plain_rotate(config, vector, t) for t, vector in enumerate(k)]
            queries[:, head] = q
            for t in range(n):
                weights = [math.exp(q[t] @ k[s] / math.sqrt(config.d_head)) for s in range(t + 1)]
                for s in range(t + 1):
                    pattern[head, t, s] = weights[s] / sum(weights)
                    attn_out[t] = attn_out[t] + pattern[head, t, s] * (v[s] @ w["w_o"][head])
        found["attn_q"].append(queries)
        found["attn_pattern"].append(pattern)
        found["attn_out"].append(np.stack(attn_out))
        middle = [r + a for r, a in zip(resid, attn_out, strict=True)]
        found["resid_mid"].append(np.stack(middle))
        neurons = [plain_neurons(config, w, plain_norm(config, w["norm_mlp"], m)) for m in middle]
        found["mlp_pre"].append(np.stack([pre for pre, _ in neurons]))
        found["mlp_post"].append(np.stack([post for _, post in neurons]))
        mlp_out = [post @ w["w_out"] + w.get("b_out", 0.0) for _, post in neurons]
        found["mlp_out"].append(np.stack(mlp_out))
        resid = [m + o for m, o in zip(middle, mlp_out, strict=True)]
        found["resid_post"].append(np.stack(resid))
    unembedding = p["embedding" if config.tied else "unembedding"]
    logits = np.stack([unembedding @ plain_norm(config, p["norm_final"], r) for r in resid])
    return logits, {name: np.stack(value) for name, value in found.items()}


@pytest.fixture(scope="module", params=VARIANTS)
def run(request):
    """One compiled forward with an edit, its results, and everything needed to call it again."""
    with jax.enable_x64(True):
        config = tiny_config(n_layers=2, dtype="float64", **VARIANTS[request.param])
        params = tiny_params(config)
        whole = jax.jit(
            lambda params, tokens, edit: forward(
                Model(config, params), tokens, edit=edit, query_B=jnp.asarray(POSITION), capture=ACTIVATIONS
            )
        )
        ones = np.ones((2, 2, config.d_mlp))
        yield config, params, whole, whole(params, TOKENS, Edit(ones, 0 * ones))


def test_forward_is_the_plain_one(run):
    config, params, _, result = run
    for row, tokens in enumerate(TOKENS):
        logits, activations = plain_forward(config, params, tokens)
        np.testing.assert_allclose(result.logits_BTV[row], logits, rtol=0, atol=1e-10)
        for name in ACTIVATIONS:
            np.testing.assert_allclose(result.activations[name][:, row], activations[name], rtol=0, atol=1e-10)
    assert float(jnp.abs(result.logits_BTV).max()) > 0.1


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
    changed = whole(params, np.where(np.arange(6)[None] >= 4, 7, TOKENS), Edit(ones, 0 * ones))
    np.testing.assert_array_equal(changed.logits_BTV[:, :4], result.logits_BTV[:, :4])
    assert float(jnp.abs(changed.logits_BTV - result.logits_BTV)[:, 4:].min(axis=-1).max()) > 1e-3


def test_an_edit_acts_at_the_query_position_alone(run):
    _, params, whole, result = run
    gates, shift = np.random.default_rng(0).uniform(0, 2, (2, 2, 2, 6))
    edited = whole(params, TOKENS, Edit(gates, shift))
    for row, query in enumerate(POSITION):
        before, after = (
            {name: np.asarray(value[:, row]) for name, value in r.activations.items() if name != "attn_pattern"}
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
        everywhere, tokens = Edit(jnp.repeat(gates[:, :1], 2, axis=1)), jnp.asarray(TOKENS)
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
    def decoded(params, resid, later, edit, start):
        return unembed(
            Model(config, params), run_layers(Model(config, params), resid[:, None], later, edit, start=start)
        )

    rows = np.arange(2)
    edited = whole(params, TOKENS, Edit(gates, shift))
    for start in (0, 1):
        resid = edited.activations["resid_pre"][start, rows, POSITION]
        logits = decoded(params, resid, one_token(result), Edit(gates[start:], shift[start:]), start)
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


def test_unknown_activation():
    config = tiny_config()
    with pytest.raises(
        UserError, match="unknown activation 'hook_resid_pre'; known: attn_out, attn_pattern, attn_q, mlp_out"
    ):
        forward(Model(config, {}), jnp.asarray(TOKENS), capture=("hook_resid_pre",))
