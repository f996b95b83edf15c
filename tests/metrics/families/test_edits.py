"""Edits of facts' own neurons: what is edited, how, and what is left of other facts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from knowing import knowing

from jaxinterp.attribution.quadrature import quadrature
from jaxinterp.facts.encoding import EncodedQueries, encode
from jaxinterp.groundtruth.circuit import Circuit, Concepts, Neuron, assembled
from jaxinterp.groundtruth.neurons import LOGIT, carriers
from jaxinterp.groundtruth.table import FactTable
from jaxinterp.metrics import edit_plans
from jaxinterp.metrics.columns import GROUPS, MeasuredSet
from jaxinterp.metrics.examples import LanguageExamples
from jaxinterp.metrics.families import edits
from jaxinterp.metrics.families.edits import planned_edits
from jaxinterp.models.transformer import forward

N_SUBJECTS, N_RELATIONS = 6, 4
N_FACTS = N_SUBJECTS * N_RELATIONS
RULE = quadrature("midpoint", 2)
# Of an answer, from its relation's neuron and from its subject's: an edit has to outdo both together.
HALF = 1.5


def table():
    """A fact for every subject and relation, each with an answer of its own."""
    index = np.arange(N_FACTS)
    return FactTable(N_SUBJECTS, N_RELATIONS, N_FACTS, index % N_SUBJECTS, index // N_SUBJECTS, index)


def world(of):
    """A model whose facts have a neuron each, or share their relation's or their subject's; and all its queries.

    In a model of shared neurons, the other half of what an answer needs comes from embeddings, which no edit reaches.
    """
    facts, rng = table(), np.random.default_rng(0)
    concepts = Concepts(facts)

    def shared(part, label_N, label):
        answers = sum(concepts.vector(concepts.answer, int(n), HALF) for n in np.flatnonzero(label_N == label))
        return Neuron(1, concepts.vector(part, label), 0.0, answers, tuple(np.flatnonzero(label_N == label).tolist()))

    neurons = {
        "fact": lambda: carriers(concepts, 1, LOGIT, rng),
        "relation": lambda: [shared(concepts.relation, facts.relation_N, label) for label in range(N_RELATIONS)],
        "subject": lambda: [shared(concepts.told, facts.subject_N, label) for label in range(N_SUBJECTS)],
    }[of]()
    model = assembled(facts, Circuit(neurons), rng)
    params = jax.tree.map(np.array, model.model.params)
    answer_ND = HALF * params["unembedding"][facts.first_answer :]
    for n in range(N_FACTS):
        if of == "relation":
            params["layers"]["w_o"][0, 0, facts.subject_N[n]] += answer_ND[n]
        if of == "subject":
            params["embedding"][1 + N_SUBJECTS + facts.relation_N[n]] += answer_ND[n]
    index = np.arange(N_FACTS)
    queries = EncodedQueries(
        facts.sentences().astype(np.int32),
        0 * index + 4,
        0 * index + 3,
        0 * index + 1,
        index,
        0 * index,
        facts.relation_N,
        facts.subject_N,
    )
    examples = LanguageExamples(model.model.replace(params=jax.tree.map(jnp.asarray, params)), queries)
    return model, MeasuredSet(examples, examples, 1, RULE, N_FACTS, 0)


@pytest.mark.parametrize(
    ("of", "relation", "subject"),
    # Of the relation's other facts only the one is right whose answer all are given now.
    [("fact", 1.0, 1.0), ("relation", 1 / (N_SUBJECTS - 1), 1.0), ("subject", 1.0, 0.0)],
)
def test_an_edit_destroys_what_shares_the_neuron(of, relation, subject):
    model, measured = world(of)
    neurons = edits.own_neurons(measured, np.arange(N_FACTS))
    for n, at in enumerate(neurons):
        assert np.asarray(model.mask_LRF)[at.layer_k, n, at.neuron_k] == 1
    columns = GROUPS["edits"].columns(measured)
    assert np.isfinite(columns["edit_success"]).all()  # there are fewer facts than edits
    expected = {"success": 1.0, "kept_relation": relation, "kept_subject": subject, "kept_other": 1.0}
    for name, value in expected.items():
        np.testing.assert_allclose(columns[f"edit_{name}"], value, err_msg=name)


def test_only_the_rows_change():
    _, measured = world("fact")
    measured = dataclasses.replace(measured, k=3)
    (at,) = edits.own_neurons(measured, np.array([5]))
    model, queries = measured.examples.model, measured.examples.queries
    text = edits.texts(edits.reworded(queries[5:6], np.array([table().first_answer])), 4, 1)
    rows = edits.edited_rows(model, text, at)
    changed = edits.with_rows(model, at, rows).params
    is_row = np.zeros(model.params["layers"]["w_out"].shape, bool)
    is_row[at.layer_k, at.neuron_k] = True
    before, after = np.asarray(model.params["layers"]["w_out"]), np.asarray(changed["layers"]["w_out"])
    np.testing.assert_array_equal(before[~is_row], after[~is_row])
    assert is_row.sum() == rows.size and (np.abs(after - before)[is_row].reshape(3, -1).max(1) > 0.01).all()
    changed["layers"]["w_out"] = model.params["layers"]["w_out"]
    jax.tree.map(np.testing.assert_array_equal, changed, dict(model.params))


@pytest.fixture
def several(float64):
    """Two prompts of every fact of a small model in float64, with answers of one token and of two."""
    model, facts = knowing(dtype=float64)
    facts = facts.answer_last()
    queries = encode(facts, facts.queries(), model.tokenizer, n_ctx=model.config.n_ctx)
    examples = LanguageExamples(model.model, queries)
    return MeasuredSet(examples, examples, 2, RULE, 16, 0)


@jax.jit
def logits_of(model, w_out, tokens):
    params = {**model.params, "layers": {**model.params["layers"], "w_out": w_out}}
    return forward(model.replace(params=params), tokens[None]).logits_BTV[0]


def log_p(measured, w_out, query, answer):
    """[tokens, V], at the tokens of an answer to a query, of a text that ends in it."""
    start = int(query.answer_start_N[0])
    tokens = np.concatenate([query.tokens_NT[0, :start], answer])
    logits = logits_of(measured.examples.model, jnp.asarray(w_out), jnp.asarray(tokens))
    return jax.nn.log_softmax(logits[start - 1 : -1])


def answer_of(query):
    start = int(query.answer_start_N[0])
    return query.tokens_NT[0, start : start + int(query.answer_length_N[0])]


def is_correct(measured, w_out, query, answer):
    return bool((np.asarray(log_p(measured, w_out, query, answer)).argmax(-1) == answer).all())


def slow_edit(measured, at, query, answer):
    """w_out after textbook Adam on all of it, of whose gradient only the neurons' rows are used; and the steps."""
    chosen = np.zeros(measured.examples.model.params["layers"]["w_out"].shape[:2])
    chosen[at.layer_k, at.neuron_k] = 1
    w_out = np.asarray(measured.examples.model.params["layers"]["w_out"])
    size = edits.STEP_SIZE * np.sqrt((w_out**2).mean(-1)[chosen > 0].mean())
    nll = jax.jit(
        jax.value_and_grad(lambda w: -log_p(measured, w, query, answer)[jnp.arange(len(answer)), answer].sum())
    )
    first, second = np.zeros(w_out.shape), np.zeros(w_out.shape)
    for step in range(edits.STEPS):
        loss, slope = nll(jnp.asarray(w_out))
        if np.exp(-loss) > edits.ENOUGH:
            return w_out, step
        slope = np.asarray(slope) * chosen[..., None]
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        scale = np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8
        w_out = w_out - size * first / (1 - 0.9 ** (step + 1)) / scale
    return w_out, edits.STEPS


