"""Neurons change places, so that connections are short."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxinterp.base.errors import UserError
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.parameters import ffn, ffn_matrices
from jaxinterp.objectives.terms.wiring import distances
from jaxinterp.training.registry import number_of, transform

NAME = "swaps"
MOST = 128  # swaps of a layer at a time
WORTH = 1e-6  # of a layer's cost: a swap that saves less may save nothing but rounding


class Swapping(NamedTuple):
    """The state of the optimiser, and where it is."""

    inner: optax.OptState
    count: Int[Array, ""]  # steps done


@transform(NAME)
def swaps(
    inner: optax.GradientTransformation, text: str, model: ModelConfig, steps: int
) -> optax.GradientTransformation:
    """Every so many steps, swaps neurons of a layer as long as the term `wiring` falls (Liu, Gan and Tegmark 2023).

    A swap exchanges all weights of two neurons, and what the optimiser keeps for them, so that the network's function
    and its training stay as they are, up to rounding. Neurons of a layer have no connections with one another, so that
    their costs add up; each swap is the best of all pairs, at most 128 in a layer at a time. The paper looks for the
    best partners of the few neurons of most weight, and swaps coordinates of the residual stream and heads, too, which
    stay in their places here. Neurons of a mixture of experts stay with their expert.

    Args:
      inner: the optimiser.
      text: steps from one time to the next, 1 or more.
      model: whose parameters are trained.
      steps: of the whole run; not looked at.
    Raises:
      UserError: if the steps are no whole number above 0.
    """
    every = number_of(NAME, text)
    if every < 1 or every != int(every):
        raise UserError(f"optimiser.transforms.{NAME} is a number of steps: whole and at least 1, got {text}")
    axes = {name: of.axes.index("mlp") + 1 for name, of in ffn(model).items() if "mlp" in of.axes}

    def axis_of(path: tuple) -> int | None:
        """The axis of the neurons, for a parameter of theirs and what the optimiser keeps for it."""
        names = [getattr(key, "key", None) for key in path[-2:]]
        return axes.get(names[1]) if names[0] == "layers" else None

    def in_order(tree: Any, order_LF: Array) -> Any:
        def moved(path: tuple, leaf: Array) -> Array:
            axis = axis_of(path)
            return leaf if axis is None else jnp.take_along_axis(leaf, _along(order_LF, leaf, axis), axis)

        return jax.tree_util.tree_map_with_path(moved, tree)

    def swap(updates: dict, state: Any, params: dict, due: Array) -> tuple[dict, Any]:
        after = optax.apply_updates(params, updates)
        order_LF = jax.lax.map(lambda cost_FF: _order(cost_FF, due, model.experts), _costs(after["layers"], model))
        stays_LF = order_LF == jnp.arange(model.d_mlp)[None]

        def update(path: tuple, old: Array, param: Array, new: Array) -> Array:
            axis = axis_of(path)
            return old if axis is None else jnp.where(_along(stays_LF, old, axis), old, new - param)

        updates = jax.tree_util.tree_map_with_path(update, updates, params, in_order(after, order_LF))
        return updates, in_order(state, order_LF)

    def update(updates: dict, state: Swapping, params: dict) -> tuple[dict, Swapping]:
        updates, of_inner = inner.update(updates, state.inner, params)
        done = state.count + 1
        due = done % int(every) == 0
        # Under `vmap` both branches are computed: no pairs are searched in a step that is not due.
        updates, of_inner = jax.lax.cond(
            due, lambda u, s: swap(u, s, params, due), lambda u, s: (u, s), updates, of_inner
        )
        return updates, Swapping(of_inner, done)

    return optax.GradientTransformation(lambda params: Swapping(inner.init(params), jnp.zeros((), jnp.int32)), update)


def _along(of_LF: Array, leaf: Array, axis: int) -> Array:
    """Numbers of neurons with the axes of a parameter of theirs."""
    return jnp.expand_dims(of_LF, [i for i in range(1, leaf.ndim) if i != axis])


def _costs(layers: Mapping, model: ModelConfig) -> Float[Array, "L F F"]:
    """What the wiring of each neuron would cost at each place: Σ_D |weights| · distance."""
    total_LFD: Array | float = 0.0
    for name, of in ffn_matrices(model).items():
        w = layers[name].astype(jnp.promote_types(layers[name].dtype, jnp.float32))
        size_LFD = jnp.abs(jnp.moveaxis(w, of.axes.index("mlp") + 1, 1))
        total_LFD = total_LFD + size_LFD.sum(tuple(range(3, w.ndim)))  # units of a neuron stand where it stands
    return total_LFD @ distances(model.d_model, model.d_mlp).astype(total_LFD.dtype)


def _order(cost_FF: Float[Array, "F F"], due: Array, n_groups: int = 1) -> Int[Array, " F"]:
    """The neuron that comes to stand at each place, after swaps of the pair that saves most, one after another."""
    n = cost_FF.shape[0]
    group_F = jnp.arange(n) // (n // n_groups)
    together_FF = group_F[:, None] == group_F[None]

    def best(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        order_F, _, count = state
        at_FF = cost_FF[order_F]  # of the neuron at the first place, if it stood at the second
        own_F = jnp.diagonal(at_FF)
        change_FF = jnp.where(together_FF, at_FF + at_FF.T - own_F[:, None] - own_F[None], 0)
        pair = change_FF.argmin()
        a, b = pair // n, pair % n
        saves = change_FF[a, b] < -WORTH * own_F.sum()
        swapped_F = order_F.at[a].set(order_F[b]).at[b].set(order_F[a])
        return jnp.where(saves, swapped_F, order_F), saves, count + 1

    going = lambda state: state[1] & (state[2] < MOST)  # noqa: E731
    return jax.lax.while_loop(going, best, (jnp.arange(n), due, jnp.zeros((), jnp.int32)))[0]
