"""In which layer an answer is there, as the unembedding would read it."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.facts.batches import QueryBatch
from jaxinterp.metrics.columns import MeasuredSet, set_group
from jaxinterp.metrics.registry import Mean, Values, metric
from jaxinterp.models.row_layers import lens_top


@set_group("exits", gives={"exit_share": (0.6, 0.6)}, cost="passes", text=True)
def _exits(measured: MeasuredSet) -> dict[str, Float[np.ndarray, " N"]]:
    """The share of the layers that an answer's tokens need; a mean over them."""

    def step(batch: QueryBatch, taken: np.ndarray) -> Mapping[str, Array]:
        return {"exit_share": batch.answers.mean(share_needed(lens_top(measured.examples.readout(batch))))}

    return dict(measured.each_batch(step))


def share_needed(top_LR: Int[Array, "L R"]) -> Float[Array, " R"]:
    """n / L of each row, with n the fewest layers from which on the first token after each is the last layer's."""
    n_layers = top_LR.shape[0]
    number_LR = jnp.broadcast_to(1 + jnp.arange(n_layers)[:, None], top_LR.shape)
    last_other_R = jnp.where(top_LR != top_LR[-1:], number_LR, 0).max(0)
    return (1 + last_other_R) / n_layers


@metric(
    "exit_layer",
    needs=("exit_share",),
    title="Layers until the answer",
    unit="%",
    range=(0.0, 1.0),
    masks="none",
    differentiable=False,
    source="Geva et al. 2021, section 5; logit lens of nostalgebraist 2020",
)
def exit_layer(mean: Mean) -> Values:
    """Mean share of the layers after which the token that the final norm and the unembedding would give is the model's
    own, right or wrong, and stays it. 100 % is the last layer.
    """
    return mean("exit_share")
