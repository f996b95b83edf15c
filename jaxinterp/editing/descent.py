"""Going down a loss until it is low enough."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def descended(
    loss: Callable[[Array], Float[Array, ""]],
    start: Float[Array, "..."],
    transform: optax.GradientTransformation,
    project: Callable[[Array], Array] = lambda x: x,
    *,
    steps: int,
    enough: float,
) -> tuple[Float[Array, "..."], Int[Array, ""]]:
    """Where the loss is below `enough`, or after that many steps, and the steps that were taken; for `jit`.

    Args:
      loss: of x.
      start: x at first; it stays as it is if its loss is low enough.
      transform: the optimiser.
      project: of x after each step, to what is allowed.
      steps: at most.
      enough: loss at which to end.
    """

    def step(state: tuple) -> tuple:
        number, _, x, optimiser = state
        value, slope = jax.value_and_grad(loss)(x)
        updates, optimiser = transform.update(slope, optimiser, x)
        done = value < enough
        return number + ~done, done, jnp.where(done, x, project(optax.apply_updates(x, updates))), optimiser

    state = (jnp.asarray(0), jnp.asarray(False), start, transform.init(start))
    number, _, x, _ = jax.lax.while_loop(lambda state: (state[0] < steps) & ~state[1], step, state)
    return x, number
