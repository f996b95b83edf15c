"""Readouts: pure functions from gates to the probability of the thing of interest.

Everything downstream (attribution, selection, suppression, metrics, objectives) knows only the interface `Readout`. A
row is one place where something is read: for a language model, one token of an answer at its own query position. An
answer of several tokens has several rows; each row's edit acts at that row's position alone, earlier answer tokens are
the reference text and untouched, and the answer's probability is the product over its rows
(`answer_log_probability`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxinterp.errors import UserError
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.transformer import Edit, Forward, KVCache, decode, ffn_output, forward

CAPTURE = ("resid_mid", "mlp_post")  # what `causal_readout` needs of a forward


class Readout:
    """`P(gates, shift) -> [R]`: the probability read at every row while its neurons are `gates · neurons + shift`.

    A row's value depends on its own gates alone. Subclasses define `shape` and `__call__`; `scaled_layer` may be
    overridden by something faster that gives the same values and derivatives.
    """

    shape: tuple[int, int, int]  # (L, R, F)
    neurons_LRF: Float[Array, "L R F"] | None  # the untouched activations, or None where they are not known

    def __call__(
        self, gates_LRF: Float[Array, "L R F"], shift_LRF: Float[Array, "L R F"] | None = None
    ) -> Float[Array, " R"]:
        """Probability in [0, 1] of every row."""
        raise NotImplementedError

    def scaled_layer(self, layer: int, alpha: Float[Array, ""], delta_RF: Float[Array, "R F"]) -> Float[Array, " R"]:
        """P with the gates of one layer at `alpha + delta` and all others at 1: a point of the per-layer path."""
        n_layers, n_rows, n_neurons = self.shape
        ones = jnp.ones((n_layers, n_rows, n_neurons), delta_RF.dtype)
        return self(ones.at[layer].set(alpha + delta_RF))

    def untouched(self) -> Float[Array, " R"]:
        """P with all gates at 1."""
        return self(jnp.ones(self.shape))


@dataclasses.dataclass(frozen=True)
class FunctionReadout(Readout):
    """Any pure function of gates as a readout: a class probability, a value head, a toy."""

    function: Callable[[Float[Array, "L R F"]], Float[Array, " R"]]
    shape: tuple[int, int, int]
    neurons_LRF: Float[Array, "L R F"] | None = None

    def __call__(self, gates_LRF: Array, shift_LRF: Array | None = None) -> Array:
        if shift_LRF is not None:
            raise UserError("this readout is a function of gates alone: it can suppress and amplify, not set values")
        return self.function(gates_LRF)


class Rows(NamedTuple):
    """Where a language model is read: R (sequence, position) pairs and the token that should come next."""

    sequence_R: Int[Array, " R"]  # index into the batch
    position_R: Int[Array, " R"]  # of the last token read; the target follows it
    target_R: Int[Array, " R"]  # token id


def _target_probability(logits_RV: Float[Array, "R V"], target_R: Int[Array, " R"]) -> Float[Array, " R"]:
    log_p = jax.nn.log_softmax(logits_RV)
    return jnp.exp(jnp.take_along_axis(log_p, target_R[:, None], axis=-1)[:, 0])


@dataclasses.dataclass(frozen=True)
class CausalReadout(Readout):
    """The fast readout of a causal model: every value is a one-token decode against the cache of one forward.

    Gates act at the query position only, so the keys and values of earlier positions never change; the branch that
    starts in layer l starts from the cached `resid_mid` and neurons of that layer. Gradients with respect to parameters
    flow through the cache. Make one with `causal_readout`.
    """

    config: ModelConfig
    params: Mapping
    rows: Rows
    cache: KVCache  # [L, R, T, KV, K]: each row's sequence
    resid_mid_LRD: Float[Array, "L R D"]
    neurons_LRF: Float[Array, "L R F"]
    untouched_R: Float[Array, " R"]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.neurons_LRF.shape

    def __call__(self, gates_LRF: Array, shift_LRF: Array | None = None) -> Array:
        first = self.neurons_LRF[0] * gates_LRF[0]
        if shift_LRF is not None:
            first = first + shift_LRF[0]
        deeper = Edit(gates_LRF[1:], None if shift_LRF is None else shift_LRF[1:])
        return self._branch(0, ffn_output(self.config, self.params, 0, first), deeper)

    def scaled_layer(self, layer: int, alpha: Array, delta_RF: Array) -> Array:
        # Linear in the neurons: the point's α multiplies a [R, D] array, and `delta` (shared by all points, there to
        # be differentiated) costs one matrix product for all of them.
        neurons = self.neurons_LRF[layer]
        still = ffn_output(self.config, self.params, layer, jnp.zeros_like(neurons))
        output = ffn_output(self.config, self.params, layer, neurons) - still
        change = ffn_output(self.config, self.params, layer, neurons * delta_RF)
        return self._branch(layer, alpha * output + change, None)

    def untouched(self) -> Array:
        return self.untouched_R

    def _branch(self, layer: int, mlp_out_RD: Array, deeper: Edit | None) -> Array:
        resid = self.resid_mid_LRD[layer] + mlp_out_RD
        logits = decode(self.config, self.params, resid, self.rows.position_R, self.cache, deeper, start=layer + 1)
        return _target_probability(logits, self.rows.target_R)


def causal_readout(config: ModelConfig, params: Mapping, result: Forward, rows: Rows) -> CausalReadout:
    """The fast readout at `rows` of a forward that captured `CAPTURE`.

    Args:
      config, params: the model that made `result`.
      result: `forward(..., capture=CAPTURE)` of the batch, without edits.
      rows: where to read.
    """
    at = (slice(None), rows.sequence_R, rows.position_R)
    return CausalReadout(
        config,
        params,
        rows,
        jax.tree.map(lambda x: x[:, rows.sequence_R], result.cache),
        result.activations["resid_mid"][at],
        result.activations["mlp_post"][at],
        _target_probability(result.logits_BTV[rows.sequence_R, rows.position_R], rows.target_R),
    )


@dataclasses.dataclass(frozen=True)
class FullForwardReadout(Readout):
    """The obvious readout: every value is a full forward of every row's sequence. Slow; the reference in tests."""

    config: ModelConfig
    params: Mapping
    tokens_BT: Int[Array, "B T"]
    rows: Rows

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.config.n_layers, self.rows.position_R.shape[0], self.config.d_mlp

    @property
    def neurons_LRF(self) -> Array:
        result = forward(self.config, self.params, self.tokens_BT, capture=("mlp_post",))
        return result.activations["mlp_post"][:, self.rows.sequence_R, self.rows.position_R]

    def __call__(self, gates_LRF: Array, shift_LRF: Array | None = None) -> Array:
        tokens_RT = self.tokens_BT[self.rows.sequence_R]
        edit = Edit(gates_LRF, shift_LRF)
        logits = forward(self.config, self.params, tokens_RT, edit=edit, query_B=self.rows.position_R).logits_BTV
        logits_RV = logits[jnp.arange(tokens_RT.shape[0]), self.rows.position_R]
        return _target_probability(logits_RV, self.rows.target_R)


def answer_log_probability(
    probability_R: Float[Array, " R"], answer_R: Int[Array, " R"], weight_R: Float[Array, " R"], n_answers: int
) -> Float[Array, " N"]:
    """log P of whole answers: the sum of log P over an answer's rows.

    Args:
      probability_R: each row's probability.
      answer_R: the answer that each row belongs to, in [0, n_answers).
      weight_R: 1 for a row, 0 for padding.
      n_answers: N.
    Returns:
      Natural logarithm, in nats. An answer without rows has 0.
    """
    tiny = jnp.finfo(probability_R.dtype).tiny
    return jax.ops.segment_sum(weight_R * jnp.log(probability_R + tiny), answer_R, n_answers)
