"""Readouts: pure functions from gates to the probability of the thing of interest.

Everything downstream (attribution, selection, suppression, metrics, objectives) knows only the interface `Readout`. A
row is one place where something is read: for a language model, one token of an answer at its own query position. An
answer of several tokens has several rows; each row's edit acts at that row's position alone, earlier answer tokens are
the reference text and untouched, and the answer's probability is the product over its rows
(`answer_log_probability`).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.base.errors import UserError
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.lens import as_unembedded, unembedding
from jaxinterp.models.rerun import Suffix, after_ffn, ffn_output, run_branches, run_layers
from jaxinterp.models.transformer import Edit, Forward, forward, unembed


class Readout:
    """`P(gates, shift) -> [R]`: the probability read at every row while its neurons are `gates · neurons + shift`.

    A row's value depends on its own gates alone. Subclasses define `shape` and `__call__`. They may define the other
    methods anew, for something faster with the same values and derivatives: a branch is a row with an edit in one layer
    alone, and X is a space in which that layer's neurons add up. Here X is F, the gates themselves; a language model's
    X is D, the output of the layer's FFN.
    """

    shape: tuple[int, int, int]  # (L, R, F)
    neurons_LRF: Float[Array, "L R F"] | None  # the untouched activations, or None where they are not known

    def __call__(
        self, gates_LRF: Float[Array, "L R F"], shift_LRF: Float[Array, "L R F"] | None = None
    ) -> Float[Array, " R"]:
        """Probability in [0, 1] of every row."""
        raise NotImplementedError

    def untouched(self) -> Float[Array, " R"]:
        """P with all gates at 1."""
        return self(jnp.ones(self.shape))

    def zero_slopes(self, *n: int) -> Float[Array, "*n R X"]:
        """Zeros of the space X, for n branches a row."""
        return jnp.zeros((*n, *self.shape[1:]), self.untouched().dtype)

    def branches(
        self, layer_NR: Int[Array, "N R"], alpha_NR: Float[Array, "N R"], delta_NRX: Float[Array, "N R X"]
    ) -> Float[Array, "N R"]:
        """P of each row with the gates of layer `layer[n, r]` at `alpha[n, r]` and all others at 1, displaced by delta.

        Args:
          layer_NR: layers, 0 … L − 1.
          alpha_NR: gates.
          delta_NRX: what is added in X; there to be differentiated, and to switch off single neurons.
        """
        gates = jax.vmap(
            lambda layer, alpha, delta: jnp.ones(self.shape[::2], delta.dtype).at[layer].set(alpha + delta)
        )
        return jax.vmap(lambda *branch: self(gates(*branch).transpose(1, 0, 2)))(layer_NR, alpha_NR, delta_NRX)

    def neuron_scores(self, slope_LRX: Float[Array, "L R X"]) -> Float[Array, "L R F"]:
        """∂P/∂gate of every neuron, from ∂P/∂delta of its layer; linear."""
        return slope_LRX

    def branch_scores(self, layer_NR: Int[Array, "N R"], slope_NRX: Float[Array, "N R X"]) -> Float[Array, "N R"]:
        """dP/dα of branches from ∂P/∂delta: the `neuron_scores` of each branch's own layer, summed over its neurons."""
        return slope_NRX.sum(-1)

    def take(self, row_J: Int[Array, " J"]) -> "Readout | None":
        """The readout of some rows, in any order and number; None if it cannot be had."""
        return None

    def aimed_at(self, target_R: Int[Array, " R"]) -> "Readout | None":
        """The readout of other targets at the same rows; None if there is no such thing."""
        return None

    def logit_contributions(self) -> "Float[Array, 'L R F'] | None":
        """What each neuron's value vector adds to the logit of what is read, past all later layers; None if unknown."""
        return None

    def neuron_outputs(self, neuron_N: Int[Array, " N"]) -> Float[Array, "N L R X"]:
        """What neuron `neuron[n]` of each layer adds in X when its gate is 1."""
        one_hot = jax.nn.one_hot(neuron_N, self.shape[2], dtype=self.untouched().dtype)
        return jnp.broadcast_to(one_hot[:, None, None], (neuron_N.shape[0], *self.shape))


