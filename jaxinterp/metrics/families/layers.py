"""In which layer an answer is there, as the unembedding would read it."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxinterp.metrics.columns import Measured, column_group
from jaxinterp.metrics.registry import Mean, Values, metric
from jaxinterp.models.row_layers import lens_top


@column_group("exits", gives={"exit_share": (0.6, 0.6)}, cost="passes", text=True)
def _exits(measured: Measured) -> dict[str, Array]:
    """The share of the layers that an answer's tokens need; a mean over them."""
    return {"exit_share": measured.answers.mean(share_needed(lens_top(measured.readout)))}


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
