"""The cost of wiring by hand, and its slope."""

import jax
import numpy as np
import pytest
from jax.test_util import check_grads
from tiny import arrays_of, linear_context, tiny_batch, tiny_config, tiny_params

from jaxinterp.base.errors import UserError
from jaxinterp.models.model import Model
from jaxinterp.models.readout import lm_readout
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.objectives.context import Context
from jaxinterp.objectives.registry import TERMS
from jaxinterp.objectives.terms.wiring import distances

CONFIG = ObjectiveConfig(k=1)


def term_of(config, batch):
    def term(params):
        readout = lm_readout(Model(config, params), *arrays_of(batch))[1]
        return TERMS["wiring"](Context(CONFIG, batch.answers, readout, jax.random.key(0)))

    return jax.jit(term)


def test_places_by_hand():
    # Coordinates at 1/4 and 3/4, neurons at 1/6, 1/2 and 5/6.
    np.testing.assert_allclose(distances(2, 3), [[1 / 12, 1 / 4, 7 / 12], [7 / 12, 1 / 4, 1 / 12]], rtol=1e-6)


def test_wiring_by_hand_and_against_finite_differences(float64):
    config, batch = tiny_config(n_layers=2, dtype="float64", ffn="swiglu"), tiny_batch()
    params, term = tiny_params(config), term_of(config, batch)
    total, size = 0.0, 0
    for name in ("w_in", "w_out", "w_gate"):
        for layer in np.asarray(params["layers"][name]):
            w_DF = layer.T if name == "w_out" else layer
            for i, j in np.ndindex(w_DF.shape):
                total += abs(w_DF[i, j]) * (2 * abs((i + 0.5) / 8 - (j + 0.5) / 6) + 0.5)
                size += 1
    assert float(term(params)) == pytest.approx(total / size, rel=1e-12)
    check_grads(term, (params,), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)
    slope = jax.grad(term)(params)
    assert not np.any(slope["layers"]["b_in"]) and not np.any(slope["layers"]["w_q"])
    # A weight from the first coordinate costs the less the nearer its neuron stands.
    assert (np.diff(np.abs(slope["layers"]["w_in"])[:, 0]) > 0).all()


def test_units_stand_where_their_neuron_stands(float64):
    config, batch = tiny_config(n_layers=1, dtype="float64", ffn_units=2, experts=2), tiny_batch()
    params = tiny_params(config)
    w_in, w_out = (np.abs(np.asarray(params["layers"][name])[0]) for name in ("w_in", "w_out"))
    price = 2 * np.asarray(distances(8, 6)) + 0.5
    expected = ((w_in.sum(-1) + w_out.T) * price).sum() / (w_in.size + w_out.size)
    assert float(term_of(config, batch)(params)) == pytest.approx(expected, rel=1e-12)


def test_wiring_needs_weights():
    with pytest.raises(UserError, match="wiring needs a language model"):
        TERMS["wiring"](linear_context(CONFIG, tiny_batch(), np.zeros(10), np.zeros((3, 10, 6))))
