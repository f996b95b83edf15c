"""The measured columns against a slow computation, full forward by full forward, with explicit loops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import ARCHITECTURES, slow_readout, tiny_config, tiny_params, tiny_queries

from jaxinterp.attribution.quadrature import quadrature
from jaxinterp.facts.batches import query_batch
from jaxinterp.facts.controls import CONTROL_KINDS, KINDS, draw_controls
from jaxinterp.facts.encoding import EncodedQueries
from jaxinterp.metrics import (
    batching,
)
from jaxinterp.metrics import examples as examples_module
from jaxinterp.metrics.answers import measured_answers
from jaxinterp.metrics.columns import GROUPS
from jaxinterp.metrics.examples import LanguageExamples
from jaxinterp.metrics.families.answers import log_odds
from jaxinterp.metrics.recall import measured_ability, recalled
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward

K, ROWS, SEED, N_CONTROLS = 3, 7, 5, 2
L, F, N = 2, 6, 8
RULE = quadrature("midpoint", 20)
MEASURED = ("answers", "controls", "ablation", "ablation_ranks", "interventions")


def eight_queries():
    """Answers of 1 and 2 tokens, which fill two batches; subjects 0 to 2 have facts of two relations."""
    queries = tiny_queries(N)
    tokens = np.random.default_rng(2).integers(1, 31, queries.tokens_NT.shape).astype(np.int32)
    tokens = np.where(queries.tokens_NT > 0, tokens, 0)
    relation, subject = np.array([0, 0, 0, 1, 1, 0, 1, 2]), np.array([0, 1, 2, 0, 1, 3, 2, 4])
    return dataclasses.replace(queries, tokens_NT=tokens, relation_N=relation, subject_N=subject, answer_N=None)


class Slow:
    """All queries in one batch, evaluated with full forwards alone."""

    def __init__(self, config, params, queries):
        self.n_rows = int(queries.answer_length_N.sum())
        arguments = {"n_sequences": N, "n_rows": self.n_rows, "answered": range(N), "n_controls": 0}
        self.batch = query_batch(queries, rng=np.random.default_rng(0), **arguments)[0]
        readout = slow_readout(config, params, self.batch)
        self.run = jax.jit(lambda gates, shift: readout(gates, shift))
        self.gradient = jax.jit(jax.grad(lambda gates: readout(gates).sum()))
        self.aimed = jax.jit(
            lambda target, gates, shift: dataclasses.replace(readout, rows=readout.rows._replace(target_R=target))(
                gates, shift
            )
        )
        self.neurons, self.ones = np.asarray(readout.neurons_LRF), np.ones((L, self.n_rows, F))

    def rows_of(self, answer):
        return [row for row in range(self.n_rows) if self.batch.answers.answer_R[row] == answer]

    def p(self, gates, shift=None):
        shift = np.zeros_like(gates) if shift is None else shift
        p_R = np.asarray(self.run(gates, shift))
        return np.array([np.prod([p_R[row] for row in self.rows_of(answer)]) for answer in range(N)])

    def integrated_gradients(self):
        scores = np.zeros_like(self.ones)
        for layer in range(L):
            for point in range(20):
                gates = self.ones.copy()
                gates[layer] = (point + 0.5) / 20
                scores[layer] += np.asarray(self.gradient(gates))[layer] / 20
        return scores

    def ablation(self):
        scores, p_R = np.zeros_like(self.ones), np.asarray(self.run(self.ones, 0 * self.ones))
        for layer in range(L):
            for neuron in range(F):
                gates = self.ones.copy()
                gates[layer, :, neuron] = 0
                scores[layer, :, neuron] = p_R - np.asarray(self.run(gates, 0 * gates))
        return scores

    def top(self, scores):
        """The K neurons of each answer, at all its rows: the highest sums over them."""
        mask = np.zeros_like(scores)
        for answer in range(N):
            total = sum(scores[:, row] for row in self.rows_of(answer))
            for index in np.argsort(-total.ravel())[:K]:
                mask[index // F, self.rows_of(answer), index % F] = 1
        return mask

    def lent(self, values, partner_N):
        """The values [L, R, F] of each answer's partner at its rows; one with fewer rows lends them in turn."""
        found = np.zeros_like(values)
        for answer, partner in enumerate(partner_N):
            theirs = self.rows_of(partner)
            for step, row in enumerate(self.rows_of(answer)):
                found[:, row] = values[:, theirs[step % len(theirs)]]
        return found


def known_mean(values, there):
    return np.array([values[there[:, n], n].mean() if there[:, n].any() else np.nan for n in range(N)])


