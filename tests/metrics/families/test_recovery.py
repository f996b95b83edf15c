"""Columns of whole sets: another prompt's neurons, relearning, sparse probes; and measuring metrics by name."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from knowing import knowing
from tiny import slow_readout

from jaxinterp.attribution.quadrature import quadrature
from jaxinterp.base.errors import UserError
from jaxinterp.facts.batches import query_batch
from jaxinterp.facts.encoding import encode
from jaxinterp.metrics.answers import measured_answers
from jaxinterp.metrics.columns import GROUPS, MeasuredSet
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.examples import LanguageExamples
from jaxinterp.metrics.families import recovery
from jaxinterp.metrics.families.probes import probed
from jaxinterp.metrics.families.recovery import erased_neurons, halves, other_prompts
from jaxinterp.metrics.measure import check_installed, measure_facts

K, RULE = 2, quadrature("midpoint", 6)


@pytest.fixture(scope="module")
def one():
    """Two prompts of every fact of a small model."""
    model, facts = knowing()
    facts = facts.answer_last()
    queries = encode(facts, facts.queries(), model.tokenizer, n_ctx=model.config.n_ctx)
    examples = LanguageExamples(model.model, queries)
    return MeasuredSet(examples[np.arange(0, len(queries), 4)], examples, K, RULE, 8, 0)


def slow_scores(found, queries):
    """Integrated gradients by full forwards, of one query, summed over its rows: [L, rows, F]."""
    n_rows = int(queries.answer_length_N[0])
    batch, _ = query_batch(queries, n_sequences=1, n_rows=n_rows, answered=[0], rng=np.random.default_rng(0))
    slow = slow_readout(found.examples.model.config, found.examples.model.params, jax.tree.map(jnp.asarray, batch))
    gradient = jax.jit(jax.grad(lambda gates: slow(gates).sum()))
    scores = np.zeros(slow.shape)
    for layer in range(slow.shape[0]):
        for point in RULE.points_M:
            gates = jnp.ones(slow.shape).at[layer].set(point)
            scores[layer] += np.asarray(gradient(gates))[layer] / len(RULE.points_M)
    return np.repeat(scores.sum(1, keepdims=True), n_rows, axis=1), slow


def top(scores):
    mask = np.zeros(scores.shape, np.float32)
    for row in range(scores.shape[1]):
        for index in np.argsort(-scores[:, row].ravel())[:K]:
            mask[index // scores.shape[2], row, index % scores.shape[2]] = 1
    return jnp.asarray(mask)


def test_another_prompts_neurons(one):
    found = GROUPS["paraphrase"].columns(one)["paraphrase_suppressed"]
    other = other_prompts(one.examples.queries, one.pool.queries)
    assert (other >= 0).all() and found.shape == (len(one.examples.queries),)
    for index in range(0, len(one.examples.queries), 5):
        query, worded = one.examples.queries[index : index + 1], one.pool.queries[other[index : index + 1]]
        assert query.fact_N == worded.fact_N and query.prompt_N != worded.prompt_N
        mask = top(slow_scores(one, worded)[0])
        own, slow = slow_scores(one, query)
        expected = np.prod(np.asarray(slow(1 - mask)))
        np.testing.assert_allclose(found[index], expected, rtol=1e-3)
        if (mask != top(own)).any():
            assert abs(found[index] - np.prod(np.asarray(slow(1 - top(own))))) > 1e-5


def test_a_fact_with_one_prompt_has_no_other(one):
    alone = one.examples.queries[np.unique(one.examples.queries.fact_N, return_index=True)[1]]
    assert (other_prompts(alone, alone) == -1).all()
    asked = LanguageExamples(one.examples.model, alone)
    column = GROUPS["paraphrase"].columns(dataclasses.replace(one, examples=asked, pool=asked))
    assert np.isnan(column["paraphrase_suppressed"]).all()


def test_halves_keep_a_facts_prompts_together():
    np.testing.assert_array_equal(halves(np.array([7, 3, 3, 9, 7])), [1, 0, 0, 0, 1])


def test_relearning_from_other_facts(one, monkeypatch):
    gone = erased_neurons(one)
    answers = measured_answers(one.examples, k=K, n_relations=5, integral=RULE, rows=8, groups=())
    np.testing.assert_array_equal(gone, answers.selected.sum(0) > 0)
    columns = GROUPS["relearning"].columns(one)
    layers = dict(one.examples.model.params["layers"])
    layers["w_out"] = layers["w_out"] * jnp.asarray(1 - gone, jnp.float32)[..., None]
    erased = one.examples.model.replace(params={**one.examples.model.params, "layers": layers})
    erased = dataclasses.replace(one, examples=LanguageExamples(erased, one.examples.queries))
    for index in (0, 7):
        _, slow = slow_scores(erased, one.examples.queries[index : index + 1])
        p = np.prod(np.asarray(slow(jnp.ones(slow.shape))))
        np.testing.assert_allclose(columns["erased"][index], p, rtol=1e-3)
    assert np.isfinite(columns["relearned"]).all()
    assert np.abs(columns["relearned"] - columns["erased"]).max() > 1e-5
    # Without steps nothing is learned.
    monkeypatch.setattr(recovery, "STEPS", 0)
    columns = GROUPS["relearning"].columns(one)
    np.testing.assert_allclose(columns["relearned"], columns["erased"], rtol=1e-5)


def test_trained_neurons_stay_away(one):
    keep = jnp.ones(one.examples.shape).at[0, 2].set(0)
    erased = recovery._without(one.examples.model, keep)
    params = recovery._trained(erased, keep, one.examples.queries, 0).params
    assert not np.asarray(params["layers"]["w_out"][0, 2]).any()
    assert (
        np.abs(np.asarray(params["layers"]["w_out"][0, 1] - one.examples.model.params["layers"]["w_out"][0, 1])).max()
        > 1e-4
    )


def test_probes_find_what_one_neuron_says():
    rng = np.random.default_rng(0)
    concept, half = np.arange(60) % 3, np.arange(60) // 3 % 2
    x = 0.1 * rng.standard_normal((60, 10)).astype(np.float32)
    chance = probed(x, concept, half)
    assert np.mean(chance["probe_1"]) < 0.6
    told = x.copy()
    told[np.arange(60), concept] += 1  # a neuron for each
    found = probed(told, concept, half)
    assert all(values.min() == 1 for values in found.values())
    # Five noisy neurons for each: two tell more than one, and five more than two.
    concept, half = np.arange(600) % 3, np.arange(600) // 3 % 2
    noisy = rng.standard_normal((600, 15)).astype(np.float32) + 1.2 * (np.arange(15) // 5 == concept[:, None])
    found = {name: values.mean() for name, values in probed(noisy, concept, half).items()}
    assert found["probe_1"] < found["probe_2"] < found["probe_5"] <= found["probe_all"] + 0.02


def test_a_package_that_is_missing_is_told_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_installed(("suppressability",))
    with pytest.raises(UserError, match=r"'probes' need sklearn: pip install jaxinterp\[probes\]"):
        check_installed(("suppressability", "probe_1"))


def test_probes_need_two_concepts_and_two_halves():
    x = np.ones((6, 4), np.float32)
    assert all(np.isnan(v).all() for v in probed(x, np.zeros(6, int), np.arange(6) % 2).values())
    assert all(np.isnan(v).all() for v in probed(x, np.arange(6) % 2, np.zeros(6, int)).values())


SMALL = MeasureConfig(k=2, queries=12, ability_queries=0, ablation_queries=4, rows=8, points=2, replicates=20)


def test_all_metrics_of_a_model():
    model, facts = knowing()
    calls = []
    found, *_ = measure_facts(
        model, facts, dataclasses.replace(SMALL, metrics=("all",)), progress=lambda *call: calls.append(call)
    )
    names = set(found.sets["facts"])
    assert {"suppressability", "gini", "overlap_across", "probe_1", "relearned", "interchange"} <= names
    assert {"ablation_selective", "deletion_area", "restored", "paraphrase_suppressability"} <= names
    for name, estimates in found.sets["facts"].items():
        assert np.isfinite(estimates.overall.value), name
    assert found.sets["facts"]["ablation_selective"].overall.n <= 4
    done, total = zip(*[call[1:] for call in calls if call[0] == "facts"], strict=True)
    assert done[-1] == total[-1] and max(done) == done[-1]


# Of every group of columns that draws something, or looks at other facts.
DRAWN = (
    *("suppressability", "control_drop", "selective", "control_drop_answer", "random_drop", "mean_of_ratios"),
    *("projection_selective", "resample_selective", "interchange", "relearned", "overlap_within", "recall"),
)


def test_no_figure_depends_on_the_rows_of_a_batch():
    """Controls and random neurons are drawn for a fact, whatever other facts are in its batch."""
    model, facts = knowing()
    few, many = (
        measure_facts(model, facts, dataclasses.replace(SMALL, metrics=DRAWN, ablation_queries=0, rows=rows))[0]
        for rows in (4, 40)
    )
    for set_name, metrics in few.sets.items():
        assert metrics.keys() == many.sets[set_name].keys()
        for name, values in metrics.items():
            other = many.sets[set_name][name]
            assert values.by_relation.keys() == other.by_relation.keys() and values.left_out == other.left_out
            pairs = [(values.overall, other.overall)]
            pairs += [(value, other.by_relation[relation]) for relation, value in values.by_relation.items()]
            for a, b in pairs:
                np.testing.assert_allclose(a.value, b.value, rtol=1e-3, atol=1e-4, err_msg=f"{set_name}, {name}")
                assert a.n == b.n
    np.testing.assert_array_equal(few.selected, many.selected)


def test_metrics_by_name_measure_what_they_need():
    model, facts = knowing()
    names = ("gini", "probe_1", "suppressability")
    found, *_ = measure_facts(model, facts, dataclasses.replace(SMALL, metrics=names, ablation_queries=0))
    assert tuple(found.sets["facts"]) == names
    assert found.sets["facts"]["gini"].by_relation == {}
    assert len(found.sets["facts"]["probe_1"].by_relation) > 1
    with pytest.raises(UserError, match="metric 'ablation_overlap' was measured on no fact of any set"):
        measure_facts(model, facts, dataclasses.replace(SMALL, metrics=("ablation_overlap",), ablation_queries=0))
    with pytest.raises(UserError, match="unknown metric 'charm'"):
        measure_facts(model, facts, dataclasses.replace(SMALL, metrics=("charm",)))
