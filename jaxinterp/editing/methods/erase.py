"""Dai et al.'s erasure of a relation."""

import dataclasses
from collections.abc import Sequence

from jaxinterp.base.errors import UserError
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.editing.deltas import Rows
from jaxinterp.editing.neurons import most_frequent
from jaxinterp.editing.registry import Given, editing_method
from jaxinterp.editing.request import Request
from jaxinterp.editing.rows import neurons_of, own_rows, row_deltas
from jaxinterp.models.language_model import LanguageModel


@dataclasses.dataclass(frozen=True)
class EraseConfig:
    """Settings of the erasure."""

    n: int = 20  # neurons that are erased
    k: int = 8  # knowledge neurons of each request, if none are given

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.n < 1:
            raise UserError(f"n of an erasure must be at least 1, got {self.n}")


@editing_method(
    "erase",
    title="erasure of a relation",
    source="Dai et al. 2022",
    settings=EraseConfig,
    reads=("neurons",),
    masked=True,
)
def erase(model: LanguageModel, requests: Sequence[Request], config: EraseConfig, given: Given) -> list[Rows]:
    """v ← 0 for the value vectors of the n neurons that most of the requests have; requests are facts of one relation,
    and their new answers are not looked at. Of neurons that equally many have, the first by layer and number.
    """
    if len(relations := sorted({request.relation for request in requests})) > 1:
        raise UserError(f"an erasure is of one relation, got requests of {', '.join(relations)}; erase one at a time")
    neurons = most_frequent(neurons_of(model, requests, config.k, given), config.n)
    return row_deltas(neurons, -own_rows(model, neurons))