@pytest.fixture
def constants(monkeypatch):
    """Sets constants of the module, which compiled programs contain."""
    edits.edited_rows.clear_cache()
    yield functools.partial(monkeypatch.setattr, edits)
    edits.edited_rows.clear_cache()


def test_an_edit_by_hand(several, constants):
    constants("ENOUGH", 0.04)  # of a small model that gives a few percent to most words
    w_out = several.examples.model.params["layers"]["w_out"]
    each = [several.examples.queries[n : n + 1] for n in range(len(several.examples.queries))]
    known = np.array([is_correct(several, w_out, query, answer_of(query)) for query in each])
    assert 10 < known.sum() < len(known) - 10
    plans = planned_edits(several.examples.queries, several.pool.queries, known, 0)
    columns = GROUPS["edits"].columns(several)
    assert set(np.flatnonzero(np.isfinite(columns["edit_success"]))) == {plan.query for plan in plans}
    one, two = (next(plan for plan in plans if len(plan.answer) == length) for length in (1, 2))
    n_steps = []
    for plan in (one, two):
        (at,) = edits.own_neurons(several, np.array([plan.query]))
        query = each[plan.query]
        expected, steps = slow_edit(several, at, query, plan.answer)
        n_steps.append(steps)
        model = several.examples.model
        text = edits.texts(edits.reworded(query, plan.answer), *edits._size(model.config, several.pool.queries))
        changed = edits.with_rows(model, at, edits.edited_rows(model, text, at))
        np.testing.assert_allclose(changed.params["layers"]["w_out"], expected, atol=1e-8)
        assert columns["edit_success"][plan.query] == is_correct(several, expected, query, plan.answer)
        for kind, asked in plan.asked.items():
            kept = [is_correct(several, expected, each[n], answer_of(each[n])) for n in asked if known[n]]
            np.testing.assert_allclose(columns[f"edit_kept_{kind}"][plan.query], np.mean(kept), err_msg=kind)
    assert 0 < min(n_steps) < edits.STEPS  # an edit ends when it is good enough


