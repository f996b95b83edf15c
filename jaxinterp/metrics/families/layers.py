"""In which layer an answer is there, as the unembedding would read it."""

import jax.numpy as jnp
from jaxtyping import Array

from jaxinterp.metrics.columns import Measured, column_group
from jaxinterp.metrics.registry import Mean, Values, metric
from jaxinterp.models.row_layers import lens_top


@column_group("exits", gives={"exit_share": (0.6, 0.6)}, cost="passes", text=True)
def _exits(measured: Measured) -> dict[str, Array]:
    """n / L, with n the fewest layers after each of which, from the n-th on, the lens's first token is the model's own;
    a mean over an answer's tokens.
    """
    top_LR = lens_top(measured.readout)
    differs_LR = top_LR != top_LR[-1:]
    n_layers = top_LR.shape[0]
    # Layers up to the last that differs, and one more.
    n_R = (differs_LR * (1 + jnp.arange(n_layers))[:, None]).max(0) + 1
    return {"exit_share": measured.answers.mean(n_R / n_layers)}


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
