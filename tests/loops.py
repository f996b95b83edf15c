"""Groups of columns against loops over rows and neurons that run full forwards alone.

Each check takes the columns and the loops, and raises AssertionError where they differ.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from tiny import fast_readout, slow_readout, tiny_batch, tiny_config, tiny_params

from jaxinterp.attribution.edits import random_mask
from jaxinterp.attribution.integrated_gradients import integrated_gradients
from jaxinterp.attribution.quadrature import quadrature
from jaxinterp.attribution.registry import METHODS
from jaxinterp.facts.controls import CONTROL_KINDS, KINDS
from jaxinterp.metrics.columns import (
    GROUPS,
    Compared,
    Measured,
    columns_of_groups,
)
from jaxinterp.metrics.families.faithfulness import numbers
from jaxinterp.metrics.families.reliance import POINTS, thirds
from jaxinterp.metrics.families.selectors import CHEAP

K = 3
N = 6  # answers of the batch, of 9 rows
N_CONTROLS = 2  # of each kind
SELECTORS = ("ablation", *CHEAP, "projection")
NAMES = {looks: tuple(n for n in GROUPS.names() if GROUPS[n].looks == looks) for looks in ("batch", "compared")}


@contextlib.contextmanager
def columns_and_loops() -> Iterator[tuple[dict[str, np.ndarray], "Loops"]]:
    """A batch's columns by the fast readout, and what slow loops need; its controls are made up."""
    with jax.enable_x64(True):
        config = tiny_config(n_layers=2, dtype="float64")
        params, batch = jax.tree.map(lambda leaf: 1.5 * leaf, tiny_params(config)), tiny_batch()
        readout = fast_readout(config, params, batch)
        attribution = jax.jit(lambda r: integrated_gradients(r, quadrature("midpoint", 4), path="per_layer"))(readout)
        key_N = answer_keys()
        scores = {name: jax.jit(METHODS[name].scores)(readout, jax.random.key(1)) for name in SELECTORS}
        measured = Measured(batch.answers, readout, attribution, scores, key_N, K)
        slow = slow_readout(config, params, batch)
        run = jax.jit(lambda gates, shift: slow(gates, shift))
        gradient = jax.jit(jax.grad(lambda gates: slow(gates).sum()))
        aimed = jax.jit(lambda target, gates, shift: slow_aimed(slow, target)(gates, shift))
        parts = jax.jit(jax.grad(lambda attention, ffn: scaled_total(slow, attention, ffn), argnums=(0, 1)))
        one = Loops(measured, np.asarray(slow.neurons_LRF), run, gradient, aimed, parts)
        one.compared = made_up_controls(one)
        columns = {
            **{name: np.asarray(v) for name, v in columns_of_groups(NAMES["batch"], measured).items()},
            **{name: np.asarray(v) for name, v in columns_of_groups(NAMES["compared"], one.compared).items()},
        }
        yield columns, one


def made_up_controls(one):
    """Any neurons of the batch's answers as those of controls, and donors that no prompt has."""
    rng = np.random.default_rng(3)
    n_layers, n_rows, n_neurons = one.mask.shape
    scores = {"attribution": one.scores, **{name: np.asarray(x) for name, x in one.measured.scores.items()}}
    chosen = {name: one.neurons_of_answers(values, n_rows) for name, values in scores.items()}
    partner_XN = np.stack([rng.permutation(N) for _ in range(len(KINDS) * N_CONTROLS)])
    weight_XN = np.zeros((len(partner_XN), n_rows))
    weight_XN[:, :N] = 1
    weight_XN[:, 5] = 0  # the last answer has no control
    weight_XN[N_CONTROLS:, 4] = 0  # and this one those of its relation alone
    padded = np.pad(partner_XN, ((0, 0), (0, n_rows - N)))
    return Compared(
        one.answer_rows,
        one.measured.readout,
        {name: jnp.asarray(neurons) for name, neurons in chosen.items()},
        {name: jnp.asarray(neurons[padded]) for name, neurons in chosen.items()},
        jnp.asarray(weight_XN),
        jnp.asarray(rng.standard_normal((len(CONTROL_KINDS), n_layers, n_rows, n_neurons))),
        jnp.asarray(rng.integers(1, 11, (len(CONTROL_KINDS), n_rows))),
        jnp.asarray(rng.standard_normal((n_layers, n_neurons))),
    )


def scaled_total(slow, attention_LR, ffn_LR):
    gates_LRF = jnp.broadcast_to(ffn_LR[..., None], slow.shape)
    return slow.scaled(gates_LRF, attention_LR).sum()


