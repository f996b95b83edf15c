"""What stands in every layer at places that are drawn from a corpus."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.base.errors import UserError
from jaxinterp.base.progress import progress
from jaxinterp.memories.corpus import Corpus
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward, unembed

BATCH = 16  # windows at once


class Examples(NamedTuple):
    """E places, where a model has read a text and says what comes next."""

    text_E: Int[np.ndarray, " E"]  # number of the text; examples of one text are not independent
    token_E: Int[np.ndarray, " E"]  # what the model says in the end: the token of highest logit
    mlp_post_LEF: Float[np.ndarray, "L E F"]  # the neurons
    resid_mid_LED: Float[np.ndarray, "L E D"]  # the residual stream before each FFN


def drawn_examples(model: Model, corpus: Corpus, n: int, *, skip: int = 1, seed: int = 0) -> Examples:
    """Places of a corpus, none twice: one of each window that is drawn, or more where there are too few windows.

    Args:
      model: the model.
      corpus: texts.
      n: examples; fewer if the corpus has not so many places.
      skip: positions at the beginning of a window that are left out.
      seed: of the draw.
    Raises:
      UserError: if the corpus has no such place.
    """
    rng, length_N = np.random.default_rng([seed, 3]), np.asarray(corpus.length_N)
    usable = rng.permutation(np.flatnonzero(length_N > skip))
    if not len(usable):
        raise UserError(f"no text of the corpus has more than {skip} tokens; give longer texts or a lower skip")
    each = -(-n // len(usable))
    window_W = usable[: -(-n // each)]
    places = [
        (window, position)
        for window in window_W.tolist()
        for position in sorted(rng.permutation(np.arange(skip, length_N[window]))[:each].tolist())
    ][:n]
    window_E, position_E = (np.array(column) for column in zip(*places, strict=True))
    parts = []
    with progress("examples", len(window_E)) as report:
        for start in range(0, len(window_E), BATCH):
            # Wraps around at the end: all batches have one shape.
            of_B = np.arange(start, start + BATCH) % len(window_E)
            window_B, kept = window_E[of_B], min(BATCH, len(window_E) - start)
            tokens_BT = np.asarray(corpus.tokens_NT)[window_B]
            found = _at(model, tokens_BT, length_N[window_B], position_E[of_B])
            parts.append([np.asarray(x)[..., :kept] if x.ndim == 1 else np.asarray(x)[:, :kept] for x in found])
            report(start + kept, "")
    token, post, mid = zip(*parts, strict=True)
    return Examples(
        np.asarray(corpus.text_N)[window_E], np.concatenate(token), np.concatenate(post, 1), np.concatenate(mid, 1)
    )


@jax.jit
def _at(model: Model, tokens_BT: Array, length_B: Array, position_B: Array) -> tuple[Array, Array, Array]:
    result = forward(model, tokens_BT, length_B=length_B, capture=("mlp_post", "resid_mid"))
    row_B = jax.numpy.arange(tokens_BT.shape[0])
    token_B = unembed(model, result.resid_final_BTD[row_B, position_B]).argmax(-1)
    return token_B, *(result.activations[name][:, row_B, position_B] for name in ("mlp_post", "resid_mid"))
