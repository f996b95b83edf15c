"""What is known of relation switches, fact neurons and plain models, by hand; and that they are what they are for."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinterp.attribution.edits import suppress
from jaxinterp.attribution.integrated_gradients import integrated_gradients
from jaxinterp.attribution.quadrature import quadrature
from jaxinterp.attribution.selection import top_k
from jaxinterp.base.errors import UserError
from jaxinterp.facts.encoding import encode
from jaxinterp.groundtruth.grid import grid_table, in_words, language_model
from jaxinterp.groundtruth.plants.switches import BANK, LOGIT, OWN, REPEAT
from jaxinterp.groundtruth.registry import GRID_PLANTS, grid_planted
from jaxinterp.groundtruth.table import fact_table
from jaxinterp.metrics.config import MeasureConfig
from jaxinterp.metrics.recall import recalled
from jaxinterp.models.transformer import forward
from jaxinterp.studies.audit import plants as plants_audit
from jaxinterp.studies.audit.plants import HEADLINE, PlantsConfig, judged, samples_of
from jaxinterp.studies.audit.verdict import Criteria

N_SUBJECTS, N_RELATIONS, D_MLP, K = 8, 4, 128, 8
N = N_SUBJECTS * N_RELATIONS
TABLE = grid_table(0, n_subjects=N_SUBJECTS, n_relations=N_RELATIONS)
SAME_RELATION = TABLE.relation_N[:, None] == TABLE.relation_N[None]
SAME_SUBJECT = TABLE.subject_N[:, None] == TABLE.subject_N[None]
OTHER_FACTS = {
    "relation": SAME_RELATION & ~SAME_SUBJECT,
    "subject": SAME_SUBJECT & ~SAME_RELATION,
    "other": ~SAME_SUBJECT & ~SAME_RELATION,
}
SEEDS = (0, 1)
ALL = [(name, seed) for name in GRID_PLANTS.names() for seed in SEEDS]


@functools.cache
def model(name, seed):
    return grid_planted(name, TABLE, seed, d_mlp=D_MLP)


@jax.jit
def p_without(planted, off_LNF):
    """P of every fact's answer, by row, without the neurons `off[:, n]`, by column: [N, n]."""
    readout = planted.readout()
    one = lambda off_LF: readout(*suppress(jnp.broadcast_to(off_LF[:, None], readout.shape)))  # noqa: E731
    return jax.lax.map(one, off_LNF.transpose(1, 0, 2)).T


@jax.jit
def knowledge_neurons(planted):
    return top_k(integrated_gradients(planted.readout(), quadrature("midpoint", 8), path="per_layer").scores_LRF, K)


@functools.cache
def by_hand(name, seed):
    """P of every fact, [N, 1], and P of each without every fact's knowledge neurons, [N, N]."""
    planted = model(name, seed)
    p_N1 = p_without(planted, jnp.zeros((3, 1, D_MLP)))
    return np.asarray(p_N1), np.asarray(p_without(planted, knowledge_neurons(planted)))


def drops(name, seed):
    """S, and C of each kind, over all pairs of facts."""
    p_N1, p_NN = by_hand(name, seed)

    def drop(pairs_NN):
        return 1 - (p_NN * pairs_NN).sum() / (p_N1 * pairs_NN).sum()

    return drop(np.eye(N)), {kind: drop(pairs_NN) for kind, pairs_NN in OTHER_FACTS.items()}


def scaled(model, by):
    """The model with its value vectors times a number for each."""
    layers = {**model.params["layers"], "w_out": model.params["layers"]["w_out"] * by}
    return model.replace(params={**model.params, "layers": layers})


@pytest.mark.parametrize(("name", "seed"), ALL)
def test_zeroed_columns_say_the_same(name, seed):
    """The obvious hook: zeros in the output matrix, and a forward of the whole model."""
    planted = model(name, seed)
    mask_NLF = np.asarray(planted.mask_LRF).transpose(1, 0, 2)

    @jax.jit
    def p(mask_LF):
        logits = forward(scaled(planted.model, (1 - mask_LF)[..., None]), planted.tokens_RT).logits_BTV[:, 2]
        return jnp.take_along_axis(jax.nn.softmax(logits), planted.rows.target_R[:, None], axis=1)[:, 0]

    fast = np.asarray(p_without(planted, planted.mask_LRF))
    for fact in (0, 7, 12, N - 1):
        np.testing.assert_allclose(fast[:, fact], p(mask_NLF[fact]), atol=1e-4)


