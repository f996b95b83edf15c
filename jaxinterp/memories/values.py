"""What value vectors say by a lens, and the vectors that stand in for them as controls."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.memories.lens import AnyArray, Lens, aimed, in_chunks, unembedding
from jaxinterp.models.model import Model

EXTREME = 10  # tokens at either end of a value's distribution


class ValuesRead(NamedTuple):
    """What each of N value vectors says, and of K tokens given for each."""

    top_N: Int[AnyArray, " N"]  # the token with the highest logit: its arg-max
    bottom_N: Int[AnyArray, " N"]  # the one with the lowest, which a negative activation promotes most
    highest_NE: Int[AnyArray, "N E"]  # the `EXTREME` tokens with the highest logits
    lowest_NE: Int[AnyArray, "N E"]
    confidence_N: Float[AnyArray, " N"]  # the largest probability of softmax(logits)
    highest_z_N: Float[AnyArray, " N"]  # mean logit of the `highest`, in standard deviations over the vocabulary
    lowest_z_N: Float[AnyArray, " N"]
    rank_NK: Int[AnyArray, "N K"]  # of the tokens given: 1 + how many have a higher logit


def read_values(
    model: Model,
    lens: Lens,
    layer: int,
    value_ND: Float[AnyArray, "N D"],
    token_NK: Int[AnyArray, "N K"] | None = None,
) -> ValuesRead:
    """Reads vectors that a layer's FFN could write, with the logits of a few of them at once in memory.

    Args:
      model: the model.
      lens: how they are read.
      layer: whose FFN.
      value_ND: value vectors, or what the FFN writes in all.
      token_NK: tokens whose ranks are wanted, of each vector; None is none.
    """
    tokens = np.zeros((len(value_ND), 0), np.int32) if token_NK is None else token_NK
    return in_chunks(lambda value_ND, token_NK: _read(model, lens, layer, value_ND, token_NK), value_ND, tokens)


def value_tops(model: Model, lens: Lens, layer: int, value_ND: Float[AnyArray, "N D"]) -> Int[np.ndarray, " N"]:
    """The token with the highest logit alone."""
    return in_chunks(lambda value_ND: _top(model, lens, layer, value_ND), value_ND)


def shuffled(value_FD: Float[np.ndarray, "F D"], rng: np.random.Generator) -> Float[np.ndarray, "F D"]:
    """The layer's values in another order: each key with another neuron's value. No neuron keeps its own."""
    # A shift of a random order moves every one of them.
    order = rng.permutation(len(value_FD))
    moved = np.empty(len(value_FD), int)
    moved[order] = np.roll(order, 1)
    return value_FD[moved]


def gaussian(value_FD: Float[np.ndarray, "F D"], rng: np.random.Generator) -> Float[np.ndarray, "F D"]:
    """Normal vectors with the layer's mean and covariance, m + Σ_i z_i (v_i − m) / √(F − 1), z_i normal."""
    mean_D = value_FD.mean(0)
    z_FF = rng.standard_normal((len(value_FD), len(value_FD)))
    drawn_FD = mean_D[None] + z_FF @ (value_FD - mean_D[None]) / max(len(value_FD) - 1, 1) ** 0.5
    return drawn_FD.astype(value_FD.dtype)


# Whose values stand behind the keys. Controls say what a figure is by chance.
VALUES: Mapping[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "own": lambda value_FD, rng: value_FD,
    "shuffled": shuffled,
    "random": gaussian,
}


def layer_values(model: Model, layer: int, kind: str, seed: int) -> Float[np.ndarray, "F D"]:
    """The value vectors of a layer, or those of a control out of `VALUES`; the draw is the layer's own."""
    w_out_FD = np.asarray(model.params["layers"]["w_out"][layer], np.float32)
    return VALUES[kind](w_out_FD, np.random.default_rng([seed, 2, layer]))


class Standing(NamedTuple):
    """What logits of a layer's vectors are measured against: their mean and deviation over the vocabulary."""

    aimed_FD: Float[np.ndarray, "F D"]
    mean_F: Float[np.ndarray, " F"]
    deviation_F: Float[np.ndarray, " F"]


class Moments(NamedTuple):
    """Of the unembedding's rows over the vocabulary."""

    mean_D: Float[np.ndarray, " D"]
    covariance_DD: Float[np.ndarray, "D D"]


def vocabulary_moments(model: Model) -> Moments:
    """By which logits are measured without being made."""
    return Moments(*(np.asarray(x, np.float64) for x in _moments(unembedding(model))))


def standing(model: Model, lens: Lens, layer: int, value_FD: Float[AnyArray, "F D"], moments: Moments) -> Standing:
    """Of a layer's vectors by a lens; `moments` are those of the model's vocabulary."""
    mean_D, covariance_DD = moments
    aimed_FD = np.asarray(aimed(model, lens, layer, value_FD), np.float64)
    variance_F = np.einsum("fd,de,fe->f", aimed_FD, covariance_DD, aimed_FD, optimize=True)
    return Standing(aimed_FD, aimed_FD @ mean_D, np.sqrt(variance_F.clip(1e-24)))


@jax.jit
def _moments(unembedding_VD: Array) -> tuple[Array, Array]:
    mean_D = unembedding_VD.mean(0)
    centred_VD = unembedding_VD - mean_D[None]
    return mean_D, centred_VD.T @ centred_VD / len(unembedding_VD)


@jax.jit
def _top(model: Model, lens: Lens, layer: Array, value_ND: Array) -> Int[Array, " N"]:
    return (aimed(model, lens, layer, value_ND) @ unembedding(model).T).argmax(-1)


@jax.jit
def _read(model: Model, lens: Lens, layer: Array, value_ND: Array, token_NK: Array) -> ValuesRead:
    logits_NV = aimed(model, lens, layer, value_ND) @ unembedding(model).T
    n = min(EXTREME, logits_NV.shape[1])
    # Where a part of top_k's result is taken, XLA's CPU compiler would sort whole rows: ten times the time.
    highest_NE, highest_at_NE = jax.lax.optimization_barrier(tuple(jax.lax.top_k(logits_NV, n)))
    lowest_NE, lowest_at_NE = jax.lax.optimization_barrier(tuple(jax.lax.top_k(-logits_NV, n)))
    mean_N, deviation_N = logits_NV.mean(-1), jnp.maximum(logits_NV.std(-1), jnp.finfo(logits_NV.dtype).tiny)
    own_NK = jnp.take_along_axis(logits_NV, token_NK, -1)
    rank_KN = jax.lax.map(lambda own_N: 1 + (logits_NV > own_N[:, None]).sum(-1), own_NK.T)
    return ValuesRead(
        highest_at_NE[:, 0],
        lowest_at_NE[:, 0],
        highest_at_NE,
        lowest_at_NE,
        jnp.exp(highest_NE[:, 0] - jax.nn.logsumexp(logits_NV, -1)),
        (highest_NE.mean(-1) - mean_N) / deviation_N,
        (-lowest_NE.mean(-1) - mean_N) / deviation_N,
        rank_KN.T,
    )
