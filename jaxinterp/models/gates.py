"""Numbers between 0 and 1 that multiply what a layer computes for a token: experts' shares, and the layer's own gate.

They are part of the neurons ("mlp_post") and of the heads' mixtures ("attn_z"): what is read, edited and attributed is
the product, and nothing else has to know of them.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.models import parameters
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.layers import declared, exact


def expert_shares(logits: Float[Array, "*B E"], n_active: int) -> Float[Array, "*B E"]:
    """What each expert's neurons are multiplied by: softmax over the token's `n_active` largest logits, 0 elsewhere.

    The shares of several add up to 1 (Shazeer et al. 2017, eq. 3–5, without noise). One alone would always have 1, and
    its router would learn nothing: it keeps its share among all experts (Fedus et al. 2022, eq. 2).

    Shares are differentiable but where two logits change places, as it happens where neurons upstream are switched off:
    an expert comes in with a share above 0. Attribution along a path does not see such a jump.

    Args:
      logits: of the router.
      n_active: 1 … E.
    """
    chosen = jax.nn.one_hot(jax.lax.top_k(logits, n_active)[1], logits.shape[-1], dtype=bool).any(-2)
    if n_active == 1:
        return jnp.where(chosen, jax.nn.softmax(logits), 0)
    return jax.nn.softmax(jnp.where(chosen, logits, -jnp.inf))


class DepthGate(nn.Module):
    """σ(w · x + b) of a token: how much of a layer it takes (after Figurnov et al. 2017; Raposo et al. 2024).

    Those halt, or pass tokens by; this is soft, and nothing is saved. Where it is 0 the layer writes its biases alone.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B"]:
        """The gate, in float32 at least, from what attention reads."""
        w = declared(self, parameters.depth_gate(self.config))
        return jax.nn.sigmoid(exact(x) @ exact(w["weight"]) + exact(w["bias"]))
