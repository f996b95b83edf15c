"""What every plant promises: it answers, its neurons are needed, and it leads astray whom it should."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.attribution.registry import METHODS
from jaxinterp.base.errors import UserError
from jaxinterp.groundtruth.circuit import Circuit, Concepts, Neuron, assembled
from jaxinterp.groundtruth.registry import PLANTS, planted
from jaxinterp.groundtruth.scores import judged
from jaxinterp.groundtruth.table import fact_table
from jaxinterp.models.transformer import forward
from jaxinterp.studies.groundtruth.study import measured

EVERYTHING_FINDS = ("one", "several", "superposed")
# Plant -> methods that it leads astray, of those that are not random.
ASTRAY = {
    "decoy": {"activation"},
    "saturated": {"gradient_x_activation"},
    "redundant": {"gradient_x_activation", "ablation"},
    "redundant_layers": {"gradient_x_activation", "ablation", "integrated_gradients"},
    "backup": {"ablation", "integrated_gradients"},
    "relay": {"projection"},
    "erased": {"projection", "joint_integrated_gradients"},
}


@functools.cache
def model(name):
    return planted(name, 0)


@functools.cache
def seen(name):
    found = jax.tree.map(np.asarray, measured(model(name), jax.random.key(0)))
    return found, {method: judged(scores, np.asarray(model(name).mask_LRF)) for method, scores in found.scores.items()}


@jax.jit
def p_off(planted, off_LRF):
    return planted.readout()(1 - off_LRF)


def test_every_plant_is_tested():
    assert set(PLANTS.names()) == {*EVERYTHING_FINDS, *ASTRAY}


@pytest.mark.parametrize("name", PLANTS.names())
def test_answers_with_its_neurons_alone(name):
    found, _ = seen(name)
    assert found.p_R.min() > 0.9
    assert found.p_without_all_R.max() < 0.1
    if name == "backup":
        np.testing.assert_allclose(found.p_without_R, found.p_R, atol=0.01)
    else:
        np.testing.assert_array_equal(found.p_without_R, found.p_without_all_R)
    # Another fact's neurons, if they are not its own as well, and all weak neurons at once change little. (Erasers are
    # not weak.)
    mask, stand_in = np.asarray(model(name).mask_LRF), np.asarray(model(name).stand_in_LRF)
    other = np.roll(mask, 1, axis=1) * (1 - mask)
    if name != "superposed":
        np.testing.assert_allclose(np.asarray(p_off(model(name), jnp.asarray(other))), found.p_R, atol=1e-4)
    if name not in ("superposed", "erased"):
        weak = 1 - np.clip(mask + stand_in, 0, 1)
        assert np.asarray(p_off(model(name), jnp.asarray(weak))).min() > 0.95


@pytest.mark.parametrize("name", EVERYTHING_FINDS)
def test_every_method_finds_them(name):
    columns = seen(name)[1]
    for method in METHODS.names():
        if method == "random":
            assert columns[method]["precision"].mean() < 0.1
            continue
        for measure in ("precision", "precision_at_1", "auroc"):
            assert columns[method][measure].min() == 1, (method, measure)


def test_no_causal_method_fails_on_one_neuron_a_fact():
    for method in METHODS.names():
        if METHODS[method].causal:
            assert seen("one")[1][method]["precision_at_1"].mean() == 1.0


@pytest.mark.parametrize("name", ASTRAY)
def test_leads_astray_whom_it_should(name):
    columns = seen(name)[1]
    for method in set(METHODS.names()) - {"random"}:
        precision = columns[method]["precision"].mean()
        assert (precision <= 0.5) if method in ASTRAY[name] else (precision == 1), (method, precision)


def test_each_of_several_matters_in_part():
    mask_LRF = np.asarray(model("several").mask_LRF)
    p, effect = seen("several")[0].p_R, seen("several")[0].scores["ablation"]
    for row in range(mask_LRF.shape[1]):
        own = effect[:, row][mask_LRF[:, row] > 0]
        assert len(own) == 3
        assert (own > 0.1).all() and (own < p[row] / 2).all()


def test_superposed_has_fewer_neurons_than_facts():
    mask_LRF = np.asarray(model("superposed").mask_LRF)
    assert mask_LRF.any(1).sum() == 16 < mask_LRF.shape[1] == 24
    np.testing.assert_array_equal(mask_LRF.sum((0, 2)), 2)
    np.testing.assert_array_equal(np.unique(mask_LRF.sum(1)), [0, 3])


@pytest.mark.parametrize("name", ["redundant", "redundant_layers"])
def test_one_copy_is_enough(name):
    mask_LRF = np.asarray(model(name).mask_LRF)
    np.testing.assert_array_equal(mask_LRF.sum((0, 2)), 2)
    assert (mask_LRF.any(2).sum(0) == (1 if name == "redundant" else 2)).all()
    effect = seen(name)[0].scores["ablation"][mask_LRF > 0]
    assert np.abs(effect).max() < 1e-4


def test_decoys_are_louder_and_do_nothing():
    found = seen("decoy")[0]
    mask_LRF = np.asarray(model("decoy").mask_LRF)
    loudest = found.scores["activation"] == found.scores["activation"].max((0, 2), keepdims=True)
    assert not (mask_LRF * loudest).any()
    np.testing.assert_allclose(found.scores["activation"][loudest], 3, rtol=1e-5)
    assert np.abs(found.scores["ablation"][loudest]).max() < 1e-5


def test_a_slope_is_missing_where_the_logit_is_saturated():
    mask_LRF = np.asarray(model("saturated").mask_LRF)
    scores = seen("saturated")[0].scores
    assert np.abs(scores["gradient_x_activation"][mask_LRF > 0]).max() < 1e-5
    assert scores["integrated_gradients"][mask_LRF > 0].min() > 0.6


def test_norms_are_the_identity():
    one = model("one")
    result = jax.jit(lambda one: forward(one.model, one.tokens_RT, capture=("resid_mid", "mlp_pre")))(one)
    layers = one.model.params["layers"]
    for layer in range(one.model.config.n_layers):
        expected = result.activations["resid_mid"][layer] @ layers["w_in"][layer] + layers["b_in"][layer][None, None]
        np.testing.assert_allclose(result.activations["mlp_pre"][layer], expected, atol=1e-5)


def test_details_change_with_the_seed():
    first, again, second = model("one"), planted("one", 0), planted("one", 1)
    np.testing.assert_array_equal(first.model.params["embedding"], again.model.params["embedding"])
    assert np.abs(first.model.params["embedding"] - second.model.params["embedding"]).max() > 0.1
    assert (first.mask_LRF != second.mask_LRF).any()
    assert (first.rows.target_R != second.rows.target_R).any()


def test_table():
    table = fact_table(3, n_subjects=2, n_relations=3, n_answers=4)
    assert (len(table), table.d_vocab, table.first_answer) == (6, 10, 6)
    np.testing.assert_array_equal(table.sentences()[:, :3], [[0, 1 + s, 3 + r] for r in range(3) for s in range(2)])
    np.testing.assert_array_equal(table.sentences()[:, 3], 6 + table.answer_N)
    for relation in range(3):
        assert len(set(table.answer_N[table.relation_N == relation].tolist())) == 2
    with pytest.raises(UserError, match="n_answers must be at least n_subjects"):
        fact_table(0, n_subjects=9)


def test_mistakes_are_told():
    with pytest.raises(UserError, match="unknown plant 'two'"):
        PLANTS["two"]
    table = fact_table(0)
    nothing = np.zeros(Concepts(table).n)
    with pytest.raises(UserError, match="has 65 neurons; a layer has room for 64"):
        assembled(table, Circuit([Neuron(0, nothing, 0.0, nothing)] * 65), np.random.default_rng(0))
