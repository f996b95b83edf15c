"""Made-up columns and neurons of two models: 0, whose facts sit in neurons of their own, and 1, where nothing does."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxinterp.base.errors import UserError
from jaxinterp.metrics.columns import GROUPS, Like, groups_giving
from jaxinterp.metrics.families.suppression import CLEAN
from jaxinterp.metrics.registry import Neurons

N_FACTS, N_CONCEPTS, N_NEURONS = 24, 3, 90
# Columns that `measure` makes without a group; a group says itself what its columns are like.
UNGROUPED: Like = {
    "correct": (0.95, 0.3),
    "sentence_nll": (10.0, 30.0),
    "sentence_tokens": (8.0, 8.0),
    "text_nll": (60.0, 90.0),
    "text_tokens": (20.0, 20.0),
    **{f"suppressed_{name}": (0.03, 0.28) for name in CLEAN},
}


def made_up_columns(needs: set[str], world: int, given: Mapping[str, float]) -> dict[str, Float[np.ndarray, " N"]]:
    """The columns, nearly the same for all facts: what is given, or what their group says that they are like.

    Raises:
      UserError: if there is no such column, or its group does not say.
    """
    groups = [UNGROUPED, *(GROUPS[name].like for name in GROUPS.names())]
    like = {column: values[world] for group in groups for column, values in group.items()} | dict(given)
    if unknown := sorted(needs - set(like)):
        groups_giving(unknown[:1])  # says if there is no such column
        raise UserError(f"check_metric does not know the column {unknown[0]!r}: say in its group what it is like")
    rng = np.random.default_rng(world)
    return {column: float(like[column]) + 1e-3 * rng.uniform(size=N_FACTS) for column in sorted(needs)}


def made_up_neurons(world: int) -> Neurons:
    """0: each relation has four neurons of its own and each fact three more, which are its knowledge neurons with one
    of the relation's; most others are a little below 0, and two never differ from it. 1: half of the neurons are active
    for everything, and the same four serve all facts.
    """
    rng = np.random.default_rng(world)
    concept = np.arange(N_FACTS) % N_CONCEPTS
    activation, selected = np.zeros((N_FACTS, N_NEURONS)), np.zeros((N_FACTS, N_NEURONS))
    if world == 0:
        for fact in range(N_FACTS):
            relation, own = 4 * concept[fact], 4 * N_CONCEPTS + 3 * fact
            activation[fact, relation : relation + 4] = rng.uniform(1, 2, 4)
            activation[fact, own : own + 3] = 2.0
            selected[fact, [relation, own, own + 1, own + 2]] = 1
        activation -= 0.01 * rng.uniform(size=activation.shape) * (np.arange(N_NEURONS) < N_NEURONS - 2)
    else:
        activation = rng.uniform(0.5, 1.5, activation.shape) * (np.arange(N_NEURONS) < N_NEURONS // 2)
        selected[:, :4] = 1
    arrays = (jnp.asarray(x, "float32") for x in (activation, selected))
    return Neurons(*arrays, jnp.asarray(concept), jnp.arange(N_FACTS), jnp.ones(N_FACTS), N_CONCEPTS)


def made_up_arrays(needs: set[str], world: int) -> dict[str, np.ndarray]:
    """Those of the made-up neurons that a derived metric needs."""
    neurons = made_up_neurons(world)
    known = {
        "activations": ("activation_NU", neurons.activation_NU),
        "selections": ("selected_NU", neurons.selected_NU),
    }
    return {key: np.asarray(array) for need, (key, array) in known.items() if need in needs}
