"""The measurement of a whole model, as plain data."""

import dataclasses
import json

import numpy as np
import pytest
from knowing import N_RELATIONS, N_SUBJECTS, knowing
from tiny import tiny_config, tiny_params, tiny_queries

from jaxinterp.attribution.quadrature import quadrature
from jaxinterp.base.errors import UserError
from jaxinterp.facts.controls import KINDS
from jaxinterp.facts.encoding import UNKNOWN, EncodedQueries, encode, sentence
from jaxinterp.facts.facts import Fact, FactSet, Relation
from jaxinterp.facts.splits import SETS, SplitConfig, split_facts
from jaxinterp.metrics.answers import measured_answers
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.examples import LanguageExamples
from jaxinterp.metrics.measure import measure, measure_facts
from jaxinterp.metrics.recall import measured_ability
from jaxinterp.metrics.results import has_interval, model_results, promoted_tokens
from jaxinterp.metrics.sampling import sample
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.tokenizer_training import train_tokenizer


def queries_of(relation_of_fact, n_prompts):
    n = len(relation_of_fact) * n_prompts
    fact, zeros = np.repeat(np.arange(len(relation_of_fact)), n_prompts), np.zeros(n, int)
    tokens = np.zeros((n, 3), np.int32)
    return EncodedQueries(tokens, zeros + 3, zeros + 1, zeros + 1, fact, zeros, np.array(relation_of_fact)[fact], fact)


def test_sample_takes_facts_and_relations_in_turn():
    queries = queries_of([0] * 10 + [1] * 4 + [2] * 10, 3)
    for n, of_relation, most in [(6, [2, 2, 2], 1), (12, [4, 4, 4], 1), (20, [8, 4, 8], 1), (30, [12, 6, 12], 2)]:
        for seed in (0, 1):
            chosen = sample(queries, n, seed)
            assert len(set(chosen.tolist())) == len(chosen) == n
            count = np.bincount(queries.relation_N[chosen], minlength=3)
            assert np.abs(count - of_relation).max() <= (2 if n > 24 else 0)
            assert np.bincount(queries.fact_N[chosen]).max() == most
    assert (np.bincount(queries.fact_N[sample(queries, 24, 0)], minlength=24) == 1).all()


def test_sample_takes_pairs_of_one_subject():
    """So that an answer has a control of its subject, and its relation others."""
    relation, subject = np.divmod(np.arange(200), 40)  # five relations of forty subjects
    queries = dataclasses.replace(queries_of(relation.tolist(), 2), subject_N=np.repeat(subject, 2))
    for n in (10, 24, 100):
        chosen = sample(queries, n, 3)
        assert len(chosen) == n == len(set(queries.fact_N[chosen].tolist()))
        count = np.bincount(queries.subject_N[chosen])
        assert (count != 1).all() and np.ptp(np.bincount(queries.relation_N[chosen])) <= 1
    # An odd number leaves one alone.
    assert (np.bincount(queries.subject_N[sample(queries, 9, 3)]) == 1).sum() == 1


def test_sample_is_deterministic_and_moves_with_its_seed():
    queries = queries_of([0] * 10 + [1] * 10, 2)
    first = sample(queries, 8, 0)
    np.testing.assert_array_equal(first, sample(queries, 8, 0))
    np.testing.assert_array_equal(first, np.sort(first))
    assert first.tolist() != sample(queries, 8, 1).tolist()


def test_sample_of_all():
    queries = tiny_queries(5)
    for n in (0, 5, 9):
        np.testing.assert_array_equal(sample(queries, n, 3), np.arange(5))


PROMPTS = {name: (f"the {name} of {{subject}} is", f"in {{subject}} the {name} is") for name in "uvw"}
RELATIONS = tuple(Relation(name, prompts, "x") for name, prompts in PROMPTS.items())
FACTS = FactSet(RELATIONS, tuple(Fact(r, f"s{i}", f"{r}{i % 3}") for r in "uvw" for i in range(5)))
SPLIT = split_facts(FACTS, SplitConfig(unseen_relations=("w",)))


@pytest.fixture(scope="module")
def model():
    tokenizer = train_tokenizer([sentence(FACTS, fact, prompt) for fact in range(15) for prompt in (0, 1)])
    config = tiny_config(n_layers=2, d_vocab=tokenizer.n_tokens)
    return LanguageModel(Model(config, tiny_params(config)), tokenizer, {})


@pytest.fixture(scope="module")
def measured(model):
    calls = []
    config = MeasureConfig(k=3, queries=6, ability_queries=0, ablation_queries=3, rows=6, replicates=50)
    measurement = measure(model, FACTS, SPLIT, config, progress=lambda *call: calls.append(call))
    return measurement, calls


