"""Edits in words: what is done where in a model, as arrays for a forward."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Int

from jaxinterp.base.errors import UserError
from jaxinterp.models.config import ModelConfig
from jaxinterp.models.places import PLACES, Change, axes_of
from jaxinterp.models.run import Run

Selector = int | Sequence[int] | None
VALUES = ("scale", "set_to", "add", "patch")
# By which field an axis of a place is selected; the last axis of any place but "attn_pattern" is "unit".
AXES = {"L": "layer", "S": "position", "H": "head", "G": "head", "T": "source"}


@dataclasses.dataclass(frozen=True, eq=False)
class Edit:
    """What is done at a place of a model: values are scaled, set, added to, or taken from another run.

    Everything that is not selected stays. Selectors are a number, several, or None for all; negative numbers count from
    the end, those of positions from the end of each text. The arrays of `scale`, `set_to` and `add` broadcast against
    what is selected, whose axes are those of the place: [layers, B texts, positions, …], see
    `jaxinterp.models.places.PLACES`. So a vector of d_model numbers is a direction of the residual stream.

        Edit("mlp_post", layer=2, unit=[78, 53], scale=0)        two neurons off, everywhere
        Edit("resid_post", layer=1, add=4 * direction)           steering
        Edit("attn_z", layer=0, head=3, position=-1, set_to=0)   a head writes nothing at the last position
        Edit("resid_pre", layer=1, position=4, patch=run)        activation patching
        Edit("attn_pattern", layer=0, source=1, scale=0)         nobody attends to position 1 (knockout)
    """

    place: str  # a name out of `jaxinterp.models.places.PLACES`
    layer: Selector = None
    position: Selector = None
    head: Selector = None  # of attn_*; attn_k and attn_v have as many as the model has key-value heads
    unit: Selector = None  # coordinate of the last axis: a neuron of mlp_pre and mlp_post
    source: Selector = None  # of attn_pattern: the positions that are attended to
    # One of these:
    scale: ArrayLike | None = None
    set_to: ArrayLike | None = None
    add: ArrayLike | None = None
    patch: Run | None = None  # of the same model, that captured the place; its values at the same positions, layers, …

    def __post_init__(self) -> None:
        there = {_field(self.place, axis) for axis in axes_of(self.place)}
        given = [name for name in VALUES if getattr(self, name) is not None]
        if len(given) != 1:
            raise UserError(f"an edit has one of {', '.join(VALUES)}; this one has {' and '.join(given) or 'none'}")
        for name in ("layer", "position", "head", "unit", "source"):
            if getattr(self, name) is not None and name not in there:
                raise UserError(f"{self.place} has no {name}; leave it out")
        if self.patch is not None and not isinstance(self.patch, Run):
            raise UserError(
                f"patch takes a run, as from model.run, not {type(self.patch).__name__}; set_to takes arrays"
            )
        if self.patch is not None and self.place not in self.patch.activations:
            raise UserError(f"the run that is patched from has not captured {self.place}; add it to its capture")


def _field(place: str, axis: str) -> str:
    return AXES.get(axis, "unit" if axis == PLACES[place][-1] else "")


def changes_of(
    edits: Edit | Sequence[Edit],
    config: ModelConfig,
    length_B: Int[np.ndarray, " B"],
    n_positions: int,
    *,
    beyond: bool = False,
) -> dict[str, Change]:
    """Edits as changes that `forward` takes; of several at one place, the later ones see what the earlier ones left.

    Args:
      edits: one or several.
      config: of the model.
      length_B: tokens of each text, from whose end negative positions count.
      n_positions: of the batch, T.
      beyond: whether positions may lie beyond a text's end, where tokens are yet to come.
    Raises:
      UserError: if a number is out of range, or an array does not fit what is selected.
    """
    changes: dict[str, Change] = {}
    if not isinstance(edits, Edit | list | tuple):
        raise UserError(f"an edit is a ji.Edit, or a list of them, got {type(edits).__name__}")
    for edit in [edits] if isinstance(edits, Edit) else edits:
        if not isinstance(edit, Edit):
            raise UserError(f"an edit is a ji.Edit, or a sequence of them, got {type(edit).__name__}")
        change = _change(edit, config, length_B, n_positions, beyond)
        changes[edit.place] = after(changes.get(edit.place, Change()), change)
    return {place: _with_layers(change, place, config.n_layers) for place, change in changes.items()}


def _change(edit: Edit, config: ModelConfig, length_B: np.ndarray, n_positions: int, beyond: bool) -> Change:
    axes = axes_of(edit.place)
    sizes = {
        **{"L": config.n_layers, "B": len(length_B), "S": n_positions, "T": n_positions},
        **{"D": config.d_model, "F": config.d_mlp, "K": config.d_head, "H": config.n_heads, "G": config.n_kv_heads},
    }
    if edit.patch is not None:
        value = _from_run(edit, axes, sizes, length_B, beyond)
    else:
        value = _array(next(v for v in (edit.scale, edit.set_to, edit.add) if v is not None))
    if value.ndim > len(axes):
        raise UserError(f"an array of an edit has {value.ndim} axes; {edit.place} has {len(axes)}: {' '.join(axes)}")
    value = value.reshape((1,) * (len(axes) - value.ndim) + value.shape)
    index = _index(edit, axes, sizes, length_B, length_B, beyond)
    index = {
        # All of an axis without a selector, where the array or a position differs along it; else it broadcasts.
        axis: np.arange(sizes[axis])
        if axis not in index and (value.shape[number] > 1 or (axis == "B" and index.keys() & {"S", "T"}))
        else index.get(axis)
        for number, axis in enumerate(axes)
    }
    selected = tuple(1 if index[axis] is None else index[axis].shape[-1] for axis in axes)
    full = tuple(1 if index[axis] is None else sizes[axis] for axis in axes)
    try:
        value = jnp.broadcast_to(value, selected)
    except ValueError:
        raise UserError(
            f"an array of shape {list(value.shape)} does not fit what the edit of {edit.place} selects: "
            f"{' '.join(axes)} = {list(selected)}"
        ) from None
    at = _grid(index, axes)
    mask = np.zeros(full, bool)
    mask[at] = True
    spread = jnp.zeros(full, value.dtype).at[at].set(value)
    if edit.scale is not None:
        return Change(jnp.where(mask, spread, 1.0))
    if edit.add is not None:
        return Change(None, spread)
    return Change(jnp.asarray(~mask, jnp.result_type(float)), spread)


def _array(value: ArrayLike) -> Array:
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError):
        raise UserError(f"what an edit scales by, sets or adds must be a number or an array, got {value!r}") from None


def _index(
    edit: Edit,
    axes: Sequence[str],
    sizes: dict[str, int],
    length_B: np.ndarray,
    own_length_B: np.ndarray,
    beyond: bool,
) -> dict[str, np.ndarray]:
    """The selected numbers by axis, [n], of positions [B, n]; axes without a selector are left out."""
    found = {}
    for axis in axes:
        field = _field(edit.place, axis)
        selector = getattr(edit, field) if field else None
        if selector is None:
            continue
        numbers = np.atleast_1d(np.asarray(selector))
        if numbers.ndim > 1 or not np.issubdtype(numbers.dtype, np.integer):
            raise UserError(f"{field} of an edit must be a whole number or several, got {selector!r}")
        if axis not in ("S", "T"):
            _check(field, numbers, sizes[axis], f"the model has {sizes[axis]} of them at {edit.place}")
            found[axis] = numbers % sizes[axis]
            continue
        rows = []
        for row, length in enumerate(own_length_B.tolist()):
            most = sizes[axis] if beyond else length
            # Beyond its end a text has positions to come, but negative numbers count from what is there.
            _check(field, numbers, most, f"text {row} has {length} tokens", least=-length)
            rows.append(np.where(numbers < 0, numbers + length, numbers))
        found[axis] = np.array(rows)
    return found


def _check(field: str, numbers: np.ndarray, size: int, why: str, least: int | None = None) -> None:
    least = -size if least is None else least
    wrong = numbers[(numbers < least) | (numbers >= size)]
    if wrong.size:
        raise UserError(f"{field} {wrong[0]} of an edit is out of range: {why}")


def _grid(index: dict[str, np.ndarray | None], axes: Sequence[str]) -> tuple[np.ndarray, ...]:
    """Index arrays that select the product of all axes' numbers; positions go with their text."""
    n = len(axes)
    grid = []
    for number, axis in enumerate(axes):
        numbers = np.zeros(1, int) if index.get(axis) is None else index[axis]
        shape = [1] * n
        shape[number] = numbers.shape[-1]
        if numbers.ndim == 2:
            shape[axes.index("B")] = numbers.shape[0]
        grid.append(numbers.reshape(shape))
    return tuple(grid)


