"""The FFN of one layer, whose neurons an edit acts on."""

from collections.abc import Callable

import flax.linen as nn
from jaxtyping import Array, Float

from jaxinterp.models import parameters
from jaxinterp.models.activations import activation
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.layers import biased, declared
from jaxinterp.models.route import Route, learns, routed_product


class FFN(nn.Module):
    """Neurons of one layer, and what they write."""

    config: ModelConfig

    def setup(self) -> None:
        self.weights = declared(self, parameters.ffn(self.config))

    def __call__(
        self, x_BSD: Float[Array, "B S D"], change: Callable[[str, Array], Array], route: Route | None = None
    ) -> tuple[Float[Array, "B S F"], Float[Array, "B S F"], Float[Array, "B S D"]]:
        """Arguments of the activation function and neurons, each after its change, and the output.

        Args:
          x_BSD: what the FFN reads.
          change: of what stands at "mlp_pre" and "mlp_post".
          route: whom the neurons' gradient reaches; None is everything.
        """
        w = self.weights
        up = biased(x_BSD @ w["w_in"], w.get("b_in"))
        mlp_pre = change("mlp_pre", biased(x_BSD @ w["w_gate"], w.get("b_gate")) if self.config.gated else up)
        mlp_post = activation(self.config, mlp_pre)
        mlp_post = change("mlp_post", mlp_post * up if self.config.gated else mlp_post)
        if route is None:
            return mlp_pre, mlp_post, self.output(mlp_post)
        product = routed_product(mlp_post, w["w_out"], learns(route, mlp_post.shape[-1]))
        return mlp_pre, mlp_post, biased(product, w.get("b_out"))

    def output(self, mlp_post: Float[Array, "*B F"]) -> Float[Array, "*B D"]:
        """The FFN's output: linear in the neurons (with a bias)."""
        return biased(mlp_post @ self.weights["w_out"], self.weights.get("b_out"))
