"""The facts of a fine-tuning run: what a model knows, who sees what, and the batches of its steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from knowing import N_RELATIONS, N_SUBJECTS, knowing, known, table
from tiny import tiny_grid

from jaxinterp.base.errors import UserError
from jaxinterp.facts.facts import Fact
from jaxinterp.metrics.recall import recalled
from jaxinterp.models.transformer import forward
from jaxinterp.training.finetune_config import FactsConfig
from jaxinterp.training.finetune_data import SETS, FinetuneData, finetune_batch, finetune_data


@pytest.fixture(scope="module")
def model():
    return knowing()[0]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """All facts, and one that the tokenizer cannot write."""
    _, facts = knowing()
    path = tmp_path_factory.mktemp("facts") / "own.csv"
    facts = dataclasses.replace(facts, facts=(*facts.facts, Fact("r0", "nobody", "w1")))
    path.write_text(table(facts))
    return path


@pytest.fixture(scope="module")
def data(model, path):
    calls = []
    found = finetune_data(model, config_of(path), progress=lambda *call: calls.append(call))
    assert calls[-1] == (found.tried, found.tried)
    return found


def config_of(path, **changes):
    return FactsConfig(**{"source": str(path), "least": 3, "n_unseen_relations": 2, "beliefs": 0, **changes})


def names(data, set_name, field):
    facts = [data.facts.facts[index] for index in data.sets[set_name].fact_N.tolist()]
    return {getattr(fact, field) for fact in facts}


def asked(data, set_name):
    part = data.sets[set_name]
    return set(zip(part.fact_N.tolist(), part.prompt_N.tolist(), strict=True))


def test_roles_are_apart(data):
    assert tuple(data.sets) == SETS
    assert not names(data, "objective", "relation") & names(data, "unseen_relations", "relation")
    assert names(data, "unseen_facts", "relation") <= names(data, "objective", "relation")
    assert not names(data, "objective", "subject") & names(data, "unseen_facts", "subject")
    assert len(names(data, "unseen_relations", "relation")) == 2
    assert len(names(data, "objective", "relation")) == N_RELATIONS - 2
    # 0.3 of the subjects with known facts, in every relation.
    subjects = names(data, "objective", "subject") | names(data, "unseen_facts", "subject")
    assert len(names(data, "unseen_facts", "subject")) == round(0.3 * len(subjects))


def test_all_that_is_known_has_a_role_and_nothing_else(data, model):
    known_queries = set()
    for name in SETS:
        assert recalled(model.model, data.sets[name])["correct"].all()
        known_queries |= asked(data, name)
    assert len(known_queries) == sum(len(part) for part in data.sets.values())
    # Facts are known by their first prompts; two prompts of a fact that is not the tokenizer's were left out.
    first = {
        (i, 0) for i, fact in enumerate(data.facts.facts) if fact.subject != "nobody" and known(int(fact.subject[1:]))
    }
    assert first <= known_queries
    assert data.tried == 2 * N_RELATIONS * N_SUBJECTS
    assert data.dropped["answered wrongly"] == data.tried - len(known_queries)
    assert data.dropped["word outside the vocabulary"] == 2
    assert data.dropped["prompt whose answer does not come last"] == N_RELATIONS
    said = data.describe()
    assert f"{data.dropped['answered wrongly']} answered wrongly" in said
    assert f"objective: {len(data.sets['objective'])} queries" in said and said.count("\n") == 3


def test_the_division_is_a_function_of_the_seed(data, model, path):
    again = finetune_data(model, config_of(path))
    assert [asked(data, name) for name in SETS] == [asked(again, name) for name in SETS]
    others = [finetune_data(model, config_of(path, seed=seed)) for seed in (1, 2, 3)]
    assert any(asked(data, "objective") != asked(other, "objective") for other in others)


def test_chosen_relations_and_facts(model, path):
    found = finetune_data(model, config_of(path, unseen_relations=("r4",), prompts=1, limit=8))
    assert names(found, "unseen_relations", "relation") == {"r4"}
    assert names(found, "objective", "relation") <= {"r0", "r1", "r2", "r3"}
    assert found.dropped["above the limit"] == N_RELATIONS * (N_SUBJECTS - 8) + 1
    assert found.tried <= N_RELATIONS * 8
    found = finetune_data(model, config_of(path, relations=("r0", "r1", "r3"), n_unseen_relations=1))
    assert {relation.name for relation in found.facts.relations} == {"r0", "r1", "r3"}


def test_relations_with_few_known_facts_are_left_out(model, path, tmp_path):
    _, facts = knowing()
    few = [fact for fact in facts.facts if fact.relation != "r2" or fact.subject in ("s0", "s2", "s3", "s5", "s8")]
    own = tmp_path / "few.csv"
    own.write_text(table(dataclasses.replace(facts, facts=tuple(few))))
    found = finetune_data(model, config_of(own, prompts=0, least=4))
    reason = "of a relation with fewer than 4 known facts"
    assert "r2" not in set().union(*(names(found, name, "relation") for name in SETS))
    assert found.dropped[reason] >= 2
    assert found.dropped["answered wrongly"] + found.dropped[reason] + sum(map(len, found.sets.values())) == found.tried
    with pytest.raises(UserError, match=r"knows facts of 0 relations \(none\), too few .*smaller facts.least"):
        finetune_data(model, config_of(path, least=50))


def test_what_cannot_be_divided(model, path):
    with pytest.raises(UserError, match="unknown relation 'r9'; known: r0, r1, r2, r3, r4"):
        finetune_data(model, config_of(path, unseen_relations=("r9",)))
    with pytest.raises(UserError, match="no known fact is left for 'objective'"):
        finetune_data(model, config_of(path, n_unseen_relations=5))
    config = dataclasses.replace(model.config, attention="bidirectional")
    masked = dataclasses.replace(model, model=model.model.replace(config=config))
    with pytest.raises(UserError, match="needs a causal language model"):
        finetune_data(masked, config_of(path))


def test_batches_are_balanced_over_relations(data):
    queries = data.sets["objective"]
    sizes = np.bincount(queries.relation_N)
    sizes = sizes[sizes > 0]
    for step in range(5):
        batch = finetune_batch(data, seed=0, step=step, n_queries=7, n_rows=14)
        n_answers = int(batch.answers.answer_weight_N.sum())
        assert n_answers == 7 and batch.tokens_BT.shape[0] == 7
        rows = {tuple(row): index for index, row in enumerate(queries.tokens_NT.tolist())}
        relations = [queries.relation_N[rows[tuple(row)]] for row in batch.tokens_BT.tolist()]
        counts = np.bincount(relations, minlength=N_RELATIONS)
        assert sorted(counts[counts > 0]) == [2, 2, 3]


def made_of(queries, facts, **fields):
    """Data of an objective that is made up."""
    return FinetuneData(facts, {"objective": queries}, **{"beliefs": None, "text": None, **fields}, tried=0, dropped={})


def test_answers_have_controls_of_every_kind(data):
    # 10 subjects in 8 relations; a batch of 12 has 6 relations twice each.
    queries, seen = tiny_grid(10, 8), np.zeros(80, int)
    made = made_of(queries, data.facts)
    controls = np.zeros(3)
    for step in range(60):
        batch = finetune_batch(made, seed=0, step=step, n_queries=12, n_rows=24)
        asked = np.array([(queries.tokens_NT == row).all(1).argmax() for row in batch.tokens_BT])
        np.testing.assert_array_equal(np.unique(np.bincount(queries.relation_N[asked], minlength=8)), [0, 2])
        assert len(set(asked.tolist())) == 12
        seen += np.bincount(asked, minlength=80)
        controls += batch.answers.control_weight_XN.sum(1)
    assert controls[0] == controls[2] == 720 and controls[1] > 0.95 * 720
    # 720 draws: 90 of each relation, 72 of each subject and 9 of each query.
    assert np.abs(seen.reshape(10, 8).sum(0) - 90).max() < 40
    assert np.abs(seen.reshape(10, 8).sum(1) - 72).max() < 40
    assert seen.min() > 0


def test_answers_have_controls_of_their_subject_where_few_facts_allow_it(data):
    # 30 subjects with a fact each, in 6 relations in turn, and 4 with a fact in every relation.
    grid = tiny_grid(34, 6)
    kept = (grid.subject_N >= 30) | (grid.relation_N == grid.subject_N % 6)
    queries = grid[np.flatnonzero(kept)]
    made, alone, controls = made_of(queries, data.facts), 0, np.zeros(3)
    for step in range(60):
        batch = finetune_batch(made, seed=0, step=step, n_queries=12, n_rows=24)
        asked = np.array([(queries.tokens_NT == row).all(1).argmax() for row in batch.tokens_BT])
        alone += (queries.subject_N[asked] < 30).sum() / (60 * 12)
        controls += batch.answers.control_weight_XN.sum(1)
    # Every other query is any of its relation: five in nine of those are of a subject with one fact, for which there
    # are no controls of its subject.
    assert controls[0] == controls[2] == 720
    assert 0.5 < controls[1] / 720 < 0.8
    assert 0.2 < alone < 0.5


def test_a_fact_and_its_inverse_are_no_controls_of_each_other(data):
    # Facts 0 and 1 say the same the other way round; beside them a belief or a piece of text.
    queries = dataclasses.replace(tiny_grid(3, 3)[np.array([0, 4, 8])], answer_N=np.array([1, 0, 3]))
    inverse, third = queries[np.array([0, 1])], queries[np.array([2])]
    for fields, n_queries in (({"beliefs": third}, 6), ({"text": third}, 4)):
        made, n_text = made_of(inverse, data.facts, **fields), int("text" in fields)
        for step in range(5):
            sizes = {"n_queries": n_queries, "n_rows": 20, "n_text": n_text, "n_controls": 4}
            batch = finetune_batch(made, seed=0, step=step, **sizes)
            fact_R = (queries.tokens_NT == batch.tokens_BT[batch.rows.sequence_R][:, None]).all(2).argmax(1)
            other_XR = batch.answers.control_XR[8:]  # after four of relation and subject each
            there_XR = batch.answers.control_weight_XN[8:, batch.answers.answer_R] * batch.answers.weight_R[None] > 0
            pairs = {(int(fact_R[r]), int(fact_R[other_XR[x, r]])) for x, r in zip(*np.nonzero(there_XR), strict=True)}
            assert pairs == {(0, 2), (1, 2), (2, 0), (2, 1)}


def test_batches_are_a_function_of_seed_and_step(data):
    def batch(step, seed=0):
        return finetune_batch(data, seed=seed, step=step, n_queries=6, n_rows=12)

    jax.tree.map(np.testing.assert_array_equal, batch(3), batch(3))
    assert not np.array_equal(batch(3).tokens_BT, batch(4).tokens_BT)
    assert not np.array_equal(batch(3).tokens_BT, batch(3, seed=1).tokens_BT)


@pytest.fixture(scope="module")
def believing(model, path):
    return finetune_data(model, config_of(path, beliefs=1000, least_belief=0.05))


def test_beliefs_are_the_models_own_answers_where_the_objective_may_look(believing, data, model):
    beliefs, facts = believing.beliefs, believing.facts
    assert [asked(believing, name) for name in SETS] == [asked(data, name) for name in SETS]
    assert data.beliefs is None and len(beliefs) > 5
    mine = set(zip(beliefs.fact_N.tolist(), beliefs.prompt_N.tolist(), strict=True))
    assert len(mine) == len(beliefs)
    for name in SETS:
        assert not mine & asked(believing, name)
    # Answers have the number that they have among all subjects and answers.
    texts = sorted({fact.subject for fact in facts.facts} | {fact.answer for fact in facts.facts})
    answers = beliefs.tokens_NT[np.arange(len(beliefs)), beliefs.answer_start_N].tolist()
    assert [texts[number] for number in beliefs.answer_N] == [model.tokenizer.token(token) for token in answers]
    own = [facts.facts[index] for index in beliefs.fact_N.tolist()]
    assert not {fact.relation for fact in own} & names(believing, "unseen_relations", "relation")
    assert not {fact.subject for fact in own} & names(believing, "unseen_facts", "subject")
    # One token, the last, which of the relation's answers the model finds the most probable, and probable enough.
    np.testing.assert_array_equal(beliefs.answer_length_N, 1)
    np.testing.assert_array_equal(beliefs.length_N, beliefs.answer_start_N + 1)
    logits = np.asarray(forward(model.model, jnp.asarray(beliefs.tokens_NT)).logits_BTV)
    for row, fact in enumerate(own):
        place = int(beliefs.answer_start_N[row])
        p = np.exp(logits[row, place - 1]) / np.exp(logits[row, place - 1]).sum()
        answers = {other.answer for other in facts.facts if other.relation == fact.relation}
        ids = [encoded[0] for word in sorted(answers) if len(encoded := model.tokenizer.encode(word)) == 1]
        # Up to rounding, for this is another program than the one that chose.
        assert p[beliefs.tokens_NT[row, place]] >= (1 - 1e-4) * max(*p[ids], 0.05)
    assert (
        beliefs.tokens_NT[:, 1:][np.arange(beliefs.tokens_NT.shape[1] - 1)[None] >= beliefs.length_N[:, None] - 1]
        == model.tokenizer.pad
    ).all()
    assert f"beliefs: {len(beliefs)} queries with the model's own answers" in believing.describe()


def test_batches_take_facts_and_beliefs(believing):
    whole = {
        tuple(row[: int(n)])
        for part in (believing.sets["objective"], believing.beliefs)
        for row, n in zip(part.tokens_NT.tolist(), part.length_N, strict=True)
    }
    beliefs = zip(believing.beliefs.tokens_NT.tolist(), believing.beliefs.length_N, strict=True)
    own = {tuple(row[: int(n)]) for row, n in beliefs}
    seen = set()
    for step in range(6):
        batch = finetune_batch(believing, seed=0, step=step, n_queries=6, n_rows=12, n_controls=2)
        assert batch.answers.control_XR.shape == (6, 12)
        seen |= {tuple(row[: int(n)]) for row, n in zip(batch.tokens_BT.tolist(), batch.length_B, strict=True)}
    assert seen <= whole
    assert seen & own and seen - own


@pytest.fixture(scope="module")
def pieces(model):
    """Pieces of text, the first 12 of which end in what the model predicts and the others in something else."""
    made = np.random.default_rng(0).integers(3, 30, (20, 6)).astype(np.int32)
    logits = np.asarray(forward(model.model, jnp.asarray(made)).logits_BTV[:, -2])
    made[:, -1] = np.where(np.arange(20) < 12, logits.argmax(-1), logits.argmin(-1))
    return made


@pytest.fixture(scope="module")
def with_text(model, path, pieces):
    return finetune_data(model, config_of(path), pieces)


def test_text_that_the_model_predicts_serves_as_facts(with_text, data, model, path, pieces):
    text = with_text.text
    np.testing.assert_array_equal(text.tokens_NT, pieces[:12])
    assert with_text.dropped["piece of text whose last token is not predicted"] == 8
    # Their last token is asked, and each is of a relation and a subject of its own, so that any two are controls.
    np.testing.assert_array_equal(text.answer_start_N + text.answer_length_N, text.length_N)
    np.testing.assert_array_equal(text.answer_length_N, 1)
    for field in ("relation_N", "subject_N"):
        mine = getattr(text, field).tolist()
        assert len(set(mine)) == len(mine)
        assert not set(mine) & {value for part in data.sets.values() for value in getattr(part, field).tolist()}
    numbers = {*text.subject_N.tolist(), *text.answer_N.tolist()}
    for part in data.sets.values():
        assert not numbers & {*part.subject_N.tolist(), *part.answer_N.tolist()}
    assert [asked(with_text, name) for name in SETS] == [asked(data, name) for name in SETS]
    assert f"text: {len(text)} pieces whose last token the model predicts" in with_text.describe()
    assert data.text is None
    wrong = np.full_like(pieces, model.tokenizer.encode("x")[0])  # x is never predicted
    with pytest.raises(UserError, match="predicts the last token of no piece of text"):
        finetune_data(model, config_of(path), wrong)


def test_batches_with_text(with_text):
    batch = finetune_batch(with_text, seed=0, step=1, n_queries=4, n_rows=12, n_text=3)
    facts = finetune_batch(with_text, seed=0, step=1, n_queries=4, n_rows=12)
    assert batch.tokens_BT.shape[0] == 7 and batch.answers.answer_weight_N.sum() == 7
    width = facts.tokens_BT.shape[1]
    np.testing.assert_array_equal(batch.tokens_BT[:4, :width], facts.tokens_BT)
    known_pieces = {tuple(row) for row in with_text.text.tokens_NT.tolist()}
    assert {tuple(row[:6]) for row in batch.tokens_BT[4:].tolist()} <= known_pieces
    real = batch.answers.weight_R > 0
    last = batch.answers.answer_R[real] >= 4
    np.testing.assert_array_equal(batch.rows.position_R[real][last], 4)
    np.testing.assert_array_equal(batch.rows.target_R[real][last], batch.tokens_BT[4:, 5])
    # A piece is of a relation and a subject of its own.
    np.testing.assert_array_equal(batch.answers.control_weight_XN[:, 4:7], [[0] * 3, [0] * 3, [1] * 3])


def test_configs_check_themselves():
    for field, value in (
        ("limit", -1),
        ("prompts", -1),
        ("longest", 3),
        ("beliefs", -1),
        ("least", 0),
        ("n_unseen_relations", 0),
        ("seed", -1),
    ):
        with pytest.raises(UserError, match=f"facts.{field} must be at least"):
            FactsConfig(**{field: value})
    for share in (0.0, 1.0):
        with pytest.raises(UserError, match="unseen_facts must lie between 0 and 1"):
            FactsConfig(unseen_facts=share)
