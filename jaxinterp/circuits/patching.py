"""Activation patching: what an answer becomes when values at one place come from a run of another text.

Vig et al. 2020 and Meng et al. 2022 (causal tracing); conventions as in Heimersheim and Nanda 2024, "How to use and
interpret activation patching".
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from rich.table import Table

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.circuits.cells import (
    Direction,
    base_and_source,
    batch_size,
    batches,
    captured,
    cell_mask,
    check_scores,
    grid_of,
    largest,
)
from jaxinterp.circuits.question import Answer, answer_of, two_texts
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.models.model import Model
from jaxinterp.models.places import Change, axes_of
from jaxinterp.models.transformer import forward, unembed
from jaxinterp.report.shown import Part, Shown

if TYPE_CHECKING:
    from jaxinterp.report.charts import Chart

SHOWN = 8  # cells in a table


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Patching(Shown):
    """What patching each cell does to the answer. Printed, or as the value of a notebook's cell, it is a table.

    A cell is a layer and a position, or a layer and a head (at all positions). `scores` are those of the base text with
    the cell's values from the other text's run: logit(right) − logit(wrong), or log P(right) without a wrong answer.
    """

    place: str
    by: str  # "position" or "head"
    columns: tuple[str, ...]  # names of positions or heads
    scores_LN: Float[np.ndarray, "L N"]
    base: float  # the base text's score, untouched
    source: float  # the other text's
    unit: str

    @property
    def moved_LN(self) -> Float[np.ndarray, "L N"]:
        """(score − base) / (source − base): 0 where patching does nothing, 1 where it gives what the source has."""
        return (self.scores_LN - self.base) / (self.source - self.base)

    def best(self, n: int = SHOWN) -> list[tuple[int, int, float]]:
        """The n cells that move the answer most, in absolute value: layer, position or head, and how far."""
        return largest(self.moved_LN, n)

    def chart(self) -> "Chart":
        """A heat map of `moved_LN`, layers from the bottom up."""
        from jaxinterp.report.heat_maps import one_map  # altair takes a while to import

        title = f"{self.place}: share of the way from base to source"
        return one_map(self.moved_LN, self.columns, title, columns_title=self.by, rows_title="layer")

    def __repr__(self) -> str:
        n_layers, n_columns = self.scores_LN.shape
        return f"Patching({self.place}, {n_layers} layers × {n_columns} {self.by}s, {self.unit})"

    def parts(self) -> Sequence[Part]:
        table = Table("layer", self.by, self.unit, "moved", title="cells that move it most", title_justify="left")
        for layer, column, moved in self.best():
            score = f"{self.scores_LN[layer, column]:.3f}"
            table.add_row(str(layer), self.columns[column], score, f"{moved:.1%}")
        return [f"{self.place}: {self.unit} {self.base:.3f} of the base, {self.source:.3f} of the source", table]


def patching(
    model: LanguageModel,
    clean: str,
    corrupted: str,
    answer: str,
    *,
    wrong: str | None = None,
    place: str = "resid_pre",
    by: Literal["position", "head"] | None = None,
    direction: Direction = "denoise",
) -> Patching:
    """Patches every layer and position, or every layer and head, one at a time.

    "denoise" runs the corrupted text, with values of the clean run in one cell: which cells suffice to restore the
    answer? "noise" runs the clean text with values of the corrupted one: which cells are needed?

    Args:
      model: a language model, as from `load_model`.
      clean, corrupted: texts of as many tokens, to a masked model with one mask each at the same position.
      answer: the right answer to the clean text, one token: " Paris".
      wrong: another one, such as that to the corrupted text; the score is then a difference of logits.
      place: a name out of `jaxinterp.models.places.PLACES`.
      by: "position", or "head" where the place has heads, at all positions; None is "head" where there are heads.
      direction: see above.
    Raises:
      UserError: if the texts have other numbers of tokens, an answer is not one token, the scores of both texts are the
        same, or the place does not have what is asked for.
    """
    base, source = base_and_source(clean, corrupted, direction)
    axes = axes_of(place)
    heads = next((axis for axis in axes if axis in ("H", "G")), None)
    by = ("position" if heads is None else "head") if by is None else by
    if by not in ("position", "head"):
        raise unknown("kind of cell", by, ("position", "head"))
    if by == "head" and heads is None:
        raise UserError(f"{place} has no heads; patch it by position")
    tokens_2T, at, texts = two_texts(model, base, source)
    asked = answer_of(model, answer, wrong)
    values, scores_2 = captured(model.model, tokens_2T, jnp.asarray(at), asked, places=(place,))
    scores = check_scores(scores_2, asked.unit)
    axis = heads if by == "head" else "S"
    source_values = values[place][1:] if place == "embed" else values[place][:, 1:]
    n_layers = 1 if place == "embed" else model.config.n_layers
    n_columns = source_values.shape[axes.index(axis)]
    grid = grid_of(n_layers, n_columns)
    found = [
        _patched(model.model, tokens_2T[:1], source_values, cells, jnp.asarray(at), asked, place=place, axis=axis)
        for cells in batches(grid, batch_size(len(grid), source_values.size))
    ]
    columns = tuple(map(str, range(n_columns))) if by == "head" else _positions(*texts)
    scores_LN = np.concatenate(found)[: len(grid)].reshape(n_layers, n_columns)
    return Patching(place, by, columns, scores_LN, *scores, asked.unit)


def _positions(base: Sequence[str], source: Sequence[str]) -> tuple[str, ...]:
    """Names of positions: the base's token, and the source's where it differs."""
    pairs = enumerate(zip(base, source, strict=True))
    return tuple(f"{n} {one!r}" if one == other else f"{n} {one!r} ← {other!r}" for n, (one, other) in pairs)


@functools.partial(jax.jit, static_argnames=("place", "axis", "asked"))
def _patched(
    model: Model,
    tokens_1T: Int[Array, "1 T"],
    source: Float[Array, "..."],
    cells_C2: Int[Array, "C 2"],
    at: Array,
    asked: Answer,
    *,
    place: str,
    axis: str,
) -> Float[Array, " C"]:
    """The score of the base text for each cell, whose values come from the source run."""
    mask = cell_mask(cells_C2, axes_of(place), source.shape, axis)
    changes = {place: Change(1 - mask, mask * source)}
    tokens_CT = jnp.broadcast_to(tokens_1T, (cells_C2.shape[0], tokens_1T.shape[1]))
    resid = forward(model, tokens_CT, edit=changes).resid_final_BTD[:, at]
    return asked.score(unembed(model, resid))
