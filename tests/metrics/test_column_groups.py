"""Groups of columns against loops over rows and neurons that run full forwards alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from tiny import fast_readout, slow_readout, tiny_batch, tiny_config, tiny_params

from jaxinterp.attribution import integrated_gradients
from jaxinterp.errors import UserError
from jaxinterp.metrics import builtin  # noqa: F401  (registers the groups)
from jaxinterp.metrics.columns import (
    Measured,
    column_group,
    columns_step,
    get_group,
    group_names,
    groups_giving,
    set_group,
)
from jaxinterp.metrics.faithfulness import numbers
from jaxinterp.metrics.interventions import partners
from jaxinterp.quadrature import quadrature
from jaxinterp.selection import top_k
from jaxinterp.suppression import random_mask

K = 3
RELATIONS = np.array([0, 1, 0, 1, 0, 2])  # of the batch's six answers


@pytest.fixture(scope="module")
def found():
    """A batch's columns by the fast readout, the batch, and its slow probabilities under gates and shifts."""
    with jax.enable_x64(True):
        config = tiny_config(n_layers=2, dtype="float64")
        params, batch = jax.tree.map(lambda leaf: 1.5 * leaf, tiny_params(config)), tiny_batch()
        readout = fast_readout(config, params, batch)
        attribution = jax.jit(lambda r: integrated_gradients(r, quadrature("midpoint", 4), path="per_layer"))(readout)
        mask = top_k(attribution.scores_LRF, K)
        relation_N = np.concatenate([RELATIONS, np.full(len(batch.answer_weight_N) - 6, -1)])
        mean_LF = np.random.default_rng(3).standard_normal((2, config.d_mlp))
        measured = Measured(
            batch, readout, attribution, mask, jnp.asarray(relation_N), jnp.asarray(mean_LF), jax.random.key(0), K
        )
        names = tuple(name for name in group_names() if not get_group(name).of_set)
        columns = {name: np.asarray(v) for name, v in columns_step(names)(measured).items()}
        slow = slow_readout(config, params, batch)
        run = jax.jit(lambda gates, shift: slow(gates, shift))
        gradient = jax.jit(jax.grad(lambda gates: slow(gates).sum()))
        aimed = jax.jit(lambda target, gates, shift: slow_aimed(slow, target)(gates, shift))
        neurons = np.asarray(slow.neurons_LRF)
        one = Loops(measured, np.asarray(mask), neurons, run, gradient, aimed)
        yield columns, one, mean_LF


def slow_aimed(slow, target):
    import dataclasses

    return dataclasses.replace(slow, rows=slow.rows._replace(target_R=target))


