"""Records, plans, sets of neurons and their statistics, by hand."""

import json

import numpy as np
import pytest

from jaxinterp.errors import UserError
from jaxinterp.facts.encoding import EncodedQueries
from jaxinterp.facts.facts import Fact, FactSet, Relation
from jaxinterp.studies.knowledge_neuron_queries import Asked
from jaxinterp.studies.knowledge_neuron_records import Record, batch_of, claim, fill, planned
from jaxinterp.studies.knowledge_neuron_scores import strongest
from jaxinterp.studies.knowledge_neuron_sets import (
    Selection,
    at_random,
    by_the_paper,
    covered_by_the_paper,
    fixed_number,
    of_partners,
    partners,
)
from jaxinterp.studies.knowledge_neuron_usage import neuron_statistics, usage

D_MLP = 10


def asked_of(fact_N, length_N, relations, subjects):
    """Queries of the facts, with answers of so many tokens; a relation and a subject for each fact."""
    fact_N, length_N = np.array(fact_N), np.array(length_N)
    names = sorted(set(relations))
    facts = FactSet(
        tuple(Relation(name, ("{subject} is",) * 4, "x") for name in names),
        tuple(Fact(r, s, f"a{i}") for i, (r, s) in enumerate(zip(relations, subjects, strict=True))),
    )
    n = len(fact_N)
    relation_N = np.array([names.index(relations[fact]) for fact in fact_N])
    subject_N = np.array([sorted(set(subjects)).index(subjects[fact]) for fact in fact_N])
    tokens = np.arange(40)[None] + np.zeros((n, 1), int)
    start = np.full(n, 3)
    prompt_N = np.array([np.sum(fact_N[:i] == fact) for i, fact in enumerate(fact_N)])
    queries = EncodedQueries(
        tokens.astype(np.int32), start + length_N, start, length_N, fact_N, prompt_N, relation_N, subject_N
    )
    return Asked(facts, queries, np.zeros(n, bool), np.zeros(n), {}, None)


def selection_of(*sets):
    return Selection([[np.array(neurons, int) for neurons in query] for query in sets], np.ones(len(sets), bool), {})


def test_strongest_by_hand():
    scores = np.array([[0.5, 1.0, 0.1], [-2.0, 0.5, 0.09]], np.float32)
    assert strongest(scores, 0.1, 1) == {"neurons": [1, 0, 4, 2], "scores": [1.0, 0.5, 0.5, 0.100000001]}
    assert strongest(scores, 0.1, 5)["neurons"] == [1, 0, 4, 2, 5]
    assert strongest(scores, 0.6, 2)["neurons"] == [1, 0]  # of equal scores the first
    # There is no share of a score that is not positive.
    assert strongest(-np.abs(scores), 0.1, 2)["neurons"] == [5, 2]
    assert strongest(np.zeros((2, 3), np.float32), 0.1, 2)["neurons"] == [0, 1]


def test_recorded_scores_are_exact_float32():
    scores = np.random.default_rng(0).standard_normal((4, 50)).astype(np.float32)
    found = strongest(scores, 0.1, 200)
    again = json.loads(json.dumps(found))
    np.testing.assert_array_equal(np.float32(again["scores"]), scores.ravel()[again["neurons"]])


def test_plans_keep_the_order_and_cut_no_answer():
    asked = asked_of([0, 0, 0, 1, 1], [1, 2, 1, 3, 1], "uv", "st")
    assert [taken.tolist() for taken in planned(asked.queries, 3)] == [[0, 1], [2], [3], [4]]
    assert [taken.tolist() for taken in planned(asked.queries, 4)] == [[0, 1, 2], [3, 4]]
    with pytest.raises(UserError, match="an answer has 3 tokens, above the 2 rows"):
        planned(asked.queries, 2)


def test_batches_have_few_lengths():
    asked = asked_of([0, 0, 1], [1, 5, 7], "uv", "st")
    queries = asked.queries
    for taken, width in [([0], 8), ([0, 1], 8), ([1, 2], 16)]:  # of 4, 8 and 10 tokens
        batch = batch_of(queries, np.array(taken), 12)
        assert batch.tokens_BT.shape == (12, width)
        assert int(batch.weight_R.sum()) == queries.answer_length_N[taken].sum()


def test_a_record_forgets_a_line_that_was_cut_off_and_refuses_a_broken_one(tmp_path):
    path = tmp_path / "lines.jsonl"
    record = Record(path)
    record.add([{"fact": 3, "x": 0.1}, {"fact": 5, "x": 2}])
    with path.open("a") as file:
        file.write('{"fact": 7, "x')
    again = Record(path)
    assert len(again) == 2 and 3 in again and 5 in again and 7 not in again
    assert again[3] == record[3] == {"fact": 3, "x": 0.1}
    again.add([{"fact": 7, "x": 1}])
    assert [json.loads(line)["fact"] for line in path.read_text().splitlines()] == [3, 5, 7]
    for broken in ("{", "[1]", '{"x": 1}'):
        path.write_text('{"fact": 1}\n' + broken + '\n{"fact": 2}\n')
        with pytest.raises(UserError, match="line 2 is broken; delete it"):
            Record(path)