@pytest.fixture(scope="module")
def measured():
    """Fast columns and slow ones, by query."""
    with jax.enable_x64(True):
        config = tiny_config(n_layers=L, d_vocab=31, dtype="float64")
        params, queries = jax.tree.map(lambda leaf: 1.5 * leaf, tiny_params(config)), eight_queries()
        common = {"k": K, "n_relations": 3, "integral": RULE, "rows": ROWS, "seed": SEED}
        fast = measured_answers(
            LanguageExamples(Model(config, params), queries),
            groups=MEASURED,
            neurons=True,
            n_controls=N_CONTROLS,
            **common,
        )
        ability = measured_ability(Model(config, params), queries, rows=ROWS, seed=SEED)
        one = Slow(config, params, queries)
        scores = {"attribution": one.integrated_gradients(), "ablation": one.ablation()}
        masks = {name: one.top(values) for name, values in scores.items()}
        mask, p = masks["attribution"], one.p(one.ones)
        slow = {
            "probability": p,
            "suppressed": one.p(1 - mask),
            "amplified": one.p(1 + mask),
            "ablation_suppressed": one.p(1 - masks["ablation"]),
            "mean_ablated": one.p(1 - mask, mask * one.neurons.mean(1, keepdims=True)),
        }
        partner_KXN = draw_controls(queries, KINDS, N_CONTROLS, np.random.default_rng([SEED, 1]))
        there_KXN = partner_KXN >= 0
        resampled = []
        for place, kind in enumerate(KINDS):
            partners, there = np.maximum(partner_KXN[place], 0), there_KXN[place]
            for name, prefix in (("attribution", "control"), ("ablation", "ablation_control")):
                off = np.array([one.p(1 - one.lent(masks[name], partner)) for partner in partners])
                if name == "attribution" or kind in CONTROL_KINDS:
                    slow[f"{prefix}_{kind}"] = known_mean(off, there)
                if name == "attribution":
                    slow[f"control_{kind}_lost"] = known_mean(np.maximum(p - off, 0), there)
                    slow[f"control_{kind}_moved"] = known_mean(np.abs(p - off), there)
            if kind not in CONTROL_KINDS:
                continue
            donor, theirs = one.lent(one.neurons, partners[0]), one.lent(mask, partners[0])
            resampled.append(np.where(there[0], one.p(1 - mask, mask * donor), np.nan))
            slow[f"resampled_control_{kind}"] = np.where(there[0], one.p(1 - theirs, theirs * donor), np.nan)
            if kind == "relation":
                first = [one.rows_of(answer)[0] for answer in range(N)]
                target = np.array(one.batch.rows.target_R)
                for answer, partner in enumerate(partners[0]):
                    target[first[answer]] = one.batch.rows.target_R[first[partner]]
                both = np.maximum(mask, theirs)
                for name, edit in (
                    ("interchange_base", (one.ones, 0 * one.ones)),
                    ("interchanged", (1 - both, both * donor)),
                ):
                    slow[name] = np.where(there[0], np.asarray(one.aimed(target, *edit))[first], np.nan)
        slow["resampled"] = known_mean(np.array(resampled), np.isfinite(resampled))
        selected = np.zeros((3, L, F))
        for answer in range(N):
            selected[queries.relation_N[answer]] += mask[:, one.rows_of(answer)[0]]
        logits = np.asarray(forward(Model(config, params), jnp.asarray(queries.tokens_NT)).logits_BTV)
        for name in ("correct", "sentence_nll", "sentence_tokens"):
            slow[name] = np.zeros(N)
        for query, sentence in enumerate(logits):
            tokens, start = queries.tokens_NT[query], queries.answer_start_N[query]
            ends = range(start, start + queries.answer_length_N[query])
            slow["correct"][query] = all(sentence[t - 1].argmax() == tokens[t] for t in ends)
            for t in range(1, queries.length_N[query]):
                slow["sentence_nll"][query] += np.log(np.exp(sentence[t - 1]).sum()) - sentence[t - 1][tokens[t]]
            slow["sentence_tokens"][query] = queries.length_N[query] - 1
    return fast, slow, selected, ability, there_KXN


def test_every_column_is_the_slow_one(measured):
    fast, slow, *_ = measured
    for name in slow:
        # Activations of other batches are kept in 32 bits.
        rtol = 1e-5 if name in GROUPS["interventions"].gives else 1e-9
        np.testing.assert_allclose(fast.columns[name], slow[name], rtol=rtol, atol=1e-12, err_msg=name)
    # Columns that the loops over one batch look at, in test_column_groups.
    others = {"random", "residual", "ablation_overlap", "ablation_rank_agreement", "suppressed_ratio"}
    assert set(fast.columns) - set(slow) - others <= {name for name in fast.columns if "log_" in name}


def test_the_columns_say_different_things(measured):
    fast = measured[0].columns
    for name in ("suppressed", "control_relation", "control_subject", "control_other", "random", "resampled"):
        assert np.nanmax(np.abs(fast[name] - fast["probability"])) > 1e-3 * fast["probability"].max(), name
    kinds = [fast[f"control_{kind}"] for kind in CONTROL_KINDS]
    assert all(np.nanmax(np.abs(a - b)) > 1e-6 for i, a in enumerate(kinds) for b in kinds[:i])
    assert 0 < np.mean(fast["ablation_overlap"]) <= 1


