"""The obvious readout, to hold the fast ones to."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxinterp.attribution.edits import NeuronEdit
from jaxinterp.attribution.readout import GateBranches, Readout
from jaxinterp.models.model import Model
from jaxinterp.models.places import Change, Changes, of_neurons
from jaxinterp.models.readout import Rows, _target_probability
from jaxinterp.models.transformer import forward


@dataclasses.dataclass(frozen=True)
class FullForwardReadout(Readout):
    """Every value is a full forward of every row's sequence."""

    model: Model
    tokens_BT: Int[Array, "B T"]
    rows: Rows
    length_B: Int[Array, " B"] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        config = self.model.config
        return config.n_layers, self.rows.position_R.shape[0], config.d_mlp

    @property
    def neurons_LRF(self) -> Array:
        result = forward(self.model, self.tokens_BT, length_B=self.length_B, capture=("mlp_post",))
        return result.activations["mlp_post"][:, self.rows.sequence_R, self.rows.position_R]

    def __call__(self, gates_LRF: Array, shift_LRF: Array | None = None) -> Array:
        return self.edited(NeuronEdit(gates_LRF, shift_LRF))

    def scaled(self, gates_LRF: Array, attention_LR: Array) -> Array:
        return self.edited({**of_neurons(NeuronEdit(gates_LRF)), "attn_out": Change(attention_LR[:, :, None, None])})

    def edited(self, edit: NeuronEdit | Changes) -> Array:
        rows = self.rows
        tokens_RT = self.tokens_BT[rows.sequence_R]
        length_R = None if self.length_B is None else self.length_B[rows.sequence_R]
        result = forward(self.model, tokens_RT, edit=edit, query_B=rows.position_R, length_B=length_R)
        logits_RV = result.logits_BTV[jnp.arange(tokens_RT.shape[0]), rows.position_R]
        return _target_probability(logits_RV, rows.target_R)

    def untouched(self) -> Array:
        return self(jnp.ones(self.shape))

    def branches(self) -> GateBranches:
        return GateBranches(self)

    def evaluations_at_once(self) -> int:
        return 1024
