"""The measurement of a whole model, as plain data."""

import dataclasses
import json

import numpy as np
import pytest
from tiny import tiny_config, tiny_params, tiny_queries

from jaxinterp.errors import UserError
from jaxinterp.facts.encoding import EncodedQueries, encode, sentence
from jaxinterp.facts.facts import SETS, Fact, FactSet, Relation, SplitConfig
from jaxinterp.metrics.answers import measured_ability
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.measure import measure, sample
from jaxinterp.metrics.results import model_results, promoted_tokens
from jaxinterp.models.bundle import LanguageModel
from jaxinterp.models.tokenizers import train_tokenizer


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
            assert np.abs(count - of_relation).max() <= (n > 24)
            assert np.bincount(queries.fact_N[chosen]).max() == most
    assert (np.bincount(queries.fact_N[sample(queries, 24, 0)], minlength=24) == 1).all()


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
SPLIT = FACTS.split(SplitConfig(unseen_relations=("w",)))


@pytest.fixture(scope="module")
def model():
    tokenizer = train_tokenizer([sentence(FACTS, fact, prompt) for fact in range(15) for prompt in (0, 1)])
    config = tiny_config(n_layers=2, d_vocab=tokenizer.get_vocab_size())
    return LanguageModel(config, tiny_params(config), tokenizer, {})


@pytest.fixture(scope="module")
def measured(model):
    calls = []
    config = MeasureConfig(k=3, queries=6, ability_queries=0, ablation_queries=3, rows=6, replicates=50)
    measurement = measure(model, FACTS, SPLIT, config, progress=lambda *call: calls.append(call))
    return measurement, calls


def test_a_measurement_as_plain_data(model, measured):
    results = model_results(measured[0], model, [relation.name for relation in RELATIONS])
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert set(results) == {"cross_entropy", "recall", "sets", "by_relation", "neurons", "layers"}
    assert tuple(results["sets"]) == tuple(results["by_relation"]) == SETS
    entries = [results["cross_entropy"], results["recall"]]
    for set_name in SETS:
        entries += results["sets"][set_name].values()
        for metrics in results["by_relation"][set_name].values():
            entries += metrics.values()
        assert {"suppressability", "random_drop", "recall", "ablation_overlap"} <= set(results["sets"][set_name])
    for entry in entries:
        assert set(entry) == {"value", "low", "high", "n"}
        assert entry["low"] <= entry["high"]
        assert isinstance(entry["n"], int)
    assert set(results["by_relation"]["objective"]) == {"u", "v"}
    assert set(results["by_relation"]["unseen_relations"]) == {"w"}
    assert results["sets"]["objective"]["probability"]["n"] == 6
    assert results["sets"]["objective"]["ablation_overlap"]["n"] == 3
    assert results["sets"]["unseen_facts"]["probability"]["n"] == 2  # a fifth of 5 facts in 2 relations
    assert "control_drop" in results["sets"]["objective"]
    # In a set of one relation no answer has a control.
    assert not {"control_drop", "selective", "ablation_control_drop"} & set(results["sets"]["unseen_relations"])


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
        ranking = [model.tokenizer.id_to_token(int(token)) for token in np.argsort(-scores)]
        assert promoted_tokens(model, layer, neuron, len(ranking)) == ranking


def test_ability_is_measured_on_all_training_sentences(model, measured):
    queries = encode(FACTS, SPLIT.training, model.tokenizer)
    columns = measured_ability(model.config, model.params, queries, rows=6)
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
    for field, value in [("queries", -1), ("ability_queries", -1), ("ablation_queries", -1), ("rows", 0)]:
        with pytest.raises(UserError, match=f"measure.{field} must be at least"):
            MeasureConfig(**{field: value})
