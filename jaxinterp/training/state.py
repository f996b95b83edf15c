"""The state of a run: everything that a step changes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import jaxpr_as_fun
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxinterp.base.errors import UserError
from jaxinterp.models import transformer
from jaxinterp.models.config import ModelConfig
from jaxinterp.training.config import OptimiserConfig
from jaxinterp.training.registry import TRANSFORMS


class TrainState(NamedTuple):
    """Parameters, optimiser, step (which fixes the position in the data), key, and how well facts are known."""

    params: Any  # pytree of what is trained
    opt_state: optax.OptState
    step: Int[Array, ""]  # steps done
    key: PRNGKeyArray  # never consumed; each step folds its number into it
    known: Float[Array, ""]  # running mean of the P of the objective's answers, from 0
    begun: Int[Array, ""]  # steps since the objective began; see `jaxinterp.training.beginning`


def optimiser(config: OptimiserConfig, steps: int, model: ModelConfig | None = None) -> optax.GradientTransformation:
    """Global-norm clipping, AdamW with warm-up and cosine decay over `steps` steps, then `config.transforms`.

    Args:
      config: the optimiser.
      steps: of the whole run.
      model: whose parameters are trained; None is something else, which has no transforms.
    Raises:
      UserError: if a transform is unknown, its value is none, or there is no model for it.
    """
    rate = learning_rate(config, steps)

    def matrices(params: dict) -> dict:
        # Stacked layers give every parameter an axis more, so that rank does not tell a matrix from a bias: names do.
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key.startswith(("w_", "emb", "unemb")), params)

    made = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(rate, b1=config.beta1, b2=config.beta2, weight_decay=config.weight_decay, mask=matrices),
    )
    if config.transforms and model is None:
        raise UserError("optimiser.transforms need all parameters of a language model, and something else is trained")
    # The order of names, because a config that comes back from a file may have them in another one.
    for name, text in sorted(config.transforms.items()):
        made = TRANSFORMS[name](made, text, model, steps)
    return made


def learning_rate(config: OptimiserConfig, steps: int) -> optax.Schedule:
    """The learning rate by step."""
    warmup = min(config.warmup_steps, steps)
    return optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, warmup, max(steps, warmup + 1), config.learning_rate * config.final
    )


def initial_state(model: ModelConfig, config: OptimiserConfig, steps: int, seed: int) -> TrainState:
    """The state of a language model before the first step."""
    init_key, key = jax.random.split(jax.random.key(seed))
    return first_state(_initial_params(model, init_key), optimiser(config, steps, model), key)


_traced = jax.jit(transformer.init, static_argnums=0).trace


def _initial_params(model: ModelConfig, key: PRNGKeyArray) -> dict:
    """`transformer.init`, traced once for each model: of a new trace XLA compiles the loop over layers anew.

    The operations are run one by one, as without it: compiled as one program they round otherwise, and a run of a seed
    would no longer be what it was.
    """
    traced = _traced(model, key)
    return jax.tree.unflatten(jax.tree.structure(traced.out_info), jaxpr_as_fun(traced.jaxpr)(key))


def first_state(params: Any, transform: optax.GradientTransformation, key: PRNGKeyArray) -> TrainState:
    """The state before the first step, of parameters that are there."""
    none = jnp.zeros((), jnp.int32)
    # Two arrays: a step is given the state's memory, and cannot be given one array twice.
    return TrainState(params, transform.init(params), none, key, jnp.zeros(()), jnp.zeros_like(none))


def step_key(state: TrainState) -> PRNGKeyArray:
    """The key of the step that comes next."""
    return jax.random.fold_in(state.key, state.step)
