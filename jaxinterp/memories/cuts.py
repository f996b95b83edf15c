"""Memories in the model itself: a trigger with a token less, and the logits without the neuron."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.attribution.edits import NeuronEdit
from jaxinterp.base.progress import progress
from jaxinterp.memories.corpus import Corpus
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward, unembed

CUTS = ("last", "first", "random")
BATCH = 16


def coefficient_drops(
    model: Model,
    corpus: Corpus,
    neuron_N2: Int[np.ndarray, "N 2"],
    place_N2: Int[np.ndarray, "N 2"],
    *,
    n_prefix: int = 0,
    seed: int = 0,
) -> dict[str, Float[np.ndarray, " N"]]:
    """1 − (activation after a token of the trigger's text is cut out) / (activation at the trigger), for `CUTS`.

    The text is that up to the trigger. Last is the token of the trigger itself, so that the activation is read at the
    one before it; random is any between first and last. NaN where that text has fewer than three tokens, or the
    activation is not above 0.

    Args:
      model: the model.
      corpus: its texts.
      neuron_N2: layer and number of each neuron.
      place_N2: window and position of a trigger of it.
      n_prefix: tokens at the beginning of a window that are no text, as <bos>; they are never cut.
      seed: of the random token.
    """
    window_N, position_N = place_N2.T
    long_N = position_N - n_prefix + 1 >= 3
    rng = np.random.default_rng([seed, 5])
    between_N = rng.integers(n_prefix + 1, np.where(long_N, position_N, n_prefix + 2))
    cut = {"last": position_N, "first": np.full_like(position_N, n_prefix), "random": between_N}
    with progress("triggers with a token less", 4) as report:
        whole_N = _activations(model, corpus, window_N, position_N, neuron_N2)
        drops = {}
        for number, name in enumerate(CUTS):
            report(number + 1, "")
            left_N = _activations(model, corpus, window_N, position_N, neuron_N2, np.where(long_N, cut[name], -1))
            with np.errstate(divide="ignore", invalid="ignore"):
                drops[name] = np.where(long_N & (whole_N > 0), 1 - left_N / whole_N, np.nan)
        report(4, "")
    return drops


def effects_of_neurons(
    model: Model,
    corpus: Corpus,
    neuron_N2: Int[np.ndarray, "N 2"],
    place_N2: Int[np.ndarray, "N 2"],
    token_NE: Int[np.ndarray, "N E"],
) -> Float[np.ndarray, "N E"]:
    """What neurons do to logits of tokens at places: untouched less without the neuron there, in nats, less the mean of
    that over the vocabulary.

    The neuron is off at that position alone, and everything after it is run again.

    Args:
      model, corpus, neuron_N2, place_N2: see `coefficient_drops`.
      token_NE: tokens of each neuron.
    """
    found = np.zeros(token_NE.shape)
    with progress("neurons switched off", len(neuron_N2)) as report:
        for of_B, kept, tokens_BT, length_B in _batches(corpus, place_N2[:, 0]):
            arrays = (place_N2[of_B, 1], neuron_N2[of_B], token_NE[of_B])
            effect_BE = np.asarray(_effects(model, tokens_BT, length_B, *map(jnp.asarray, arrays)))
            found[of_B[:kept]] = effect_BE[:kept]
            report(int(of_B[:kept].max()) + 1, "")
    return found


def _activations(
    model: Model, corpus: Corpus, window_N: np.ndarray, position_N: np.ndarray, neuron_N2: np.ndarray, cut_N=None
) -> Float[np.ndarray, " N"]:
    """Of each neuron at a position, or at the one before it once the token at `cut` is gone; −1 cuts nothing."""
    found = np.zeros(len(window_N))
    for of_B, kept, tokens_BT, length_B in _batches(corpus, window_N):
        position_B = position_N[of_B]
        if cut_N is not None:
            column_T = np.arange(tokens_BT.shape[1])
            later_BT = (cut_N[of_B][:, None] >= 0) & (column_T[None] >= cut_N[of_B][:, None])
            from_BT = np.minimum(column_T[None] + later_BT, len(column_T) - 1)
            tokens_BT = np.take_along_axis(tokens_BT, from_BT, 1)
            gone_B = (cut_N[of_B] >= 0).astype(int)
            length_B, position_B = length_B - gone_B, position_B - gone_B
        values_B = _activation(model, tokens_BT, length_B, position_B, neuron_N2[of_B])
        found[of_B[:kept]] = np.asarray(values_B)[:kept]
    return found


def _batches(corpus: Corpus, window_N: np.ndarray):
    """Rows of a batch of one shape, how many of them count, and their windows."""
    for start in range(0, len(window_N), BATCH):
        of_B = np.arange(start, start + BATCH) % len(window_N)
        window_B = window_N[of_B]
        yield (
            of_B,
            min(BATCH, len(window_N) - start),
            np.asarray(corpus.tokens_NT)[window_B],
            np.asarray(corpus.length_N)[window_B],
        )


@jax.jit
def _activation(model: Model, tokens_BT: Array, length_B: Array, position_B: Array, neuron_B2: Array) -> Array:
    post = forward(model, tokens_BT, length_B=length_B, capture=("mlp_post",)).activations["mlp_post"]
    return post[neuron_B2[:, 0], jnp.arange(tokens_BT.shape[0]), position_B, neuron_B2[:, 1]]


@jax.jit
def _effects(
    model: Model, tokens_BT: Array, length_B: Array, position_B: Array, neuron_B2: Array, token_BE: Array
) -> Float[Array, "B E"]:
    config, row_B = model.config, jnp.arange(tokens_BT.shape[0])
    gates = jnp.ones((config.n_layers, tokens_BT.shape[0], config.d_mlp), config.dtype)
    off = NeuronEdit(gates.at[neuron_B2[:, 0], row_B, neuron_B2[:, 1]].set(0))

    def logits_BV(edit: NeuronEdit | None) -> Array:
        result = forward(model, tokens_BT, edit=edit, query_B=position_B, length_B=length_B)
        return unembed(model, result.resid_final_BTD[row_B, position_B])

    effect_BV = logits_BV(None) - logits_BV(off)
    return jnp.take_along_axis(effect_BV - effect_BV.mean(-1, keepdims=True), token_BE, -1)
