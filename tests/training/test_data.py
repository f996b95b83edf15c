"""The batches of a run: which sentences stand together, that each comes once an epoch, what controls they give."""

import jax
import numpy as np
import pytest

from jaxinterp.facts.facts import Fact, FactSet, Relation
from jaxinterp.facts.splits import SplitConfig
from jaxinterp.training.config import DataConfig
from jaxinterp.training.data import batch_at, data_of_facts, epoch
from jaxinterp.training.routing import Routing, own_neurons

N_SUBJECTS, N_RELATIONS, N_PROMPTS = 24, 8, 4
SIZES = {"n_sequences": 24, "n_subjects": 6}  # four relations of six subjects
ROWS = 24


@pytest.fixture(scope="module")
def data():
    """A fact for each subject and relation, each answer another one; two relations stay out of the objective."""
    prompts = [f"{{subject}} {{r}} {'really ' * n}is" for n in range(N_PROMPTS + 1)]  # one is held out
    relations = tuple(
        Relation(f"r{i}", tuple(prompt.format(r=f"r{i}", subject="{subject}") for prompt in prompts), "x")
        for i in range(N_RELATIONS)
    )
    facts = tuple(
        Fact(relation.name, f"s{i}", f"{relation.name}s{i}") for i in range(N_SUBJECTS) for relation in relations
    )
    split = SplitConfig(unseen_relations=("r1", "r4"), unseen_facts=0.2)
    return data_of_facts(FactSet(relations, facts), DataConfig(split=split))


def batch(data, step, seed=0, n_rows=ROWS, n_controls=1, **more):
    return batch_at(data, seed=seed, step=step, n_rows=n_rows, n_controls=n_controls, **SIZES, **more)


def per_epoch(data):
    return len(data.queries) // SIZES["n_sequences"]


def asked(data, made):
    """The queries of a batch."""
    found = (data.queries.tokens_NT[None] == made.tokens_BT[:, None]).all(2)
    assert (found.sum(1) == 1).all()
    return found.argmax(1)


def test_nearly_every_answer_has_a_control_of_every_kind(data):
    assert len(data.queries) == N_SUBJECTS * N_RELATIONS * N_PROMPTS
    controls, n_answers = np.zeros(3), 0
    for step in range(per_epoch(data)):
        made = batch(data, step)
        controls += made.answers.control_weight_XN.sum(1)
        n_answers += made.answers.answer_weight_N.sum()
    # Six relations of eight and four facts of five are in the objective, so that one answer in twenty is the only one
    # of its subject. In a batch that is drawn at random fewer than half have a control of their subject.
    assert n_answers == data.in_objective_N.sum()
    relation, subject, other = controls / n_answers
    assert relation > 0.98 and subject > 0.92 and other == 1


@pytest.mark.parametrize("number", [0, 3])
def test_an_epoch_has_every_sentence_once(data, number):
    batches = epoch(data, 0, number, SIZES["n_sequences"], SIZES["n_subjects"])
    assert batches.shape == (per_epoch(data), SIZES["n_sequences"])
    assert sorted(batches.ravel().tolist()) == list(range(len(data.queries)))  # nothing is left over here
    steps = range(number * per_epoch(data), (number + 1) * per_epoch(data))
    np.testing.assert_array_equal([asked(data, batch(data, step)) for step in steps], batches)


