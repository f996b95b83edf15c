"""Changes at named places, against a plain transformer that makes them where it computes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_transformer import plain_forward
from tiny import ARCHITECTURES, fast_readout, tiny_batch, tiny_config, tiny_params

from jaxinterp.models.model import Model
from jaxinterp.models.places import PLACES, Change
from jaxinterp.models.rerun import run_layers
from jaxinterp.models.transformer import forward

TOKENS = np.array([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
VARIANTS = {
    "gpt": ARCHITECTURES["gpt"],
    "llama": {**ARCHITECTURES["llama"], "n_heads": 4, "n_kv_heads": 2},
}


def sizes(config):
    heads = {"H": config.n_heads, "G": config.n_kv_heads, "K": config.d_head}
    return {"B": 2, "S": 6, "T": 6, "D": config.d_model, "F": config.d_mlp, **heads}


def random_change(config, place, rng):
    """Of everything at a place: other gates and shifts in every layer, sequence, position and coordinate."""
    shape = tuple(sizes(config)[axis] for axis in PLACES[place])
    shape = shape if place == "embed" else (config.n_layers, *shape)
    return Change(rng.uniform(0.5, 1.5, shape), rng.normal(0, 0.3, shape))


@pytest.mark.parametrize("variant", VARIANTS)
def test_changes_are_those_of_the_plain_transformer(variant, float64):
    config = tiny_config(n_layers=2, dtype="float64", **VARIANTS[variant])
    params, rng = tiny_params(config), np.random.default_rng(0)
    everywhere = {place: random_change(config, place, rng) for place in PLACES}
    # Places one by one, whose effects cannot hide behind one another, and all of them at once.
    cases = [*({place: change} for place, change in everywhere.items()), everywhere]
    untouched = None
    for changes in [{}, *cases]:
        result = jax.jit(
            lambda params, changes: forward(
                Model(config, params), jnp.asarray(TOKENS), edit=changes, capture=tuple(PLACES)
            )
        )(params, changes)
        for row, tokens in enumerate(TOKENS):

            def change(place, layer, x, row=row, changes=changes):
                if place not in changes:
                    return x
                gates, shift = (part[row] if layer is None else part[layer, row] for part in changes[place])
                return gates * x + shift

            logits, activations = plain_forward(config, params, tokens, change)
            np.testing.assert_allclose(result.logits_BTV[row], logits, rtol=0, atol=1e-10)
            for place in PLACES:
                found = result.activations[place]
                found = found[row] if place == "embed" else found[:, row]
                np.testing.assert_allclose(found, activations[place], rtol=0, atol=1e-10)
        untouched = result.logits_BTV if untouched is None else untouched
        assert not changes or float(jnp.abs(result.logits_BTV - untouched).max()) > 1e-3, list(changes)


def test_gates_or_shifts_alone_that_broadcast_and_act_at_the_query(float64):
    config = tiny_config(n_layers=2, dtype="float64", **VARIANTS["llama"])
    model, rng = Model(config, tiny_params(config)), np.random.default_rng(0)
    query = np.array([2, 4])
    gates, shift = np.ones((2, 1, 1, config.n_heads, 1)), rng.normal(size=(2, 1, 1, config.d_model))
    gates[1, ..., 1, 0] = 0
    changes = {"attn_z": Change(gates), "resid_mid": Change(shift=shift)}
    at = (np.arange(6)[None] == query[:, None])[None, :, :, None]
    spelled_out = {
        "attn_z": Change(np.where(at[..., None], gates, 1.0)),
        "resid_mid": Change(shift=np.where(at, shift, 0.0)),
    }
    short = jax.jit(lambda model: forward(model, jnp.asarray(TOKENS), edit=changes, query_B=jnp.asarray(query)))(model)
    long = jax.jit(lambda model: forward(model, jnp.asarray(TOKENS), edit=spelled_out))(model)
    np.testing.assert_allclose(short.logits_BTV, long.logits_BTV, atol=1e-13)
    np.testing.assert_array_equal(short.logits_BTV[0, :2], forward(model, jnp.asarray(TOKENS)).logits_BTV[0, :2])


@pytest.mark.parametrize("placement", ["pre", "sandwich", "output"])
def test_the_stream_is_the_sum_of_what_is_added(placement, float64):
    config = tiny_config(n_layers=2, dtype="float64", **ARCHITECTURES["llama"], norm_placement=placement)
    params = jax.tree.map(lambda x: 2 * x, tiny_params(config))
    names = ("resid_pre", "attn_out", "mlp_out", "resid_post")
    a = jax.jit(lambda p: forward(Model(config, p), jnp.asarray(TOKENS), capture=names).activations)(params)
    np.testing.assert_allclose(a["resid_post"], a["resid_pre"] + a["attn_out"] + a["mlp_out"], atol=1e-12)


@pytest.mark.parametrize("name", ["llama", "bert", "olmo", "modernbert"])
def test_the_fast_path_makes_the_changes_of_the_forward(name, float64):
    config = tiny_config(n_layers=3, dtype="float64", **ARCHITECTURES[name])
    params, rng, batch = tiny_params(config), np.random.default_rng(0), tiny_batch()
    readout, rows = fast_readout(config, params, batch), batch.rows
    n_rows = rows.target_R.shape[0]
    places = [place for place in PLACES if place not in ("embed", "attn_pattern")]
    shape = {**sizes(config), "B": n_rows, "S": 1}
    drawn = lambda place: rng.uniform(0.5, 1.5, (3, *(shape[axis] for axis in PLACES[place])))  # noqa: E731
    changes = {place: Change(drawn(place), drawn(place) - 1) for place in places}

    @jax.jit
    def both(params):
        model = Model(config, params)
        fast = run_layers(model, readout.embedded_RSD, readout.later, changes, start=0)
        tokens_RT = jnp.asarray(batch.tokens_BT)[rows.sequence_R]
        length_R = None if batch.length_B is None else jnp.asarray(batch.length_B)[rows.sequence_R]
        whole = forward(model, tokens_RT, edit=changes, query_B=jnp.asarray(rows.position_R), length_B=length_R)
        return fast, whole.resid_final_BTD[jnp.arange(n_rows), rows.position_R]

    np.testing.assert_allclose(*both(params), atol=1e-12)
