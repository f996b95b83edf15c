"""Whose value rows are edited: the knowledge neurons of each request, or those that another method would take."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

import jax
import numpy as np
from jaxtyping import Float

from jaxinterp.attribution.answers import Answers
from jaxinterp.attribution.readout import Readout
from jaxinterp.attribution.registry import METHODS
from jaxinterp.attribution.selection import check_k, top_k
from jaxinterp.editing.answers import answer_readout, old_answer
from jaxinterp.editing.registry import Neurons
from jaxinterp.editing.request import Request
from jaxinterp.models.language_model import LanguageModel


def request_neurons(
    model: LanguageModel,
    requests: Sequence[Request],
    k: int = 8,
    method: str = "integrated_gradients",
    seed: int = 0,
) -> list[Neurons]:
    """The k neurons with the highest scores for each request's old answer, where it is read; summed over its tokens.

    Args:
      model: a language model.
      requests: whose answers.
      k: neurons of each, out of all layers.
      method: a name out of `jaxinterp.attribution.registry.METHODS`. "activation" and "random" are controls: the most
        active neurons, and any.
      seed: of random ones.
    Raises:
      UserError: if k or the method does not exist, or a text cannot be encoded.
    """
    check_k(k, model.config.n_neurons)
    chosen = _chosen(method, k)
    found = []
    for number, request in enumerate(requests):
        readout, _, batch = answer_readout(model, old_answer(model, request))
        key = jax.random.fold_in(jax.random.key(seed), number)
        found.append(Neurons(*np.nonzero(np.asarray(chosen(readout, batch.answers, key)))))
    return found


def request_scores(
    model: LanguageModel, request: Request, method: str = "integrated_gradients", seed: int = 0
) -> tuple[Float[np.ndarray, "L F"], Float[np.ndarray, "L F"]]:
    """All neurons' scores for a request's old answer, summed over its tokens, and their activations at the first one.

    Args and errors: see `request_neurons`.
    """
    readout, _, batch = answer_readout(model, old_answer(model, request))
    scores_LF = _scores(method)(readout, batch.answers, jax.random.key(seed))
    return tuple(np.asarray(x).astype(np.float64) for x in (scores_LF, readout.neurons_LRF[:, 0]))


@lru_cache
def _scores(method: str) -> Callable:
    scores = METHODS[method].scores
    return jax.jit(lambda readout, answers, key: answers.scores(scores(readout, key))[:, 0])


@lru_cache
def _chosen(method: str, k: int) -> Callable:
    scores = _scores(method)

    def mask_LF(readout: Readout, answers: Answers, key: jax.Array) -> jax.Array:
        return top_k(scores(readout, answers, key)[:, None], k)[:, 0]

    return jax.jit(mask_LF)


def counted(neurons: Sequence[Neurons]) -> Counter[tuple[int, int]]:
    """How many of the sets each (layer, neuron) is in."""
    return Counter(
        place
        for own in neurons
        for place in set(zip(np.asarray(own.layer_k).tolist(), np.asarray(own.neuron_k).tolist(), strict=True))
    )


def most_frequent(neurons: Sequence[Neurons], n: int) -> Neurons:
    """The n neurons that are in most of the sets; of equal ones, the first by layer and number."""
    ordered = sorted(counted(neurons).items(), key=lambda item: (-item[1], item[0]))[:n]
    return _as_neurons([place for place, _ in ordered])


def without_common(neurons: Sequence[Neurons], share: float = 0.1) -> list[Neurons]:
    """The sets without the neurons that are in more than that share of them, as Dai et al. do before an update.

    Args:
      neurons: a set of each fact of one relation.
      share: 0 … 1.
    """
    common = {place for place, number in counted(neurons).items() if number > share * len(neurons)}
    kept = [[place for place in counted([own]) if place not in common] for own in neurons]
    return [_as_neurons(sorted(places)) for places in kept]


def _as_neurons(places: Sequence[tuple[int, int]]) -> Neurons:
    array = np.array(places, int).reshape(-1, 2)
    return Neurons(array[:, 0], array[:, 1])
