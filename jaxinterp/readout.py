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
from jaxinterp.models.transformer import (
    Edit,
    Forward,
    Suffix,
    after_ffn,
    ffn_output,
    forward,
    run_branches,
    run_layers,
    unembed,
)


class Readout:
    """`P(gates, shift) -> [R]`: the probability read at every row while its neurons are `gates · neurons + shift`.

    A row's value depends on its own gates alone. Subclasses define `shape` and `__call__`; `scaled_layers` may be
    overridden by something faster that gives the same values and derivatives.
    """

    shape: tuple[int, int, int]  # (L, R, F)
    neurons_LRF: Float[Array, "L R F"] | None  # the untouched activations, or None where they are not known

    def __call__(
        self, gates_LRF: Float[Array, "L R F"], shift_LRF: Float[Array, "L R F"] | None = None
    ) -> Float[Array, " R"]:
        """Probability in [0, 1] of every row."""
        raise NotImplementedError

    def scaled_layers(self, alpha: Float[Array, ""], delta_LRF: Float[Array, "L R F"]) -> Float[Array, "L R"]:
        """P with the gates of layer l at `alpha + delta[l]` and all others at 1, for every l: a point of L paths."""
        n_layers = self.shape[0]
        ones = jnp.ones(self.shape, delta_LRF.dtype)
        one = jax.vmap(lambda layer, delta: self(ones.at[layer].set(alpha + delta)))
        return one(jnp.arange(n_layers), delta_LRF)

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
    """Where a language model is read: R (sequence, position) pairs and the token that is looked for there."""

    sequence_R: Int[Array, " R"]  # index into the batch
    # Where logits are read and neurons edited: before the target in a causal model, at the mask in a masked one.
    position_R: Int[Array, " R"]
    target_R: Int[Array, " R"]  # token id


def _target_probability(logits: Float[Array, "*B R V"], target_R: Int[Array, " R"]) -> Float[Array, "*B R"]:
    log_p = jax.nn.log_softmax(logits)
    target = jnp.broadcast_to(target_R.reshape((1,) * (logits.ndim - 2) + (-1, 1)), (*logits.shape[:-1], 1))
    return jnp.exp(jnp.take_along_axis(log_p, target, axis=-1)[..., 0])


@dataclasses.dataclass(frozen=True)
class LanguageModelReadout(Readout):
    """The fast readout of a language model: every value starts from what one forward has left behind.

    Gates act at the query position only. In a causal model the keys and values of earlier positions never change, so a
    value is a one-token decode against the cache. In a bidirectional model the change spreads to all positions in the
    next layer, so a value is a forward of the later layers. A branch that starts in layer l starts from the untouched
    `resid_mid` and neurons of that layer, where the FFN's output is linear in the neurons. Gradients with respect to
    parameters flow through the cache. Make one with `lm_readout`.
    """

    config: ModelConfig
    params: Mapping
    rows: Rows
    suffix: Suffix
    resid_mid_LRD: Float[Array, "L R D"]  # at the query
    neurons_LRF: Float[Array, "L R F"]
    resid_post_LRTD: Float[Array, "L R T D"] | None  # of bidirectional models
    untouched_R: Float[Array, " R"]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.neurons_LRF.shape

    def __call__(self, gates_LRF: Array, shift_LRF: Array | None = None) -> Array:
        first = self.neurons_LRF[:1] * gates_LRF[:1]
        if shift_LRF is not None:
            first = first + shift_LRF[:1]
        deeper = Edit(gates_LRF[1:], None if shift_LRF is None else shift_LRF[1:])
        layers = jax.tree.map(lambda x: x[:1], self.params["layers"])
        start = self._after(layers, ffn_output(self.config, layers, first))[0]
        return self._probability(run_layers(self.config, self.params, start, self.suffix, deeper, start=1))

    def scaled_layers(self, alpha: Array, delta_LRF: Array) -> Array:
        # Linear in the neurons: the point's α multiplies a [L, R, D] array, and `delta` (shared by all points, there to
        # be differentiated) costs one matrix product a layer for all of them.
        layers, neurons = self.params["layers"], self.neurons_LRF
        still = ffn_output(self.config, layers, jnp.zeros_like(neurons))
        output = ffn_output(self.config, layers, neurons) - still
        change = ffn_output(self.config, layers, neurons * delta_LRF)
        start = self._after(layers, alpha.astype(output.dtype) * output + change)
        return self._probability(run_branches(self.config, self.params, start, self.suffix))

    def untouched(self) -> Array:
        return self.untouched_R

    def _after(self, layers: Mapping, mlp_out_LRD: Array) -> Array:
        """The residual stream [L, R, S, D] after layers whose FFN gave `mlp_out` at the query."""
        n_layers = mlp_out_LRD.shape[0]
        query = after_ffn(self.config, layers, self.resid_mid_LRD[:n_layers], mlp_out_LRD)[:, :, None]
        if self.resid_post_LRTD is None:
            return query
        return jnp.where(self.suffix.edited_RS[None, :, :, None], query, self.resid_post_LRTD[:n_layers])

    def _probability(self, resid: Float[Array, "*L R S D"]) -> Float[Array, "*L R"]:
        if self.suffix.cache is None:
            at = self.rows.position_R.reshape((1,) * (resid.ndim - 3) + (-1, 1, 1))
            resid = jnp.take_along_axis(resid, at, axis=-2)
        return _target_probability(unembed(self.config, self.params, resid[..., 0, :]), self.rows.target_R)


