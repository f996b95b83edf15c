"""A few steps of an optimiser in one program, for what is fitted on the side; runs of training have a driver."""

from collections.abc import Callable
from typing import Any

import jax
import optax


def fit(gradient: Callable[[Any, Any], Any], params: Any, transform: optax.GradientTransformation, inputs: Any) -> Any:
    """The parameters after a step for each of the inputs; for `jit`.

    Args:
      gradient: (parameters, the inputs of a step) -> what the optimiser takes for the gradient, like the parameters.
      params: any pytree of arrays.
      transform: the optimiser.
      inputs: a pytree of arrays whose leading axis is the steps.
    """

    def step(state: tuple, batch: Any) -> tuple[tuple, None]:
        params, opt_state = state
        updates, opt_state = transform.update(gradient(params, batch), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    (params, _), _ = jax.lax.scan(step, (params, transform.init(params)), inputs)
    return params
