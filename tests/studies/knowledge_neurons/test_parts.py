"""Records, plans, sets of neurons and their statistics, by hand."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxinterp.base.errors import UserError
from jaxinterp.facts.controls import KINDS
from jaxinterp.facts.encoding import EncodedQueries
from jaxinterp.facts.facts import Fact, FactSet, Relation
from jaxinterp.studies.knowledge_neurons.edits import Edited, random_neurons
from jaxinterp.studies.knowledge_neurons.queries import Asked
from jaxinterp.studies.knowledge_neurons.records import Record, batch_of, claim, fill, planned
from jaxinterp.studies.knowledge_neurons.results import effects
from jaxinterp.studies.knowledge_neurons.scores import strongest
from jaxinterp.studies.knowledge_neurons.sets import (
    Selection,
    by_the_paper,
    covered_by_the_paper,
    fixed_number,
    of_partners,
    partners,
    random_seeds,
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
        assert int(batch.answers.weight_R.sum()) == queries.answer_length_N[taken].sum()


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


RELATION, SUBJECT, ANSWER = "uuvvw", "abacd", "xyzxq"
# By kind of control, the facts that may be each fact's partner.
ALLOWED = {
    "relation": [{1}, {0}, {3}, {2}, set()],
    "subject": [{2}, set(), {0}, set(), set()],
    "other": [{4}, {2, 3, 4}, {1, 4}, {1, 4}, {0, 1, 2, 3}],
    "answer": [{3}, set(), set(), {0}, set()],
}


@pytest.mark.parametrize("n_prompts", [1, 3])
def test_partners_by_kind_by_hand(n_prompts):
    # The paper's rule covers either no fact, or all.
    asked = asked_of(np.repeat(range(5), n_prompts), [1] * 5 * n_prompts, RELATION, SUBJECT, ANSWER)
    seen = {kind: [set() for _ in range(5)] for kind in ALLOWED}
    for seed in range(40):
        found = partners(asked, seed)
        assert found == partners(asked, seed)
        for kind, partner in found.items():
            for fact, other in partner.items():
                seen[kind][fact].add(other)
    assert seen == ALLOWED


def test_a_covered_fact_has_a_covered_partner_where_there_is_one():
    n_prompts = [3, 3, 3, 3, 2]  # the paper's rule does not cover the last fact
    asked = asked_of(np.repeat(range(5), n_prompts), [1] * 14, RELATION, SUBJECT, ANSWER)
    seen = [set() for _ in range(5)]
    for seed in range(40):
        for fact, other in partners(asked, seed)["other"].items():
            seen[fact].add(other)
    assert seen == [{4}, {2, 3}, {1}, {1}, {0, 1, 2, 3}]
    # Of a partner that the selection does not cover there are no neurons.
    own = Selection([[np.array([1])]] * 14, covered_by_the_paper(asked), {})
    lent = of_partners(asked, own, partners(asked, 0)["other"])
    np.testing.assert_array_equal(lent.covered_N, [False] * 3 + [True] * 9 + [False] * 2)
    assert not len(lent.sets[0][0]) and lent.sets[3][0].tolist() == [1]


def test_partners_share_no_token_of_an_answer():
    # All answers of two tokens end in the same one.
    asked = asked_of([0, 1, 2], [2, 2, 1], "uuu", "abc", "xyz")
    asked.queries.tokens_NT[:2, asked.queries.answer_start_N[0] + 1] = 7
    assert partners(asked, 0)["relation"] in ({0: 2, 1: 2, 2: 0}, {0: 2, 1: 2, 2: 1})


def test_partners_lend_the_sets_of_the_prompts_in_turn():
    asked = asked_of([0, 0, 0, 1, 1, 2], [1, 1, 2, 1, 2, 1], "uvw", "stu")
    own = selection_of([[1]], [[2]], [[3], [4]], [[5]], [[6], [7]], [[8]])
    lent = of_partners(asked, own, {0: 1, 1: 0})
    assert [[n.tolist() for n in query] for query in lent.sets] == [
        *([[5]], [[6]], [[5], [5]]),  # the third prompt gets the first again, and its only token twice
        *([[1]], [[2], [2]]),
        [[]],
    ]
    np.testing.assert_array_equal(lent.covered_N, [True] * 5 + [False])


def test_random_neurons_are_as_many_active_ones_in_each_layer():
    rng = np.random.default_rng(0)
    mask = np.zeros((3, 4, D_MLP), np.float32)
    for layer, row, neurons in [(0, 0, [1, 2, 3]), (2, 0, [5]), (0, 1, [1, 2, 3]), (1, 2, range(6))]:
        mask[layer, row, list(neurons)] = 1
    active = np.zeros_like(mask)
    for layer, row in np.ndindex(3, 4):
        active[layer, row, rng.choice(D_MLP, 4, replace=False)] = 1
    seeds = np.array([5, 6, 7, 8], np.uint32)
    draw = jax.jit(random_neurons)
    found = np.asarray(draw(seeds, mask, active))
    assert set(found.ravel().tolist()) == {0, 1}
    np.testing.assert_array_equal(found.sum(-1), mask.sum(-1))
    assert (found[:, :2] <= active[:, :2]).all()
    # A layer with four active neurons has no six of them: all, and two more.
    assert (found[1, 2] >= active[1, 2]).all()
    # A row's neurons are its own seed's, whatever other rows there are.
    order = [2, 1, 0, 2]
    np.testing.assert_array_equal(draw(seeds[order], mask[:, order], active[:, order]), found[:, order])
    others = [np.asarray(draw(np.full(4, seed, np.uint32), mask, np.ones_like(mask)))[0, 0] for seed in range(5)]
    assert len({tuple(row.tolist()) for row in others}) > 1


def test_seeds_of_random_neurons_are_of_a_fact_and_a_prompt():
    asked = asked_of([0, 0, 1], [1, 2, 1], "uv", "st")
    found = random_seeds(asked, 0)
    assert [len(seeds) for seeds in found] == [1, 2, 1]
    assert len({seed for seeds in found for seed in seeds.tolist()}) == 4
    alone = dataclasses.replace(asked, queries=asked.queries[np.array([1])])
    assert random_seeds(alone, 0)[0].tolist() == found[1].tolist() != random_seeds(alone, 1)[0].tolist()


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
    edited = Edited(
        np.array([0.2, 0.3, 0.4, 0.1]),
        {("paper", "attribution", source): np.array(values) for source, values in off.items()},
        {("paper", "attribution", source): np.array(values) for source, values in doubled.items()},
    )

    def effect(rows_N):
        found = effects(asked, edited, "paper", "attribution", np.array(rows_N), 20, 0)
        parts = {"overall": found["overall"], **found["by_relation"]}
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
    edited.suppressed["paper", "attribution", "other"][3] = nan
    nothing = effect([False, False, False, True])
    assert "suppressability" in nothing["v"] and not {"control_drop", "selective"} & nothing["overall"].keys()


def test_a_relation_whose_answers_have_no_probability_is_left_out():
    asked = asked_of([0, 1, 2, 3], [1] * 4, "uuvv", "stst")
    p = np.array([0.2, 0.4, 0.0, 1e-60])  # a product of many tokens, which float64 holds and float32 does not
    columns = {("paper", "attribution", source): 0.5 * p for source in ("own", *KINDS, "random")}
    found = effects(asked, Edited(p, columns, columns), "paper", "attribution", np.ones(4, bool), 20, 0)
    assert found["left_out"] == {"v": "P = 0"}
    for name in ("suppressability", "control_drop", "random_drop", "amplification", "control_amplification_relation"):
        assert found["by_relation"]["v"][name] == {"value": None, "low": None, "high": None, "n": 2}
        assert found["overall"][name]["value"] == pytest.approx(-0.5 if "amplification" in name else 0.5)
        assert found["overall"][name]["n"] == 2
    assert json.loads(json.dumps(found, allow_nan=False)) == found


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
