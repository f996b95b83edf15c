"""Where the numbers of a step stopped being finite."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxinterp.facts.batches import QueryBatch
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import ACTIVATIONS, forward
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training.step import loss


def first_non_finite(
    model: ModelConfig,
    objective: ObjectiveConfig,
    params: Mapping,
    batch: QueryBatch,
    weights: Mapping[str, Float[Array, ""]],
    key: PRNGKeyArray,
) -> str:
    """The name of the first array that is not finite, in the order in which a step computes them.

    Parameters, then activations layer by layer, then logits, then the terms of the loss, then the gradients.
    """
    for name, array in _arrays(model, objective, params, batch, weights, key):
        if not bool(jnp.isfinite(array).all()):
            return name
    return "none: the step is finite when it is computed again"


def _arrays(
    model: ModelConfig,
    objective: ObjectiveConfig,
    params: Mapping,
    batch: QueryBatch,
    weights: Mapping[str, Float[Array, ""]],
    key: PRNGKeyArray,
) -> Iterator[tuple[str, Array]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        yield f"parameter {_dotted(path)}", leaf
    batch = jax.tree.map(jnp.asarray, batch)
    cast = jax.tree.map(lambda x: x.astype(model.dtype), dict(params))
    result = forward(Model(model, cast), batch.tokens_BT, capture=ACTIVATIONS)
    for layer in range(model.n_layers):
        for name in ACTIVATIONS:
            yield f"activation {name} of layer {layer}", result.activations[name][layer]
    yield "logits", result.logits_BTV
    value_and_grad = jax.value_and_grad(lambda p: loss(Model(model, p), objective, batch, weights, key), has_aux=True)
    (_, terms), grads = value_and_grad(params)
    for name in ("lm", *(name for name, weight in weights.items() if weight != 0)):
        yield f"loss term {name}", terms[name]
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        yield f"gradient of {_dotted(path)}", leaf


def _dotted(path: tuple) -> str:
    return ".".join(str(entry.key) for entry in path)
