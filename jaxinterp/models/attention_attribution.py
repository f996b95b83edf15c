"""How much of an answer attention carries: integrated gradients of attention's outputs beside those of the neurons.

Attribution to neurons alone cannot tell a model whose FFNs hold its facts from one whose attention does and whose FFNs
merely pass them on.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinterp.attribution.quadrature import Quadrature


@runtime_checkable
class Scaled(Protocol):
    """A readout whose attention can be scaled as well, such as `jaxinterp.models.readout.LanguageModelReadout`."""

    shape: tuple[int, int, int]  # (L, R, F)

    def untouched(self) -> Float[Array, " R"]: ...

    def scaled(self, gates_LRF: Float[Array, "L R F"], attention_LR: Float[Array, "L R"]) -> Float[Array, " R"]:
        """P at every row while its neurons are `gates · neurons` and its attention's outputs `attention · outputs`."""


class WholeAttribution(NamedTuple):
    """Integrated gradients of everything that the layers write at the query, in units of probability."""

    attention_LR: Float[Array, "L R"]  # of each layer's attention
    ffn_LR: Float[Array, "L R"]  # of each layer's neurons, summed
    residual_R: Float[Array, " R"]  # Σ A − (P(1) − P(0)); P(0) is what the embedding of the query token alone gives


def whole_attribution(readout: Scaled, rule: Quadrature) -> WholeAttribution:
    """Attributes a language model's readout to all that its layers write at the query, along one straight path.

    A = ∫₀¹ ∂P/∂h dα by `rule`, where h multiplies the outputs of all attentions and all neurons, and is α for all of
    them together; complete over the whole network at the query (Sundararajan et al. 2017). Keys and values of earlier
    positions stay as they were: what attention reads is not attributed any further.

    Args:
      readout: from `lm_readout`.
      rule: points and weights on [0, 1].
    """
    n_layers, n_rows, _ = readout.shape
    end_R = readout.untouched()
    ones_LR = jnp.ones((n_layers, n_rows), end_R.dtype)
    gates_LRF = jnp.ones(readout.shape, end_R.dtype)

    def total(attention_LR: Array, ffn_LR: Array) -> Array:
        return readout.scaled(gates_LRF * ffn_LR[..., None], attention_LR).sum()

    def at_point(sums: tuple[Array, Array], node: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        alpha, weight = node
        slopes = jax.grad(total, argnums=(0, 1))(alpha * ones_LR, alpha * ones_LR)
        return jax.tree.map(lambda sum_, slope: sum_ + weight * slope, sums, slopes), None

    nodes = jnp.asarray(rule.points_M, end_R.dtype), jnp.asarray(rule.weights_M, end_R.dtype)
    (attention_LR, ffn_LR), _ = jax.lax.scan(at_point, (0 * ones_LR, 0 * ones_LR), nodes)
    start_R = readout.scaled(0 * gates_LRF, 0 * ones_LR)
    return WholeAttribution(attention_LR, ffn_LR, (attention_LR + ffn_LR).sum(0) - (end_R - start_R))