class Loops:
    def __init__(self, measured, mask, neurons, run, gradient, aimed):
        self.measured, self.batch, self.mask, self.neurons = measured, measured.batch, mask, neurons
        self.run, self.gradient, self.aimed = run, gradient, aimed
        self.scores = np.asarray(measured.attribution.scores_LRF)
        self.n_rows = int(np.sum(self.batch.weight_R))

    def p(self, gates, shift=None):
        return np.asarray(self.run(gates, np.zeros_like(gates) if shift is None else shift))

    def answers(self, p_R):
        """The product over an answer's rows."""
        return np.array(
            [np.prod([p_R[r] for r in range(self.n_rows) if self.batch.answer_R[r] == answer]) for answer in range(6)]
        )

    def rows_of(self, answer):
        return [r for r in range(self.n_rows) if self.batch.answer_R[r] == answer]

    def highest(self, scores, n):
        mask = np.zeros_like(scores)
        for row in range(scores.shape[1]):
            for index in np.argsort(-scores[:, row].ravel(), kind="stable")[:n]:
                mask[index // scores.shape[2], row, index % scores.shape[2]] = 1
        return mask


def same(found, expected):
    np.testing.assert_allclose(found[: len(expected)], expected, rtol=1e-8, atol=1e-11)


def test_answers_under_edits(found):
    columns, one, _ = found
    mask, ones = one.mask, np.ones_like(one.mask)
    there = one.batch.control_weight_XN[0][:6] > 0
    p, suppressed = one.answers(one.p(ones)), one.answers(one.p(1 - mask))
    same(columns["probability"], p)
    same(columns["suppressed"], suppressed)
    same(columns["control"], np.where(there, one.answers(one.p(1 - mask[:, one.batch.control_XR[0]])), np.nan))
    elsewhere = np.asarray(random_mask(jax.random.key(0), jnp.asarray(mask)))
    assert elsewhere.sum() == mask.sum()
    same(columns["random"], one.answers(one.p(1 - elsewhere)))
    same(columns["amplified"], one.answers(one.p(1 + mask)))
    same(columns["log_probability"], np.log(p))
    same(columns["suppressed_log_probability"], np.log(suppressed))
    same(columns["log_odds"], np.log(p / (1 - p)))
    same(columns["suppressed_log_odds"], np.log(suppressed / (1 - suppressed)))
    same(columns["suppressed_ratio"], suppressed / p)
    residual = []
    for layer in range(2):
        off = ones.copy()
        off[layer] = 0
        residual.append(np.abs(one.scores[layer].sum(-1) - (one.p(ones) - one.p(off))))
    same(columns["residual"], [np.mean(np.mean(residual, 0)[one.rows_of(answer)]) for answer in range(6)])


def test_exact_ablation(found):
    columns, one, _ = found
    effects, p = np.zeros_like(one.mask), one.p(np.ones_like(one.mask))
    for layer in range(effects.shape[0]):
        for neuron in range(effects.shape[2]):
            gates = np.ones_like(one.mask)
            gates[layer, :, neuron] = 0
            effects[layer, :, neuron] = p - one.p(gates)
    mask = one.highest(effects, K)
    there = one.batch.control_weight_XN[0][:6] > 0
    same(columns["ablation_suppressed"], one.answers(one.p(1 - mask)))
    controlled = one.answers(one.p(1 - mask[:, one.batch.control_XR[0]]))
    same(columns["ablation_control"], np.where(there, controlled, np.nan))
    overlap = (mask * one.mask).sum((0, 2)) / K
    same(columns["ablation_overlap"], [np.mean(overlap[one.rows_of(answer)]) for answer in range(6)])
    agreement = [
        scipy.stats.spearmanr(effects[:, row].ravel(), one.scores[:, row].ravel()).statistic
        for row in range(one.n_rows)
    ]
    same(columns["ablation_rank_agreement"], [np.mean([agreement[r] for r in one.rows_of(a)]) for a in range(6)])


def test_mean_and_resampling_ablation(found):
    columns, one, mean_LF = found
    mean = np.broadcast_to(mean_LF[:, None], one.mask.shape)
    same(columns["mean_ablated"], one.answers(one.p(1 - one.mask, one.mask * mean)))
    control_R = one.batch.control_XR[0]
    resampled = one.answers(one.p(1 - one.mask, one.mask * one.neurons[:, control_R]))
    theirs = one.mask[:, control_R]
    of_control = one.answers(one.p(1 - theirs, theirs * one.neurons[:, control_R]))
    there = one.batch.control_weight_XN[0][:6] > 0
    assert there.any()
    same(columns["resampled"], np.where(there, resampled, np.nan))
    same(columns["resampled_control"], np.where(there, of_control, np.nan))
    assert np.abs(columns["mean_ablated"][:6] - columns["resampled"][:6])[there].max() > 1e-4


def test_interchange_moves_both_facts_neurons(found):
    columns, one, _ = found
    batch, targets = one.batch, np.asarray(one.batch.target_R)
    first = [one.rows_of(answer)[0] for answer in range(6)]
    base, moved = np.full(6, np.nan), np.full(6, np.nan)
    zero = np.zeros_like(one.mask)
    for answer in range(6):
        row = first[answer]
        others = [
            first[other]
            for other in range(6)
            if RELATIONS[other] == RELATIONS[answer] and targets[first[other]] != targets[row]
        ]
        if not others:
            continue
        # The next one in the order of the rows.
        partner = min(others, key=lambda other: (other - row) % len(targets))
        aim = targets.copy()
        aim[row] = targets[partner]
        both = np.maximum(one.mask[:, row], one.mask[:, partner])
        gates, shift = np.ones_like(one.mask), zero.copy()
        gates[:, row], shift[:, row] = 1 - both, both * one.neurons[:, partner]
        base[answer] = np.asarray(one.aimed(aim, np.ones_like(gates), zero))[row]
        moved[answer] = np.asarray(one.aimed(aim, gates, shift))[row]
    assert np.isnan(base[5]) and np.isfinite(base[:5]).sum() >= 3
    same(columns["interchange_base"], base)
    same(columns["interchanged"], moved)
    partner_R, there_R = partners(one.measured)
    assert np.asarray(there_R)[first[5]] == 0
    assert batch.answer_R[int(partner_R[first[0]])] in (2, 4)


def test_areas_delete_and_insert_in_the_order_of_the_scores(found):
    columns, one, _ = found
    assert numbers(12) == (1, 2, 3, 6) and numbers(1152) == (2, 4, 9, 18, 36, 72, 144, 288, 576)
    deleted, inserted = [], []
    for n in numbers(12):
        mask = one.highest(one.scores, n)
        deleted.append(one.answers(one.p(1 - mask)))
        inserted.append(one.answers(one.p(mask)))
    same(columns["deletion_area"], np.mean(deleted, 0))
    same(columns["insertion_area"], np.mean(inserted, 0))
    same(columns["kept_alone"], one.answers(one.p(one.mask)))
    same(columns["nothing_kept"], one.answers(one.p(np.zeros_like(one.mask))))


def test_budgets(found):
    columns, one, _ = found
    for k in (1, 2, 4, 8, 16):
        # Of twelve neurons one stays.
        same(columns[f"without_{k}"], one.answers(one.p(1 - one.highest(one.scores, min(k, 11)))))
    positive = np.maximum(one.scores, 0)
    share = (positive * one.mask).sum((0, 2)) / positive.sum((0, 2))
    same(columns["attribution_share"], [np.mean(share[one.rows_of(answer)]) for answer in range(6)])


def test_other_selectors(found):
    columns, one, _ = found
    ones = np.ones_like(one.mask)
    scores = {
        "gradient_x_activation": np.asarray(one.gradient(ones)),
        "activation": one.neurons,
        "projection": np.asarray(one.measured.readout.logit_contributions()),
    }
    for name, found_scores in scores.items():
        mask = one.highest(found_scores, K)
        same(columns[f"{name}_suppressed"], one.answers(one.p(1 - mask)))
        overlap = (mask * one.mask).sum((0, 2)) / K
        same(columns[f"{name}_overlap"], [np.mean(overlap[one.rows_of(answer)]) for answer in range(6)])
        controlled = one.answers(one.p(1 - mask[:, one.batch.control_XR[0]]))
        there = one.batch.control_weight_XN[0][:6] > 0
        same(columns[f"{name}_control"], np.where(there, controlled, np.nan))


def test_other_neurons_bring_back_what_they_can(found):
    columns, one, _ = found
    slope = np.asarray(one.gradient(1 - one.mask)) * (1 - one.mask)
    slope[one.mask > 0] = -np.inf
    then = one.highest(slope, K)
    assert not (then * one.mask).any()
    same(columns["restored"], one.answers(one.p((1 - one.mask) * (1 + then))))


def test_groups_are_found_by_their_columns():
    assert groups_giving(["restored", "probability"]) == ("answers", "other_neurons")
    assert groups_giving([]) == ()
    with pytest.raises(UserError, match="no group of columns gives 'charm'; known: "):
        groups_giving(["probability", "charm"])
    with pytest.raises(UserError, match="unknown group of columns"):
        get_group("charm")


@pytest.mark.parametrize("register", [column_group, set_group])
def test_a_column_has_one_giver(register):
    with pytest.raises(ValueError, match="column 'restored' is given by 'other_neurons' already"):
        register("mine", gives=("restored",), cost="passes")(lambda measured: {})
    with pytest.raises(ValueError, match="'curve' exists already"):
        register("curve", gives=("mine",), cost="passes")(lambda measured: {})
