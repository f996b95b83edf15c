"""Cells of a model, a layer and a position or a head, and what stands in them."""

import functools
from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinterp.base.errors import UserError, unknown
from jaxinterp.circuits.question import Answer
from jaxinterp.models.model import Model
from jaxinterp.models.transformer import forward, unembed

Direction = Literal["denoise", "noise"]
BYTES = 2**27  # that the patched values of a batch may take
MOST = 64  # cells in a batch


def base_and_source(clean: str, corrupted: str, direction: Direction) -> tuple[str, str]:
    """The text that is run, and that whose values are put into it.

    Raises:
      UserError: if the direction is unknown.
    """
    if direction not in ("denoise", "noise"):
        raise unknown("direction", direction, ("denoise", "noise"))
    return (corrupted, clean) if direction == "denoise" else (clean, corrupted)


def largest(values_RC: Float[np.ndarray, "R C"], n: int) -> list[tuple[int, int, float]]:
    """The n largest values in absolute value, with their rows and columns; of equal ones the first."""
    order = np.argsort(-np.abs(values_RC), axis=None, kind="stable")[:n]
    places = zip(*np.unravel_index(order, values_RC.shape), strict=True)
    return [(int(row), int(column), float(values_RC[row, column])) for row, column in places]


def grid_of(rows: int, columns: int) -> Int[np.ndarray, "n 2"]:
    """All cells, row by row."""
    return np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(-1, 2)


def batch_size(cells: int, values: int) -> int:
    """How many cells are run at once, whose patched values are so many numbers each."""
    return max(1, min(MOST, cells, BYTES // max(1, 4 * values)))


def batches(cells_N2: Int[np.ndarray, "N 2"], size: int) -> list[Int[np.ndarray, "C 2"]]:
    """Cells in batches of one size, for which one program is compiled; the last cell fills the last batch up."""
    missing = -len(cells_N2) % size
    filled = np.concatenate([cells_N2, np.repeat(cells_N2[-1:], missing, axis=0)])
    return list(filled.reshape(-1, size, 2))


@functools.partial(jax.jit, static_argnames=("places", "asked"))
def captured(
    model: Model, tokens_BT: Array, at: Array, asked: Answer, *, places: tuple[str, ...]
) -> tuple[Mapping[str, Array], Float[Array, " B"]]:
    """What stood at places in untouched runs, and the runs' scores."""
    result = forward(model, tokens_BT, capture=places)
    return result.activations, asked.score(unembed(model, result.resid_final_BTD[:, at]))


def check_scores(scores_2: Float[Array, "2"], unit: str) -> tuple[float, float]:
    """The base's and the source's score as numbers.

    Raises:
      UserError: if they are the same.
    """
    base, source = (float(score) for score in scores_2)
    if base == source:
        raise UserError(f"both texts have the same {unit}, {base:.3g}: there is nothing to move")
    return base, source


def cell_mask(cells_C2: Int[Array, "C 2"], axes: Sequence[str], shape: Sequence[int], axis: str) -> Float[Array, "..."]:
    """1 in each cell, 0 elsewhere: [layers, C, …], where only the layer's and the cell's axis are longer than 1."""
    n_cells = cells_C2.shape[0]
    sizes = dict(zip(axes, shape, strict=True)) | {"B": n_cells}
    mask = jnp.ones([1] * len(axes))
    for name, number_C in (("L", cells_C2[:, 0]), (axis, cells_C2[:, 1])):
        if name not in axes:
            continue
        own_C = number_C.reshape([n_cells if other == "B" else 1 for other in axes])
        numbers = jnp.arange(sizes[name]).reshape([-1 if other == name else 1 for other in axes])
        mask = mask * (own_C == numbers)
    return mask