def test_switches_have_a_bank_for_each_relation_and_nothing_for_facts():
    for seed in SEEDS:
        planted = model("switches", seed)
        mask_NU = np.asarray(planted.mask_LRF).transpose(1, 0, 2).reshape(N, -1)
        shared_NN = mask_NU @ mask_NU.T
        size_N = mask_NU.sum(1)
        assert size_N.min() >= BANK[0] and size_N.max() <= BANK[1]
        np.testing.assert_array_equal(shared_NN, size_N[:, None] * SAME_RELATION)
        # A bank does not know the subject.
        active_NU = np.asarray(planted.readout().neurons_LRF).transpose(1, 0, 2).reshape(N, -1)
        np.testing.assert_allclose(active_NU[mask_NU > 0], 1, atol=1e-5)
        np.testing.assert_allclose(active_NU[:, mask_NU.any(0)] * (1 - mask_NU[:, mask_NU.any(0)]), 0, atol=1e-5)


def test_without_its_bank_a_relation_is_gone_and_the_subject_repeated():
    right, rest = np.exp([2 * LOGIT, LOGIT]), N - N_SUBJECTS - N_RELATIONS + 1
    on = right[0] / (right[0] + (N_SUBJECTS + N_RELATIONS - 2) * right[1] + np.exp(REPEAT) + rest)
    off = right[1] / (N_RELATIONS * right[1] + np.exp(REPEAT) + N - N_RELATIONS)
    for seed in SEEDS:
        p_NN = np.asarray(p_without(model("switches", seed), model("switches", seed).mask_LRF))
        # Weak neurons change logits by a few tenths.
        np.testing.assert_allclose(p_NN[~SAME_RELATION], on, atol=0.03)
        np.testing.assert_allclose(p_NN[SAME_RELATION], off, atol=0.03)
        assert off < 0.05 < 0.95 < on


def test_attention_supplies_the_answer_to_a_single_fact():
    """No neuron is needed for it: with all off, the subject's answers are as likely as one another, and all others
    less likely by the LOGIT.
    """
    planted = model("switches", 0)
    logits = forward(scaled(planted.model, 0), planted.tokens_RT).logits_BTV[:, 2]
    of_answers_NA = np.asarray(logits)[:, TABLE.first_answer :][:, TABLE.answer_N]
    np.testing.assert_allclose(of_answers_NA, LOGIT * SAME_SUBJECT, atol=1e-3)


def test_facts_have_neurons_of_their_own():
    for seed in SEEDS:
        planted = model("fact_neurons", seed)
        mask_NU = np.asarray(planted.mask_LRF).transpose(1, 0, 2).reshape(N, -1)
        assert mask_NU.sum(1).min() >= OWN[0] and mask_NU.sum(1).max() <= OWN[1]
        assert len(np.unique(mask_NU.sum(1))) > 1
        assert mask_NU.sum(0).max() == 1
        p_NN = np.asarray(p_without(planted, planted.mask_LRF))
        np.testing.assert_allclose(np.diag(p_NN), 1 / N, atol=0.05)
        right = np.exp(LOGIT)
        np.testing.assert_allclose(p_NN[~np.eye(N, dtype=bool)], right / (right + 1.2 * N), atol=0.03)


def test_plain_neurons_carry_all_facts_together():
    for seed in SEEDS:
        planted = model("plain", seed)
        mask_NU = np.asarray(planted.mask_LRF).transpose(1, 0, 2).reshape(N, -1)
        assert mask_NU.mean(1).min() > 0.25
        # The least squares are exact: no weak neuron is left over.
        right = np.exp(LOGIT)
        expected = right / (right + TABLE.d_vocab - 1)
        np.testing.assert_allclose(by_hand("plain", seed)[0], expected, atol=1e-3)
        assert np.asarray(p_without(planted, jnp.asarray(planted.mask_LRF))).diagonal().max() < 0.1