def lm_readout(
    config: ModelConfig,
    params: Mapping,
    tokens_BT: Int[Array, "B T"],
    rows: Rows,
    length_B: Int[Array, " B"] | None = None,
) -> tuple[Forward, LanguageModelReadout]:
    """One forward of a batch, and the fast readout at `rows`.

    Args:
      config, params: the model.
      tokens_BT: sequences, padded on the right; in a masked language model what a row reads is masked in its sequence.
      rows: where to read.
      length_B: tokens of each sequence before padding; see `forward`.
    """
    bidirectional = config.attention == "bidirectional"
    capture = ("resid_mid", "mlp_post", "resid_post") if bidirectional else ("resid_mid", "mlp_post")
    result = forward(config, params, tokens_BT, length_B=length_B, capture=capture)
    at = (slice(None), rows.sequence_R, rows.position_R)
    position_RT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1])[None], (rows.target_R.shape[0], tokens_BT.shape[1]))
    if bidirectional:
        valid = None if length_B is None else position_RT < length_B[rows.sequence_R][:, None]
        suffix = Suffix(position_RT, position_RT == rows.position_R[:, None], valid, None, None)
    else:
        cache = jax.tree.map(lambda x: x[:, rows.sequence_R], result.cache)
        earlier = position_RT < rows.position_R[:, None]
        suffix = Suffix(rows.position_R[:, None], None, None, cache, earlier)
    readout = LanguageModelReadout(
        config,
        params,
        rows,
        suffix,
        result.activations["resid_mid"][at],
        result.activations["mlp_post"][at],
        result.activations["resid_post"][:, rows.sequence_R] if bidirectional else None,
        # Not from the logits of all positions: a large vocabulary makes those dear, and often nobody needs them.
        _target_probability(row_logits(config, params, result, rows), rows.target_R),
    )
    return result, readout


def row_logits(config: ModelConfig, params: Mapping, result: Forward, rows: Rows) -> Float[Array, "R V"]:
    """Logits at the rows of an untouched forward."""
    return unembed(config, params, result.resid_final_BTD[rows.sequence_R, rows.position_R])


@dataclasses.dataclass(frozen=True)
class FullForwardReadout(Readout):
    """The obvious readout: every value is a full forward of every row's sequence. Slow; the reference in tests."""

    config: ModelConfig
    params: Mapping
    tokens_BT: Int[Array, "B T"]
    rows: Rows
    length_B: Int[Array, " B"] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.config.n_layers, self.rows.position_R.shape[0], self.config.d_mlp

    @property
    def neurons_LRF(self) -> Array:
        result = forward(self.config, self.params, self.tokens_BT, length_B=self.length_B, capture=("mlp_post",))
        return result.activations["mlp_post"][:, self.rows.sequence_R, self.rows.position_R]

    def __call__(self, gates_LRF: Array, shift_LRF: Array | None = None) -> Array:
        rows = self.rows
        tokens_RT = self.tokens_BT[rows.sequence_R]
        length_R = None if self.length_B is None else self.length_B[rows.sequence_R]
        edit = Edit(gates_LRF, shift_LRF)
        result = forward(self.config, self.params, tokens_RT, edit=edit, query_B=rows.position_R, length_B=length_R)
        logits_RV = result.logits_BTV[jnp.arange(tokens_RT.shape[0]), rows.position_R]
        return _target_probability(logits_RV, rows.target_R)


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