def test_a_query_without_a_possible_control_is_nan_there_alone(measured):
    fast, _, _, _, there_KXN = measured
    for kind, there_XN in zip(CONTROL_KINDS, there_KXN, strict=False):
        known = np.isfinite(fast.columns[f"control_{kind}"])
        np.testing.assert_array_equal(known, there_XN.any(0))
    has_subject = np.isfinite(fast.columns["control_subject"])
    assert has_subject.any() and not has_subject[[5, 7]].any()  # whose subjects have one fact
    assert np.isnan(fast.columns["control_relation"][7])  # the only one of its relation
    for name in ("probability", "suppressed", "random", "amplified", "ablation_suppressed", "mean_ablated"):
        assert np.isfinite(fast.columns[name]).all()


def test_selected_counts_answers_by_relation(measured):
    fast, _, slow, *_ = measured
    np.testing.assert_array_equal(fast.selected, slow)
    np.testing.assert_array_equal(fast.selected.sum((1, 2)), [K * 4, K * 3, K])
    np.testing.assert_array_equal(fast.selected_NU.sum(1), np.full(N, K))


def test_ability_is_that_of_the_answers(measured):
    fast, _, _, ability, _ = measured
    assert set(ability) == {"correct", "sentence_nll", "sentence_tokens"}
    for name, values in ability.items():
        np.testing.assert_allclose(values, fast.columns[name], rtol=1e-12)


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
    found = recalled(Model(config, params), queries, rows=8, progress=done.append)
    rule = quadrature("midpoint", 1)
    expected = measured_answers(
        LanguageExamples(Model(config, params), queries), k=2, n_relations=3, integral=rule, rows=8
    ).columns
    assert set(found) == {"probability", "correct"}
    np.testing.assert_array_equal(found["correct"], expected["correct"])
    np.testing.assert_allclose(found["probability"], expected["probability"], rtol=1e-4)
    assert 1 < found["correct"].sum() < 30
    assert sum(done) == 60
    # A masked model has no next token to predict.
    assert ("sentence_nll" in expected) == (mask is None)


def test_sets_of_a_causal_model_share_what_is_compiled(monkeypatch):
    config = tiny_config(n_layers=2, n_ctx=12)
    model, queries = Model(config, tiny_params(config)), queries_of_two_widths(40, None)
    shapes = set()

    def measured():
        examples = [
            LanguageExamples(model, queries[np.flatnonzero(queries.length_N <= longest)]) for longest in (10, 11, 12)
        ]
        # As the encoding of such a set would be.
        for one in examples:
            width = int(one.queries.length_N.max())
            cut = dataclasses.replace(
                one, queries=dataclasses.replace(one.queries, tokens_NT=one.queries.tokens_NT[:, :width])
            )
            shapes.update(batch.tokens_BT.shape for batch, _ in cut.batches(8, 0))
            yield measured_answers(cut, k=2, n_relations=3, integral=quadrature("midpoint", 2), rows=8).columns

    found = list(measured())
    assert shapes == {(8, 12)}  # not above the model's context
    short = LanguageExamples(model, queries)[np.flatnonzero(queries.length_N <= 8)]
    assert {batch.tokens_BT.shape for batch, _ in short.batches(8, 0)} == shapes
    shapes.clear()
    monkeypatch.setattr(examples_module, "of_one_length", lambda config, queries: None)
    expected = list(measured())
    assert len(shapes) > 1
    for columns, other in zip(found, expected, strict=True):
        for name in ("probability", "suppressed", "amplified", "residual", "correct", "sentence_nll"):
            np.testing.assert_allclose(columns[name], other[name], rtol=1e-3, atol=1e-6)


def test_short_sequences_of_a_bidirectional_model_are_not_padded_to_the_longest(monkeypatch):
    config = tiny_config(n_layers=2, n_ctx=12, **ARCHITECTURES["bert"])
    params, queries = tiny_params(config), queries_of_two_widths(40, 10)
    widths, read = [], batching.read

    def noted(model, tokens_BT, *args):
        widths.append(tokens_BT.shape[1])
        return read(model, tokens_BT, *args)

    monkeypatch.setattr(batching, "read", noted)
    rule = quadrature("midpoint", 2)

    def measured():
        return measured_answers(
            LanguageExamples(Model(config, params), queries), k=2, n_relations=3, integral=rule, rows=8
        ).columns

    found = measured()
    assert set(widths) == {8, 12}
    monkeypatch.setattr(examples_module, "by_length", lambda config, queries: None)
    widths.clear()
    expected = measured()
    assert set(widths) == {12}
    for name in ("probability", "suppressed", "amplified", "residual", "correct"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-6)
