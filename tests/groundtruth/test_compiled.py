"""Programs compiled by tracr, converted; skipped where tracr is not installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.groundtruth.table import fact_table
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward

pytest.importorskip("tracr", reason="tracr is not installed; pip install -e .[groundtruth]")

from tracr.compiler import compiling, lib
from tracr.rasp import rasp

from jaxinterp.groundtruth.compiled import compiled_table, converted


@pytest.mark.parametrize("causal", [False, True])
def test_outputs_are_tracrs(causal):
    upper = rasp.Map(str.upper, rasp.tokens)
    program = upper if causal else lib.make_reverse(upper)
    compiled = compiling.compile_rasp_to_model(program, {"a", "b", "c"}, 5, causal=causal, compiler_bos="start")
    config, params = converted(compiled)
    assert config.attention == ("causal" if causal else "bidirectional")
    for text in (["a", "a", "c", "b"], ["c", "b", "a", "a", "b"]):
        tokens = jnp.array([compiled.input_encoder.encode(["start", *text])])
        logits = np.asarray(forward(Model(config, params), tokens).logits_BTV)[0, 1:]
        theirs = compiled.apply(["start", *text])
        assert compiled.output_encoder.decode(logits.argmax(-1).tolist()) == theirs.decoded[1:]
        np.testing.assert_allclose(logits.max(-1), 6.5, atol=1e-3)


def test_table():
    model = compiled_table(fact_table(0))
    readout = model.readout()
    np.testing.assert_array_equal(model.mask_LRF.sum((0, 2)), 1)
    p_R, off_R = jax.jit(lambda model: (model.readout().untouched(), model.readout()(1 - model.mask_LRF)))(model)
    assert np.asarray(p_R).min() > 0.9
    # Nothing is known without the neuron.
    np.testing.assert_allclose(off_R, 1 / model.model.config.d_vocab, rtol=1e-3)
    np.testing.assert_allclose(readout.neurons_LRF[model.mask_LRF > 0], 1, atol=1e-3)


def test_a_number_has_no_probability():
    program = lib.make_frac_prevs(rasp.tokens == "a")
    compiled = compiling.compile_rasp_to_model(program, {"a", "b"}, 4, compiler_bos="start")
    with pytest.raises(UserError, match="output is a number"):
        converted(compiled)
