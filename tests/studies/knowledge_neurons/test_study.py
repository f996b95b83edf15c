"""The whole study on tiny models: against independent computations, interrupted, refused, causal and bidirectional."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from full_forward import FullForwardReadout
from tiny import tiny_config, tiny_params

from jaxinterp.attribution.integrated_gradients import activation, integrated_gradients
from jaxinterp.attribution.quadrature import quadrature
from jaxinterp.attribution.refining import relation_neurons
from jaxinterp.base.errors import UserError
from jaxinterp.base.records import claim_recorded
from jaxinterp.facts.batches import batches_of_all
from jaxinterp.facts.controls import CONTROL_KINDS, KINDS
from jaxinterp.facts.encoding import encode, sentence
from jaxinterp.facts.facts import Fact, FactSet, Relation
from jaxinterp.metrics.answers import measured_answers
from jaxinterp.metrics.batching import query_batches
from jaxinterp.metrics.examples import LanguageExamples
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.readout import lm_readout
from jaxinterp.models.tokenizer_training import train_tokenizer
from jaxinterp.studies.knowledge_neurons import edits, scores
from jaxinterp.studies.knowledge_neurons import study as knowledge_neurons
from jaxinterp.studies.knowledge_neurons.config import KnowledgeNeuronsConfig
from jaxinterp.studies.knowledge_neurons.queries import choose
from jaxinterp.studies.knowledge_neurons.sets import controls, selections
from jaxinterp.studies.knowledge_neurons.study import study_of

L, F, K = 2, 6, 2
RULE = quadrature("midpoint", 20)
N_BATCHES = 12  # of attribution: a batch holds a fact with answers of one token, or a half of one with two
FORMS = ("the {r} of {{subject}} is", "{{subject}} has as {r} the", "in {{subject}} the {r} is", "{{subject}} {r}")
RELATIONS = tuple(Relation(r, tuple(form.format(r=r) for form in FORMS), "x") for r in "uvw")
# Relation w has answers of two tokens for some facts; v has a prompt less that is usable (see `facts`).
ANSWERS = {"u": "u{}", "v": "v{}", "w": "w{} x"}
FACTS = FactSet(
    RELATIONS,
    tuple(Fact(r, f"s{i}", ANSWERS[r].format(i % 3) if i != 1 else f"{r}{i}") for r in "uvw" for i in range(4)),
)
CONFIG = KnowledgeNeuronsConfig(
    facts="tiny", model="tiny", limit=3, prompts=3, k=K, rule="midpoint", rows=4, replicates=20
)


def made_model(seed=1, **changes):
    texts = [sentence(FACTS, fact, prompt) for fact in range(len(FACTS)) for prompt in range(len(FORMS))]
    tokenizer = train_tokenizer([*texts, "[MASK]"])
    if changes.get("attention") == "bidirectional":
        tokenizer = dataclasses.replace(tokenizer, mask=tokenizer.backend.token_to_id("[MASK]"))
    config = tiny_config(n_layers=L, d_mlp=F, d_vocab=tokenizer.n_tokens, n_ctx=16, **changes)
    params = jax.tree.map(lambda leaf: 1.5 * leaf, tiny_params(config, seed))
    return LanguageModel(Model(config, params), tokenizer, {})


@pytest.fixture(scope="module")
def model():
    return made_model()


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    monkeypatch.setattr(knowledge_neurons, "write_page", lambda *_: None)
    monkeypatch.setattr(knowledge_neurons, "shown_facts", lambda *_: [])


def parts(model, config, folder):
    asked = choose(model, FACTS, config, folder)
    record = scores.score(model, asked, config, folder)
    chosen = selections(asked, record, config)
    return asked, record, chosen, edits.edited(model, asked, chosen, config)


@pytest.fixture(scope="module")
def done(model, tmp_path_factory):
    return parts(model, CONFIG, tmp_path_factory.mktemp("study"))


def dense_scores(model, queries):
    """Scores of one-token queries, [N, L, F] by method."""
    found = {method: np.zeros((len(queries), L, F)) for method in scores.METHODS}

    @jax.jit
    def step(params, batch):
        rows = batch.rows
        readout = lm_readout(Model(model.config, params), batch.tokens_BT, rows, batch.length_B)[1]
        return integrated_gradients(readout, RULE, path="per_layer").scores_LRF, activation(readout)

    for batch, taken in batches_of_all(queries, n_rows=len(queries), seed=0):
        batch = jax.tree.map(jnp.asarray, batch)
        for method, values in zip(scores.METHODS, step(model.params, batch), strict=True):
            found[method][taken] = np.asarray(values).transpose(1, 0, 2)
    return found


def sets_of(selection, queries):
    """By query, by answer token: the neurons."""
    tokens = iter(selection.neurons_AW)
    return [[neurons[neurons < L * F] for neurons in itertools.islice(tokens, n)] for n in queries.answer_length_N]


def test_the_papers_sets_are_those_of_its_rule_on_all_scores(model, done):
    asked, _, chosen, _ = done
    one_token = asked.queries.answer_length_N == 1
    covered_N = chosen["paper", "attribution"].covered_N
    np.testing.assert_array_equal(covered_N, one_token)  # all facts have three prompts
    assert 0 < covered_N.sum() < len(covered_N)
    covered = np.flatnonzero(covered_N)
    dense = dense_scores(model, asked.queries[covered])
    thresholds = {"attribution": 0.2, "activation": 0.5}
    some = 0
    for method in scores.METHODS:
        selection = chosen["paper", method]
        sets = sets_of(selection, asked.queries)
        for relation in range(3):
            own = asked.queries.relation_N[covered] == relation
            facts = np.unique(asked.queries.fact_N[covered][own])
            if not len(facts):
                continue
            of_fact = [dense[method][own & (asked.queries.fact_N[covered] == fact)] for fact in facts]
            rule = relation_neurons(of_fact, threshold=thresholds[method])
            assert selection.share["uvw"[relation]] == rule.share
            for fact, mask in zip(facts, rule.masks_NLF, strict=True):
                for query in np.flatnonzero(asked.queries.fact_N == fact):
                    assert sets[query][0].tolist() == np.flatnonzero(mask).tolist()
                some += mask.sum()
        assert all(not len(neurons) for query in np.flatnonzero(~covered_N) for neurons in sets[query])
    assert some > 5


def test_own_and_other_facts_neurons_are_switched_off_and_doubled(model, done):
    asked, _, chosen, edited = done
    queries = asked.queries
    sets = sets_of(chosen["fixed_k", "attribution"], queries)
    control_KN = controls(queries, np.ones(len(queries), bool), CONFIG.seed)

    @jax.jit
    def slow(params, batch, gates_LRF):
        rows = batch.rows
        return FullForwardReadout(Model(model.config, params), batch.tokens_BT, rows, batch.length_B)(gates_LRF)

    names, seen = {"own": ("suppressed", "amplified")}, set()
    names |= {kind: (f"control_{kind}", f"amplified_{kind}") for kind in KINDS}
    for source, lender_N in zip(names, [np.arange(len(queries)), *control_KN], strict=True):
        for query in np.flatnonzero(lender_N >= 0)[1::4]:
            ((batch, _),) = query_batches(queries[np.array([query])], 2, 0)
            lent = sets[lender_N[query]]
            mask = np.zeros((2, L * F), np.float32)
            for row in range(queries.answer_length_N[query]):
                mask[row, lent[row % len(lent)]] = 1
            mask_LRF = mask.reshape(2, L, F).transpose(1, 0, 2)
            for name, gates_LRF in zip(names[source], (1 - mask_LRF, 1 + mask_LRF), strict=True):
                expected = np.asarray(slow(model.params, batch, gates_LRF))[batch.answers.weight_R > 0].prod()
                assert edited["fixed_k", "attribution"][name][query] == pytest.approx(expected, rel=1e-4)
            seen.add((source, int(queries.answer_length_N[query])))
    assert {("own", 1), ("own", 2), ("relation", 1), ("subject", 1), ("other", 1)} <= seen


def test_queries_without_neurons_have_no_numbers_and_the_others_have(done):
    asked, _, chosen, edited = done
    without = 0
    for (protocol, method), columns in edited.items():
        covered_N = chosen[protocol, method].covered_N
        control_KN = controls(asked.queries, covered_N, CONFIG.seed)
        assert (control_KN[:, ~covered_N] < 0).all() and covered_N[control_KN[control_KN >= 0]].all()
        has_kind = dict(zip(KINDS, control_KN >= 0, strict=True))
        for source, names in edits.SOURCES.items():
            there_N = has_kind.get(source, covered_N)
            without += int(covered_N.sum() - there_N.sum())
            for name in names:
                assert np.isnan(columns[name][~there_N]).all()
                assert np.isfinite(columns[name][there_N]).all(), (protocol, source)
    assert without > 0


def test_results_and_neurons_are_plain_data_that_agree(model, done, tmp_path):
    asked, record, chosen, edited = done
    found = study_of(model, FACTS, CONFIG, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(found.to_json()))
    assert found.facts["facts"] == 9 and found.facts["queries"] == 27
    assert found.facts["dropped"] == {"query above the limit of prompts": 12, "fact above the limit": 3}
    assert found.facts["relations"] == {"u": 3, "v": 3, "w": 3}
    fixed = edited["fixed_k", "attribution"]
    own, p_N = fixed["suppressed"], fixed["probability"]
    names = asked.relations(asked.queries.fact_N)
    expected = {r: 1 - own[names == r].mean() / p_N[names == r].mean() for r in "uvw"}
    effects = found.effects["fixed_k", "all", "attribution"]
    assert effects.overall["suppressability"]["value"] == pytest.approx(np.mean(list(expected.values())))
    for relation, value in expected.items():
        assert effects.by_relation[relation]["suppressability"]["value"] == pytest.approx(value)
    facts = np.unique(asked.queries.fact_N).tolist()
    residual = np.array([query["residual"] for fact in facts for query in record[fact]["queries"]])
    residuals = [residual[names == r].mean() for r in "uvw"]
    assert effects.overall["completeness_residual"]["value"] == pytest.approx(np.mean(residuals)) and min(residuals) > 0
    doubled = edited["fixed_k", "activation"]["amplified_other"]
    assert not np.isnan(doubled).any()
    gained = np.mean([doubled[names == r].mean() / p_N[names == r].mean() - 1 for r in "uvw"])
    found_gain = found.effects["fixed_k", "all", "activation"].overall["control_amplification_other"]["value"]
    assert found_gain == pytest.approx(gained)
    drops = {kind: effects.overall[f"control_drop_{kind}"]["value"] for kind in CONTROL_KINDS}
    assert effects.overall["control_drop"]["value"] == max(drops.values())
    selective = effects.overall["suppressability"]["value"] - max(drops.values())
    assert effects.overall["selective"]["value"] == pytest.approx(selective)
    assert found.neurons["fixed_k", "attribution"].mean == pytest.approx(K)
    n_covered = len(np.unique(asked.queries.fact_N[chosen["paper", "attribution"].covered_N]))
    assert found.not_covered("paper") == 9 - n_covered == found.facts["facts_with_answers_of_several_tokens"]
    assert found.not_covered("fixed_k") == 0
    known = found.effects["fixed_k", "known", "attribution"]
    assert known.queries == asked.correct_N.sum() == found.facts["known_queries"]
    neurons = json.loads((tmp_path / "neurons.json").read_text())
    for protocol, described in neurons.items():
        assert len(described) == found.neurons[protocol, "attribution"].distinct
        assert found.most_used[protocol] == described[:20]
        for one in described:
            assert one["facts"] == len(one["serves"]) == sum(one["relations"].values())
            assert len(one["promotes"]) == 5


class Stop:
    """Interrupts the study at the n-th batch of attribution."""

    def __init__(self, step, n):
        self.step, self.left = step, n

    def __call__(self, *arguments, **named):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.step(*arguments, **named)


@pytest.mark.parametrize("after", [0, 2, 5])
def test_an_interrupted_study_goes_on_to_the_same_results(model, tmp_path, monkeypatch, after):
    study_of(model, FACTS, CONFIG, tmp_path / "whole")
    real = scores.per_layer_attribution
    with monkeypatch.context() as patched:
        patched.setattr(scores, "per_layer_attribution", Stop(real, after))
        with pytest.raises(KeyboardInterrupt, match=r"what is done is kept in .*; the same command goes on there"):
            study_of(model, FACTS, CONFIG, tmp_path / "cut")
    path = tmp_path / "cut" / "attributions.jsonl"
    n_done = len(path.read_text().splitlines()) if path.exists() else 0
    assert n_done < 9 and (n_done > 0) == (after > 0)
    if n_done:  # as if it was killed in the middle of a line
        with path.open("a") as file:
            file.write('{"fact": 8, "relat')
    calls = []
    with monkeypatch.context() as patched:
        patched.setattr(scores, "per_layer_attribution", lambda *a, **b: calls.append(0) or real(*a, **b))
        study_of(model, FACTS, CONFIG, tmp_path / "cut")
    assert len(calls) <= N_BATCHES - after + 1
    whole, cut = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "cut"))
    whole.pop("provenance"), cut.pop("provenance")  # these have the time of the start
    assert whole == cut
    assert path.read_text() == (tmp_path / "whole" / "attributions.jsonl").read_text()


def test_a_folder_of_another_study_is_refused(model, tmp_path):
    study_of(model, FACTS, CONFIG, tmp_path)
    with pytest.raises(UserError, match="another config: k is 2 there and 3 here"):
        study_of(model, FACTS, dataclasses.replace(CONFIG, k=3), tmp_path)
    fewer = FACTS.select(relations=("u", "v"))
    with pytest.raises(UserError, match="another config: facts_sha256 is"):
        study_of(model, fewer, CONFIG, tmp_path)
    params = jax.tree.map(lambda leaf: leaf * 1.0001, model.params)
    with pytest.raises(UserError, match="another config: weights_sha256 is"):
        study_of(dataclasses.replace(model, model=Model(model.config, params)), FACTS, CONFIG, tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty and holds no run"):
        claim_recorded({}, tmp_path / "other")


@pytest.mark.parametrize(("seed", "relations"), [(1, ["v", "w"]), (5, ["u"])])
def test_known_facts_alone_are_those_with_a_prompt_answered_right(tmp_path, seed, relations):
    model, everything = made_model(seed), dataclasses.replace(CONFIG, limit=0, prompts=0)
    asked = choose(model, FACTS, everything, claimed(tmp_path / "all"))
    assert asked.tried is None
    known = set(asked.queries.fact_N[asked.correct_N].tolist())
    assert len(known) == 2 and sorted({FACTS.facts[fact].relation for fact in known}) == relations
    asked = choose(model, FACTS, dataclasses.replace(everything, known_only=True), claimed(tmp_path / "known"))
    assert set(asked.queries.fact_N.tolist()) == known
    assert len(asked.queries) == 2 * len(FORMS)  # with the prompts that it does not get right as well
    assert asked.tried == len(FACTS)
    assert asked.dropped == {"fact that the model does not know": len(FACTS) - 2}
    one = dataclasses.replace(everything, known_only=True, limit=1)
    asked = choose(model, FACTS, one, claimed(tmp_path / "one"))
    chosen = set(asked.queries.fact_N.tolist())
    assert chosen <= known
    assert sorted(FACTS.facts[fact].relation for fact in chosen) == relations
    assert sum(asked.dropped.values()) == len(FACTS) - len(chosen)
    # Relations of which it knows none are asked to their end.
    of_others = 4 * (3 - len(relations))
    assert of_others + len(relations) <= asked.tried <= len(FACTS)
    assert asked.tried == len((tmp_path / "one" / "abilities.jsonl").read_text().splitlines())
    # A relation of which it knows enough is not asked to its end: of another draw, a known fact is the first.
    others = [
        choose(model, FACTS, dataclasses.replace(one, seed=draw), claimed(tmp_path / f"{draw}")) for draw in range(1, 5)
    ]
    assert min(other.tried for other in others) < len(FACTS)


def test_one_token_answers_alone(model, tmp_path):
    claim_recorded({}, tmp_path / "one")
    asked = choose(model, FACTS, dataclasses.replace(CONFIG, one_token=True, limit=0), tmp_path / "one")
    assert (asked.queries.answer_length_N == 1).all()
    assert asked.dropped["fact with an answer of several tokens"] == 3
    assert len(np.unique(asked.queries.fact_N)) == 9


def test_a_model_that_knows_nothing_of_the_facts(model, tmp_path):
    wrong = FactSet(RELATIONS, (Fact("u", "s0", "x"),))
    claim_recorded({}, tmp_path / "s")
    with pytest.raises(UserError, match="gets none of 1 facts of tiny right; do without known_only"):
        choose(model, wrong, dataclasses.replace(CONFIG, known_only=True), tmp_path / "s")
    with pytest.raises(UserError, match=r"none of the .* queries can be encoded"):
        choose(model, FactSet(RELATIONS, (Fact("u", "elsewhere", "x"),)), CONFIG, tmp_path / "s")


def test_a_bidirectional_model_uses_prompts_with_the_answer_inside(tmp_path):
    model = made_model(attention="bidirectional", norm_placement="post")
    inside = tuple(
        Relation(r.name, (*r.prompts[:2], f"{{answer}} is the {r.name} of {{subject}}"), "x") for r in RELATIONS
    )
    facts = FactSet(inside, FACTS.facts)
    found = study_of(model, facts, dataclasses.replace(CONFIG, limit=2, prompts=0), tmp_path / "study")
    assert found.facts["queries"] == 18
    assert "prompt whose answer does not come last" not in found.facts["dropped"]
    asked = choose(model, facts, dataclasses.replace(CONFIG, limit=2, prompts=0), tmp_path / "study")
    examples = LanguageExamples(model.model, asked.queries)
    slow = measured_answers(examples, rows=4, groups=("tokens", "answers"), k=K, n_relations=3, integral=RULE).columns
    effects = found.effects["fixed_k", "all", "attribution"].by_relation
    for relation, name in enumerate("uvw"):
        own = asked.queries.relation_N == relation
        expected = 1 - slow["each_suppressed"][own].mean() / slow["probability"][own].mean()
        assert effects[name]["suppressability"]["value"] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    causal = made_model()
    claim_recorded({}, tmp_path / "causal")
    asked = choose(causal, facts, dataclasses.replace(CONFIG, limit=2, prompts=0), tmp_path / "causal")
    assert asked.dropped["prompt whose answer does not come last"] == 3
    assert len(asked.queries) == 12


def test_a_score_that_is_not_finite_names_its_sentence(model, tmp_path):
    asked = choose(model, FACTS, CONFIG, claimed(tmp_path))
    params = jax.tree.map(lambda leaf: leaf * jnp.nan, model.params)
    with pytest.raises(UserError, match=r"the scores of '.*s\d.*' are not finite"):
        scores.score(dataclasses.replace(model, model=Model(model.config, params)), asked, CONFIG, tmp_path)


def claimed(folder):
    claim_recorded({}, folder)
    return folder


def test_configs_that_cannot_be():
    for name, value in [("limit", -1), ("prompts", -1), ("k", 0), ("points", 0), ("rows", 0), ("seed", -1)]:
        with pytest.raises(UserError, match=f"{name} must be at least"):
            dataclasses.replace(CONFIG, **{name: value})


def test_encoded_queries_are_in_the_order_of_their_facts(model):
    queries = encode(FACTS, FACTS.queries(3, 0), model.tokenizer)
    assert (np.diff(queries.fact_N) >= 0).all()