@functools.partial(jax.tree_util.register_dataclass, data_fields=["neurons_LRF"], meta_fields=["function", "shape"])
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


_ARRAYS = ["params", "rows", "suffix", "resid_mid_LRD", "mlp_out_LRD", "neurons_LRF", "resid_post_LRTD", "untouched_R"]


@functools.partial(jax.tree_util.register_dataclass, data_fields=_ARRAYS, meta_fields=["config"])
@dataclasses.dataclass(frozen=True)
class LanguageModelReadout(Readout):
    """The fast readout of a language model: every value starts from what one forward has left behind.

    A value is a run of the later layers alone; see `jaxinterp.models.rerun`. A branch starts in its layer's untouched
    `resid_mid`, to which the FFN's output is added, and that is linear in the neurons: α multiplies D numbers, and the
    layer's matrices are needed once for all points of a path. Gradients with respect to parameters flow through the
    cache. Make one with `lm_readout`.
    """

    config: ModelConfig
    params: Mapping
    rows: Rows
    suffix: Suffix
    resid_mid_LRD: Float[Array, "L R D"]  # at the query
    mlp_out_LRD: Float[Array, "L R D"]
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
        mlp_out = ffn_output(self.config, jax.tree.map(lambda x: x[:1], self.params["layers"]), first)
        start = self._after(jnp.zeros((1, self.shape[1]), jnp.int32), mlp_out)[0]
        return self._probability(run_layers(self.config, self.params, start, self.suffix, deeper, start=1))

    def untouched(self) -> Array:
        return self.untouched_R

    def zero_slopes(self, *n: int) -> Array:
        return jnp.zeros((*n, *self.mlp_out_LRD.shape[1:]), self.mlp_out_LRD.dtype)

    def branches(self, layer_NR: Array, alpha_NR: Array, delta_NRX: Array) -> Array:
        row = jnp.arange(self.shape[1])[None]
        bias = self._bias_LD()[layer_NR]
        alpha = alpha_NR[..., None].astype(bias.dtype)
        # b + α · (a W_out) + delta
        mlp_out = (1 - alpha) * bias + alpha * self.mlp_out_LRD[layer_NR, row] + delta_NRX
        start = self._after(layer_NR, mlp_out)
        return self._probability(run_branches(self.config, self.params, start, self.suffix, layer_NR))

    def neuron_scores(self, slope_LRX: Array) -> Array:
        return self.neurons_LRF * jnp.einsum("lrd,lfd->lrf", slope_LRX, self.params["layers"]["w_out"])

    def branch_scores(self, layer_NR: Array, slope_NRX: Array) -> Array:
        neurons_alone = self.mlp_out_LRD - self._bias_LD()[:, None]
        return (slope_NRX * neurons_alone[layer_NR, jnp.arange(self.shape[1])[None]]).sum(-1)

    def take(self, row_J: Array) -> "LanguageModelReadout":
        suffix = self.suffix
        per_row = (suffix.position_RS, suffix.visible_RT, suffix.query_RS, suffix.valid_RS)
        position, visible, query, valid = jax.tree.map(lambda x: x[row_J], per_row)
        names = ("resid_mid_LRD", "mlp_out_LRD", "neurons_LRF", "resid_post_LRTD")
        cache, attn_q, found = jax.tree.map(
            lambda x: x[:, row_J], (suffix.cache, suffix.attn_q_LRSHK, {name: getattr(self, name) for name in names})
        )
        return dataclasses.replace(
            self,
            rows=jax.tree.map(lambda x: x[row_J], self.rows),
            suffix=Suffix(position, cache, visible, query, valid, attn_q),
            untouched_R=self.untouched_R[row_J],
            **found,
        )

    def aimed_at(self, target_R: Array) -> "LanguageModelReadout":
        aimed = dataclasses.replace(self, rows=self.rows._replace(target_R=target_R))
        ones = jnp.ones(self.shape, self.neurons_LRF.dtype)
        return dataclasses.replace(aimed, untouched_R=aimed(ones))

    def logit_contributions(self) -> Array:
        config, params = self.config, self.params
        target_RD = unembedding(config, params, self.rows.target_R)

        def of_layer(layer: Mapping, neurons_RF: Array) -> Array:
            return neurons_RF * (target_RD @ as_unembedded(config, params, layer, layer["w_out"]).T)

        return jax.vmap(of_layer)(params["layers"], self.neurons_LRF)

    def neuron_outputs(self, neuron_N: Array) -> Array:
        w_out_NLD = self.params["layers"]["w_out"][:, neuron_N].transpose(1, 0, 2)
        return self.neurons_LRF[..., neuron_N].transpose(2, 0, 1)[..., None] * w_out_NLD[:, :, None]

    def _bias_LD(self) -> Array:
        shape = (self.shape[0], self.mlp_out_LRD.shape[-1])
        return self.params["layers"].get("b_out", jnp.zeros(shape, self.mlp_out_LRD.dtype))

    def _after(self, layer_NR: Array, mlp_out_NRD: Array) -> Float[Array, "N R S D"]:
        """The residual stream after layers whose FFN gave `mlp_out` at the query."""
        row = jnp.arange(self.shape[1])[None]
        mid = self.resid_mid_LRD[layer_NR, row]
        query = after_ffn(self.config, self.params["layers"], layer_NR, mid, mlp_out_NRD)[:, :, None]
        if self.resid_post_LRTD is None:
            return query
        return jnp.where(self.suffix.query_RS[None, :, :, None], query, self.resid_post_LRTD[layer_NR, row])

    def _probability(self, resid: Float[Array, "*N R D"]) -> Float[Array, "*N R"]:
        return _target_probability(unembed(self.config, self.params, resid), self.rows.target_R)


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
    capture = ("resid_mid", "mlp_post", "mlp_out", *(("resid_post", "attn_q") if bidirectional else ()))
    result = forward(config, params, tokens_BT, length_B=length_B, capture=capture)
    found = {name: result.activations[name] for name in ("resid_mid", "mlp_out", "mlp_post")}
    found = {name: value[:, rows.sequence_R, rows.position_R] for name, value in found.items()}
    position_RT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1])[None], (rows.target_R.shape[0], tokens_BT.shape[1]))
    cache = jax.tree.map(lambda x: x[:, rows.sequence_R], result.cache)
    if bidirectional:
        query = position_RT == rows.position_R[:, None]
        valid = None if length_B is None else position_RT < length_B[rows.sequence_R][:, None]
        attn_q = result.activations["attn_q"][:, rows.sequence_R]
        suffix = Suffix(position_RT, cache, ~query if valid is None else valid & ~query, query, valid, attn_q)
    else:
        suffix = Suffix(rows.position_R[:, None], cache, position_RT < rows.position_R[:, None])
    readout = LanguageModelReadout(
        config,
        params,
        rows,
        suffix,
        found["resid_mid"],
        found["mlp_out"],
        found["mlp_post"],
        result.activations["resid_post"][:, rows.sequence_R] if bidirectional else None,
        # Not from the logits of all positions: a large vocabulary makes those dear, and often nobody needs them.
        _target_probability(row_logits(config, params, result, rows), rows.target_R),
    )
    return result, readout


@functools.partial(jax.jit, static_argnums=0)
def _read(config: ModelConfig, params: Mapping, batch: tuple) -> tuple[LanguageModelReadout, Array]:
    tokens_BT, rows, length_B = batch
    result, readout = lm_readout(config, params, tokens_BT, rows, length_B)
    # The parameters would be copied.
    return dataclasses.replace(readout, params={}), row_logits(config, params, result, rows)


def read(
    config: ModelConfig,
    params: Mapping,
    tokens_BT: Int[Array | np.ndarray, "B T"],
    rows: Rows,
    length_B: Int[Array | np.ndarray, " B"] | None = None,
) -> tuple[LanguageModelReadout, Float[Array, "R V"]]:
    """`lm_readout` made of arrays, for what is not traced (the adaptive rule), and the logits at its rows."""
    batch = jax.tree.map(jnp.asarray, (tokens_BT, rows, length_B))
    readout, logits_RV = _read(config, params, batch)
    return dataclasses.replace(readout, params=params), logits_RV


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
