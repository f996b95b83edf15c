"""The benchmarks' cost model against XLA's own count, and its chart."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import cost_curves
import harness
from cost_charts import cost_chart

from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward
from jaxinterp.report.charts import save_chart
from jaxinterp.training import cost_model

SIZE = {"facts": 4, "tokens": 16, "layers": 3, "width": 64, "points": 6, "vocabulary": 512}


def test_a_forward_is_counted():
    model = cost_curves.model_of(SIZE)
    params = cost_curves.program_of("attribution", SIZE)[1][0]
    run = lambda p, tokens: forward(Model(model, p), tokens).logits_BTV  # noqa: E731
    flops = harness.unrolled_flops(run, params, jnp.zeros((4, 16), jnp.int32))
    # Norms, activations and softmax come on top; of a small model they are a good part.
    assert 1 < flops / (4 * cost_model.forward_flops(model, 16, logits=True)) < 1.25


@pytest.mark.parametrize("points", [2, 6])
def test_attribution_is_counted(points):
    size = SIZE | {"points": points}
    model, (params, data) = cost_curves.model_of(size), cost_curves.program_of("attribution", size)[1]
    flops = harness.unrolled_flops(lambda p, d: cost_curves.attributed(model, points, p, d), params, data)
    # Branches that share a group are run through all the layers that the first of them needs: here, all do.
    assert 0.9 < flops / cost_curves.counted("attribution", size) < 2.2


def test_curves_have_exponents_and_a_chart(tmp_path):
    cells = [
        {
            "job": job,
            **SIZE,
            name: SIZE[name] * 2**power,
            "seconds": 3.0 * 2 ** (power * 1.5),
            "bytes": 5,
            "flops": 2**power,
        }
        for job in cost_curves.JOBS
        for name in SIZE
        for power in range(1, 4)
    ]
    cells += [{"job": job, **SIZE, "seconds": 3.0, "bytes": 5, "flops": 1} for job in cost_curves.JOBS]
    curves = [
        {"job": job, "size": name, **cost_curves.curve(cells, job, name, SIZE)}
        for job in cost_curves.JOBS
        for name in SIZE
    ]
    for found in curves:
        assert found["values"] == [SIZE[found["size"]] * 2**power for power in range(4)]
        assert found["seconds_exponent"] == pytest.approx(1.5)
        assert found["bytes_exponent"] == pytest.approx(0, abs=1e-9)
        assert found["flops_exponent"] == pytest.approx(1)
    paths = save_chart(cost_chart(curves), tmp_path, "cost")
    assert all(path.stat().st_size > 1000 for path in paths)


def test_predictions_are_of_known_sizes():
    found = list(cost_curves.predicted())
    seven = next(row for row in found if row["model"] == "7 B" and "H100" in row["device"] and "20" in row["job"])
    # 32 layers of 20 points, each a forward and a backward of half the model on average: 2 · 640 · 7e9 operations.
    assert seven["flops_a_fact"] == pytest.approx(2 * 640 * 6.7e9, rel=0.1)
    assert seven["bytes_a_chip"] == pytest.approx(13.5e9, rel=0.02)
    training = next(row for row in found if row["model"] == "7 B" and "training" in row["job"])
    assert training["bytes_a_chip"] > training["memory"]  # in 32 bits a 7 B model with Adam is no job for one H100
    assert jax.tree.all(jax.tree.map(lambda row: row["seconds"] > 0, found, is_leaf=lambda x: isinstance(x, dict)))
