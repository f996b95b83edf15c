"""Pairs of neurons over the rows of a batch, within and across layers: what the terms on their dependence share."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxinterp.base.errors import UserError
from jaxinterp.objectives.context import TINY, Context

COLUMNS = 512  # neurons of all layers, drawn anew in each step, whose pairs are looked at; all if there are fewer
DEAD = 1e-3  # of the largest standard deviation: a neuron that varies less is dead in this batch


class Columns(NamedTuple):
    """Neurons over a batch's rows, each with its mean over the rows at 0."""

    centred_RU: Float[Array, "R U"]
    share_R: Float[Array, " R"]  # what a row counts for, 1 in all; 0 for padding
    deviation_U: Float[Array, " U"]  # standard deviations; 1 for dead neurons
    live_U: Bool[Array, " U"]

    @property
    def standard_RU(self) -> Float[Array, "R U"]:
        """In standard deviations; 0 for dead neurons."""
        return jnp.where(self.live_U[None], self.centred_RU / self.deviation_U[None], 0)


def neurons_of(context: Context, term: str) -> Float[Array, "L R F"]:
    """The activations at the batch's rows, in float32 at least.

    Raises:
      UserError: if the readout does not know them; it names the term.
    """
    neurons_LRF = context.readout.neurons_LRF
    if neurons_LRF is None:
        raise UserError(f"the term {term} needs a readout whose activations are known")
    return neurons_LRF.astype(jnp.promote_types(neurons_LRF.dtype, jnp.float32))


def row_shares(context: Context) -> Float[Array, " R"]:
    """What each row counts for in a mean over the rows that are no padding; the sum is 1."""
    weight_R = jnp.asarray(context.answers.weight_R)
    return weight_R / jnp.maximum(weight_R.sum(), TINY)


def drawn_columns(context: Context, term: str) -> Columns:
    """`COLUMNS` neurons out of all layers, drawn by the context's key: equal ones for all terms of a step.

    Raises:
      UserError: if the readout does not know activations; it names the term.
    """
    neurons_LRF = neurons_of(context, term)
    n_layers, n_rows, n_neurons = neurons_LRF.shape
    x_RU = neurons_LRF.transpose(1, 0, 2).reshape(n_rows, n_layers * n_neurons)
    if x_RU.shape[1] > COLUMNS:
        key = jax.random.fold_in(context.key, 3)
        x_RU = x_RU[:, jax.random.choice(key, x_RU.shape[1], (COLUMNS,), replace=False)]
    share_R = row_shares(context).astype(x_RU.dtype)
    centred_RU = x_RU - (share_R @ x_RU)[None]
    return columns(centred_RU, share_R)


def columns(centred_RU: Float[Array, "R U"], share_R: Float[Array, " R"]) -> Columns:
    """`Columns` of neurons whose means are 0; which of them are dead has no gradient."""
    variance_U = share_R @ jnp.square(centred_RU)
    live_U = variance_U > jnp.maximum(DEAD**2 * variance_U.max(), TINY)
    return Columns(centred_RU, share_R, jnp.sqrt(jnp.where(live_U, variance_U, 1.0)), live_U)


def pair_mean(values_UU: Float[Array, "U U"], live_U: Bool[Array, " U"]) -> Float[Array, ""]:
    """Mean of a symmetric matrix over the pairs of different neurons that live; 0 if there is none."""
    pairs_UU = live_U[:, None] & live_U[None] & ~jnp.eye(live_U.shape[0], dtype=bool)
    return jnp.where(pairs_UU, values_UU, 0).sum() / jnp.maximum(pairs_UU.sum(), 1)


def correlations(drawn: Columns) -> Float[Array, "U U"]:
    """Correlations over the rows; 0 with dead neurons."""
    return _products(drawn.standard_RU, drawn.share_R)


def covariances(drawn: Columns) -> Float[Array, "U U"]:
    """Covariances over the rows."""
    return _products(drawn.centred_RU, drawn.share_R)


def squared(drawn: Columns) -> Columns:
    """The squares of the neurons in standard deviations, their means at 0 again; dead neurons stay dead."""
    squares_RU = jnp.square(drawn.standard_RU)
    return columns(squares_RU - (drawn.share_R @ squares_RU)[None], drawn.share_R)


def _products(x_RU: Array, share_R: Array) -> Array:
    return (x_RU * share_R[:, None]).T @ x_RU