def test_a_measurement_as_plain_data(model, measured):
    results = model_results(measured[0], model, [relation.name for relation in RELATIONS])
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    names = {"cross_entropy", "recall", "sets", "by_relation", "left_out_relations", "neurons", "layers"}
    assert set(results) == names and results["left_out_relations"] == {}
    assert tuple(results["sets"]) == tuple(results["by_relation"]) == SETS
    entries = [results["cross_entropy"], results["recall"]]
    for set_name in SETS:
        entries += results["sets"][set_name].values()
        for metrics in results["by_relation"][set_name].values():
            entries += metrics.values()
        assert {"suppressability", "random_drop", "recall", "ablation_overlap"} <= set(results["sets"][set_name])
    for entry in entries:
        assert set(entry) == {"value", "low", "high", "n"}
        if has_interval(entry):
            assert entry["low"] <= entry["value"] <= entry["high"]
        else:
            assert entry["low"] is entry["high"] is None
        assert isinstance(entry["n"], int)
    assert set(results["by_relation"]["objective"]) == {"u", "v"}
    assert set(results["by_relation"]["unseen_relations"]) == {"w"}
    assert results["sets"]["objective"]["probability"]["n"] == 6
    assert results["sets"]["objective"]["ablation_overlap"]["n"] == 3
    assert results["sets"]["unseen_facts"]["probability"]["n"] == 2  # a fifth of 5 facts in 2 relations
    assert "control_drop" in results["sets"]["objective"]
    # In a set of one relation no answer has a control of another.
    kinds = {kind for kind in KINDS if f"control_drop_{kind}" in results["sets"]["unseen_relations"]}
    assert "relation" in kinds and not kinds & {"subject", "other"}
    alone = results["sets"]["unseen_relations"]
    assert alone["control_drop"] == alone["control_drop_relation"]  # the largest of one is that one
    assert "selective" in alone


def test_the_named_metrics_alone(model, measured):
    names = ("recall", "selective", "suppressability")
    sets = {"unseen_relations": SPLIT.objective, **{name: getattr(SPLIT, name) for name in SETS[:3]}}
    config = MeasureConfig(k=3, queries=6, ability_queries=6, ablation_queries=0, rows=6, replicates=50, metrics=names)
    found = measure(model, FACTS, dataclasses.replace(SPLIT, **sets), config)
    for set_name in SETS:
        assert tuple(found.sets[set_name]) == names
    assert found.sets["objective"]["recall"] == measured[0].sets["objective"]["recall"]
    assert found.ability["recall"].overall.n == 6


def test_neurons_and_layers(model, measured):
    results = model_results(measured[0], model, [relation.name for relation in RELATIONS])
    total = measured[0].selected.sum(0)
    assert total.sum() == 3 * 6  # k neurons for each of the answers, of one token
    np.testing.assert_allclose(results["layers"], total.sum(1) / 18)
    assert [neuron["selections"] for neuron in results["neurons"]] == sorted(total[total > 0].astype(int), reverse=True)
    for neuron in results["neurons"]:
        assert neuron["selections"] == total[neuron["layer"], neuron["neuron"]]
        assert neuron["share"] == pytest.approx(neuron["selections"] / 18)
        assert sum(neuron["relations"].values()) == pytest.approx(1)
        assert list(neuron["relations"].values()) == sorted(neuron["relations"].values(), reverse=True)
        assert len(neuron["promotes"]) == 5


def test_promoted_tokens_are_those_of_the_value_vector(model):
    scale, embedding = np.asarray(model.params["norm_final"]["scale"]), np.asarray(model.params["embedding"])
    for layer, neuron in [(0, 0), (1, 4), (1, 5)]:
        value = np.asarray(model.params["layers"]["w_out"])[layer, neuron]
        scores = embedding @ ((value - value.mean()) * scale)
        ranking = [model.tokenizer.token(int(token)) for token in np.argsort(-scores)]
        assert promoted_tokens(model, layer, neuron, len(ranking)) == ranking


def test_ability_is_measured_on_all_training_sentences(model, measured):
    queries = encode(FACTS, SPLIT.training, model.tokenizer)
    columns = measured_ability(model.model, queries, rows=6)
    nll, tokens = columns["sentence_nll"], columns["sentence_tokens"]
    by_relation = [nll[queries.relation_N == r].sum() / tokens[queries.relation_N == r].sum() for r in range(3)]
    found = measured[0].ability
    assert set(found) == {"recall", "cross_entropy"}
    np.testing.assert_allclose(found["cross_entropy"].overall.value, np.mean(by_relation), rtol=1e-6)
    assert found["cross_entropy"].overall.n == 15