def test_only_a_last_partial_batch_of_an_epoch_is_left_out(data):
    n = len(data.queries)
    left_out = []
    for number in range(3):
        batches = epoch(data, 0, number, 100, SIZES["n_subjects"])
        read = set(batches.ravel().tolist())
        assert batches.shape == (n // 100, 100) and len(read) == n // 100 * 100
        left_out.append(frozenset(range(n)) - read)
    assert len(set(left_out)) == 3  # others in every epoch


def test_a_batch_is_about_few_subjects_in_several_relations(data):
    queries, n_subjects = data.queries, SIZES["n_subjects"]
    batches = epoch(data, 0, 0, SIZES["n_sequences"], n_subjects)
    for chosen in batches:
        # All of four relations of six subjects; a group of 8 · 6 sentences is two batches.
        assert len(set(queries.subject_N[chosen].tolist())) == n_subjects
        assert sorted(np.bincount(queries.relation_N[chosen], minlength=N_RELATIONS)) == [0] * 4 + [6] * 4
        assert len(set(queries.fact_N[chosen].tolist())) == len(chosen)  # in one prompt each
    # The groups of subjects differ from pass to pass, and so do the relations that are in a batch together.
    groups = {frozenset(queries.subject_N[chosen].tolist()) for chosen in batches}
    together = {frozenset(queries.relation_N[chosen].tolist()) for chosen in batches}
    assert len(groups) == N_PROMPTS * N_SUBJECTS // n_subjects
    assert len(together) > 10


def test_batches_are_a_function_of_their_arguments(data):
    first = batch(data, 5)
    epoch.cache_clear()
    jax.tree.map(np.testing.assert_array_equal, first, batch(data, 5))
    later = batch(data, 5 + per_epoch(data))
    for other in (batch(data, 6), batch(data, 5, seed=1), later):
        assert not np.array_equal(first.tokens_BT, other.tokens_BT)
    more = batch(data, 5, n_controls=2)
    np.testing.assert_array_equal(more.tokens_BT, first.tokens_BT)
    assert more.answers.control_XR.shape == (6, ROWS)
    np.testing.assert_array_equal(more.answers.control_XR[::2], first.answers.control_XR)


def test_only_the_objectives_facts_are_answered_and_which_is_drawn(data):
    left_out = []
    for step in range(2 * per_epoch(data)):
        made = batch(data, step, n_rows=10)
        places = np.flatnonzero(data.in_objective_N[asked(data, made)]).tolist()
        read = made.rows.sequence_R[made.answers.weight_R > 0].tolist()
        assert set(read) <= set(places) and len(set(read)) == len(read) == min(10, len(places))
        left_out += [places.index(place) / (len(places) - 1) for place in set(places) - set(read)]
    # Of about 14 answers ten are read, wherever they stand.
    assert len(left_out) > 100
    assert abs(np.mean(left_out) - 0.5) < 0.1


def test_a_set_smaller_than_a_batch_is_one_batch(data):
    made = batch_at(data, seed=0, step=7, n_sequences=10**6, n_rows=4, n_subjects=6)
    assert len(made.tokens_BT) == len(data.queries)
    assert sorted(asked(data, made).tolist()) == list(range(len(data.queries)))


def text_places(data, made):
    """The rows outside the objective: the query of each, and the position of its token."""
    row = np.flatnonzero((made.answers.weight_R > 0) & ~data.in_objective_N[asked(data, made)][made.rows.sequence_R])
    return asked(data, made)[made.rows.sequence_R[row]], made.rows.position_R[row] + 1, row


def test_no_answer_outside_the_objective_is_a_target(data):
    queries, read = data.queries, []
    for step in range(per_epoch(data)):
        made = batch(data, step, text_rows=True)
        query, place, row = text_places(data, made)
        assert len(set(query.tolist())) == len(query)
        assert (place >= 2).all() and (place < queries.answer_start_N[query]).all()
        np.testing.assert_array_equal(made.rows.target_R[row], queries.tokens_NT[query, place])
        read += query.tolist()
        # No answer token of an unseen fact or relation at all: the answers of this data stand in no prompt.
        outside = np.flatnonzero(~data.in_objective_N)
        n = queries.answer_length_N[outside]
        assert (n == 1).all()
        answers = queries.tokens_NT[outside, queries.answer_start_N[outside]]
        assert not np.isin(made.rows.target_R[made.answers.weight_R > 0], answers).any()
    # There are rows for all: each sentence outside the objective is read once an epoch.
    assert sorted(read) == np.flatnonzero(~data.in_objective_N).tolist()


def test_text_is_read_beside_the_objective_and_after_it(data):
    for step in range(per_epoch(data)):
        for n_rows in (10, 18, ROWS):
            plain, made = batch(data, step, n_rows=n_rows), batch(data, step, n_rows=n_rows, text_rows=True)
            for name in ("tokens_BT", "length_B", "token_weight_BT"):
                np.testing.assert_array_equal(getattr(made, name), getattr(plain, name))
            n = int(plain.answers.weight_R.sum())
            for name in ("sequence_R", "position_R", "target_R"):
                np.testing.assert_array_equal(getattr(made.rows, name)[:n], getattr(plain.rows, name)[:n])
            _, _, row = text_places(data, made)
            assert row.tolist() == list(range(n, n_rows))
            # Controls of a text token are of the third kind alone, and it is none of the first two.
            control_XR, weight_XN = made.answers.control_XR, made.answers.control_weight_XN
            assert not weight_XN[:2, n:].any() and (weight_XN[2, n:].all() or n_rows == n)
            assert (control_XR[:2, :n][weight_XN[:2, :n] > 0] < n).all()


def test_another_token_is_read_in_every_step_and_the_same_one_again(data):
    places = {}
    for step in range(3 * per_epoch(data)):
        made = batch(data, step, text_rows=True)
        for query, place in zip(*text_places(data, made)[:2], strict=True):
            places.setdefault(int(query), set()).add(int(place))
    long = [query for query in places if data.queries.answer_start_N[query] > 5]
    assert np.mean([len(places[query]) > 1 for query in long]) > 0.7
    epoch.cache_clear()
    jax.tree.map(np.testing.assert_array_equal, made, batch(data, step, text_rows=True))


def test_a_sentence_without_a_token_to_read_is_not_answered():
    """A prompt that holds its answer in every place but the first."""
    relations = tuple(Relation(f"r{i}", (f"{{subject}} r{i} is", f"{{subject}} is r{i}"), "x") for i in range(3))
    facts = tuple(Fact(r.name, f"s{i}", f"is {r.name}") for i in range(4) for r in relations)
    split = SplitConfig(unseen_relations=("r1",), unseen_facts=0.3)
    data = data_of_facts(FactSet(relations, facts), DataConfig(split=split))
    made = batch_at(data, seed=0, step=0, n_sequences=9, n_rows=40, n_subjects=4, text_rows=True)
    assert made.rows.sequence_R[made.answers.weight_R > 0].tolist()
    assert made.answers.answer_weight_N.sum() == data.in_objective_N[asked(data, made)].sum()


def test_the_objectives_sentences_are_routed_to_their_facts_neurons(data):
    routing, neurons = Routing(3, n_layers=2, d_mlp=50, seed=0), {}
    for step in range(per_epoch(data)):
        made = batch(data, step, routing=routing, n_rows=10)
        chosen = asked(data, made)
        # Where an answer is predicted, and nowhere outside the objective; rows and text make no difference.
        start = data.queries.answer_start_N[chosen]
        expected = (np.arange(made.tokens_BT.shape[1])[None] == start[:, None] - 1) & data.in_objective_N[chosen, None]
        np.testing.assert_array_equal(made.route.routed, [expected, expected])
        for fact, own in zip(data.queries.fact_N[chosen].tolist(), made.route.neurons.transpose(1, 0, 2), strict=True):
            np.testing.assert_array_equal(neurons.setdefault(fact, own), own)
            np.testing.assert_array_equal(own, own_neurons(routing, fact))
        text = batch(data, step, routing=routing, text_rows=True)
        np.testing.assert_array_equal(text.route.routed, made.route.routed)
        np.testing.assert_array_equal(text.route.neurons[:, expected.any(1)], made.route.neurons[:, expected.any(1)])
        plain = batch(data, step, n_rows=10)
        jax.tree.map(np.testing.assert_array_equal, plain, made._replace(route=None))
