"""The readout of a language model: the probability of tokens, from what one forward has left behind."""

from collections.abc import Mapping
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.attribution.edits import NeuronEdit
from jaxinterp.attribution.readout import EVALUATION_BYTES, Branches, TokenReadout
from jaxinterp.models.layers import row
from jaxinterp.models.lens import as_unembedded, unembedding
from jaxinterp.models.mesh import beside
from jaxinterp.models.model import Model
from jaxinterp.models.places import Change, of_neurons
from jaxinterp.models.rerun import Later, after_ffn, ffn_output, run_branches, run_layers
from jaxinterp.models.transformer import Forward, embed, forward, unembed


class Rows(NamedTuple):
    """Where a language model is read: R (sequence, position) pairs and the token that is looked for there."""

    sequence_R: Int[Array | np.ndarray, " R"]  # index into the batch
    # Where logits are read and neurons edited: before the target in a causal model, at the mask in a masked one.
    position_R: Int[Array | np.ndarray, " R"]
    target_R: Int[Array | np.ndarray, " R"]  # token id


def _target_probability(logits: Float[Array, "*B R V"], target_R: Int[Array, " R"]) -> Float[Array, "*B R"]:
    log_p = jax.nn.log_softmax(logits)
    target = jnp.broadcast_to(target_R.reshape((1,) * (logits.ndim - 2) + (-1, 1)), (*logits.shape[:-1], 1))
    return jnp.exp(jnp.take_along_axis(log_p, target, axis=-1)[..., 0])


