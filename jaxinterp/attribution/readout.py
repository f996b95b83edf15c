"""Readouts: pure functions from gates to the probability of the thing of interest.

Everything downstream (attribution, selection, suppression, metrics, objectives) knows only the interface `Readout`. A
row is one place where something is read: one token of an answer at its own query position, an image, a position of a
game. Rows make up answers (`jaxinterp.attribution.answers`).
"""

import abc
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxinterp.base.errors import UserError


class Readout(abc.ABC):
    """`P(gates, shift) -> [R]`: the probability read at every row while its neurons are `gates · neurons + shift`.

    A row's value depends on its own gates alone. A readout is a pytree of arrays, so that it passes through `jit`.
    """

    shape: tuple[int, int, int]  # (L, R, F)
    neurons_LRF: Float[Array, "L R F"] | None  # the untouched activations; None where they are not known

    @abc.abstractmethod
    def __call__(
        self, gates_LRF: Float[Array, "L R F"], shift_LRF: Float[Array, "L R F"] | None = None
    ) -> Float[Array, " R"]:
        """Probability in [0, 1] of every row.

        Raises:
          UserError: if there is a shift and the readout is of gates alone.
        """

    @abc.abstractmethod
    def untouched(self) -> Float[Array, " R"]:
        """P with all gates at 1."""

    @abc.abstractmethod
    def branches(self) -> "Branches":
        """The readout of edits in one layer alone."""

    @abc.abstractmethod
    def evaluations_at_once(self) -> int:
        """How many values of P, with their gradients, fit into memory at a time."""


class Branches(abc.ABC):
    """Edits of one layer alone, and a space C in which that layer's neurons add up.

    A branch is a row with an edit in one layer. Its gates are α there and 1 elsewhere, and `delta`, in C, is added to
    what the layer's neurons give. C may be the gates themselves (`GateBranches`), or narrower: a language model's is
    the output of the layer's FFN.
    """

    rows_apart: bool  # whether `take` gives the branches of some rows alone

    @abc.abstractmethod
    def zeros(self, *n: int) -> Float[Array, "*n R C"]:
        """Zeros of the space C, for n branches of each row."""

    @abc.abstractmethod
    def __call__(
        self, layer_NR: Int[Array, "N R"], alpha_NR: Float[Array, "N R"], delta_NRC: Float[Array, "N R C"]
    ) -> Float[Array, "N R"]:
        """P of each row with the gates of layer `layer[n, r]` at `alpha[n, r]` and all others at 1, displaced by delta.

        Args:
          layer_NR: layers, 0 … L − 1.
          alpha_NR: gates.
          delta_NRC: what is added in C; there to be differentiated, and to switch off single neurons.
        """

    @abc.abstractmethod
    def neuron_scores(self, slope_LRC: Float[Array, "L R C"]) -> Float[Array, "L R F"]:
        """∂P/∂gate of every neuron, from ∂P/∂delta of its layer; linear."""

    @abc.abstractmethod
    def scores(self, layer_NR: Int[Array, "N R"], slope_NRC: Float[Array, "N R C"]) -> Float[Array, "N R"]:
        """dP/dα of branches from ∂P/∂delta: the `neuron_scores` of each branch's own layer, summed over its neurons."""

    @abc.abstractmethod
    def neuron_outputs(self, neuron_N: Int[Array, " N"]) -> Float[Array, "N L R C"]:
        """What neuron `neuron[n]` of each layer adds in C when its gate is 1."""

    @abc.abstractmethod
    def take(self, row_J: Int[Array, " J"]) -> "Branches":
        """The branches of some rows, in any order and number.

        Raises:
          UserError: unless `rows_apart`.
        """


class TokenReadout(Readout):
    """A readout that looks for one of several targets, such as tokens, to whose logits neurons add."""

    @abc.abstractmethod
    def aimed_at(self, target_R: Int[Array, " R"]) -> "TokenReadout":
        """The readout of other targets at the same rows."""

    @abc.abstractmethod
    def logit_contributions(self) -> Float[Array, "L R F"]:
        """What each neuron's value vector adds to the logit of what is read, past all later layers."""


@flax.struct.dataclass
class GateBranches(Branches):
    """The branches of any readout, by its gates: C is F."""

    readout: Readout
    rows_apart = False

    def zeros(self, *n: int) -> Array:
        return jnp.zeros((*n, *self.readout.shape[1:]), self.readout.untouched().dtype)

    def __call__(self, layer_NR: Array, alpha_NR: Array, delta_NRC: Array) -> Array:
        readout = self.readout
        gates = jax.vmap(
            lambda layer, alpha, delta: jnp.ones(readout.shape[::2], delta.dtype).at[layer].set(alpha + delta)
        )
        return jax.vmap(lambda *branch: readout(gates(*branch).transpose(1, 0, 2)))(layer_NR, alpha_NR, delta_NRC)

    def neuron_scores(self, slope_LRC: Array) -> Array:
        return slope_LRC

    def scores(self, layer_NR: Array, slope_NRC: Array) -> Array:
        return slope_NRC.sum(-1)

    def neuron_outputs(self, neuron_N: Array) -> Array:
        shape = self.readout.shape
        one_hot = jax.nn.one_hot(neuron_N, shape[2], dtype=self.readout.untouched().dtype)
        return jnp.broadcast_to(one_hot[:, None, None], (neuron_N.shape[0], *shape))

    def take(self, row_J: Array) -> "GateBranches":
        raise UserError("the rows of this readout cannot be taken apart")


EVALUATION_BYTES = 10**9  # that values of P may take at once


@flax.struct.dataclass
class FunctionReadout(Readout):
    """Any pure function of gates as a readout: a class probability, a value head, a toy.

    P = function(gates, *inputs). What changes from batch to batch (parameters, images) belongs in `inputs`: what is
    compiled for one batch then serves for all, and gradients flow through them.
    """

    function: Callable[..., Float[Array, " R"]] = flax.struct.field(pytree_node=False)
    shape: tuple[int, int, int] = flax.struct.field(pytree_node=False)
    neurons_LRF: Float[Array, "L R F"] | None = None
    inputs: tuple = ()

    def __call__(self, gates_LRF: Array, shift_LRF: Array | None = None) -> Array:
        if shift_LRF is not None:
            raise UserError("this readout is a function of gates alone: it can suppress and amplify, not set values")
        return self.function(gates_LRF, *self.inputs)

    def untouched(self) -> Array:
        return self(jnp.ones(self.shape))

    def branches(self) -> GateBranches:
        return GateBranches(self)

    def evaluations_at_once(self) -> int:
        n_layers, n_rows, n_neurons = self.shape
        # Gates and their gradients, in float32, and as much again for what the function makes of them.
        return max(n_rows, EVALUATION_BYTES // (16 * n_layers * n_neurons))