def _from_run(edit: Edit, axes: Sequence[str], sizes: dict[str, int], length_B: np.ndarray, beyond: bool) -> Array:
    """What stood at the selected places of another run, whose own texts' ends negative positions count from."""
    run = edit.patch
    source = run.activations[edit.place]
    theirs = dict(zip(axes, source.shape, strict=True))
    for axis in axes:
        if axis not in ("B", "S", "T") and theirs[axis] != sizes[axis]:
            raise UserError(
                f"the run that is patched from is of another model: its {edit.place} is {list(source.shape)}"
            )
    if theirs["B"] not in (1, sizes["B"]):
        raise UserError(f"the run that is patched from has {theirs['B']} texts; give one, or {sizes['B']}")
    lengths = np.broadcast_to(run.length_B, length_B.shape)
    index = _index(edit, axes, {**sizes, "S": theirs["S"], "T": theirs.get("T", 0)}, length_B, lengths, False)
    for axis in ("S", "T"):
        if axis in axes and axis not in index and (beyond or not np.array_equal(lengths, length_B)):
            raise UserError(
                "the run that is patched from has texts of other lengths; name the positions that are patched"
            )
    index = {axis: index.get(axis, np.arange(theirs[axis])) for axis in axes}
    if theirs["B"] == 1:
        source = jnp.broadcast_to(source, [sizes[axis] if axis == "B" else theirs[axis] for axis in axes])
        index["B"] = np.arange(sizes["B"])
    return source[_grid(index, axes)]