def test_fill_computes_what_is_missing_and_writes_whole_facts(tmp_path):
    asked = asked_of([0, 0, 1, 1, 2], [1] * 5, "uvw", "stu")
    record = Record(tmp_path / "lines.jsonl")
    seen, told = [], []

    def run(record):
        def step(_, taken):
            seen.append(taken.tolist())
            return [{"query": query} for query in taken.tolist()]

        fill(record, asked.queries, 3, step, lambda fact: {"name": f"f{fact}"}, told.append)

    run(record)
    assert seen == [[0, 1, 2], [3, 4]] and told == [1, 3]
    assert record[1] == {"fact": 1, "name": "f1", "queries": [{"query": 2}, {"query": 3}]}
    # Half of fact 1 is in the first batch, which is computed again; fact 0 is not written twice.
    lines = (tmp_path / "lines.jsonl").read_text().splitlines()
    (tmp_path / "lines.jsonl").write_text(lines[0] + "\n" + lines[2] + "\n")
    seen.clear()
    again = Record(tmp_path / "lines.jsonl")
    run(again)
    assert seen == [[0, 1, 2], [3, 4]] and again[1] == record[1]
    assert len((tmp_path / "lines.jsonl").read_text().splitlines()) == 3
    seen.clear()
    run(again)
    assert seen == []


def test_a_claim_is_of_one_config(tmp_path):
    first = claim(tmp_path / "s", {"k": 2, "rows": None})
    assert claim(tmp_path / "s", {"k": 2, "rows": None}) == first
    (tmp_path / "s" / "abilities.jsonl").write_text('{"fact": 0}\n')
    with pytest.raises(UserError, match="rows is None there and 4 here"):
        claim(tmp_path / "s", {"k": 2, "rows": 4})
    with pytest.raises(UserError, match="new is None there and 1 here"):
        claim(tmp_path / "s", {"k": 2, "rows": None, "new": 1})


def test_a_study_that_has_done_nothing_makes_room(tmp_path):
    claim(tmp_path / "s", {"k": 2})
    (tmp_path / "s" / "abilities.jsonl").touch()
    claim(tmp_path / "s", {"k": 3})
    assert json.loads((tmp_path / "s" / "config.json").read_text())["config"] == {"k": 3}


def test_the_config_of_something_else_is_left_alone(tmp_path):
    for content in ({"config": {"steps": 1}, "revision": "x"}, {"d_vocab": 5}):
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match="is not that of a knowledge-neuron study; choose another folder"):
            claim(tmp_path, {"k": 3})
        assert json.loads((tmp_path / "config.json").read_text()) == content


def record_of(tmp_path, *facts):
    """Each fact is a list of prompts, each a list of tokens, each a dict neuron -> score, by both methods."""
    record = Record(tmp_path / "scores.jsonl")
    for fact, prompts in enumerate(facts):
        queries = []
        for tokens in prompts:
            order = [sorted(token.items(), key=lambda item: -item[1]) for token in tokens]
            recorded = [{"neurons": [n for n, _ in token], "scores": [s for _, s in token]} for token in order]
            queries.append({"tokens": [{"attribution": token, "activation": token} for token in recorded]})
        record.add([{"fact": fact, "queries": queries}])
    return record


def test_the_papers_rule_and_a_fixed_number_by_hand(tmp_path):
    # Fact 0: neuron 4 is strong in all three prompts, 17 in two. Fact 1 has an answer of two tokens, 2 has two prompts.
    record = record_of(
        tmp_path,
        [[{4: 1.0, 17: 0.3, 2: 0.19}], [{17: 1.0, 4: 0.2}], [{4: 0.5, 9: 0.05}]],
        [[{1: 1.0}], [{1: 1.0}, {2: 1.0, 3: 0.5}], [{1: 1.0}]],
        [[{5: 1.0}], [{5: 1.0}]],
    )
    asked = asked_of([0] * 3 + [1] * 3 + [2] * 2, [1, 1, 1, 1, 2, 1, 1, 1], "uuv", "str")
    np.testing.assert_array_equal(covered_by_the_paper(asked), [True] * 3 + [False] * 5)
    found = by_the_paper(asked, record, "attribution")
    # One neuron is too few on average, but the share of three prompts cannot fall below three of them.
    assert [[n.tolist() for n in query] for query in found.sets] == [[[4]]] * 3 + [[[]], [[], []], [[]], [[]], [[]]]
    assert found.share == {"u": 0.4}
    baseline = by_the_paper(asked, record, "activation")  # half of the highest: 4 is at 0.2 in the second prompt
    assert baseline.sets[0][0].tolist() == []
    two = fixed_number(asked, record, "attribution", 2)
    assert [n.tolist() for n in two.sets[0]] == [[4, 17]] and [n.tolist() for n in two.sets[4]] == [[1], [2, 3]]
    assert two.covered_N.all()