@pytest.mark.parametrize(("name", "seed"), ALL)
def test_own_and_other_facts_neurons(name, seed):
    s, c = drops(name, seed)
    assert by_hand(name, seed)[0].min() > 0.9
    if name == "plain":
        assert s < 0.3 and max(c.values()) < 0.1
        return
    assert s > 0.9
    assert c["relation"] > 0.9 if name == "switches" else abs(c["relation"]) < 0.05
    assert abs(c["subject"]) < 0.05 and abs(c["other"]) < 0.05


def test_controls_of_other_relations_alone_would_acquit_the_switches():
    for seed in SEEDS:
        switches, facts = drops("switches", seed), drops("fact_neurons", seed)
        assert switches[0] - switches[1]["other"] > 0.9 and facts[0] - facts[1]["other"] > 0.9
        assert switches[0] - max(switches[1].values()) < 0.05 and facts[0] - max(facts[1].values()) > 0.9


def test_details_change_with_the_seed():
    for name in GRID_PLANTS.names():
        first, second = model(name, 0), model(name, 1)
        again = grid_planted(name, TABLE, 0, d_mlp=D_MLP)
        np.testing.assert_array_equal(first.model.params["layers"]["w_out"], again.model.params["layers"]["w_out"])
        assert np.abs(first.model.params["layers"]["w_out"] - second.model.params["layers"]["w_out"]).max() > 0.1
        assert (first.mask_LRF != second.mask_LRF).any()
    assert model("plain", 0).model.config == model("switches", 0).model.config == model("fact_neurons", 1).model.config


def test_a_table_in_words():
    facts = in_words(TABLE)
    assert len(facts) == N and len({fact.answer for fact in facts.facts}) == N
    for fact in (0, 9, N - 1):
        subject, relation, answer = (int(x[fact]) for x in (TABLE.subject_N, TABLE.relation_N, TABLE.answer_N))
        assert facts.prompt(fact, 0) == f"subject{subject} relation{relation}"
        assert facts.text(fact, 0)[1:] == (f" answer{answer}", ".")


def test_as_a_language_model_a_plant_is_what_it_was():
    planted = model("switches", 0)
    language = language_model(planted, TABLE, "switches, seed 0")
    facts = in_words(TABLE)
    queries = encode(facts, facts.queries(), language.tokenizer, n_ctx=language.config.n_ctx)
    assert len(queries) == N
    np.testing.assert_array_equal(queries.answer_length_N, 1)
    np.testing.assert_array_equal(queries.fact_N, np.arange(N))
    found = recalled(language.model, queries, rows=64)
    np.testing.assert_allclose(found["probability"], by_hand("switches", 0)[0][:, 0], rtol=1e-3)
    np.testing.assert_array_equal(found["correct"], 1)
    assert language.provenance["plant"] == "switches, seed 0"


# What is measured in the tests: less than by the audit, for speed.
CRITERIA = Criteria(
    families={
        "selectors": ("gradient_x_activation_selective", "projection_selective"),
        "ablations": ("resample_selective", "interchange"),
        "specificity": ("overlap_within", "hub_share"),
    }
)
CHEAP = MeasureConfig(queries=0, ability_queries=0, ablation_queries=0, points=8, rule="gauss_legendre", replicates=50)
CONFIG = PlantsConfig(
    seeds=3, n_subjects=N_SUBJECTS, n_relations=N_RELATIONS, d_mlp=D_MLP, criteria=CRITERIA, measure=CHEAP
)
BY_OTHERS = ("gradient_x_activation", "projection")  # other selectors
PARTS = tuple(f"{name}_{part}" for name in BY_OTHERS for part in ("suppressability", "control_drop_other"))


@functools.cache
def measured(name, seed):
    """By the package's own measurement, with the parts of which other selectors' S − C is made."""
    criteria = dataclasses.replace(CRITERIA, families={**CRITERIA.families, "parts": PARTS})
    return samples_of(dataclasses.replace(CONFIG, criteria=criteria), name, seed)


