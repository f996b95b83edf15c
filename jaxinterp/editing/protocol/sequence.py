"""Edits one after the other: what is left of the first ones, of other facts, and of the model itself."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxinterp.base.errors import UserError
from jaxinterp.base.numbers_given import check_numbers
from jaxinterp.editing.change import Change, apply
from jaxinterp.editing.protocol.case import Probe
from jaxinterp.editing.protocol.columns import DISABLING
from jaxinterp.editing.protocol.questions import recalled
from jaxinterp.editing.protocol.texts import perplexity
from jaxinterp.editing.request import Request
from jaxinterp.models.language_model import LanguageModel

SEQUENCE_COLUMNS: Mapping[str, str] = {
    "edits": "number of edits made, one after the other",
    "recall": "% of all edits so far whose prompt gets the new answer by greedy generation, all its tokens",
    "others_kept": "% of facts that are never edited and that the unedited model answers, which are still answered",
    "perplexity_ratio": "perplexity of given texts, divided by that of the unedited model",
}


@dataclasses.dataclass(frozen=True)
class SequenceConfig:
    """When a sequence is looked at, and when it has ruined the model."""

    at: tuple[int, ...] = (1, 10, 100, 1000)  # numbers of edits; the last edit is always looked at
    factor: float = DISABLING  # of the unedited model's perplexity, above which the model is ruined
    share: float = 0.5  # of the other facts, below which it is

    def __post_init__(self) -> None:
        check_numbers(self)
        if not self.at or any(n < 1 for n in self.at) or list(self.at) != sorted(set(self.at)):
            raise UserError(f"`at` must be numbers of edits from 1, each once and from the lowest, got {self.at}")
        if self.factor <= 1:
            raise UserError(f"factor must be above 1, got {self.factor}")
        if not 0 < self.share <= 1:
            raise UserError(f"share must be above 0 and at most 1, got {self.share}")


class Point(NamedTuple):
    """`SEQUENCE_COLUMNS` after some edits; NaN where there is nothing to take a number of."""

    edits: int
    recall: float
    others_kept: float
    perplexity_ratio: float


class Outlook(NamedTuple):
    """A sequence as it was looked at."""

    points: tuple[Point, ...]  # the first one is of the unedited model
    disabling: int | None  # the edit, from 1, after which the model is ruined; None: it never was
    n_others: int  # facts that the unedited model answers, out of those given


def after_edits(
    model: LanguageModel,
    changes: Sequence[Change],
    requests: Sequence[Request],
    others: Sequence[Request],
    texts: Sequence[str],
    config: SequenceConfig | None = None,
) -> Outlook:
    """What is left after 1, 10, 100, … edits, and the edit that ruins the model.

    The *disabling edit* is the first one after which the perplexity is above `factor` times that of the unedited model,
    or less than `share` of the other facts are answered. It is searched between the last point before which the model
    was sound and the first where it is not, by halving: so a model that recovers in between may hide an earlier one.

    Args:
      model: a causal one, unedited.
      changes: each for the model that the one before it made.
      requests: what each change is about; an edit of a prompt that is edited again later counts no more from there on.
      others: facts that are not edited; their old answers are looked at.
      texts: any, whose perplexity is taken; none: it is NaN.
      config: when to look.
    Raises:
      UserError: if there are no changes, or not as many requests, an other fact has no old answer, or a text cannot be
        encoded.
    """
    config = config or SequenceConfig()
    if not changes or len(changes) != len(requests):
        raise UserError(
            f"there are {len(changes)} changes and {len(requests)} requests; give one request for each change"
        )
    probes = [_old(one) for one in others]
    right = recalled(model, probes).tolist() if probes else []
    known = [probe for probe, is_right in zip(probes, right, strict=True) if is_right]
    before = perplexity(model, texts) if texts else math.nan

    def look(edited: LanguageModel, n: int) -> Point:
        return point_after(edited, requests[:n], known, texts, before)

    points, state, last, disabling = [look(model, 0)], model, 0, None
    for n in [*(n for n in config.at if n < len(changes)), len(changes)]:
        sound = state
        for change in changes[last:n]:
            state = apply(change, state)
        points.append(look(state, n))
        if disabling is None and ruined(points[-1], config):
            disabling = _first_ruined(sound, changes, last, n, lambda m, i: ruined(look(m, i), config))
        last = n
    return Outlook(tuple(points), disabling, len(known))


def point_after(
    edited: LanguageModel, requests: Sequence[Request], others: Sequence[Probe], texts: Sequence[str], before: float
) -> Point:
    """What is left after some edits.

    Args:
      edited: the model with all of them.
      requests: what they are about, in their order.
      others: facts that the unedited model answers and no edit is about.
      texts: any, whose perplexity is taken; none: it is NaN.
      before: that of the unedited model.
    """
    kept = 100 * float(recalled(edited, others).mean()) if others else math.nan
    ratio = perplexity(edited, texts) / before if texts else math.nan
    return Point(len(requests), _recall(edited, requests), kept, ratio)


def ruined(point: Point, config: SequenceConfig) -> bool:
    """Whether the perplexity is above `factor` times what it was, or less than `share` of the others are kept."""
    return point.perplexity_ratio > config.factor or point.others_kept < 100 * config.share


def _first_ruined(sound: LanguageModel, changes: Sequence[Change], low: int, high: int, is_ruined) -> int:
    """By halving: after `low` edits the model is sound, after `high` it is not."""
    while high - low > 1:
        middle, state = (low + high) // 2, sound
        for change in changes[low:middle]:
            state = apply(change, state)
        if is_ruined(state, middle):
            high = middle
        else:
            sound, low = state, middle
    return high


def _recall(edited: LanguageModel, requests: Sequence[Request]) -> float:
    latest = {(one.prompt, one.after): one for one in requests}
    probes = [Probe("edited", one.prompt, one.new, None, one.after) for one in latest.values()]
    return 100 * float(recalled(edited, probes).mean()) if probes else math.nan


def _old(asked: Request) -> Probe:
    if asked.old is None:
        raise UserError(f"the fact {asked.prompt!r} has no old answer to be kept; give it")
    return Probe("other", asked.prompt, asked.old, None, asked.after)
