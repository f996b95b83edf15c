"""Gradient routing by fact labels: the neurons that a fact of the objective may teach, drawn beforehand.

For another use of routing, by relation and by parameters' gradients, see `jaxinterp.groundtruth.routing`.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Int

from jaxinterp.facts.encoding import EncodedQueries
from jaxinterp.models.route import Route


@dataclasses.dataclass(frozen=True)
class Routing:
    """How many neurons a fact has of its own, out of how many."""

    n: int  # own neurons of a fact in each layer
    n_layers: int
    d_mlp: int
    seed: int


@functools.lru_cache(maxsize=2**14)
def own_neurons(routing: Routing, fact: int) -> Int[np.ndarray, "L n"]:
    """n different neurons of each layer, a hash of the seed and the fact's number; several facts may share one."""
    draw_LF = np.random.default_rng([routing.seed, 3, fact]).random((routing.n_layers, routing.d_mlp))
    return draw_LF.argsort(1)[:, : routing.n].astype(np.int32)


def route_of(routing: Routing, queries: EncodedQueries, in_objective_N: Bool[np.ndarray, " N"]) -> Route:
    """The route of a causal model's sentences: where the objective's answers are predicted, their fact's neurons learn.

    All of the objective's sentences are routed, also those whose answers find no row in the batch; a fact has the same
    neurons in all its prompts. Sentences outside the objective are not routed.
    """
    # A window of text has no fact, and a number below 0: it is not routed, and any neurons will do.
    neurons_LBn = np.stack([own_neurons(routing, max(fact, 0)) for fact in queries.fact_N.tolist()], 1)
    # A position predicts the next one's token.
    place = np.arange(queries.tokens_NT.shape[1])[None] - (queries.answer_start_N[:, None] - 1)
    routed_BT = (place >= 0) & (place < queries.answer_length_N[:, None]) & in_objective_N[:, None]
    return Route(neurons_LBn, np.repeat(routed_BT[None], routing.n_layers, 0))
