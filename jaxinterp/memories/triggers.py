"""The tokens on which each neuron is most active: its triggers (Geva et al. 2021)."""

import contextlib
import itertools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxinterp.base.errors import UserError
from jaxinterp.base.prefetch import prefetched
from jaxinterp.base.progress import progress
from jaxinterp.memories.best import Best, highest
from jaxinterp.memories.corpus import Corpus, counted
from jaxinterp.memories.kept import Kept
from jaxinterp.memories.rows import NONE, Rows, batches_of, rows_of
from jaxinterp.models.attention import Packing
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward

K = 25  # triggers of a neuron, as in the paper
TOKENS = 512  # of a batch: their activations of all neurons are in memory, of three batches
AT_ONCE = 2  # batches that are computed side by side


class Triggers(NamedTuple):
    """The K tokens of a corpus with the highest activation of each neuron, the highest first.

    A neuron of layer L and number F is what W_out multiplies ("mlp_post"). Where a corpus has fewer tokens, activations
    are −inf and places −1. Of equal activations, the earlier token counts more.
    """

    activation_LFK: Float[np.ndarray, "L F K"]
    window_LFK: Int[np.ndarray, "L F K"]  # of the corpus
    position_LFK: Int[np.ndarray, "L F K"]  # of the token in its window, whose neurons these are


def top_triggers(
    model: LanguageModel,
    corpus: Corpus,
    k: int = K,
    *,
    among_NT: Bool[np.ndarray, "N T"] | None = None,
    tokens: int = TOKENS,
    kept: Path | None = None,
) -> Triggers:
    """The k highest activations of every neuron over a corpus, exactly, and where they are.

    The corpus is read batch by batch. What several windows begin with, a causal model reads once in a batch: sentences
    about facts are half such beginnings. Of a batch, only activations above the lowest that a neuron has so far are
    merged with those, so that memory does not grow with the corpus: three batches, of 4 L F bytes a token, twice that
    while one is computed, and 12 bytes for each trigger. Neither padding nor the tokens that the model expects around
    a text are looked at.

    Args:
      model: any; activations in bfloat16 are compared as float32.
      corpus: of this model's tokens.
      k: triggers of each neuron, at least 1.
      among_NT: which tokens can be triggers, such as `Contexts.first_NT`, with which equal contexts count once; None is
        all tokens of the texts.
      tokens: of a batch, about; those of one window at least.
      kept: a file from which a scan that was interrupted goes on, and one that is done is read; None is none.
    Raises:
      UserError: if k or `tokens` is below 1, a token id is not the model's, an activation is not finite, or the file is
        of another scan or cannot be written.
    """
    for name, number in (("k", k), ("tokens", tokens)):
        if number < 1:
            raise UserError(f"{name} of a scan for triggers must be at least 1, got {number}")
    if (largest := int(corpus.tokens_NT.max())) >= model.config.d_vocab:
        raise UserError(f"the corpus has token {largest}, and the model {model.config.d_vocab}: it is of another model")
    best = Best(model.config.n_layers, model.config.d_mlp, k)
    looked_at_NT = counted(corpus, model.tokenizer)
    looked_at_NT = looked_at_NT if among_NT is None else looked_at_NT & among_NT
    file = None if kept is None else Kept(kept, model, corpus, looked_at_NT, k, tokens)
    start = 0 if file is None else file.read(best)
    parts = rows_of(corpus, looked_at_NT, causal=model.config.attention == "causal")
    read_P = np.cumsum([0, *(int((rows.number_RW != NONE).sum()) for rows, _ in batches_of(parts, tokens))]).tolist()
    with progress("triggers", read_P[-1], done=read_P[start]) as report:
        batches = itertools.islice(batches_of(parts, tokens), start, None)
        found = prefetched(lambda batch: _activations(model.model, *batch), batches, AT_ONCE - 1, AT_ONCE)
        with contextlib.closing(found):
            for stop, values in enumerate(found, start + 1):
                best.add(*values)
                del values  # which would be held while the next ones are waited for
                report(read_P[stop], "tokens")
                if file is not None:
                    file.write(best, stop, done=stop == len(read_P) - 1)
    window_LFK, position_LFK = np.divmod(best.token_LFK, corpus.tokens_NT.shape[1])
    none = best.token_LFK < 0
    return Triggers(best.value_LFK, np.where(none, -1, window_LFK), np.where(none, -1, position_LFK))


def _activations(model: Model, rows: Rows, n_batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `Best.add` reads of a batch: all neurons at its tokens, −inf at those that are not looked at."""
    filled = rows.filled(n_batch)
    packing = filled.packing(causal=model.config.attention == "causal")
    value_LRF, highest_LGF, finite = _neurons(model, filled.tokens_RW, packing, filled.number_RW != NONE)
    if not finite:
        raise UserError("the model's activations are not all finite numbers: its parameters may be damaged")
    return np.asarray(value_LRF), np.asarray(highest_LGF), filled.number_RW.ravel()


@jax.jit
def _neurons(
    model: Model, tokens_BT: Array, packing: Packing, looked_at_BT: Array
) -> tuple[Float[Array, "L R F"], Float[Array, "L G F"], Bool[Array, ""]]:
    # Without logits, which nobody looks at: of a large vocabulary they would cost as much as the layers.
    result = forward(model, tokens_BT, packing=packing, capture=("mlp_post",))
    value_LBTF = result.activations["mlp_post"]
    value_LBTF = value_LBTF.astype(jnp.promote_types(value_LBTF.dtype, jnp.float32))
    value_LBTF = jnp.where(looked_at_BT[None, :, :, None], value_LBTF, -jnp.inf)
    value_LRF = value_LBTF.reshape(len(value_LBTF), -1, value_LBTF.shape[-1])
    return value_LRF, highest(value_LRF), (jnp.isfinite(result.resid_final_BTD).all(-1) | ~looked_at_BT).all()
