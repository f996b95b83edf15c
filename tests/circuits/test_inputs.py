"""Attribution of tokens and heads, against an integral by finite differences of runs with edits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import small_model

import jaxinterp as ji
from jaxinterp.attribution.adaptive import _at_one
from jaxinterp.base.errors import UserError

PROMPT = "a b c"


def answer(model):
    """What the model says, so that P is not nearly 0."""
    return model.generate(PROMPT, 2)


def probability(model, edit):
    """P of the whole answer, under an edit."""
    text = PROMPT + answer(model)
    run = model.run(text, edit=edit)
    log_p = np.asarray(jax.nn.log_softmax(run.logits_BTV))[0]
    ids = list(model.tokens(text))
    start = len(model.tokens(PROMPT))
    return float(np.exp(sum(log_p[at - 1, ids[at]] for at in range(start, len(ids)))))


def slow_integral(p_of_gates, shape, points=20, step=1e-7):
    """∫ ∂P/∂g dα along g = α for all parts, by central differences and Gauss's rule."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    scores = np.zeros(shape)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        for place in np.ndindex(shape):
            up, down = np.full(shape, node), np.full(shape, node)
            up[place] += step
            down[place] -= step
            scores[place] += weight * (p_of_gates(up) - p_of_gates(down)) / (2 * step)
    return scores


@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_tokens(baseline, float64):
    model = small_model("gpt", n_layers=1)
    embedded = np.asarray(model.run(PROMPT, capture=("embed",)).activations["embed"])[0]
    start = np.zeros((4, model.config.d_model))
    if baseline == "mean":
        # A token that could be any, at the position where it stands.
        start = np.asarray(model.params["embedding"]).mean(0) + np.asarray(model.params["positions"])[:4]

    def p(gates):
        x = start + gates[:, None] * (embedded - start)
        return probability(model, ji.Edit("embed", position=range(len(gates)), set_to=x[None]))

    found = ji.attribute_parts(model, PROMPT, answer(model), rule="gauss_legendre", points=20, baseline=baseline)
    assert found.names == ("<bos>", "a", "b", "c") and found.scores_LN.shape == (1, 4)
    np.testing.assert_allclose(found.scores_LN[0], slow_integral(p, (4,)), atol=1e-7)
    assert found.probability == pytest.approx(probability(model, None), abs=1e-10)
    assert found.start == pytest.approx(p(np.zeros(4)), abs=1e-10)
    residual = found.scores_LN.sum() - (found.probability - found.start)
    assert found.residual == pytest.approx(residual, abs=1e-10)
    # From zero all happens where α is about √ε: norms take away the size of what they read.
    assert (abs(residual) < 1e-3) == (baseline == "mean")
    assert np.abs(found.scores_LN).max() > 1e-2


def test_heads(float64):
    model = small_model("gpt", n_layers=2)

    def p(gates):
        return probability(model, ji.Edit("attn_z", scale=gates[:, None, None, :, None]))

    found = ji.attribute_parts(model, PROMPT, answer(model), of="heads", rule="gauss_legendre", points=20, path="joint")
    np.testing.assert_allclose(found.scores_LN, slow_integral(p, (2, 2)), atol=1e-7)
    assert found.scores_LN.sum() == pytest.approx(found.probability - found.start, abs=1e-3)
    one = ji.attribute_parts(model, PROMPT, answer(model), of="heads", rule="gauss_legendre", points=20)
    for layer in range(2):
        of_layer = lambda g, layer=layer: p(np.stack([g if n == layer else np.ones(2) for n in range(2)]))  # noqa: E731
        np.testing.assert_allclose(one.scores_LN[layer], slow_integral(of_layer, (2,)), atol=1e-7)


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_adaptive_scores_are_complete(name):
    model = small_model(name, n_layers=1, norm_eps=1e-3)
    found = ji.attribute_parts(model, PROMPT, answer(model), tolerance=0.02)
    most = max(found.probability, found.start)
    assert abs(found.residual) < 0.05 * most
    assert found.scores_LN.sum() == pytest.approx(found.probability - found.start, abs=0.05 * most)
    heads = ji.attribute_parts(model, PROMPT, answer(model), of="heads", tolerance=0.02)
    assert abs(heads.residual) < 0.05


def test_the_same_question_is_compiled_once():
    model = small_model()
    first = ji.attribute_parts(model, PROMPT, answer(model))
    compiled = _at_one._cache_size()
    again = ji.attribute_parts(model, PROMPT, answer(model))
    np.testing.assert_array_equal(again.scores_LN, first.scores_LN)
    assert compiled > 0 and _at_one._cache_size() == compiled
    joint = ji.attribute_parts(model, PROMPT, answer(model), path="joint")  # of tokens the paths are the same
    np.testing.assert_array_equal(joint.scores_LN, first.scores_LN)


def test_it_shows_itself_and_refuses():
    model = small_model()
    found = ji.attribute_parts(model, PROMPT, answer(model))
    assert {name for name, _ in found.best()} == {"<bos>", "a", "b", "c"}
    assert "completeness residual" in str(found) and len(found.chart().to_dict()["data"]["values"]) == 4
    twice = ji.attribute_parts(model, "a b a", answer(model), rule="midpoint", points=1)
    assert {name for name, _ in twice.best()} == {"<bos>", "1: a", "b", "3: a"}
    heads = ji.attribute_parts(model, PROMPT, answer(model), of="heads")
    assert heads.best(1)[0][0].count(".") == 1 and jnp.isfinite(heads.scores_LN).all()
    for arguments, message in (
        ({"of": "heads", "rule": "adaptive", "path": "joint"}, "adaptive rule is for the per_layer path"),
        ({"baseline": "one"}, "unknown baseline 'one'"),
        ({"rule": "simpson"}, "unknown quadrature rule"),
    ):
        with pytest.raises(UserError, match=message):
            ji.attribute_parts(model, PROMPT, answer(model), **arguments)
