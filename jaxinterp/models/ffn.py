"""The FFN of one layer, whose neurons an edit acts on."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.models import parameters
from jaxinterp.models.activations import activation
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.gates import expert_shares
from jaxinterp.models.layers import biased, declared, exact, leading
from jaxinterp.models.route import Route, learns, routed_product


class FFN(nn.Module):
    """Neurons of one layer, and what they write."""

    config: ModelConfig

    def setup(self) -> None:
        self.weights = declared(self, parameters.ffn(self.config))

    def __call__(
        self,
        x_BSD: Float[Array, "B S D"],
        change: Callable[[str, Array], Array],
        route: Route | None = None,
        gate_BS: Float[Array, "B S"] | None = None,
    ) -> tuple[Float[Array, "B S F"], Float[Array, "B S F"], Float[Array, "B S D"]]:
        """Arguments of the activation function and neurons, each after its change, and the output.

        Args:
          x_BSD: what the FFN reads.
          change: of what stands at "mlp_pre" and "mlp_post".
          route: whom the neurons' gradient reaches; None is everything.
          gate_BS: what all neurons are multiplied by, before their change; None is 1.
        """
        config, w = self.config, self.weights
        up = self._units(x_BSD) if config.ffn_units > 1 else biased(x_BSD @ w["w_in"], w.get("b_in"))
        mlp_pre = change("mlp_pre", biased(x_BSD @ w["w_gate"], w.get("b_gate")) if config.gated else up)
        mlp_post = activation(config, mlp_pre)
        mlp_post = mlp_post * up if config.gated else mlp_post
        if config.experts > 1:
            share_BSE = expert_shares(self.router_logits(x_BSD), config.experts_active)
            mlp_post = mlp_post * jnp.repeat(share_BSE, config.d_mlp // config.experts, axis=-1).astype(mlp_post.dtype)
        if gate_BS is not None:
            mlp_post = mlp_post * gate_BS[..., None].astype(mlp_post.dtype)
        mlp_post = change("mlp_post", mlp_post)
        if route is None:
            return mlp_pre, mlp_post, self.output(mlp_post)
        product = routed_product(mlp_post, w["w_out"], learns(route, mlp_post.shape[-1]))
        return mlp_pre, mlp_post, biased(product, w.get("b_out"))

    def output(self, mlp_post: Float[Array, "*B F"]) -> Float[Array, "*B D"]:
        """The FFN's output: linear in the neurons (with a bias)."""
        return biased(mlp_post @ self.weights["w_out"], self.weights.get("b_out"))

    def router_logits(self, x: Float[Array, "*B D"]) -> Float[Array, "*B E"]:
        """What the experts' shares are made of, in float32 at least."""
        return exact(x @ self.weights["w_router"])

    def _units(self, x_BSD: Array) -> Float[Array, "B S F"]:
        """Σ_u c_u · act(w_u · x + b_u) + c_0 of each neuron: the argument of its own activation function."""
        w = self.weights
        units_BSFU = activation(self.config, biased(jnp.einsum("bsd,dfu->bsfu", x_BSD, w["w_in"]), w.get("b_in")))
        return biased((units_BSFU * leading(w["w_unit"], 4)).sum(-1), w.get("b_unit"))