def slow_aimed(slow, target):
    return dataclasses.replace(slow, rows=slow.rows._replace(target_R=target))


class Loops:
    def __init__(self, measured, neurons, run, gradient, aimed, parts):
        self.measured, self.answer_rows, self.neurons = measured, measured.answers, neurons
        self.run, self.gradient, self.aimed, self.parts = run, gradient, aimed, parts
        self.by_row = np.asarray(measured.attribution.scores_LRF)
        self.n_rows = int(np.sum(self.answer_rows.weight_R))
        self.scores = self.of_answers(self.by_row)
        self.mask = self.highest(self.scores, K)

    def p(self, gates, shift=None):
        return np.asarray(self.run(gates, np.zeros_like(gates) if shift is None else shift))

    def answers(self, p_R):
        """The product over an answer's rows."""
        return np.array([np.prod([p_R[r] for r in self.rows_of(answer)]) for answer in range(N)])

    def rows_of(self, answer):
        return [r for r in range(self.n_rows) if self.answer_rows.answer_R[r] == answer]

    def of_answers(self, scores):
        """Summed over the rows of an answer, at each of them."""
        total = np.zeros_like(scores)
        for answer in range(N):
            for row in self.rows_of(answer):
                total[:, row] = sum(scores[:, other] for other in self.rows_of(answer))
        return total

    def highest(self, scores, n):
        mask = np.zeros_like(scores)
        for row in range(scores.shape[1]):
            for index in np.argsort(-scores[:, row].ravel(), kind="stable")[:n]:
                mask[index // scores.shape[2], row, index % scores.shape[2]] = 1
        return mask

    def neurons_of_answers(self, scores, n):
        """The numbers of the K neurons of each answer; 0 for padding."""
        total = self.of_answers(scores)
        found = np.zeros((n, K), int)
        for answer in range(N):
            found[answer] = np.argsort(-total[:, self.rows_of(answer)[0]].ravel(), kind="stable")[:K]
        return found

    def mask_of(self, neurons_NK):
        """1 for the neurons of each row's answer."""
        mask = np.zeros_like(self.mask)
        for row in range(self.n_rows):
            for neuron in np.asarray(neurons_NK)[self.answer_rows.answer_R[row]]:
                mask[neuron // mask.shape[2], row, neuron % mask.shape[2]] = 1
        return mask

    def controls(self, selector):
        """By kind: P without each control's neurons, and whether an answer has that control, [n, N] each."""
        found = {}
        for place, kind in enumerate(KINDS):
            own = slice(place * N_CONTROLS, (place + 1) * N_CONTROLS)
            masks = [self.mask_of(neurons) for neurons in np.asarray(self.compared.control[selector])[own]]
            there = np.asarray(self.compared.weight_XN)[own, :N] > 0
            found[kind] = np.array([self.answers(self.p(1 - mask)) for mask in masks]), there
        return found


def known_mean(values, there):
    return np.array([values[there[:, n], n].mean() if there[:, n].any() else np.nan for n in range(N)])


def same(found, expected):
    np.testing.assert_allclose(found[: len(expected)], expected, rtol=1e-8, atol=1e-11)


def answers_under_edits(found):
    columns, one = found
    mask, ones = one.mask, np.ones_like(one.mask)
    p, suppressed = one.answers(one.p(ones)), one.answers(one.p(1 - mask))
    same(columns["probability"], p)
    same(columns["suppressed"], suppressed)
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
        residual.append(np.abs(one.by_row[layer].sum(-1) - (one.p(ones) - one.p(off))))
    same(columns["residual"], [np.mean(np.mean(residual, 0)[one.rows_of(answer)]) for answer in range(N)])


def answer_keys():
    return jax.random.split(jax.random.key(0), 10)


def active(one):
    """Where an activation is above a millionth of its row's largest."""
    size = np.abs(one.neurons)
    return size > 1e-6 * size.max((0, 2), keepdims=True)


def random_neurons_are_those_of_the_answers_first_row(found):
    columns, one = found
    active_LRF, mask_LRF = jnp.asarray(active(one).astype(float)), one.measured.mask_LRF
    keys, drawn = answer_keys(), np.zeros(mask_LRF.shape)
    for answer in range(N):
        rows = one.rows_of(answer)
        first = slice(rows[0], rows[0] + 1)
        drawn[:, rows] = np.asarray(random_mask(keys[answer], mask_LRF[:, first], active_LRF[:, first]))
    assert np.abs(drawn - one.mask)[:, : one.n_rows].max() == 1
    same(columns["random"], one.answers(one.p(1 - drawn)))


def tokens_and_whole_answers(found):
    columns, one = found
    ones = np.ones_like(one.mask)
    p, each = one.p(ones), one.p(1 - one.highest(one.by_row, K))
    same(columns["token_probability"], [np.mean(p[one.rows_of(answer)]) for answer in range(N)])
    same(columns["token_suppressed"], [np.mean(each[one.rows_of(answer)]) for answer in range(N)])
    same(columns["each_suppressed"], one.answers(each))
    suppressed = one.answers(one.p(1 - one.mask))
    length = np.array([len(one.rows_of(answer)) for answer in range(N)])
    assert set(length) == {1, 2}
    for n in (1, 2, 3):
        same(columns[f"suppressed_length_{n}"], np.where(length == n, suppressed, np.nan))
    assert np.abs(columns["each_suppressed"][:N] - suppressed)[length == 2].max() > 1e-6


def controls_of_every_kind(found):
    columns, one = found
    p = one.answers(one.p(np.ones_like(one.mask)))
    for kind, (values, there) in one.controls("attribution").items():
        same(columns[f"control_{kind}"], known_mean(values, there))
        same(columns[f"control_{kind}_lost"], known_mean(np.maximum(p - values, 0), there))
        same(columns[f"control_{kind}_moved"], known_mean(np.abs(p - values), there))
    assert np.isfinite(columns["control_relation"][4]) and np.isnan(columns["control_subject"][4])
    assert np.isnan(columns["control_relation"][5])


def ablation(one):
    effects, p = np.zeros_like(one.mask), one.p(np.ones_like(one.mask))
    for layer in range(effects.shape[0]):
        for neuron in range(effects.shape[2]):
            gates = np.ones_like(one.mask)
            gates[layer, :, neuron] = 0
            effects[layer, :, neuron] = p - one.p(gates)
    return effects


def check_selector(columns, one, name, scores):
    mask = one.highest(one.of_answers(scores), K)
    same(columns[f"{name}_suppressed"], one.answers(one.p(1 - mask)))
    overlap = (mask * one.mask).sum((0, 2)) / K
    same(columns[f"{name}_overlap"], [np.mean(overlap[one.rows_of(answer)]) for answer in range(N)])
    for kind, (values, there) in one.controls(name).items():
        if kind in CONTROL_KINDS:
            same(columns[f"{name}_control_{kind}"], known_mean(values, there))


def exact_ablation(found):
    columns, one = found
    effects = ablation(one)
    check_selector(columns, one, "ablation", effects)
    on = active(one)
    agreement = [
        scipy.stats.spearmanr(effects[:, row][on[:, row]], one.by_row[:, row][on[:, row]]).statistic
        for row in range(one.n_rows)
    ]
    same(columns["ablation_rank_agreement"], [np.mean([agreement[r] for r in one.rows_of(a)]) for a in range(N)])


def mean_and_resampling_ablation(found):
    columns, one = found
    compared = one.compared
    mean = np.broadcast_to(np.asarray(compared.mean_LF)[:, None], one.mask.shape)
    same(columns["mean_ablated"], one.answers(one.p(1 - one.mask, one.mask * mean)))
    weight = np.asarray(compared.weight_XN)[:, :N]
    resampled, known = [], []
    for place, kind in enumerate(CONTROL_KINDS):
        donor = np.asarray(compared.donor_KLRF)[place]
        there = weight[place * N_CONTROLS] > 0
        own = one.answers(one.p(1 - one.mask, one.mask * donor))
        theirs = one.mask_of(np.asarray(compared.control["attribution"])[place * N_CONTROLS])
        of_control = one.answers(one.p(1 - theirs, theirs * donor))
        same(columns[f"resampled_control_{kind}"], np.where(there, of_control, np.nan))
        resampled.append(own)
        known.append(there)
    same(columns["resampled"], known_mean(np.array(resampled), np.array(known)))


def interchange_moves_both_facts_neurons(found):
    columns, one = found
    compared = one.compared
    donor, target = np.asarray(compared.donor_KLRF)[0], np.asarray(compared.donor_target_KR)[0]
    both = np.maximum(one.mask, one.mask_of(np.asarray(compared.control["attribution"])[0]))
    base = np.asarray(one.aimed(target, np.ones_like(both), np.zeros_like(both)))
    moved = np.asarray(one.aimed(target, 1 - both, both * donor))
    first = [one.rows_of(answer)[0] for answer in range(N)]
    there = np.asarray(compared.weight_XN)[0, :N] > 0
    same(columns["interchange_base"], np.where(there, base[first], np.nan))
    same(columns["interchanged"], np.where(there, moved[first], np.nan))


def areas_delete_and_insert_in_the_order_of_the_scores(found):
    columns, one = found
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


def layers_are_early_middle_or_late(found):
    columns, one = found
    numbers = {n: [np.flatnonzero(layer_L).tolist() for layer_L in thirds(n).values()] for n in (1, 2, 3, 5, 12)}
    assert numbers[1] == [[0], [], []] and numbers[2] == [[0], [], [1]] and numbers[3] == [[0], [1], [2]]
    assert numbers[5] == [[0, 1], [2, 3], [4]] and list(map(len, numbers[12])) == [4, 4, 4]
    for third, layer in (("early", 0), ("late", 1)):
        there = np.zeros_like(one.mask)
        there[layer] = 1
        same(columns[f"{third}_off"], one.answers(one.p(1 - there)))
        same(columns[f"own_{third}_off"], one.answers(one.p(1 - there * one.mask)))
    assert np.isnan(columns["middle_off"]).all() and np.isnan(columns["own_middle_off"]).all()


def attention_beside_neurons(found):
    columns, one = found
    nodes, weights = np.polynomial.legendre.leggauss(POINTS)
    total = np.zeros((2, *one.mask.shape[:2]))
    for node, weight in zip((1 + nodes) / 2, weights / 2, strict=True):
        alpha = np.full(one.mask.shape[:2], node)
        total += weight * np.array(one.parts(alpha, alpha))
    for name, by_row in zip(("attention", "ffn"), total.sum(1), strict=True):
        same(columns[f"{name}_attribution"], [np.mean(by_row[one.rows_of(answer)]) for answer in range(N)])
    assert np.abs(total).min(2).max() > 0


def budgets(found):
    columns, one = found
    for k in (1, 2, 4, 8, 16):
        # Of twelve neurons one stays.
        same(columns[f"without_{k}"], one.answers(one.p(1 - one.highest(one.scores, min(k, 11)))))
    positive = np.maximum(one.scores, 0)[:, : one.n_rows]
    share = (positive * one.mask[:, : one.n_rows]).sum((0, 2)) / positive.sum((0, 2))
    same(columns["attribution_share"], [np.mean(share[one.rows_of(answer)]) for answer in range(N)])


def other_selectors(found):
    columns, one = found
    ones = np.ones_like(one.mask)
    scores = {
        "gradient_x_activation": np.asarray(one.gradient(ones)),
        "activation": one.neurons,
        "projection": np.asarray(one.measured.readout.logit_contributions()),
    }
    for name, found_scores in scores.items():
        check_selector(columns, one, name, found_scores)


def other_neurons_bring_back_what_they_can(found):
    columns, one = found
    slope = np.asarray(one.gradient(1 - one.mask)) * (1 - one.mask)
    slope = one.of_answers(slope)
    slope[one.mask > 0] = -np.inf
    then = one.highest(slope, K)
    assert not (then * one.mask).any()
    same(columns["restored"], one.answers(one.p((1 - one.mask) * (1 + then))))


def answers_spread_over_neurons(found):
    columns, one = found
    n, ones = one.mask.shape[0] * one.mask.shape[2], np.ones_like(one.mask)
    p, share = one.answers(one.p(ones)), []
    for answer in range(N):
        size = np.sort(np.abs(one.scores[:, one.rows_of(answer)[0]]).ravel())[::-1]
        share.append(next(k for k in range(1, n + 1) if size[:k].sum() >= 0.9 * size.sum()) / n)
    same(columns["neurons_90"], share)
    assert 0 < min(share) < max(share)
    numbers = (0, 1, 2, 4, 8, 12)
    lost = [1 - one.answers(one.p(1 - (one.highest(one.scores, k) if k < n else ones))) / p for k in numbers]
    needed = []
    for of_answer in np.transpose(lost):
        at = next((place for place, value in enumerate(of_answer) if value >= 0.9), None)
        if at is None or numbers[at] == 1:
            needed.append(n if at is None else 1)
            continue
        way = (0.9 - of_answer[at - 1]) / (of_answer[at] - of_answer[at - 1])
        needed.append(np.exp(np.log(numbers[at - 1]) * (1 - way) + np.log(numbers[at]) * way))
    same(columns["neurons_for_drop"], needed)


CHECKS = (
    answers_spread_over_neurons,
    answers_under_edits,
    random_neurons_are_those_of_the_answers_first_row,
    tokens_and_whole_answers,
    controls_of_every_kind,
    exact_ablation,
    mean_and_resampling_ablation,
    interchange_moves_both_facts_neurons,
    areas_delete_and_insert_in_the_order_of_the_scores,
    budgets,
    layers_are_early_middle_or_late,
    attention_beside_neurons,
    other_selectors,
    other_neurons_bring_back_what_they_can,
)
