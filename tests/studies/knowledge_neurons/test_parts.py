"""Recorded scores, sets of neurons, controls and statistics, by hand."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny import tiny_config

from jaxinterp.attribution.edits import random_masks
from jaxinterp.base.records import Record
from jaxinterp.facts.controls import KINDS
from jaxinterp.facts.encoding import EncodedQueries
from jaxinterp.facts.facts import Fact, FactSet, Relation
from jaxinterp.studies.by_fact import record_by_fact
from jaxinterp.studies.knowledge_neurons.edits import SOURCES
from jaxinterp.studies.knowledge_neurons.queries import Asked
from jaxinterp.studies.knowledge_neurons.results import effects
from jaxinterp.studies.knowledge_neurons.scores import strongest
from jaxinterp.studies.knowledge_neurons.sets import (
    NONE,
    Selection,
    by_the_paper,
    controls,
    covered_by_the_paper,
    fixed_number,
    lent,
    padded,
)
from jaxinterp.studies.knowledge_neurons.usage import neuron_statistics, usage

D_MLP = 10


def asked_of(fact_N, length_N, relations, subjects, answers=None):
    """Queries of the facts, with answers of so many tokens; a relation and a subject for each fact, and an answer,
    which differs if it is not given. Different answers have no token in common.
    """
    fact_N, length_N = np.array(fact_N), np.array(length_N)
    names = sorted(set(relations))
    answers = answers or [f"a{i}" for i in range(len(relations))]
    facts = FactSet(
        tuple(Relation(name, ("{subject} is",) * 4, "x") for name in names),
        tuple(map(Fact, relations, subjects, answers)),
    )
    n = len(fact_N)
    relation_N = np.array([names.index(relations[fact]) for fact in fact_N])
    subject_N = np.array([sorted(set(subjects)).index(subjects[fact]) for fact in fact_N])
    answer_N = np.array([sorted(set(answers)).index(answers[fact]) for fact in fact_N])
    tokens = np.arange(40)[None] + 40 * answer_N[:, None]
    start = np.full(n, 3)
    prompt_N = np.array([np.sum(fact_N[:i] == fact) for i, fact in enumerate(fact_N)])
    queries = EncodedQueries(
        tokens.astype(np.int32), start + length_N, start, length_N, fact_N, prompt_N, relation_N, subject_N
    )
    return Asked(facts, queries, np.zeros(n, bool), {}, None)


def selection_of(*sets):
    return Selection(padded([neurons for query in sets for neurons in query]), np.ones(len(sets), bool), {})


def listed(neurons_AW):
    return [neurons[neurons != NONE].tolist() for neurons in neurons_AW]


def test_strongest_by_hand():
    scores = np.array([[0.5, 1.0, 0.1], [-2.0, 0.5, 0.09]], np.float32)[:, None]

    def kept(scores, share, k):
        (found,) = strongest(scores, share, k)
        return found["neurons"]

    assert strongest(scores, 0.1, 1) == [{"neurons": [1, 0, 4, 2], "scores": [1.0, 0.5, 0.5, 0.100000001]}]
    assert kept(scores, 0.1, 5) == [1, 0, 4, 2, 5]
    assert kept(scores, 0.6, 2) == [1, 0]  # of equal scores the first
    # There is no share of a score that is not positive.
    assert kept(-np.abs(scores), 0.1, 2) == [5, 2]
    assert kept(np.zeros((2, 1, 3), np.float32), 0.1, 2) == [0, 1]
    two = strongest(np.concatenate([scores, scores[:, :, ::-1]], 1), 0.6, 2)  # each row by itself
    assert [row["neurons"] for row in two] == [[1, 0], [1, 2]]


def test_recorded_scores_are_exact_float32():
    scores = np.random.default_rng(0).standard_normal((4, 1, 50)).astype(np.float32)
    (again,) = json.loads(json.dumps(strongest(scores, 0.1, 199)))
    assert len(again["neurons"]) == 199
    np.testing.assert_array_equal(np.float32(again["scores"]), scores.ravel()[again["neurons"]])


def test_what_is_missing_is_computed_in_the_same_parts_and_written_in_whole_facts(tmp_path):
    asked = asked_of([0, 0, 1, 1, 2, 3, 3, 3], [1, 1, 1, 2, 1, 2, 2, 2], "uvwu", "stur")
    path = tmp_path / "lines.jsonl"
    seen = []

    def run(record, rows=5):
        def values(queries):
            seen.append(queries.fact_N.tolist())
            return [{"prompt": prompt} for prompt in queries.prompt_N.tolist()]

        record_by_fact(record, asked.facts, asked.queries, rows, values, "title")

    record = Record(path)
    run(record)
    parts = [[0, 0, 1, 1], [2], [3, 3, 3]]  # a fact that has more rows than a part is one by itself
    assert seen == parts
    about = {"relation": "v", "subject": "t", "answer": "a1"}
    assert record[1] == {"fact": 1, **about, "queries": [{"prompt": 0}, {"prompt": 1}]}
    # A part that lacks a fact is computed again, and what it has is not written twice.
    lines = path.read_text().splitlines()
    path.write_text(lines[0] + "\n" + lines[2] + "\n")
    seen.clear()
    again = Record(path)
    run(again)
    assert seen == [parts[0], parts[2]] and again[1] == record[1]
    assert sorted(path.read_text().splitlines()) == sorted(lines)
    seen.clear()
    run(again)
    assert seen == []


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
    np.testing.assert_array_equal(covered_by_the_paper(asked.queries), [True] * 3 + [False] * 5)
    found = by_the_paper(asked, record, "attribution")
    # One neuron is too few on average, but the share of three prompts cannot fall below three of them.
    assert listed(found.neurons_AW) == [[4]] * 3 + [[]] * 6
    np.testing.assert_array_equal(found.covered_N, [True] * 3 + [False] * 5)
    assert found.share == {"u": 0.4}
    baseline = by_the_paper(asked, record, "activation")  # half of the highest: 4 is at 0.2 in the second prompt
    assert listed(baseline.neurons_AW)[0] == []
    two = fixed_number(asked, record, "attribution", 2)
    assert listed(two.neurons_AW)[0] == [4, 17] and listed(two.neurons_AW)[4:6] == [[1], [2, 3]]
    assert two.covered_N.all()


RELATION, SUBJECT, ANSWER = "uuvvw", "abacd", "xyzxq"
# By kind, the facts that may be each fact's control.
ALLOWED = {
    "relation": [{1}, {0}, {3}, {2}, set()],
    "subject": [{2}, set(), {0}, set(), set()],
    "other": [{4}, {2, 3, 4}, {1, 4}, {1, 4}, {0, 1, 2, 3}],
    "answer": [{3}, set(), set(), {0}, set()],
}


@pytest.mark.parametrize("n_prompts", [1, 3])
def test_controls_by_kind_by_hand(n_prompts):
    queries = asked_of(np.repeat(range(5), n_prompts), [1] * 5 * n_prompts, RELATION, SUBJECT, ANSWER).queries
    everything = np.ones(len(queries), bool)
    seen = {kind: [set() for _ in range(5)] for kind in ALLOWED}
    for seed in range(40):
        found = controls(queries, everything, seed)
        np.testing.assert_array_equal(found, controls(queries, everything, seed))
        for kind, control_N in zip(KINDS, found, strict=True):
            for query, other in enumerate(control_N.tolist()):
                if other >= 0:
                    seen[kind][queries.fact_N[query]].add(int(queries.fact_N[other]))
                    assert queries.prompt_N[other] == queries.prompt_N[query]
                    first = query - queries.prompt_N[query]
                    assert queries.fact_N[control_N[first]] == queries.fact_N[other]  # one control for all its prompts
    assert seen == ALLOWED


def test_covered_facts_are_controls_of_one_another():
    n_prompts = [3, 3, 3, 3, 2]  # the paper's rule does not cover the last fact
    queries = asked_of(np.repeat(range(5), n_prompts), [1] * 14, RELATION, SUBJECT, ANSWER).queries
    covered_N = covered_by_the_paper(queries)
    np.testing.assert_array_equal(covered_N, [True] * 12 + [False] * 2)
    seen = [set() for _ in range(5)]
    for seed in range(40):
        for query, other in enumerate(controls(queries, covered_N, seed)[KINDS.index("other")].tolist()):
            if other >= 0:
                seen[queries.fact_N[query]].add(int(queries.fact_N[other]))
    assert seen == [set(), {2, 3}, {1}, {1}, set()]
    assert (controls(queries, np.zeros(14, bool), 0) == -1).all()


def test_controls_share_no_token_of_an_answer():
    # All answers of two tokens end in the same one.
    queries = asked_of([0, 1, 2], [2, 2, 1], "uuu", "abc", "xyz").queries
    queries.tokens_NT[:2, queries.answer_start_N[0] + 1] = 7
    relation = controls(queries, np.ones(3, bool), 0)[KINDS.index("relation")].tolist()
    assert relation in ([2, 2, 0], [2, 2, 1])


def test_controls_lend_the_sets_of_their_prompts_in_turn():
    # Two facts are each other's control of the kind "other"; the third has the subject of one, the answer of the other.
    queries = asked_of([0, 0, 0, 1, 1, 2], [1, 1, 2, 1, 2, 1], "uvu", "sts", "xyy").queries
    own = selection_of([[1]], [[2]], [[3], [4]], [[5]], [[6], [7]], [[8]])
    control_N = controls(queries, own.covered_N, 0)[KINDS.index("other")]
    assert control_N.tolist() == [3, 4, 3, 0, 1, -1]
    assert listed(lent(queries, own.neurons_AW, control_N)) == [
        *([5], [6], [5], [5]),  # the third prompt gets the first again, and its only token twice
        *([1], [2], [2]),
        [],
    ]


def test_random_neurons_are_as_many_active_ones_in_each_layer():
    rng = np.random.default_rng(0)
    mask = np.zeros((3, 4, D_MLP), np.float32)
    for layer, row, neurons in [(0, 0, [1, 2, 3]), (2, 0, [5]), (0, 1, [1, 2, 3]), (1, 2, range(6))]:
        mask[layer, row, list(neurons)] = 1
    active = np.zeros_like(mask)
    for layer, row in np.ndindex(3, 4):
        active[layer, row, rng.choice(D_MLP, 4, replace=False)] = 1

    @jax.jit
    def draw(seed_R, mask_LRF, active_LRF):
        return random_masks(jax.vmap(jax.random.key)(seed_R), mask_LRF, active_LRF)

    seeds = np.array([5, 6, 7, 8], np.uint32)
    found = np.asarray(draw(seeds, mask, active))
    assert set(found.ravel().tolist()) == {0, 1}
    np.testing.assert_array_equal(found.sum(-1), mask.sum(-1))
    assert (found[:, :2] <= active[:, :2]).all()
    # A layer with four active neurons has no six of them: all, and two more.
    assert (found[1, 2] >= active[1, 2]).all()
    # A row's neurons are its own key's, whatever other rows there are.
    order = [2, 1, 0, 2]
    np.testing.assert_array_equal(draw(seeds[order], mask[:, order], active[:, order]), found[:, order])
    others = [np.asarray(draw(np.full(4, seed, np.uint32), mask, np.ones_like(mask)))[0, 0] for seed in range(5)]
    assert len({tuple(row.tolist()) for row in others}) > 1


def columns_of(probability, off, doubled):
    columns = {"probability": np.array(probability)}
    for source, names in SOURCES.items():
        columns |= {name: np.array(of[source]) for name, of in zip(names, (off, doubled), strict=True)}
    return columns


def test_effects_by_hand():
    # Two facts of relation u and two of v, with a prompt each; the last has another fact of the kind "other" alone.
    asked = asked_of([0, 1, 2, 3], [1] * 4, "uuvv", "abac", "xyzq")
    nan = np.nan
    off = {
        "own": [0.0, 0.1, 0.0, 0.1],  # S is 0.8 in u and in v
        "relation": [0.1, 0.1, 0.3, nan],  # C_relation is 0.6 in u, 0.25 in v, where a fact is missing
        "subject": [0.1, nan, 0.0, nan],  # 0.5, 1
        "other": [0.2, 0.5, 0.4, 0.1],  # −0.4, 0
        "answer": [nan] * 4,
        "random": [0.2, 0.3, 0.4, 0.1],
    }
    doubled = {**{kind: [0.3, 0.3, 0.4, 0.1] for kind in off}, "subject": [0.2, nan, 0.6, nan], "answer": [nan] * 4}
    columns = columns_of([0.2, 0.3, 0.4, 0.1], off, doubled)

    def effect(rows_N):
        found = effects(asked, columns, np.array(rows_N), 20, 0)
        parts = {"overall": found.overall, **found.by_relation}
        return {part: {name: value["value"] for name, value in metrics.items()} for part, metrics in parts.items()}

    found = effect([True] * 4)
    expected = {
        "suppressability": (0.8, 0.8),
        "control_drop_relation": (0.6, 0.25),
        "control_drop_subject": (0.5, 1.0),
        "control_drop_other": (-0.4, 0.0),
        "control_drop": (0.6, 1.0),
        "selective": (0.2, -0.2),
        "control_drop_other_one_sided": (0.0, 0.0),
        "control_drop_other_absolute": (0.4, 0.0),
        "random_drop": (0.0, 0.0),
        "amplification": (0.2, 0.0),
        "control_amplification_relation": (0.2, 0.0),
        "control_amplification_subject": (0.0, 0.5),
    }
    for name, (u, v) in expected.items():
        assert (found["u"][name], found["v"][name]) == pytest.approx((u, v)), name
    # Overall the largest is that of the means over relations, here C_subject's.
    assert found["overall"]["control_drop"] == pytest.approx(0.75)
    assert found["overall"]["selective"] == pytest.approx(0.05)
    assert not any("answer" in name for metrics in found.values() for name in metrics)
    only_other = effect([False, False, False, True])
    assert only_other["v"]["control_drop"] == pytest.approx(only_other["v"]["control_drop_other"]) == pytest.approx(0)
    assert "control_drop_subject" not in only_other["overall"]
    columns["control_other"][3] = nan
    nothing = effect([False, False, False, True])
    assert "suppressability" in nothing["v"] and not {"control_drop", "selective"} & nothing["overall"].keys()


def test_a_relation_whose_answers_have_no_probability_is_left_out():
    asked = asked_of([0, 1, 2, 3], [1] * 4, "uuvv", "stst")
    p = np.array([0.2, 0.4, 0.0, 1e-60])  # a product of many tokens, which float64 holds and float32 does not
    half = dict.fromkeys(SOURCES, 0.5 * p)
    found = effects(asked, columns_of(p, half, half), np.ones(4, bool), 20, 0)
    assert found.left_out == {"v": "P = 0"}
    for name in ("suppressability", "control_drop", "random_drop", "amplification", "control_amplification_relation"):
        assert found.by_relation["v"][name] == {"value": None, "low": None, "high": None, "n": 2}
        assert found.overall[name]["value"] == pytest.approx(-0.5 if "amplification" in name else 0.5)
        assert found.overall[name]["n"] == 2
    plain = dataclasses.asdict(found)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def statistics(asked, selection):
    return neuron_statistics(usage(asked, selection), asked, tiny_config(n_layers=2, d_mlp=D_MLP))


def test_numbers_layers_and_overlap_of_sets_by_hand():
    # Relation u: {0, 1, 12}, {1, 12, 13}, {}; relation v: {1}.
    asked = asked_of([0, 1, 2, 3], [1] * 4, "uuuv", "stur")
    found = statistics(asked, selection_of([[0, 1, 12]], [[1, 12, 13]], [[]], [[1]]))
    assert (found.facts, found.mean, found.without, found.distinct) == (4, 7 / 4, 1, 4)
    np.testing.assert_allclose(found.layers, [4 / 7, 3 / 7])
    # Pairs inside u share 2, 0 and 0; across, neuron 1 is in two of three pairs. v has no pair.
    assert found.shared_inside == pytest.approx(2 / 3)
    assert found.shared_across == pytest.approx(2 / 3)
    assert found.by_relation["u"] == {"facts": 3, "mean": 2.0, "without": 1, "shared_inside": pytest.approx(2 / 3)}
    assert found.by_relation["v"] == {"facts": 1, "mean": 1.0, "without": 0, "shared_inside": None}


def test_overlap_of_sets_that_differ_by_prompt_is_the_mean_over_pairs():
    asked = asked_of([0, 0, 1, 1], [1] * 4, "uu", "st")
    sets = ([0, 1], [0, 2], [0, 1], [1, 3])
    found = statistics(asked, selection_of(*([neurons] for neurons in sets)))
    pairs = [len(set(a) & set(b)) for a in sets[:2] for b in sets[2:]]
    assert found.shared_inside == pytest.approx(np.mean(pairs))
    assert found.shared_across is None
    assert found.mean == 2


def test_no_fact_is_covered():
    asked = asked_of([0, 1], [1, 1], "uv", "st")
    nothing = Selection(padded([[], []]), np.zeros(2, bool), {})
    found = statistics(asked, nothing)
    assert (found.facts, found.mean, found.distinct, found.shared_across) == (0, None, 0, None)
    assert found.layers == (0, 0)