def test_progress_ends_at_its_total(measured):
    _, calls = measured
    for set_name in SETS:
        done, total = zip(*[call[1:] for call in calls if call[0] == set_name], strict=True)
        assert len(set(total)) == 1
        assert list(done) == sorted(done)
        assert done[-1] == total[0]


def test_what_cannot_be_measured(model):
    with pytest.raises(UserError, match="unknown metric 'grokking'; known: ablation_control_drop"):
        measure(model, FACTS, SPLIT, MeasureConfig(k=2, metrics=("recall", "grokking")))
    with pytest.raises(UserError, match=r"k must be at least 1 and below the model's number of neurons \(12\), got 12"):
        measure(model, FACTS, SPLIT, MeasureConfig(k=12))
    for field, value in [
        ("queries", -1),
        ("ability_queries", -1),
        ("ablation_queries", -1),
        ("rows", 0),
        ("points", 0),
    ]:
        with pytest.raises(UserError, match=f"measure.{field} must be at least"):
            MeasureConfig(**{field: value})


def test_the_rule_and_its_points_are_the_attributions(model, measured):
    config = MeasureConfig(k=3, queries=6, ability_queries=6, ablation_queries=0, rows=6, rule="left", points=1)
    found = measure(model, FACTS, SPLIT, config).sets["objective"]["completeness_residual"].overall.value
    queries = encode(FACTS, SPLIT.objective, model.tokenizer)
    queries = queries[sample(queries, 6, 0)]
    columns = measured_answers(
        LanguageExamples(model.model, queries), k=3, n_relations=3, integral=quadrature("left", 1), rows=6
    ).columns
    by_relation = [columns["residual"][queries.relation_N == relation].mean() for relation in (0, 1)]
    np.testing.assert_allclose(found, np.mean(by_relation), rtol=1e-5)
    # One point at the start of the path integrates badly.
    assert found > 3 * measured[0].sets["objective"]["completeness_residual"].overall.value


SMALL = MeasureConfig(k=2, queries=10, ability_queries=0, ablation_queries=0, rows=8, points=2, replicates=20)


def test_any_facts_on_any_model():
    """Every fact has a known or an unknown first prompt, a second one, and a third that a causal model cannot read."""
    model, facts = knowing()
    strange = Fact("r0", "nobody", "w1")
    facts = FactSet(facts.relations, (*facts.facts, strange), {"dropped before": 7})
    calls = []
    found, left_out, read = measure_facts(model, facts, SMALL, progress=lambda *call: calls.append(call))
    assert read["tokens"][read["answer"][0] :] == read["tokens"][slice(*read["answer"])] != []  # nothing comes after it
    assert left_out == {"dropped before": 7, "prompt whose answer does not come last": N_RELATIONS, UNKNOWN: 2}
    assert tuple(found.sets) == ("facts", "known_facts")
    assert found.sets["known_facts"]["recall"].overall.value == 1
    assert found.sets["known_facts"]["probability"].overall.n <= 10
    # Two thirds of the first prompts are answered correctly, and few of the second ones.
    assert found.ability["recall"].overall.n == N_RELATIONS * N_SUBJECTS
    assert 1 / 3 <= found.ability["recall"].overall.value < 0.6
    assert found.sets["facts"]["recall"].overall.value < 1
    assert {"suppressability", "control_drop", "random_drop"} <= set(found.sets["facts"])
    stages = list(dict.fromkeys(stage for stage, *_ in calls))
    assert stages == ["what it knows", "facts", "known_facts"]
    for stage in stages:
        done, total = zip(*[call[1:] for call in calls if call[0] == stage], strict=True)
        assert done[-1] == total[-1]


def test_a_model_that_knows_nothing():
    model, facts = knowing()
    unknown = [fact for fact in facts.facts if fact.subject in ("s2", "s8")]  # of one token, and by no prompt
    facts = FactSet(facts.relations, tuple(unknown))
    params = {**model.params, "unembedding": -model.params["unembedding"]}
    model = dataclasses.replace(model, model=model.model.replace(params=params))
    wrong = [dataclasses.replace(fact, answer="x") for fact in unknown]  # x is never predicted
    found, left_out, _ = measure_facts(model, dataclasses.replace(facts, facts=tuple(wrong)), SMALL)
    assert tuple(found.sets) == ("facts",)
    assert found.ability["recall"].overall.value == 0
    assert left_out == {"prompt whose answer does not come last": N_RELATIONS}
