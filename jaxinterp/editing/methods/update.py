"""Dai et al.'s update: the old answer's embedding out of a fact's value vectors, the new one's in."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.editing.answers import answer_of, answer_tokens, old_answer
from jaxinterp.editing.deltas import Rows
from jaxinterp.editing.registry import Given, editing_method
from jaxinterp.editing.request import Request
from jaxinterp.editing.rows import neurons_of, own_rows, row_deltas
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.lens import unembedding


@dataclasses.dataclass(frozen=True)
class UpdateConfig:
    """Settings of the update."""

    less: float = 1.0  # λ1, of the old answer's embedding
    more: float = 8.0  # λ2, of the new one's
    k: int = 8  # knowledge neurons, if none are given

    def __post_init__(self) -> None:
        check_numbers(self)


@editing_method(
    "update",
    title="update of value vectors",
    source="Dai et al. 2022",
    settings=UpdateConfig,
    reads=("neurons",),
    masked=True,
    one_by_one=True,
)
def update(model: LanguageModel, requests: Sequence[Request], config: UpdateConfig, given: Given) -> list[Rows]:
    """v ← v − λ1 (‖v‖ / ‖e‖) e + λ2 (‖v‖ / ‖e'‖) e' for the value vector v of each of the fact's neurons, with e and e'
    the embeddings of the old and the new answer.

    Deviations: embeddings are those that logits are made with, which differ from those that are read where they are not
    tied; of answers of several tokens, those of the first token that differs. An edit to the same answer adds
    (λ2 − λ1) e to the direction of v, and is no identity.
    """
    deltas = []
    for request, neurons in zip(requests, neurons_of(model, requests, config.k, given), strict=True):
        old, new = answer_tokens(old_answer(model, request)), answer_tokens(answer_of(model, request, request.new))
        differ = [place for place, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]]
        at = differ[0] if differ else 0
        e, e_new = np.asarray(unembedding(model.model, jnp.array([old[at], new[at]]))).astype(np.float64)
        size_k1 = np.linalg.norm(own_rows(model, neurons), axis=1, keepdims=True)
        direction = config.more * e_new / np.linalg.norm(e_new) - config.less * e / np.linalg.norm(e)
        deltas += row_deltas(neurons, size_k1 * direction[None])
    return deltas
