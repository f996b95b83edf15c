"""Longer texts: how fluent and consistent continuations are, and how perplexing a model finds texts."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxinterp.base.errors import UserError
from jaxinterp.editing.covariance import text_batches
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.likelihood import next_token_nll
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward

WEIGHTS = {2: 2 / 3, 3: 4 / 3}  # of the entropies of 2- and 3-grams, as in ROME's code
_WORD = re.compile(r"\w+|[^\w\s]")


def fluency(texts: Sequence[str]) -> float:
    """½ (⅔ H₂ + 4⁄3 H₃), the mean over texts; low where a text repeats itself.

    H_n is the entropy, in bits, of the n-grams of a text's words; Meng et al. 2022, who print it times 100 in some
    tables. Deviation: words are runs of letters, digits and underscores, and single marks, not those of NLTK.

    Returns:
      NaN if there is no text with 3 words.
    """
    values = [_weighted(words) for text in texts if len(words := _WORD.findall(text)) >= max(WEIGHTS)]
    return float(np.mean(values)) if values else math.nan


def _weighted(words: list[str]) -> float:
    return sum(weight * _entropy(words, n) for n, weight in WEIGHTS.items()) / len(WEIGHTS)


def _entropy(words: list[str], n: int) -> float:
    counts = Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))
    share = np.array(list(counts.values())) / counts.total()
    return float(-(share * np.log2(share)).sum())


def consistency(texts: Sequence[str], references: Sequence[str]) -> float:
    """Cosine of the TF-IDF vectors of all texts and of all references, each put together.

    Weights are count · (1 + log((1 + n) / (1 + d))) with d of the n references that have a word. Deviation from Meng et
    al. 2022: their d is counted over all of the data's reference texts.

    Returns:
      0 … 1; NaN if there are no texts or no references, or none has a word.
    """
    counts = [Counter(_words(part)) for part in (texts, references)]
    documents = Counter(word for reference in references for word in set(_words([reference])))
    if not all(counts):
        return math.nan
    words = sorted(counts[0] | counts[1])
    idf = np.array([1 + math.log((1 + len(references)) / (1 + documents[word])) for word in words])
    one, other = (np.array([count[word] for word in words]) * idf for count in counts)
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def _words(texts: Iterable[str]) -> list[str]:
    return [word for text in texts for word in _WORD.findall(text.casefold())]


def perplexity(model: LanguageModel, texts: Iterable[str]) -> float:
    """exp(mean of −log P(token | tokens before it)) over all tokens of texts but the first of each window.

    Texts are read in windows of the model's context. Of a ruined model, whose probabilities may be no numbers, it is ∞.

    Args:
      model: a causal one.
      texts: at least one.
    Raises:
      UserError: if a text cannot be encoded, or there is no token to predict.
    """
    total, n_tokens = 0.0, 0
    for tokens_BT, length_B in text_batches(model, texts):
        nll_BT = np.asarray(_nll(model.model, jnp.asarray(tokens_BT)), np.float64)
        read_BT = np.arange(1, tokens_BT.shape[1])[None] < length_B[:, None]
        total, n_tokens = total + float(nll_BT[read_BT].sum()), n_tokens + int(read_BT.sum())
    if not n_tokens:
        raise UserError("there is no text to take a perplexity of; give at least one of two tokens")
    mean = total / n_tokens
    return math.inf if math.isnan(mean) else float(np.exp(mean))


@jax.jit
def _nll(model: Model, tokens_BT: Array) -> Array:
    return next_token_nll(model, forward(model, tokens_BT), tokens_BT)
