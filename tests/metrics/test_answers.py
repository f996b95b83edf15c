"""The measured columns against a slow computation, full forward by full forward, with explicit loops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from tiny import ARCHITECTURES, slow_readout, tiny_config, tiny_params, tiny_queries

from jaxinterp.facts.encoding import EncodedQueries, batches_of_all
from jaxinterp.metrics import (
    batching,
    selectors,  # noqa: F401  (registers its columns)
)
from jaxinterp.metrics.answers import log_odds, measured_answers
from jaxinterp.metrics.recall import measured_ability, recalled
from jaxinterp.models.transformer import forward
from jaxinterp.quadrature import quadrature
from jaxinterp.suppression import random_mask

K, ROWS, SEED = 3, 7, 5
L, F = 2, 6
RULE = quadrature("midpoint", 20)


def six_queries():
    """Answers of 1 and 2 tokens in two batches; query 0 shares its subject or its relation with every other one."""
    return dataclasses.replace(
        tiny_queries(6), relation_N=np.array([0, 0, 0, 1, 1, 0]), subject_N=np.array([0, 1, 2, 0, 0, 3])
    )


class Slow:
    """One batch, evaluated with full forwards alone."""

    def __init__(self, batch, readout):
        self.probability = lambda gates: np.asarray(readout(batch, gates)[0])
        self.gradient = lambda gates: np.asarray(readout(batch, gates)[1])
        self.batch, self.ones = batch, np.ones((L, ROWS, F))
        self.n_rows = int(batch.weight_R.sum())

    def integrated_gradients(self):
        scores, residual = np.zeros((L, ROWS, F)), np.zeros((L, ROWS))
        for layer in range(L):
            for point in range(20):
                gates = self.ones.copy()
                gates[layer] = (point + 0.5) / 20
                scores[layer] += self.gradient(gates)[layer] / 20
            off = self.ones.copy()
            off[layer] = 0
            change = self.probability(self.ones) - self.probability(off)
            residual[layer] = scores[layer].sum(-1) - change
        return scores, residual

    def ablation(self):
        scores = np.zeros((L, ROWS, F))
        for layer in range(L):
            for neuron in range(F):
                gates = self.ones.copy()
                gates[layer, :, neuron] = 0
                scores[layer, :, neuron] = self.probability(self.ones) - self.probability(gates)
        return scores

    def agreement(self, scores, row):
        """Spearman's correlation with the effects of single ablations."""
        return scipy.stats.spearmanr(scores[:, row].ravel(), self.ablation()[:, row].ravel()).statistic

    def top(self, scores):
        mask = np.zeros((L, ROWS, F))
        for row in range(ROWS):
            for index in np.argsort(-scores[:, row].ravel())[:K]:
                mask[index // F, row, index % F] = 1
        return mask

    def product(self, probability_R, answer):
        return np.prod([probability_R[row] for row in range(self.n_rows) if self.batch.answer_R[row] == answer])

    def control(self, mask):
        """Each row's mask is another row's."""
        gates = self.ones.copy()
        for row in range(ROWS):
            gates[:, row] -= mask[:, self.batch.control_XR[0][row]]
        return self.probability(gates)


@pytest.fixture(scope="module")
def measured():
    """Fast columns and slow ones, by query."""
    with jax.enable_x64(True):
        config = tiny_config(n_layers=L, dtype="float64")
        params, queries = jax.tree.map(lambda leaf: 1.5 * leaf, tiny_params(config)), six_queries()
        groups = ("answers", "ablation")
        common = {"k": K, "n_relations": 2, "integral": RULE, "rows": ROWS, "seed": SEED}
        fast = measured_answers(config, params, queries, groups=groups, neurons=True, **common)
        ability = measured_ability(config, params, queries, rows=ROWS, seed=SEED)

        @jax.jit
        def readout(batch, gates):
            probability, pull_back = jax.vjp(slow_readout(config, params, batch), gates)
            return probability, pull_back(jnp.ones_like(probability))[0]

        logits_of = jax.jit(lambda params, tokens: forward(config, params, tokens).logits_BTV)
        slow = {name: np.full(6, np.nan) for name in fast.columns}
        selected = np.zeros((2, L, F))
        for number, (batch, taken) in enumerate(batches_of_all(queries, n_rows=ROWS, seed=SEED)):
            one = Slow(batch, readout)
            scores, residual = one.integrated_gradients()
            mask = one.top(scores)
            key = jax.random.fold_in(jax.random.key(SEED), number)
            elsewhere = np.asarray(random_mask(key, jnp.asarray(mask)))
            chosen = one.top(one.ablation())
            by_row = {
                "probability": one.probability(one.ones),
                "suppressed": one.probability(1 - mask),
                "control": one.control(mask),
                "random": one.probability(1 - elsewhere),
                "amplified": one.probability(1 + mask),
                "ablation_suppressed": one.probability(1 - chosen),
                "ablation_control": one.control(chosen),
            }
            logits = np.asarray(logits_of(params, jnp.asarray(batch.tokens_BT)))
            for answer, query in enumerate(taken):
                for name, values in by_row.items():
                    slow[name][query] = one.product(values, answer)
                others = [
                    other
                    for other in taken
                    if queries.subject_N[other] != queries.subject_N[query]
                    and queries.relation_N[other] != queries.relation_N[query]
                ]
                if not others:
                    slow["control"][query] = slow["ablation_control"][query] = np.nan
                rows = [row for row in range(one.n_rows) if batch.answer_R[row] == answer]
                assert len(rows) == queries.answer_length_N[query]
                slow["residual"][query] = np.mean(np.abs(residual[:, rows]))
                slow["ablation_overlap"][query] = np.mean([(mask * chosen)[:, row].sum() / K for row in rows])
                slow["ablation_rank_agreement"][query] = np.mean([one.agreement(scores, row) for row in rows])
                for row in rows:
                    selected[queries.relation_N[query]] += mask[:, row]
                tokens, start = queries.tokens_NT[query], queries.answer_start_N[query]
                sentence = logits[batch.sequence_R[rows[0]]]
                ends = range(start, start + queries.answer_length_N[query])
                slow["correct"][query] = all(sentence[t - 1].argmax() == tokens[t] for t in ends)
                nll = 0.0
                for t in range(1, queries.length_N[query]):
                    nll += np.log(np.exp(sentence[t - 1]).sum()) - sentence[t - 1][tokens[t]]
                slow["sentence_nll"][query] = nll
                slow["sentence_tokens"][query] = queries.length_N[query] - 1
        p, s = slow["probability"], slow["suppressed"]
        slow |= {"log_probability": np.log(p), "suppressed_log_probability": np.log(s), "suppressed_ratio": s / p}
        slow |= {"log_odds": np.log(p / (1 - p)), "suppressed_log_odds": np.log(s / (1 - s))}
    return fast.columns, slow, fast.selected, selected, ability


def test_every_column_is_the_slow_one(measured):
    fast, slow, *_ = measured
    for name in slow:
        np.testing.assert_allclose(fast[name], slow[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_the_columns_say_different_things(measured):
    fast, *_ = measured
    for name in ("suppressed", "control", "random", "amplified", "ablation_suppressed"):
        assert np.nanmax(np.abs(fast[name] - fast["probability"])) > 1e-3 * fast["probability"].max(), name
    assert 0 < np.mean(fast["ablation_overlap"]) <= 1


def test_a_query_without_a_possible_control_is_nan_there_alone(measured):
    fast, *_ = measured
    for name in fast:
        if name in ("control", "ablation_control"):
            assert np.isnan(fast[name][0])
            assert np.isfinite(fast[name]).any()
        else:
            assert np.isfinite(fast[name]).all()


def test_selected_counts_answer_tokens_by_relation(measured):
    _, _, fast, slow, _ = measured
    np.testing.assert_array_equal(fast, slow)
    np.testing.assert_array_equal(fast.sum((1, 2)), [K * 6, K * 3])  # tokens of queries 0, 1, 2, 5 and of 3, 4


def test_ability_is_that_of_the_answers(measured):
    fast, _, _, _, ability = measured
    assert set(ability) == {"correct", "sentence_nll", "sentence_tokens"}
    for name, values in ability.items():
        np.testing.assert_allclose(values, fast[name], rtol=1e-12)


def test_log_odds():
    log_p = jnp.log(jnp.array([0.5, 0.9, 1e-6]))
    np.testing.assert_allclose(log_odds(log_p), np.log([1, 9, 1e-6]), rtol=1e-5, atol=1e-6)
    assert np.isfinite(log_odds(jnp.array([0.0, 1e-9]))).all()
    assert float(log_odds(jnp.zeros(1))[0]) > 10


def queries_of_two_widths(n: int, mask: int | None):
    """Lengths 6 to 12: some are taken with 8 positions and some with 12, where the model's context ends."""
    rng, index = np.random.default_rng(1), np.arange(n)
    length, answer_length = 6 + index % 3 + 4 * (index % 2), 1 + (index % 5 == 0)
    tokens = rng.integers(1, 10, (n, 12)) * (np.arange(12)[None] < length[:, None])
    start = length - 1 - answer_length
    indices = (index, index * 0, index % 3, index)
    return EncodedQueries(tokens.astype(np.int32), length, start, answer_length, *indices, mask)


@pytest.mark.parametrize(("name", "mask"), [("gpt", None), ("bert", 10)])
def test_recalled_has_the_columns_of_measured_answers(name, mask):
    config = tiny_config(n_layers=1, n_ctx=12, **ARCHITECTURES[name])
    params, queries = tiny_params(config), queries_of_two_widths(60, mask)
    done = []
    found = recalled(config, params, queries, rows=8, progress=done.append)
    rule = quadrature("midpoint", 1)
    expected = measured_answers(config, params, queries, k=2, n_relations=3, integral=rule, rows=8).columns
    assert set(found) == {"probability", "correct"}
    np.testing.assert_array_equal(found["correct"], expected["correct"])
    np.testing.assert_allclose(found["probability"], expected["probability"], rtol=1e-4)
    assert 1 < found["correct"].sum() < 30
    assert sum(done) == 60
    # A masked model has no next token to predict.
    assert ("sentence_nll" in expected) == (mask is None)


def test_short_sequences_of_a_bidirectional_model_are_not_padded_to_the_longest(monkeypatch):
    config = tiny_config(n_layers=2, n_ctx=12, **ARCHITECTURES["bert"])
    params, queries = tiny_params(config), queries_of_two_widths(40, 10)
    widths, read = [], batching.read

    def noted(config, params, tokens_BT, *args):
        widths.append(tokens_BT.shape[1])
        return read(config, params, tokens_BT, *args)

    monkeypatch.setattr(batching, "read", noted)
    rule = quadrature("midpoint", 2)

    def measured():
        return measured_answers(config, params, queries, k=2, n_relations=3, integral=rule, rows=8).columns

    found = measured()
    assert set(widths) == {8, 12}
    monkeypatch.setattr(batching, "by_length", lambda config, queries: None)
    widths.clear()
    expected = measured()
    assert set(widths) == {12}
    for name in ("probability", "suppressed", "amplified", "residual", "correct"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-6)
