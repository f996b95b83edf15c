"""Broken copies of every group of columns: edits or neurons a layer off, answers read a position off, controls of the
wrong kind, donors of the wrong row.

A mutant that the slow loops do not notice would be a hole in the tests, not in the code. Flipped signs of the metrics
that are computed from the columns are in `test_check.py`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import loops
import numpy as np
import pytest
from tiny import fast_readout, tiny_batch, tiny_config, tiny_params

from jaxinterp.attribution.integrated_gradients import integrated_gradients
from jaxinterp.attribution.quadrature import quadrature
from jaxinterp.attribution.readout import GateBranches, TokenReadout
from jaxinterp.metrics.columns import GROUPS, columns_of_groups

COLUMNS = tuple(column for names in loops.NAMES.values() for name in names for column in GROUPS[name].gives)
OF_CONTROLS = tuple(column for column in COLUMNS if "control_" in column)
OF_DONORS = ("resampled", "interchanged", *(column for column in COLUMNS if column.startswith("resampled_control")))
# What no edit and no choice of neurons goes into: a layer off changes nothing there.
UNEDITED = {
    *("probability", "log_probability", "log_odds", "residual", "token_probability"),
    *("interchange_base", "nothing_kept", "attribution_share", "attention_attribution", "ffn_attribution"),
    "neurons_90",
    "neurons_for_drop",  # an edit goes into it, but these answers are lost by all neurons alone, wherever it lands
}
# Of the neurons that were chosen alone: what is read, and in which layer, is no matter then
OVERLAPS = {column for column in COLUMNS if column.endswith("_overlap")}
# No answer of the batch is so long, and two layers have no middle: NaN
NOWHERE = {"suppressed_length_3", "middle_off", "own_middle_off"}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerOff(TokenReadout):
    """A readout whose edits land in the layer after the one that they are meant for."""

    inner: TokenReadout

    @property
    def shape(self):
        return self.inner.shape

    @property
    def neurons_LRF(self):
        return self.inner.neurons_LRF

    def __call__(self, gates_LRF, shift_LRF=None):
        return self.inner(jnp.roll(gates_LRF, 1, 0), None if shift_LRF is None else jnp.roll(shift_LRF, 1, 0))

    def scaled(self, gates_LRF, attention_LR):
        return self.inner.scaled(jnp.roll(gates_LRF, 1, 0), jnp.roll(attention_LR, 1, 0))

    def untouched(self):
        return self.inner.untouched()

    def branches(self):
        return GateBranches(self)

    def evaluations_at_once(self):
        return self.inner.evaluations_at_once()

    def aimed_at(self, target_R):
        return LayerOff(self.inner.aimed_at(target_R))

    def logit_contributions(self):
        return self.inner.logit_contributions()


def edits_a_layer_off(measured, compared):
    return tuple(dataclasses.replace(seen, readout=LayerOff(seen.readout)) for seen in (measured, compared))


def neurons_a_layer_off(measured, compared):
    scores_LRF = jnp.roll(measured.attribution.scores_LRF, 1, 0)
    n_layers, _, n_neurons = scores_LRF.shape
    next_layer = lambda of: {name: (x + n_neurons) % (n_layers * n_neurons) for name, x in of.items()}  # noqa: E731
    return (
        dataclasses.replace(measured, attribution=measured.attribution._replace(scores_LRF=scores_LRF)),
        dataclasses.replace(
            compared,
            chosen=next_layer(compared.chosen),
            control=next_layer(compared.control),
            mean_LF=jnp.roll(compared.mean_LF, 1, 0),
        ),
    )


def position_off(measured, compared):
    config = tiny_config(n_layers=2, dtype="float64")
    params, batch = jax.tree.map(lambda leaf: 1.5 * leaf, tiny_params(config)), tiny_batch()
    assert (np.asarray(batch.rows.position_R)[np.asarray(batch.answers.weight_R) > 0] > 0).all()
    moved = batch._replace(rows=batch.rows._replace(position_R=np.maximum(np.asarray(batch.rows.position_R) - 1, 0)))
    readout = fast_readout(config, params, moved)
    attribution = jax.jit(lambda r: integrated_gradients(r, quadrature("midpoint", 4), path="per_layer"))(readout)
    return (
        dataclasses.replace(measured, readout=readout, attribution=attribution),
        dataclasses.replace(compared, readout=readout),
    )


def kinds_exchanged(measured, compared):
    control = {name: jnp.roll(x, loops.N_CONTROLS, 0) for name, x in compared.control.items()}
    return measured, dataclasses.replace(compared, control=control)


def donors_a_row_off(measured, compared):
    return measured, dataclasses.replace(compared, donor_KLRF=jnp.roll(compared.donor_KLRF, 1, 2))


def own_neurons_of_another_answer(measured, compared):
    own = jnp.roll(compared.chosen["attribution"][: loops.N], 1, 0)
    chosen = {**compared.chosen, "attribution": compared.chosen["attribution"].at[: loops.N].set(own)}
    return measured, dataclasses.replace(compared, chosen=chosen)


MUTATIONS = (
    edits_a_layer_off,
    neurons_a_layer_off,
    position_off,
    kinds_exchanged,
    donors_a_row_off,
    own_neurons_of_another_answer,
)
NAMES = tuple(mutation.__name__ for mutation in MUTATIONS)
LAYERS = ("edits_a_layer_off", "neurons_a_layer_off")


@pytest.fixture(scope="module")
def found():
    with loops.columns_and_loops() as both:
        yield both


@pytest.fixture(scope="module")
def mutants(found):
    """The columns of each broken copy, and which of the loops looks at which column."""
    columns, one = found
    steps = [functools.partial(columns_of_groups, loops.NAMES[looks]) for looks in ("batch", "compared")]
    broken = {}
    for mutation in MUTATIONS:
        copies = mutation(one.measured, one.compared)
        # With the keys that the unbroken columns had, not yet consumed.
        copies = dataclasses.replace(copies[0], key_N=loops.answer_keys()), copies[1]
        values = {name: v for step, seen in zip(steps, copies, strict=True) for name, v in step(seen).items()}
        broken[mutation.__name__] = {name: np.asarray(v) for name, v in values.items()}
    looks: dict[str, list] = {}
    for check in loops.CHECKS:
        seen = Seen(columns)
        check((seen, one))
        for column in seen.names:
            looks.setdefault(column, []).append(check)
    return broken, looks


class Seen(dict):
    """Columns that note which of them are looked at."""

    def __init__(self, columns):
        super().__init__(columns)
        self.names: set[str] = set()

    def __getitem__(self, name):
        self.names.add(name)
        return super().__getitem__(name)


def reached(broken, columns, column):
    return not np.allclose(broken[column][: loops.N], columns[column][: loops.N], rtol=1e-9, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("column", COLUMNS)
def test_a_mutant_is_noticed(column, found, mutants):
    columns, one = found
    broken, looks = mutants
    assert column in looks, f"no loop looks at {column}"
    for mutation in NAMES:
        if not reached(broken[mutation], columns, column):
            continue  # see below
        with pytest.raises(AssertionError):
            for check in looks[column]:
                check(({**columns, column: broken[mutation][column]}, one))


@pytest.mark.parametrize("column", COLUMNS)
def test_mutations_reach_the_columns(column, found, mutants):
    broken, _ = mutants
    of = {mutation: reached(broken[mutation], found[0], column) for mutation in NAMES}
    assert of["position_off"] == (column not in NOWHERE | OVERLAPS)
    assert any(of[name] for name in LAYERS) == (column not in UNEDITED | NOWHERE | OVERLAPS)
    own = column in (*OVERLAPS, "mean_ablated", "resampled", "interchanged")
    assert of["own_neurons_of_another_answer"] == own
    assert of["kinds_exchanged"] == (column in OF_CONTROLS or column == "interchanged")
    assert of["donors_a_row_off"] == (column in OF_DONORS)
