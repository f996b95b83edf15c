"""Broken copies of every group of columns: edits or neurons a layer off, and answers read a position off.

A mutant that the slow loops do not notice would be a hole in the tests, not in the code. Flipped signs of the metrics
that are computed from the columns are in `test_check.py`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_column_groups as loops
from tiny import fast_readout, tiny_batch, tiny_config, tiny_params

from jaxinterp.attribution import integrated_gradients
from jaxinterp.methods import get_method
from jaxinterp.metrics import selectors
from jaxinterp.metrics.columns import columns_step, get_group, group_names, groups_giving
from jaxinterp.quadrature import quadrature
from jaxinterp.readout import Readout
from jaxinterp.selection import top_k

found = loops.found  # the fixture
TESTS = (
    loops.test_answers_under_edits,
    loops.test_exact_ablation,
    loops.test_mean_and_resampling_ablation,
    loops.test_interchange_moves_both_facts_neurons,
    loops.test_areas_delete_and_insert_in_the_order_of_the_scores,
    loops.test_budgets,
    loops.test_other_selectors,
    loops.test_other_neurons_bring_back_what_they_can,
)
NAMES = tuple(name for name in group_names() if not get_group(name).of_set)
COLUMNS = tuple(column for name in NAMES for column in get_group(name).gives)
# What no edit and no choice of neurons goes into: a layer off changes nothing there.
UNEDITED = {"probability", "log_probability", "log_odds", "interchange_base", "nothing_kept", "residual"}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerOff(Readout):
    """A readout whose edits land in the layer after the one that they are meant for."""

    inner: Readout

    @property
    def shape(self):
        return self.inner.shape

    @property
    def neurons_LRF(self):
        return self.inner.neurons_LRF

    def __call__(self, gates_LRF, shift_LRF=None):
        return self.inner(jnp.roll(gates_LRF, 1, 0), None if shift_LRF is None else jnp.roll(shift_LRF, 1, 0))

    def aimed_at(self, target_R):
        return LayerOff(self.inner.aimed_at(target_R))

    def logit_contributions(self):
        return jnp.roll(self.inner.logit_contributions(), 1, 0)


def edits_a_layer_off(measured):
    return dataclasses.replace(measured, readout=LayerOff(measured.readout))


def neurons_a_layer_off(measured):
    mask, mean_LF = jnp.roll(measured.mask_LRF, 1, 0), jnp.roll(measured.mean_LF, 1, 0)
    return dataclasses.replace(measured, mask_LRF=mask, mean_LF=mean_LF)


class ScoresOff:
    """A method of attribution whose scores are those of the layer before."""

    def __init__(self, method):
        self.method = method

    def scores(self, readout, key):
        return jnp.roll(self.method.scores(readout, key), 1, 0)


def position_off(measured):
    config = tiny_config(n_layers=2, dtype="float64")
    params, batch = jax.tree.map(lambda leaf: 1.5 * leaf, tiny_params(config)), tiny_batch()
    assert (np.asarray(batch.position_R)[np.asarray(batch.weight_R) > 0] > 0).all()
    moved = batch._replace(position_R=np.maximum(np.asarray(batch.position_R) - 1, 0))
    readout = fast_readout(config, params, moved)
    attribution = jax.jit(lambda r: integrated_gradients(r, quadrature("midpoint", 4), path="per_layer"))(readout)
    mask = top_k(attribution.scores_LRF, loops.K)
    return dataclasses.replace(measured, readout=readout, attribution=attribution, mask_LRF=mask)


MUTATIONS = (edits_a_layer_off, neurons_a_layer_off, position_off)
LAYERS = ("edits_a_layer_off", "neurons_a_layer_off", "scores_a_layer_off")


@pytest.fixture(scope="module")
def mutants(found):
    """The columns of each broken copy, and which of the loops looks at which column."""
    columns, one, mean_LF = found
    step = columns_step(NAMES)
    broken = {
        mutation.__name__: {name: np.asarray(v) for name, v in step(fresh(mutation(one.measured))).items()}
        for mutation in MUTATIONS
    }
    with pytest.MonkeyPatch.context() as patch:
        # Where edits are off and scores with them, a selector finds the right neurons in the wrong place.
        patch.setattr(selectors, "get_method", lambda name: ScoresOff(get_method(name)))
        of_selectors = columns_step.__wrapped__(groups_giving(["ablation_suppressed", "activation_suppressed"]))
        selected = {name: np.asarray(v) for name, v in of_selectors(fresh(one.measured)).items()}
    broken["scores_a_layer_off"] = {**columns, **selected}
    looks: dict[str, list] = {}
    for test in TESTS:
        seen = Seen(columns)
        test((seen, one, mean_LF))
        for column in seen.names:
            looks.setdefault(column, []).append(test)
    return broken, looks


def fresh(measured):
    """With the key that the unbroken columns had, not yet consumed."""
    return dataclasses.replace(measured, key=jax.random.key(0))


class Seen(dict):
    """Columns that note which of them are looked at."""

    def __init__(self, columns):
        super().__init__(columns)
        self.names: set[str] = set()

    def __getitem__(self, name):
        self.names.add(name)
        return super().__getitem__(name)


def reached(broken, columns, column):
    return not np.allclose(broken[column], columns[column], rtol=1e-9, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("mutation", [*LAYERS, "position_off"])
@pytest.mark.parametrize("column", COLUMNS)
def test_a_mutant_is_noticed(column, mutation, found, mutants):
    columns, one, mean_LF = found
    broken, looks = mutants
    assert column in looks, f"no loop looks at {column}"
    if not reached(broken[mutation], columns, column):
        return  # see below
    values = broken[mutation][column]
    with pytest.raises(AssertionError):
        for test in looks[column]:
            test(({**columns, column: values}, one, mean_LF))


@pytest.mark.parametrize("column", COLUMNS)
def test_mutations_reach_the_columns(column, found, mutants):
    broken, _ = mutants
    assert reached(broken["position_off"], found[0], column)
    assert any(reached(broken[name], found[0], column) for name in LAYERS) == (column not in UNEDITED)
