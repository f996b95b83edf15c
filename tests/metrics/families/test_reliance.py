"""A model whose answers come round the neurons is told from one whose neurons hold them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.attribution.readout import FunctionReadout
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.examples import ReadoutExamples
from jaxinterp.metrics.measure import measure_examples

N, L, F = 8, 3, 6  # answers; layers, neurons
NAMES = ("suppressability", "attribution_share", "bypass", *(f"{part}_drop" for part in ("early", "middle", "late")))
OWN = tuple(f"own_{part}_drop" for part in ("early", "middle", "late"))
CONFIG = MeasureConfig(k=1, queries=0, ablation_queries=0, points=2, rows=N, replicates=10, metrics=(*NAMES, *OWN))


def measured(around):
    """P = `around` + a neuron of the answer's own, half of it in the first layer and half in the last."""
    own_NF = np.eye(F)[np.arange(N) % F]

    def read(number_R):
        weight_LRF = jnp.asarray(0.9 - around) * jnp.asarray([0.8, 0.0, 0.2])[:, None, None] * own_NF[None, number_R]
        p = lambda gates, weight: around + (weight * gates).sum((0, 2))  # noqa: E731
        return FunctionReadout(p, weight_LRF.shape, inputs=(weight_LRF,))

    examples = ReadoutExamples(read, (L, F), answer_N=np.arange(N) + 100, correct_N=np.ones(N))
    sets = measure_examples({"all": examples}, ["which"], CONFIG).sets["all"]
    return {name: float(of.samples[0]) for name, of in sets.items()}


@pytest.fixture(autouse=True)
def _precise():
    with jax.enable_x64(True):
        yield


def test_answers_that_neurons_hold():
    found = measured(0.0)
    assert found["bypass"] == pytest.approx(0, abs=1e-9)
    # Of both neurons the one of the first layer has the higher score.
    assert found["suppressability"] == pytest.approx(0.8)
    assert [found[name] for name in NAMES[3:]] == pytest.approx([0.8, 0, 0.2], abs=1e-9)
    assert [found[name] for name in OWN] == pytest.approx([0.8, 0, 0], abs=1e-9)


def test_answers_that_bypass_them():
    before, found = measured(0.0), measured(0.6)
    assert found["bypass"] == pytest.approx(0.6 / 0.9)
    assert found["suppressability"] == pytest.approx(0.8 * 0.3 / 0.9)
    # The share of the scores does not see it: they are all on one neuron, as before.
    assert found["attribution_share"] == pytest.approx(before["attribution_share"]) == pytest.approx(0.8)
