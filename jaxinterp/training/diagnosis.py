"""Where the numbers of a step stopped being finite."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxinterp.facts.batches import QueryBatch
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.model import Model
from jaxinterp.models.places import PLACES
from jaxinterp.models.transformer import forward
from jaxinterp.objectives.config import ObjectiveConfig
from jaxinterp.training.noise import dropout_changes, noise_key
from jaxinterp.training.noise_config import NO_NOISE, NoiseConfig
from jaxinterp.training.step import loss

AGAIN = "none: the step is finite when it is computed again"


def first_non_finite(
    model: ModelConfig,
    objective: ObjectiveConfig,
    params: Mapping,
    batch: QueryBatch,
    weights: Mapping[str, Float[Array, ""]],
    key: PRNGKeyArray,
    noise: NoiseConfig = NO_NOISE,
) -> str | None:
    """The name of the first array that is not finite, in the order in which a step computes them; None if all are.

    Parameters, then activations layer by layer, then logits, then the terms of the loss, then the gradients.
    Activations are those of the untouched model and, with dropout, those under each of the step's masks after them.
    """

    def arrays() -> Iterator[tuple[str, Array]]:
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            yield f"parameter {_dotted(path)}", leaf
        on_device = jax.tree.map(jnp.asarray, batch)
        cast = jax.tree.map(lambda x: x.astype(model.dtype), dict(params))
        for number in range(1 + noise.dropout.drops * noise.dropout.masks):
            under, changes = "", None
            if number:
                under, of_mask = f" under dropout mask {number}", noise_key(key, number - 1)
                changes = dropout_changes(noise.dropout, model, on_device.tokens_BT.shape, of_mask)
            result = forward(Model(model, cast), on_device.tokens_BT, edit=changes, capture=tuple(PLACES))
            yield f"activation embed{under}", result.activations["embed"]
            for layer in range(model.n_layers):
                for name in (name for name in PLACES if name != "embed"):
                    yield f"activation {name} of layer {layer}{under}", result.activations[name][layer]
            yield f"logits{under}", result.logits_BTV
        of_params = lambda p: loss(Model(model, p), objective, on_device, weights, key, noise=noise)  # noqa: E731
        (_, terms), grads = jax.value_and_grad(of_params, has_aux=True)(params)
        of_noise = (name for name in ("dropout_penalty", "dropout_noise", "adversarial") if name in terms)
        for name in ("lm", *of_noise, *(name for name, weight in weights.items() if weight != 0)):
            yield f"loss term {name}", terms[name]
        for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
            yield f"gradient of {_dotted(path)}", leaf

    return next((name for name, array in arrays() if not bool(jnp.isfinite(array).all())), None)


def _dotted(path: tuple) -> str:
    return ".".join(str(entry.key) for entry in path)