def all_measured():
    found = {}
    for name in GRID_PLANTS.names():
        of_seeds = [measured(name, seed) for seed in range(CONFIG.seeds)]
        found[name] = {metric: np.stack([of[metric] for of in of_seeds]) for metric in of_seeds[0]}
    return found


@pytest.mark.parametrize(("name", "seed"), ALL)
def test_measured_is_what_it_is_by_hand(name, seed):
    found, (s, c) = measured(name, seed), drops(name, seed)
    # By hand all other facts of a kind, measured a few of them.
    assert abs(found["suppressability"][0] - s) < 0.02
    for kind, expected in c.items():
        assert abs(found[f"control_drop_{kind}"][0] - expected) < 0.02
    assert abs(found["control_drop"][0] - max(c.values())) < 0.02
    assert abs(found["selective"][0] - (s - max(c.values()))) < 0.04


def test_only_fact_neurons_carry_their_fact_to_another_prompt():
    for seed in SEEDS:
        assert measured("fact_neurons", seed)["interchange"][0] > 0.9
        assert abs(measured("switches", seed)["interchange"][0]) < 0.05


def test_the_audit_convicts_switches_and_acquits_fact_neurons():
    samples = all_measured()
    switches, facts = (judged(CONFIG, samples, name) for name in ("switches", "fact_neurons"))
    assert switches.verdict == "Goodharted" and facts.verdict == "improved"
    assert switches.families["selectors"].state == "falls" and switches.trained.low > 0.5
    assert {facts.families[name].state for name in ("selectors", "ablations")} == {"rises"}


def test_the_audit_would_acquit_switches_if_controls_were_of_other_relations_alone():
    """The same rule and the same models, judged by S − C of three selectors: of every kind, and of others alone."""
    samples = all_measured()
    families = {name: (f"{name}_selective",) for name in BY_OTHERS} | {"attribution": ("selective",)}
    config = dataclasses.replace(CONFIG, criteria=Criteria(families=families))
    others_alone = {
        name: {
            **of,
            "selective": of["suppressability"] - of["control_drop_other"],
            **{f"{by}_selective": of[f"{by}_suppressability"] - of[f"{by}_control_drop_other"] for by in BY_OTHERS},
        }
        for name, of in samples.items()
    }
    assert judged(config, samples, "switches").verdict == "Goodharted"
    assert judged(config, others_alone, "switches").verdict == "improved"
    for of in (samples, others_alone):
        assert judged(config, of, "fact_neurons").verdict == "improved"


def test_the_study(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plants_audit, "samples_of", lambda config, name, seed: measured(name, seed))
    found = plants_audit.plants_audit(CONFIG, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == found
    assert tuple(found["plants"]) == GRID_PLANTS.names()
    assert {name: verdict["verdict"] for name, verdict in found["verdicts"].items()} == {
        "switches": "Goodharted",
        "fact_neurons": "improved",
    }
    for name, plant in found["plants"].items():
        assert set(HEADLINE) < set(plant["metrics"]) == set(CONFIG.metrics)
        s = plant["metrics"]["suppressability"]
        expected = np.mean([measured(name, seed)["suppressability"][0] for seed in range(CONFIG.seeds)])
        np.testing.assert_allclose(s["value"], expected)
        assert s["low"] < s["value"] < s["high"]
    printed = capsys.readouterr().out
    for words in ("C_relation", "S − C", "relation switches: Goodharted, for ", "fact neurons: improved, for "):
        assert words in printed


def test_mistakes_are_told():
    with pytest.raises(UserError, match="seeds must be at least 2"):
        PlantsConfig(seeds=1)
    with pytest.raises(UserError, match="n_relations must be at least 2"):
        PlantsConfig(n_relations=1)
    with pytest.raises(UserError, match="unknown plant of a grid 'one'; "):
        GRID_PLANTS["one"]
    with pytest.raises(UserError, match="two facts of the table share an answer"):
        grid_planted("switches", fact_table(0), 0)
    with pytest.raises(UserError, match="a layer has room for 8"):
        grid_planted("fact_neurons", TABLE, 0, d_mlp=8)