def test_what_is_planned(several):
    queries = several.examples.queries
    known = np.arange(len(queries)) % 3 > 0
    plans = planned_edits(queries, several.pool.queries, known, 0)
    assert len(plans) == edit_plans.EDITS == len({plan.query for plan in plans})
    of = np.array([plan.query for plan in plans])
    assert known[of].all()
    counts = np.bincount(queries.relation_N[of])
    assert counts.max() - counts.min() <= 1 and len(np.unique(queries.fact_N[of])) == len(of)
    for plan in plans:
        old = answer_of(queries[plan.query : plan.query + 1])
        assert len(plan.answer) == len(old) and not set(plan.answer.tolist()) & set(old.tolist())
        given = [
            n
            for n in range(len(queries))
            if plan.answer.tolist() == answer_of(queries[n : n + 1]).tolist()
            and queries.relation_N[n] == queries.relation_N[plan.query]
            and queries.subject_N[n] != queries.subject_N[plan.query]
        ]
        assert given
        for kind, asked in plan.asked.items():
            assert 0 < len(asked) <= edit_plans.ASKED and len(np.unique(queries.fact_N[asked])) == len(asked)
            assert (queries.fact_N[asked] != queries.fact_N[plan.query]).all()
            same_relation = queries.relation_N[asked] == queries.relation_N[plan.query]
            same_subject = queries.subject_N[asked] == queries.subject_N[plan.query]
            assert (same_relation == (kind == "relation")).all() and (same_subject == (kind == "subject")).all()
    again, other = (planned_edits(queries, several.pool.queries, known, seed) for seed in (0, 1))
    jax.tree.map(np.testing.assert_array_equal, plans, again)
    assert [plan.query for plan in other] != [plan.query for plan in plans]


def only(measured, examples):
    return dataclasses.replace(measured, examples=examples, pool=examples)


def test_nothing_to_edit():
    _, measured = world("fact")
    # One subject of each relation has no other answer to be given.
    examples = measured.examples
    alone = only(measured, examples[np.arange(0, N_FACTS, N_SUBJECTS)])
    config = dataclasses.replace(examples.model.config, attention="bidirectional")
    bidirectional = only(measured, LanguageExamples(examples.model.replace(config=config), examples.queries))
    for nothing in (alone, bidirectional):
        columns = GROUPS["edits"].columns(nothing)
        assert set(columns) == set(edits.COLUMNS) and all(np.isnan(column).all() for column in columns.values())
    columns = GROUPS["edits"].columns(only(measured, examples[np.arange(N_SUBJECTS)]))
    assert np.isfinite(columns["edit_kept_relation"]).all()
    assert np.isnan(columns["edit_kept_subject"]).all() and np.isnan(columns["edit_kept_other"]).all()


def test_without_steps_nothing_changes(constants):
    constants("STEPS", 0)
    columns = GROUPS["edits"].columns(world("relation")[1])
    np.testing.assert_array_equal(columns["edit_success"], 0)
    for kind in edits.KINDS:
        np.testing.assert_array_equal(columns[f"edit_kept_{kind}"], 1)