@flax.struct.dataclass
class LanguageModelReadout(TokenReadout):
    """The fast readout of a language model: every value starts from what one forward has left behind.

    A value is a run of the later layers alone; see `jaxinterp.models.rerun`. Gradients with respect to parameters flow
    through the cache. Make one with `lm_readout`.
    """

    model: Model
    rows: Rows
    later: Later
    resid_mid_LRD: Float[Array, "L R D"]  # at the query
    mlp_out_LRD: Float[Array, "L R D"]
    neurons_LRF: Float[Array, "L R F"]
    resid_post_LRTD: Float[Array, "L R T D"] | None  # of bidirectional models
    embedded_RSD: Float[Array, "R S D"]  # what the first layer reads, where later ones are run
    untouched_R: Float[Array, " R"]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.neurons_LRF.shape

    def __call__(self, gates_LRF: Array, shift_LRF: Array | None = None) -> Array:
        return _target_probability(self.logits(gates_LRF, shift_LRF), self.rows.target_R)

    def logits(
        self, gates_LRF: Float[Array, "L R F"], shift_LRF: Float[Array, "L R F"] | None = None
    ) -> Float[Array, "R V"]:
        """Logits at every row while its neurons are `gates · neurons + shift`."""
        first = self.neurons_LRF[:1] * gates_LRF[:1]
        if shift_LRF is not None:
            first = first + shift_LRF[:1]
        deeper = NeuronEdit(gates_LRF[1:], None if shift_LRF is None else shift_LRF[1:])
        mlp_out = ffn_output(self.model.config, jax.tree.map(lambda x: x[:1], self.layers), first)
        start = self.after(jnp.zeros((1, self.shape[1]), jnp.int32), mlp_out)[0]
        return unembed(self.model, run_layers(self.model, start, self.later, of_neurons(deeper), start=1))

    def untouched(self) -> Array:
        return self.untouched_R

    def scaled(self, gates_LRF: Float[Array, "L R F"], attention_LR: Float[Array, "L R"]) -> Float[Array, " R"]:
        """P at every row while its neurons are `gates · neurons` and its attention's outputs `attention · outputs`.

        Both act at the query alone, so that earlier positions are as they were. All layers are run.
        """
        changes = {**of_neurons(NeuronEdit(gates_LRF)), "attn_out": Change(attention_LR[:, :, None, None])}
        return self.probability(run_layers(self.model, self.embedded_RSD, self.later, changes, start=0))

    def branches(self) -> "ResidualBranches":
        return ResidualBranches(self)

    def evaluations_at_once(self, budget: int = EVALUATION_BYTES) -> int:
        """How many values of P and its gradient, on the per-layer path, `budget` bytes have room for; at least 1.

        One keeps about three arrays of logits, and of every later layer about 5 F + 8 D numbers for the backward pass,
        with F the units of neurons if they have several, at each position that is run: the query's, or all of a
        bidirectional model's.
        """
        config = self.model.config
        of_layer = 5 * config.d_mlp * config.ffn_units + 8 * config.d_model
        of_layers = config.n_layers * self.later.position_RS.shape[1] * of_layer
        return max(1, budget // (4 * (3 * config.d_vocab + of_layers)))

    def aimed_at(self, target_R: Array) -> "LanguageModelReadout":
        aimed = self.replace(rows=self.rows._replace(target_R=target_R))
        return aimed.replace(untouched_R=aimed(jnp.ones(self.shape, self.neurons_LRF.dtype)))

    def logit_contributions(self) -> Array:
        model = self.model
        target_RD = unembedding(model, self.rows.target_R)

        def of_layer(layer: Mapping, neurons_RF: Array) -> Array:
            return neurons_RF * (target_RD @ as_unembedded(model, layer, layer["w_out"]).T)

        return jax.vmap(of_layer)(self.layers, self.neurons_LRF)

    @property
    def layers(self) -> Mapping:
        """The layers' parameters."""
        return self.model.params["layers"]

    def after(self, layer_NR: Array, mlp_out_NRD: Array) -> Float[Array, "N R S D"]:
        """The residual stream after layers whose FFN gave `mlp_out` at the query."""
        row = jnp.arange(self.shape[1])[None]
        mid = self.resid_mid_LRD[layer_NR, row]
        query = after_ffn(self.model.config, self.layers, layer_NR, mid, mlp_out_NRD)[:, :, None]
        if self.resid_post_LRTD is None:
            return query
        return jnp.where(self.later.query_RS[None, :, :, None], query, self.resid_post_LRTD[layer_NR, row])

    def probability(self, resid: Float[Array, "*N R D"]) -> Float[Array, "*N R"]:
        """P of the targets, from the residual stream after the last layer at the query."""
        return _target_probability(unembed(self.model, resid), self.rows.target_R)


@flax.struct.dataclass
class ResidualBranches(Branches):
    """A language model's branches, in the residual stream: C is D, the output of the layer's FFN.

    A branch starts in its layer's untouched `resid_mid`, to which the FFN's output is added, and that is linear in the
    neurons: α multiplies D numbers, and the layer's matrices are needed once for all points of a path.
    """

    readout: LanguageModelReadout
    rows_apart = True

    def zeros(self, *n: int) -> Array:
        mlp_out = self.readout.mlp_out_LRD
        return jnp.zeros((*n, *mlp_out.shape[1:]), mlp_out.dtype)

    def __call__(self, layer_NR: Array, alpha_NR: Array, delta_NRC: Array) -> Array:
        readout = self.readout
        row = jnp.arange(readout.shape[1])[None]
        bias = self._bias_LD()[layer_NR]
        alpha = alpha_NR[..., None].astype(bias.dtype)
        # b + α · (a W_out) + delta
        mlp_out = (1 - alpha) * bias + alpha * readout.mlp_out_LRD[layer_NR, row] + delta_NRC
        start = readout.after(layer_NR, mlp_out)
        return readout.probability(run_branches(readout.model, start, readout.later, layer_NR))

    def neuron_scores(self, slope_LRC: Array) -> Array:
        return self.readout.neurons_LRF * jnp.einsum("lrd,lfd->lrf", slope_LRC, self.readout.layers["w_out"])

    def scores(self, layer_NR: Array, slope_NRC: Array) -> Array:
        neurons_alone = self.readout.mlp_out_LRD - self._bias_LD()[:, None]
        return (slope_NRC * neurons_alone[layer_NR, jnp.arange(self.readout.shape[1])[None]]).sum(-1)

    def neuron_outputs(self, neuron_N: Array) -> Array:
        w_out_NLD = self.readout.layers["w_out"][:, neuron_N].transpose(1, 0, 2)
        return self.readout.neurons_LRF[..., neuron_N].transpose(2, 0, 1)[..., None] * w_out_NLD[:, :, None]

    def take(self, row_J: Array) -> "ResidualBranches":
        readout, later = self.readout, self.readout.later
        per_row = (later.position_RS, later.visible_RT, later.query_RS, later.valid_RS)
        position, visible, query, valid = jax.tree.map(lambda x: x[row_J], per_row)
        of_rows = {"embedded_RSD": readout.embedded_RSD[row_J]}
        names = ("resid_mid_LRD", "mlp_out_LRD", "neurons_LRF", "resid_post_LRTD")
        cache, attn_q, of_layers = jax.tree.map(
            lambda x: x[:, row_J], (later.cache, later.attn_q_LRSHK, {name: getattr(readout, name) for name in names})
        )
        taken = readout.replace(
            rows=jax.tree.map(lambda x: x[row_J], readout.rows),
            later=Later(position, cache, visible, query, valid, attn_q),
            untouched_R=readout.untouched_R[row_J],
            **of_layers,
            **of_rows,
        )
        return ResidualBranches(taken)

    def _bias_LD(self) -> Array:
        mlp_out = self.readout.mlp_out_LRD
        return self.readout.layers.get("b_out", jnp.zeros((mlp_out.shape[0], mlp_out.shape[-1]), mlp_out.dtype))


def lm_readout(
    model: Model,
    tokens_BT: Int[Array, "B T"],
    rows: Rows,
    length_B: Int[Array, " B"] | None = None,
) -> tuple[Forward, LanguageModelReadout]:
    """One forward of a batch, and the fast readout at `rows`.

    Args:
      model: the model.
      tokens_BT: sequences, padded on the right; in a masked language model what a row reads is masked in its sequence.
      rows: where to read.
      length_B: tokens of each sequence before padding; see `forward`.
    """
    rows = jax.tree.map(jnp.asarray, rows)
    bidirectional = model.config.attention == "bidirectional"
    capture = ("resid_mid", "mlp_post", "mlp_out", *(("resid_post", "attn_q") if bidirectional else ()))
    result = forward(model, tokens_BT, length_B=length_B, capture=capture)
    found = {name: result.activations[name] for name in ("resid_mid", "mlp_out", "mlp_post")}
    found = {name: value[:, rows.sequence_R, rows.position_R] for name, value in found.items()}
    if model.config.norms_outputs:
        # Branches start before the norm that is put on the FFN's output.
        found["mlp_out"] = ffn_output(model.config, model.params["layers"], found["mlp_post"])
    position_RT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1])[None], (rows.target_R.shape[0], tokens_BT.shape[1]))
    cache = jax.tree.map(lambda x: x[:, rows.sequence_R], result.cache)
    tokens_RT = tokens_BT[rows.sequence_R]
    if bidirectional:
        query = position_RT == rows.position_R[:, None]
        valid = None if length_B is None else position_RT < length_B[rows.sequence_R][:, None]
        attn_q = result.activations["attn_q"][:, rows.sequence_R]
        later = Later(position_RT, cache, ~query if valid is None else valid & ~query, query, valid, attn_q)
    else:
        later = Later(rows.position_R[:, None], cache, position_RT < rows.position_R[:, None])
    readout = LanguageModelReadout(
        model,
        rows,
        later,
        found["resid_mid"],
        found["mlp_out"],
        found["mlp_post"],
        result.activations["resid_post"][:, rows.sequence_R] if bidirectional else None,
        embed(model, tokens_RT if bidirectional else row(tokens_RT, rows.position_R), later.position_RS),
        # Not from the logits of all positions: a large vocabulary makes those dear, and often nobody needs them.
        _target_probability(row_logits(model, result, rows), rows.target_R),
    )
    return result, readout


@jax.jit
def _read(model: Model, batch: tuple) -> tuple[LanguageModelReadout, Array]:
    tokens_BT, rows, length_B = batch
    result, readout = lm_readout(model, tokens_BT, rows, length_B)
    # The parameters would be copied.
    return readout.replace(model=model.replace(params={})), row_logits(model, result, rows)


def read(
    model: Model,
    tokens_BT: Int[Array | np.ndarray, "B T"],
    rows: Rows,
    length_B: Int[Array | np.ndarray, " B"] | None = None,
) -> tuple[LanguageModelReadout, Float[Array, "R V"]]:
    """`lm_readout` made of arrays, for what is not traced (the adaptive rule), and the logits at its rows."""
    readout, logits_RV = _read(model, beside(model.params, (tokens_BT, rows, length_B)))
    return readout.replace(model=model), logits_RV


def row_logits(model: Model, result: Forward, rows: Rows) -> Float[Array, "R V"]:
    """Logits at the rows of an untouched forward."""
    return unembed(model, result.resid_final_BTD[rows.sequence_R, rows.position_R])
