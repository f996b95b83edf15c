"""Answers that one neuron holds are told from answers that many hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.attribution.readout import FunctionReadout
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.examples import ReadoutExamples
from jaxinterp.metrics.families.spread import carrying
from jaxinterp.metrics.measure import measure_examples

N, L, F = 8, 2, 8
CONFIG = MeasureConfig(k=1, queries=0, ablation_queries=0, points=2, rows=N, replicates=10)


@pytest.fixture(autouse=True)
def _precise():
    with jax.enable_x64(True):
        yield


def measured(spread, around=0.0):
    """P = `around` + neurons of both layers in common, `spread` of each."""
    weight_LF = (jnp.arange(F)[None] < spread) * jnp.ones((L, F)) * (0.8 - around) / (L * spread)

    def read(number_R):
        p = lambda gates, weight: around + (weight * gates).sum((0, 2))  # noqa: E731
        return FunctionReadout(p, (L, len(number_R), F), inputs=(weight_LF[:, None],))

    examples = ReadoutExamples(read, (L, F), answer_N=np.arange(N) + 100, correct_N=np.ones(N))
    names = ("neurons_90", "neurons_for_drop")
    config = MeasureConfig(**{**vars(CONFIG), "metrics": names})
    sets = measure_examples({"all": examples}, ["which"], config).sets["all"]
    return [float(sets[name].samples[0]) for name in names]


def test_few_and_many_neurons():
    assert measured(1) == pytest.approx([2 / 16, 2 * 0.9**0 * 2 ** ((0.9 - 0.5) / 0.5 - 1)])
    # 90 % of 8 equal scores are 8 of them, and lie between 4, which take 50 %, and 8.
    assert measured(4) == pytest.approx([8 / 16, 4 * 2**0.8])
    share, number = measured(8)
    assert share == pytest.approx(15 / 16) and number == pytest.approx(8 * 2**0.8)


def test_an_answer_that_nothing_takes_counts_with_all_neurons():
    share, number = measured(4, around=0.4)
    assert share == pytest.approx(8 / 16) and number == 16


def test_what_carries_the_attribution():
    scores = jnp.asarray([[0.5, -0.4, 0.1, 0.0], [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(carrying(scores), [2, 1, 4, np.nan])