def after(first: Change, second: Change) -> Change:
    """The change that makes two, one after the other: g₂ (g₁ x + s₁) + s₂."""
    gates = first.gates if second.gates is None else second.gates
    if first.gates is not None and second.gates is not None:
        gates = first.gates * second.gates
    shift = first.shift if first.shift is None or second.gates is None else first.shift * second.gates
    if shift is None or second.shift is None:
        return Change(gates, second.shift if shift is None else shift)
    return Change(gates, shift + second.shift)


def _with_layers(change: Change, place: str, n_layers: int) -> Change:
    if place == "embed":
        return change
    return Change(*(x if x is None else jnp.broadcast_to(x, (n_layers, *x.shape[1:])) for x in change))


def at_positions(changes: dict[str, Change], position_B: Int[Array, " B"]) -> dict[str, Change]:
    """Changes of a batch of T positions at one position of each text alone, for a run of one token."""
    batch = position_B.shape[0]

    def taken(x: Array | None, place: str) -> Array | None:
        axes = axes_of(place)
        axis = axes.index("S")
        if x is None or x.shape[axis] == 1:
            return x
        x = jnp.broadcast_to(x, [batch if name == "B" else size for name, size in zip(axes, x.shape, strict=True)])
        at = position_B.reshape([batch if name == "B" else 1 for name in axes])
        return jnp.take_along_axis(x, at, axis=axis)

    return {place: Change(*(taken(x, place) for x in change)) for place, change in changes.items()}
