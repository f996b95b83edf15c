"""The FFN of one layer, whose neurons an edit acts on."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxinterp.attribution.edits import Edit
from jaxinterp.models import parameters
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.layers import activation, biased, declared
from jaxinterp.models.route import Route, learns, routed_product


class FFN(nn.Module):
    """Neurons of one layer, and what they write."""

    config: ModelConfig

    def setup(self) -> None:
        self.weights = declared(self, parameters.ffn(self.config))

    def __call__(
        self, x_BSD: Float[Array, "B S D"], edit: Edit | Route | None, edited_BS: Bool[Array, "B S"] | None
    ) -> tuple[Float[Array, "B S F"], Float[Array, "B S F"], Float[Array, "B S D"]]:
        """Arguments of the activation function, neurons after the edit, and the output.

        Args:
          x_BSD: what the FFN reads.
          edit: what is done to the neurons, arrays [B, F], or whom their gradient reaches; None is nothing.
          edited_BS: where; None is everywhere. A route has its own positions.
        """
        mlp_pre, mlp_post = self._neurons(x_BSD)
        if isinstance(edit, Route):
            product = routed_product(mlp_post, self.weights["w_out"], learns(edit, mlp_post.shape[-1]))
            return mlp_pre, mlp_post, biased(product, self.weights.get("b_out"))
        if edit is not None:
            edited = mlp_post * edit.gates[:, None]
            if edit.shift is not None:
                edited = edited + edit.shift[:, None]
            mlp_post = edited if edited_BS is None else jnp.where(edited_BS[..., None], edited, mlp_post)
        return mlp_pre, mlp_post, self.output(mlp_post)

    def output(self, mlp_post: Float[Array, "*B F"]) -> Float[Array, "*B D"]:
        """The FFN's output: linear in the neurons (with a bias)."""
        return biased(mlp_post @ self.weights["w_out"], self.weights.get("b_out"))

    def _neurons(self, x_BSD: Array) -> tuple[Array, Array]:
        w = self.weights
        up = biased(x_BSD @ w["w_in"], w.get("b_in"))
        if self.config.gated:
            gate = biased(x_BSD @ w["w_gate"], w.get("b_gate"))
            return gate, activation(self.config, gate) * up
        return up, activation(self.config, up)
