"""Lenses against the exact change of logits: in linear models, in the last layer, in every family."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from memory_models import linear_model, run, tiny_corpus
from tiny import ARCHITECTURES, tiny_config, tiny_params

from jaxinterp.base.errors import UserError
from jaxinterp.memories.lens import LENSES, Lens, in_chunks, resid_logits, resid_tops, value_logits
from jaxinterp.models.model import Model
from jaxinterp.models.places import Change
from jaxinterp.models.rerun import after_ffn
from jaxinterp.models.transformer import unembed

SAME = {"raw": 1, "norm_folded": 1e-6, "jacobian": 1e-6, "jacobian_same": 1e-6, "tuned": 1e-6}  # what lenses leave out
CORPUS = tiny_corpus()


def lens_of(name, model):
    return LENSES[name].fit(model, CORPUS, 0)


def change(model, layer, neuron):
    """Of the logits at every position for one more unit of a neuron's activation there."""
    shift = jnp.zeros((model.config.n_layers, 1, 1, model.config.d_mlp), model.config.dtype).at[layer, 0, 0, neuron]
    edited = run(model, CORPUS, edit={"mlp_post": Change(shift=shift.set(1.0))}).logits_BTV
    return np.asarray(edited - run(model, CORPUS).logits_BTV)


def test_there_are_five_lenses_and_each_says_what_it_is():
    assert set(LENSES.names()) == set(SAME)
    assert all(len(LENSES[name].definition) > 60 for name in SAME)
    with pytest.raises(UserError, match=r"unknown lens 'logit'"):
        LENSES["logit"]


@pytest.mark.parametrize("name", SAME)
def test_all_lenses_are_exact_where_later_layers_write_nothing(name, float64):
    model = linear_model()
    logits = value_logits(model, lens_of(name, model), 0, model.params["layers"]["w_out"][0]) * SAME[name]
    for neuron in (0, 3):
        expected = change(model, 0, neuron)
        # What stays is 1e-5: translators have been fitted to what is flat.
        np.testing.assert_allclose(np.broadcast_to(logits[neuron], expected.shape), expected, atol=1e-5)


def test_the_jacobian_lens_alone_sees_a_later_linear_layer(float64):
    model = linear_model(silent=False)
    value = model.params["layers"]["w_out"][0]
    expected = change(model, 0, 2)  # at all positions alike
    for name in ("jacobian", "jacobian_same"):
        logits = value_logits(model, lens_of(name, model), 0, value)[2] * 1e-6
        np.testing.assert_allclose(np.broadcast_to(logits, expected.shape), expected, atol=1e-6)
    folded = value_logits(model, lens_of("norm_folded", model), 0, value)[2] * 1e-6
    assert np.abs(folded - expected[0, 0]).max() > 0.1


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_in_the_last_layer_the_norm_folded_lens_is_what_the_unembedding_reads_of_a_stream(family, float64):
    config = tiny_config(n_layers=2, dtype="float64", **{**ARCHITECTURES[family], "head": "linear"})
    model = Model(config, tiny_params(config))
    layers = model.params["layers"]
    logits = value_logits(model, Lens("norm_folded"), 1, layers["w_out"][1])
    # The stream is far from 0 and moves a little: its logits change by the lens', divided by the deviations, up to what
    # moves all tokens' alike with the stream itself.
    rng = np.random.default_rng(0)
    mid, size = rng.standard_normal(8) * 3, 1e-6

    def final(written):
        resid = after_ffn(config, layers, jnp.array([1]), jnp.asarray(mid)[None], written[None])
        return unembed(model, resid)[0]

    base = jnp.asarray(rng.standard_normal(8))
    for neuron in range(3):
        value = layers["w_out"][1][neuron]
        moved = np.asarray(final(base + size * value) - final(base - size * value)) / (2 * size)
        # Softcaps and divisions: what is left after the best fit of a multiple of the lens and of the stream's own
        # logits, which a change of the deviation adds, must be nothing.
        cap = config.logit_softcap
        own = np.asarray(final(base))
        if cap is not None:
            moved, own = moved / (1 - (own / cap) ** 2), cap * np.arctanh(own / cap)
        columns = [np.asarray(logits[neuron]), own, np.asarray(final_bias(model))]
        if config.norms_outputs:
            columns += list(np.asarray(value_logits(model, Lens("norm_folded"), 1, base[None])))
        if config.norm_placement == "post":
            columns += list(np.asarray(value_logits(model, Lens("norm_folded"), 1, (base + mid)[None])))
        basis = np.stack(columns, 1)
        fit, *_ = np.linalg.lstsq(basis, moved, rcond=None)
        np.testing.assert_allclose(basis @ fit, moved, atol=1e-7)
        assert fit[0] > 0


def final_bias(model):
    """What the unembedding says of a stream of zeros."""
    return unembed(model, jnp.zeros((1, model.config.d_model)))[0]


def test_whole_streams_are_read_with_all_that_is_constant():
    config = tiny_config(n_layers=2)
    model = Model(config, tiny_params(config))
    resid = jnp.asarray(np.random.default_rng(0).standard_normal((5, 8)), jnp.float32)
    np.testing.assert_allclose(resid_logits(model, Lens("norm_folded"), 0, resid), unembed(model, resid), rtol=1e-5)
    raw = resid @ model.params["embedding"].T
    np.testing.assert_allclose(resid_logits(model, Lens("raw", normed=False), 0, resid), raw, rtol=1e-4, atol=1e-5)
    matrix, shift = jnp.zeros((2, 8, 8)), jnp.zeros((2, 8)).at[1, 3].set(1.0)
    moved = resid_logits(model, Lens("x", matrix_LDD=matrix, shift_LD=shift), 1, resid)
    expected = jnp.broadcast_to(unembed(model, jnp.eye(8)[3:4]), moved.shape)
    np.testing.assert_allclose(moved, expected, rtol=1e-5)
    tops = resid_tops(model, Lens("norm_folded"), 0, resid)
    np.testing.assert_array_equal(tops, np.asarray(unembed(model, resid)).argmax(-1))


def test_chunks_have_one_shape_and_lose_no_row():
    shapes = set()

    def doubled(x):
        shapes.add(x.shape)
        return 2 * x, x[:, 0]

    x = np.arange(14.0).reshape(7, 2)
    found = in_chunks(doubled, x, size=3)
    np.testing.assert_array_equal(found[0], 2 * x)
    np.testing.assert_array_equal(found[1], x[:, 0])
    assert shapes == {(3, 2)}
    assert jax.tree.leaves(in_chunks(doubled, x[:0], size=3))[0].shape == (0, 2)
