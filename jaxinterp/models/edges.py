"""Runs in which each part of a model reads the outputs of chosen parts alone, and means of all others.

At the position where an answer is read, a causal model with norms before its parts is a graph. Senders add to the
residual stream: the embedding, attention of each layer, and neurons. Receivers read it: attention of each layer,
neurons, and the logits. An edge joins a sender to a receiver that comes after it. Earlier positions are untouched: what
attention brings from there is its own.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinterp.models.activations import activation
from jaxinterp.models.attention import Past, Where
from jaxinterp.models.block import Block
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.layers import Norm, exact, layer_constants
from jaxinterp.models.readout import LanguageModelReadout
from jaxinterp.models.rerun import ffn_output
from jaxinterp.models.transformer import unembed

POINTS = 5  # of an edge's integral


class Outputs(NamedTuple):
    """What senders give, at R rows or as a mean over rows."""

    embed_RD: Float[Array, "*R D"]
    attn_LRD: Float[Array, "L *R D"]
    neurons_LRF: Float[Array, "L *R F"]  # activations; a neuron adds its activation times its row of w_out


def has_edges(config: ModelConfig) -> bool:
    """Whether parts read norms of a sum of other parts, one after the other, and each neuron, of one unit, reads for
    itself: with experts or gates of layers, what multiplies it reads as well.
    """
    sums = config.norm_placement == "pre" and not config.parallel
    alone = config.ffn not in ("solu", "topk") and config.ffn_units == config.experts == 1 and not config.depth_gates
    return sums and config.attention == "causal" and alone


def outputs(readout: LanguageModelReadout) -> Outputs:
    """What every sender gives at the rows of a readout, untouched."""
    embed_RD = exact(readout.embedded_RSD[:, 0])
    mid_LRD = exact(readout.resid_mid_LRD)
    before_LRD = jnp.concatenate([embed_RD[None], (mid_LRD + exact(readout.mlp_out_LRD))[:-1]])
    return Outputs(embed_RD, mid_LRD - before_LRD, exact(readout.neurons_LRF))


@flax.struct.dataclass
class EdgeGraph:
    """The graph of each of R rows, of O = 1 + L + C senders and I = L + C + 1 receivers.

    Senders in order: embedding, attention by layer, C neurons. Receivers: attention by layer, the same neurons, logits.
    All other neurons always have their mean activations.
    """

    readout: LanguageModelReadout
    chosen_RC: Int[Array, "R C"]  # neurons of each row, layer · F + neuron
    mean: Outputs  # over rows that do not matter here: [D], [L, D], [L, F]

    @property
    def layer_RC(self) -> Int[Array, "R C"]:
        """The layer of each neuron."""
        return self.chosen_RC // self.readout.shape[2]

    def allowed(self) -> Bool[Array, "R I O"]:
        """Which edges there are: from a sender to what comes after it."""
        n_layers, neuron_RC = self.readout.shape[0], 2 * self.layer_RC + 1
        n_rows = neuron_RC.shape[0]
        attn_RL = jnp.broadcast_to(2 * jnp.arange(n_layers)[None], (n_rows, n_layers))
        first_R1, last_R1 = jnp.full((n_rows, 1), -1), jnp.full((n_rows, 1), 2 * n_layers)
        sent_RO = jnp.concatenate([first_R1, attn_RL, neuron_RC], 1)
        read_RI = jnp.concatenate([attn_RL, neuron_RC, last_R1], 1)
        return sent_RO[:, None] < read_RI[:, :, None]

    def log_probability(self, weight_RIO: Float[Array, "R I O"]) -> Float[Array, " R"]:
        """log P of each row's target, in nats, in a run whose receivers read mean + Σ_o weight_io (out_o − mean_o).

        out_o is what sender o gives in this very run, mean is the sum of all means before the receiver, and norms are
        those of what each receiver reads. With all `allowed` edges at 1 and all neurons chosen it is the untouched
        model, with none it is the same for all rows of one target and position.

        Args:
          weight_RIO: 1 for an edge that is kept, 0 for one that carries the mean; 0 outside `allowed`.
        """
        readout, model, mean = self.readout, self.readout.model, self.mean
        config, layers, n_layers = model.config, readout.layers, readout.shape[0]
        layer_RC, at_RC = jnp.divmod(self.chosen_RC, readout.shape[2])
        writes_RCD = exact(layers["w_out"][layer_RC, at_RC])
        mean_RC = mean.neurons_LRF[layer_RC, at_RC]
        added_LD = mean.attn_LRD + exact(ffn_output(config, layers, mean.neurons_LRF))
        # Means of all that comes before each layer's attention, and before the logits.
        before_LD = jnp.cumsum(jnp.concatenate([mean.embed_RD[None], added_LD]), axis=0)
        past = Past(readout.later.cache, readout.later.visible_RT)

        def preactivation(matrix: str, bias: str, normed_RCD: Array) -> Float[Array, "R C"]:
            reads_RCD = exact(layers[matrix].transpose(0, 2, 1)[layer_RC, at_RC])
            found_RC = (normed_RCD * reads_RCD).sum(-1)
            return found_RC + exact(layers[bias][layer_RC, at_RC]) if bias in layers else found_RC

        def layer(delta_ROD: Array, x: tuple) -> tuple[Array, None]:
            number, weights, constants, cache, weight_RO, before_D, attn_D = x
            where = Where(constants, readout.later.position_RS)
            read_RD = before_D[None] + jnp.einsum("ro,rod->rd", weight_RO, delta_ROD)
            seen = (read_RD[:, None], None, where, ("attn_out",), past._replace(cache=cache))
            attn_RD = Block(config).apply({"params": weights}, *seen)[1][1]["attn_out"][:, 0]
            delta_ROD = delta_ROD.at[:, 1 + number].set(exact(attn_RD) - attn_D[None])
            read_RCD = jnp.einsum("rco,rod->rcd", weight_RIO[:, n_layers:-1], delta_ROD)
            read_RCD = read_RCD + (before_D + attn_D)[None, None]
            normed_RCD = Norm(config).apply({"params": weights["norm_mlp"]}, read_RCD)
            up_RC = preactivation("w_in", "b_in", normed_RCD)
            if config.gated:
                gate_RC = preactivation("w_gate", "b_gate", normed_RCD)
                neuron_RC = activation(config, gate_RC) * up_RC
            else:
                neuron_RC = activation(config, up_RC)
            found_RCD = (neuron_RC - mean_RC)[..., None] * writes_RCD
            neurons_RCD = jnp.where((layer_RC == number)[..., None], found_RCD, delta_ROD[:, 1 + n_layers :])
            return delta_ROD.at[:, 1 + n_layers :].set(neurons_RCD), None

        delta_ROD = jnp.zeros((*weight_RIO.shape[::2], config.d_model), writes_RCD.dtype)
        delta_ROD = delta_ROD.at[:, 0].set(exact(readout.embedded_RSD[:, 0]) - mean.embed_RD[None])
        attn_weight_LRO = weight_RIO[:, :n_layers].transpose(1, 0, 2)
        number_L, constants = jnp.arange(n_layers), layer_constants(config)
        xs = (number_L, layers, constants, past.cache, attn_weight_LRO, before_LD[:-1], mean.attn_LRD)
        delta_ROD, _ = jax.lax.scan(layer, delta_ROD, xs)
        resid_RD = before_LD[-1:] + jnp.einsum("ro,rod->rd", weight_RIO[:, -1], delta_ROD)
        log_p_RV = jax.nn.log_softmax(unembed(model, resid_RD))
        return jnp.take_along_axis(log_p_RV, readout.rows.target_R[:, None], axis=1)[:, 0]

    def scores(self) -> Float[Array, "R I O"]:
        """∫₀¹ ∂ log P / ∂ weight of each edge along the path on which all edges have one weight; 0 outside `allowed`.

        A slope is (out_o − mean_o) · ∂ log P / ∂ (what receiver i reads): edge attribution patching (Nanda 2022; Syed
        et al. 2023), with the mean in place of another prompt's activation and log P in place of a difference of
        logits. At the untouched run alone, P near 1 and neurons that are off tell little of edges that carry means: so
        the slopes are averaged over `POINTS` midpoints (Hanna et al. 2024, integrated gradients of edges).
        """
        allowed_RIO = self.allowed().astype(self.mean.embed_RD.dtype)
        slope = jax.grad(lambda weight_RIO: self.log_probability(weight_RIO).sum())
        alpha_M = (jnp.arange(POINTS) + 0.5) / POINTS

        def add(total_RIO: Array, alpha: Array) -> tuple[Array, None]:
            return total_RIO + slope(alpha.astype(total_RIO.dtype) * allowed_RIO) / POINTS, None

        return jax.lax.scan(add, jnp.zeros_like(allowed_RIO), alpha_M)[0] * allowed_RIO
