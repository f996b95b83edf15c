"""What differs between published families inside attention and around it: windows, rotary positions, caps, 16 bits."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import ARCHITECTURES, arrays_of, tiny_batch, tiny_config, tiny_params

from jaxinterp.base.errors import UserError
from jaxinterp.models.config import RopeScaling
from jaxinterp.models.layers import layer_constants, rotate
from jaxinterp.models.model import Model
from jaxinterp.models.readout import lm_readout
from jaxinterp.models.transformer import forward

TOKENS = jnp.asarray([[3, 1, 4, 1, 5, 9, 2, 6]])


def ran(config, tokens=TOKENS, params=None, capture=()):
    params = tiny_params(config) if params is None else params
    return jax.device_get(jax.jit(lambda p, t: forward(Model(config, p), t, capture=capture))(params, tokens))


@pytest.mark.parametrize(
    # One layer reaches window − 1 positions back, two layers twice as far, and one without a window reaches everything.
    ("local_layers", "n_layers", "reach"),
    [((0,), 1, 2), ((0, 1), 2, 4), ((0,), 2, 7), ((), 1, 7)],
)
def test_a_local_layer_sees_its_window_alone(local_layers, n_layers, reach):
    config = tiny_config(n_layers=n_layers, window=3, local_layers=local_layers, **ARCHITECTURES["llama"])
    whole = jax.jit(lambda p, t: forward(Model(config, p), t, capture=("attn_pattern",)))
    params = tiny_params(config)
    before, after = (whole(params, TOKENS.at[0, 0].set(first)) for first in (3, 7))
    changed = np.abs(before.logits_BTV - after.logits_BTV)[0].max(-1)
    np.testing.assert_array_equal(changed[reach + 1 :], 0)
    assert (changed[: reach + 1] > 1e-4).all()
    distance = np.arange(8)[:, None] - np.arange(8)[None]
    for layer in range(n_layers):
        seen = (distance >= 0) & (distance < (3 if layer in local_layers else 8))
        shown = np.broadcast_to(seen, (config.n_heads, 8, 8))
        np.testing.assert_array_equal(before.activations["attn_pattern"][layer, 0] > 0, shown)


@pytest.mark.parametrize(("local_layers", "n_layers", "reach"), [((0,), 1, 1), ((0, 1), 2, 2), ((0,), 2, 7)])
def test_a_bidirectional_window_is_on_either_side(local_layers, n_layers, reach):
    """A window of 2 is a position and its neighbours."""
    config = tiny_config(n_layers=n_layers, window=2, local_layers=local_layers, **ARCHITECTURES["bert"])
    whole = jax.jit(lambda p, t: forward(Model(config, p), t, capture=("attn_pattern",)))
    params, distance = tiny_params(config), np.abs(np.arange(8)[:, None] - np.arange(8)[None])
    for place in (0, 4):
        before, after = (whole(params, TOKENS.at[0, place].set(token)) for token in (3, 7))
        changed = np.abs(before.logits_BTV - after.logits_BTV)[0].max(-1)
        np.testing.assert_array_equal(changed[distance[place] > reach], 0)
        assert (changed[distance[place] <= reach] > 1e-4).all()
    for layer in range(n_layers):
        shown = np.broadcast_to(distance < (2 if layer in local_layers else 8), (config.n_heads, 8, 8))
        np.testing.assert_array_equal(before.activations["attn_pattern"][layer, 0] > 0, shown)


def test_without_its_first_norm_attention_reads_the_input_as_it_is(float64):
    """The first layer's norm can have any scale, and a later layer's cannot."""
    config = tiny_config(dtype="float64", first_attn_norm=False, n_layers=2)
    params = tiny_params(config)
    run = jax.jit(lambda p: forward(Model(config, p), TOKENS, capture=("resid_pre", "attn_q")))
    result = run(params)
    w, b = (params["layers"][name][0] for name in ("w_q", "b_q"))
    expected = jnp.einsum("bsd,dhk->bshk", result.activations["resid_pre"][0], w) + b[None, None]
    np.testing.assert_allclose(result.activations["attn_q"][0], expected, rtol=0, atol=1e-13)

    def scaled(layer):
        norm = jax.tree.map(lambda leaf: leaf.at[layer].multiply(3), params["layers"]["norm_attn"])
        return run({**params, "layers": params["layers"] | {"norm_attn": norm}}).logits_BTV

    np.testing.assert_array_equal(scaled(0), result.logits_BTV)
    assert float(jnp.abs(scaled(1) - result.logits_BTV).max()) > 1e-3


@pytest.mark.parametrize("over", ["head", "all_heads"])
def test_queries_and_keys_are_normed_over_what_the_config_says(over, float64):
    fields = {"norm": "rmsnorm", "qk_norm": True, "qk_norm_over": over, "n_kv_heads": 1, "norm_eps": 0.5}
    config = tiny_config(dtype="float64", n_layers=1, **fields)
    params = tiny_params(config)
    result = ran(config, params=params, capture=("resid_pre", "attn_q"))
    w = jax.tree.map(lambda leaf: np.asarray(leaf[0]), params["layers"])
    resid = result.activations["resid_pre"][0]
    x = resid / np.sqrt((resid**2).mean(-1, keepdims=True) + 0.5) * w["norm_attn"]["scale"]
    for letter, found in (("q", result.activations["attn_q"][0]), ("k", result.cache.keys[0])):
        y = np.einsum("bsd,dhk->bshk", x, w[f"w_{letter}"]) + w[f"b_{letter}"]
        square = (y**2).mean((-1,) if over == "head" else (-2, -1), keepdims=True)
        np.testing.assert_allclose(found, y / np.sqrt(square + 0.5) * w[f"norm_{letter}"]["scale"], rtol=0, atol=1e-12)


def test_outputs_alone_are_normed(float64):
    """x + norm(f(x)): what is added to the residual stream has a mean square of 1 before its scale."""
    config = tiny_config(n_layers=2, **ARCHITECTURES["olmo"] | {"dtype": "float64"})
    params = tiny_params(config)
    names = ("resid_pre", "attn_out", "resid_mid", "mlp_pre", "mlp_post", "mlp_out", "resid_post")
    a = ran(config, params=params, capture=names).activations
    w = jax.tree.map(np.asarray, params["layers"])
    np.testing.assert_allclose(a["mlp_pre"], np.einsum("lbsd,ldf->lbsf", a["resid_mid"], w["w_gate"]), atol=1e-12)
    added = a["resid_post"] - a["resid_mid"]
    written = np.einsum("lbsf,lfd->lbsd", a["mlp_post"], w["w_out"])
    square = (written**2).mean(-1, keepdims=True) + config.norm_eps
    expected = written / np.sqrt(square) * w["norm_mlp_out"]["scale"][:, None, None]
    np.testing.assert_allclose(a["mlp_out"], expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(added, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(a["resid_mid"], a["resid_pre"] + a["attn_out"], rtol=0, atol=1e-12)
    unscaled = a["attn_out"] / w["norm_attn_out"]["scale"][:, None, None]
    np.testing.assert_allclose((unscaled**2).mean(-1), 1, rtol=0, atol=1e-3)


def test_partial_rotary_leaves_the_rest_alone():
    x = np.random.default_rng(0).standard_normal((1, 3, 2, 10)).astype(np.float32)
    position = jnp.array([[0, 1, 5]])
    turned = np.asarray(jax.jit(rotate)(jnp.asarray(x), position, jnp.array([1.0, 0.25])))
    np.testing.assert_array_equal(turned[..., 4:], x[..., 4:])
    np.testing.assert_array_equal(turned[:, 0], x[:, 0])
    # Of the coordinates that rotate, i and i + 2 are a point of the plane.
    for pair, frequency in ((0, 1.0), (1, 0.25)):
        point = (x[..., pair] + 1j * x[..., pair + 2]) * np.exp(1j * frequency * np.array([0, 1, 5]))[None, :, None]
        np.testing.assert_allclose(turned[..., pair], point.real, atol=1e-6)
        np.testing.assert_allclose(turned[..., pair + 2], point.imag, atol=1e-6)


def test_frequencies_by_hand():
    config = tiny_config(position="rotary", d_head=12, rope_share=0.5, rope_theta=1000.0)
    found = layer_constants(config)
    np.testing.assert_allclose(found.frequency, [[1, 0.1, 0.01]] * 3, rtol=1e-6)
    np.testing.assert_array_equal(found.window, [8, 8, 8])
    scaling = RopeScaling("linear", 4.0)
    changes = {"rope_scaling": scaling, "window": 3, "local_layers": (0, 2), "rope_theta_local": 8.0}
    found = layer_constants(tiny_config(position="rotary", d_head=6, rope_theta=1000.0, **changes))
    # Local layers have a base of their own, and are not scaled.
    local = [1, 0.5, 0.25]
    np.testing.assert_allclose(found.frequency, [local, [1 / 4, 0.1 / 4, 0.01 / 4], local], rtol=1e-6)
    np.testing.assert_array_equal(found.window, [3, 8, 3])


def test_llama3_scaling_keeps_short_wavelengths_and_divides_long_ones():
    scaling = RopeScaling("llama3", 8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_n_ctx=1000)
    fields = {"n_layers": 1, "position": "rotary", "d_head": 1024}
    plain = np.asarray(layer_constants(tiny_config(**fields)).frequency[0], np.float64)
    share = np.asarray(layer_constants(tiny_config(**fields, rope_scaling=scaling)).frequency[0]) / plain
    wavelength = 2 * math.pi / plain
    short, long = wavelength < 250, wavelength > 1000
    assert short.any() and long.any() and not (short | long).all()
    np.testing.assert_allclose(share[short], 1, rtol=1e-6)
    np.testing.assert_allclose(share[long], 1 / 8, rtol=1e-6)
    between = wavelength[~(short | long)]
    kept = (1000 / between - 1) / (4 - 1)
    np.testing.assert_allclose(share[~(short | long)], kept + (1 - kept) / 8, rtol=1e-5)
    # Neighbouring wavelengths are 2 % apart: no jump anywhere, and never up.
    assert (np.diff(share) < 1e-6).all()
    assert np.diff(share).min() > -0.03


@pytest.mark.parametrize("whole", [True, False])
def test_yarn_keeps_pairs_that_turn_often_and_divides_those_that_turn_rarely(whole):
    """A pair turns as often over the context of pretraining as 2048 · frequency / 2π says."""
    scaling = RopeScaling("yarn", 8.0, original_n_ctx=2048, beta_fast=32.0, beta_slow=1.0, whole_pairs=whole)
    fields = {"n_layers": 1, "position": "rotary", "d_head": 64}
    plain = np.asarray(layer_constants(tiny_config(**fields)).frequency[0], np.float64)
    share = np.asarray(layer_constants(tiny_config(**fields, rope_scaling=scaling)).frequency[0]) / plain
    turns = 2048 * plain / (2 * math.pi)
    often, rarely = np.flatnonzero(turns >= 32), np.flatnonzero(turns <= 1)
    first, last = (32 * math.log(2048 / (n * 2 * math.pi), 10_000.0) for n in (32, 1))
    assert often.max() <= first < often.max() + 1 and rarely.min() - 1 < last <= rarely.min()
    first, last = (often.max(), rarely.min()) if whole else (first, last)
    expected = [1 - (1 - 1 / 8) * min(max((pair - first) / (last - first), 0), 1) for pair in range(32)]
    np.testing.assert_allclose(share, expected, rtol=1e-5)
    assert share[0] == 1 and share[-1] == pytest.approx(1 / 8) and 1 / 8 < share[(often.max() + rarely.min()) // 2] < 1


def test_the_amplitude_is_of_the_coordinates_that_turn():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 2, 6)), jnp.float32)
    position, frequency = jnp.array([[0, 1, 5]]), jnp.array([1.0, 0.1])
    once, more = rotate(x, position, frequency), rotate(x, position, frequency, 1.5)
    np.testing.assert_allclose(more[..., :4], 1.5 * once[..., :4], rtol=1e-6)
    np.testing.assert_array_equal(more[..., 4:], x[..., 4:])


@pytest.mark.parametrize("kind", ["linear", "llama3"])
def test_scaled_frequencies_are_what_the_model_turns_by(kind):
    """Where every wavelength is long, keys are those of positions that are divided by the factor."""
    scaling = RopeScaling(kind, 2.0, original_n_ctx=6)
    fields = {**ARCHITECTURES["llama"], "n_layers": 1, "d_head": 2}
    scaled = ran(tiny_config(**fields, rope_scaling=scaling))
    # One token at all positions: its key is the same one, turned.
    same = jnp.full((1, 8), 4)
    keys = ran(tiny_config(**fields, rope_scaling=scaling), same).cache.keys[0, 0, :, 0]
    first = keys[0, 0] + 1j * keys[0, 1]
    turned = first * np.exp(0.5j * np.arange(8))
    np.testing.assert_allclose(keys, np.stack([turned.real, turned.imag], -1), atol=1e-5)
    assert np.abs(scaled.logits_BTV - ran(tiny_config(**fields)).logits_BTV).max() > 1e-3


def test_caps_bound_scores_and_logits():
    config = tiny_config(n_layers=1)
    params = jax.tree.map(lambda leaf: 4 * leaf, tiny_params(config))
    free = ran(config, params=params, capture=("attn_pattern",))
    capped = ran(tiny_config(n_layers=1, attn_softcap=0.5, logit_softcap=2.0), params=params, capture=("attn_pattern",))
    loose = ran(tiny_config(n_layers=1, attn_softcap=1e6, logit_softcap=1e6), params=params)
    np.testing.assert_allclose(loose.logits_BTV, free.logits_BTV, rtol=1e-3, atol=1e-3)
    assert np.abs(free.logits_BTV).max() > 2 > np.abs(capped.logits_BTV).max() > 1
    visible = np.tri(8, dtype=bool)

    def least_share(result):
        pattern = np.where(visible, result.activations["attn_pattern"][0, 0], np.nan)
        return np.nanmin(np.nanmin(pattern, -1) / np.nanmax(pattern, -1))

    # Scores lie between −c and c, so that the weights of one query differ by e^2c at most.
    assert least_share(free) < 0.1 < 0.9999 / math.e < least_share(capped) < 0.7
    # A cap of logits alone is c · tanh(logits / c) of the others.
    logits = ran(tiny_config(n_layers=1, logit_softcap=2.0), params=params).logits_BTV
    np.testing.assert_allclose(logits, 2 * np.tanh(free.logits_BTV / 2), atol=2e-3)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    # Where small outputs are normed, their rounding grows with them.
    [("gpt", 0.05), ("gemma", 0.05), ("bert", 0.05), ("modernbert", 0.05), ("olmo", 0.1)],
)
def test_bfloat16_is_near_float32(name, tolerance):
    config = tiny_config(n_layers=2, dtype="bfloat16", **ARCHITECTURES[name])
    params = tiny_params(config)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}

    def run(config):
        exact = jax.tree.map(lambda leaf: leaf.astype(config.dtype), params)
        result, readout = lm_readout(Model(config, exact), *arrays_of(tiny_batch()))
        return result.logits_BTV, readout.untouched(), readout(jnp.zeros(readout.shape, config.dtype))

    near = jax.jit(lambda: run(config))()
    exact = jax.jit(lambda: run(tiny_config(n_layers=2, **ARCHITECTURES[name])))()
    assert near[0].dtype == near[1].dtype == jnp.float32  # softmax and logits need more than 16 bits
    for a, b in zip(near, exact, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, atol=tolerance * float(jnp.abs(b).max()))
    assert float(jnp.abs(near[0] - exact[0]).max()) > 1e-5  # it is not float32 in disguise


@pytest.mark.parametrize(("name", "length"), [("gpt", None), ("llama", None), ("bert", (5, 8))])
def test_cudnn_is_asked_for_the_same_attention(name, length, monkeypatch):
    """The kernel runs on GPUs alone; JAX's own implementation takes the same arguments."""
    original, asked = jax.nn.dot_product_attention, []

    def on_any_device(*args, implementation, **kwargs):
        asked.append(implementation)
        return original(*args, implementation="xla", **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", on_any_device)
    fields = {"attn_scale": 0.3, **ARCHITECTURES[name]}
    params = tiny_params(tiny_config(**fields))
    tokens = jnp.concatenate([TOKENS, TOKENS[:, ::-1]])
    length_B = None if length is None else jnp.asarray(length)
    run = jax.jit(
        lambda config, capture: forward(Model(config, params), tokens, length_B=length_B, capture=capture),
        static_argnums=(0, 1),
    )
    plain, fused = (run(tiny_config(**fields, attention_kernel=kernel), ()) for kernel in ("plain", "cudnn"))
    assert set(asked) == {"cudnn"}
    valid = jnp.arange(8)[None] < (8 if length is None else length_B[:, None])
    difference = jnp.abs(plain.logits_BTV - fused.logits_BTV).max(-1)
    assert float(jnp.where(valid, difference, 0).max()) < 1e-4
    # Attention weights are nowhere in the kernel's result, so that whoever wants them gets the plain one.
    asked.clear()
    found = run(tiny_config(**fields, attention_kernel="cudnn"), ("attn_pattern",)).activations["attn_pattern"]
    assert found.shape == (3, 2, 2, 8, 8) and not asked


def test_cudnn_does_not_take_what_it_has_not():
    for fields in ({"window": 3, "local_layers": (1,)}, {"attn_softcap": 5.0}):
        with pytest.raises(UserError, match="cudnn has no model"):
            tiny_config(attention_kernel="cudnn", **fields)