def test_partners_have_another_subject_and_another_relation():
    relations, subjects = "uuvvww", ["a", "b", "a", "b", "a", "c"]
    n_prompts = [3, 3, 3, 3, 3, 2]  # the last fact is not covered by the paper's rule
    asked = asked_of(np.repeat(range(6), n_prompts), [1] * 17, relations, subjects)
    seen = set()
    for seed in range(30):
        found = partners(asked, seed)
        assert found == partners(asked, seed)
        for fact, other in found.items():
            assert relations[fact] != relations[other] and subjects[fact] != subjects[other]
            assert other != 5 or fact == 5
        seen.add(tuple(found.items()))
    assert len(seen) > 3
    alone = asked_of([0, 1], [1, 1], "uu", "ab")
    assert partners(alone, 0) == {0: None, 1: None}


def test_partners_lend_the_sets_of_the_prompts_in_turn():
    asked = asked_of([0, 0, 0, 1, 1, 2], [1, 1, 2, 1, 2, 1], "uvw", "stu")
    own = selection_of([[1]], [[2]], [[3], [4]], [[5]], [[6], [7]], [[8]])
    lent = of_partners(asked, own, {0: 1, 1: 0, 2: None})
    assert [[n.tolist() for n in query] for query in lent.sets] == [
        *([[5]], [[6]], [[5], [5]]),  # the third prompt gets the first again, and its only token twice
        *([[1]], [[2], [2]]),
        [[]],
    ]
    np.testing.assert_array_equal(lent.covered_N, [True] * 5 + [False])


def test_random_neurons_are_as_many_in_each_layer():
    asked = asked_of([0, 0, 1], [1, 1, 1], "uv", "st")
    own = selection_of([[1, 2, 3, 25]], [[1, 2, 3, 25]], [[]])
    found = at_random(asked, own, D_MLP, seed=0)
    for query in (0, 1):
        neurons = found.sets[query][0]
        assert np.bincount(neurons // D_MLP, minlength=3).tolist() == [3, 0, 1]
        assert len(set(neurons.tolist())) == 4
    assert found.sets[0][0].tolist() != found.sets[1][0].tolist()  # another draw for another prompt
    assert found.sets[2][0].tolist() == []
    assert at_random(asked, own, D_MLP, seed=0).sets[0][0].tolist() == found.sets[0][0].tolist()
    assert at_random(asked, own, D_MLP, seed=1).sets[0][0].tolist() != found.sets[0][0].tolist()


def statistics(asked, selection, n_layers=2):
    use = usage(asked, selection)
    names = np.array([asked.facts.facts[fact].relation for fact in use.fact_N.tolist()], dtype=str)
    return neuron_statistics(use, names, D_MLP, n_layers)


def test_numbers_layers_and_overlap_of_sets_by_hand():
    # Relation u: {0, 1, 12}, {1, 12, 13}, {}; relation v: {1}.
    asked = asked_of([0, 1, 2, 3], [1] * 4, "uuuv", "stur")
    found = statistics(asked, selection_of([[0, 1, 12]], [[1, 12, 13]], [[]], [[1]]))
    assert (found["facts"], found["mean"], found["without"], found["distinct"]) == (4, 7 / 4, 1, 4)
    np.testing.assert_allclose(found["layers"], [4 / 7, 3 / 7])
    # Pairs inside u share 2, 0 and 0; across, neuron 1 is in two of three pairs. v has no pair.
    assert found["shared_inside"] == pytest.approx(2 / 3)
    assert found["shared_across"] == pytest.approx(2 / 3)
    assert found["by_relation"]["u"] == {"facts": 3, "mean": 2.0, "without": 1, "shared_inside": pytest.approx(2 / 3)}
    assert found["by_relation"]["v"] == {"facts": 1, "mean": 1.0, "without": 0, "shared_inside": None}


def test_overlap_of_sets_that_differ_by_prompt_is_the_mean_over_pairs():
    asked = asked_of([0, 0, 1, 1], [1] * 4, "uu", "st")
    sets = ([0, 1], [0, 2], [0, 1], [1, 3])
    found = statistics(asked, selection_of(*([neurons] for neurons in sets)))
    pairs = [len(set(a) & set(b)) for a in sets[:2] for b in sets[2:]]
    assert found["shared_inside"] == pytest.approx(np.mean(pairs))
    assert found["shared_across"] is None
    assert found["mean"] == 2


def test_no_fact_is_covered():
    asked = asked_of([0, 1], [1, 1], "uv", "st")
    nothing = Selection([[np.zeros(0, int)]] * 2, np.zeros(2, bool), {})
    found = statistics(asked, nothing)
    assert (found["facts"], found["mean"], found["distinct"], found["shared_across"]) == (0, None, 0, None)
    assert found["layers"] == [0, 0]
