"""A change of a model's weights as data: it can be made, undone bit for bit, put after another one, and kept in a file.

It leads from one model to another. Both are named by the SHA-256 of their parameters, so that no change is applied to
a model that it was not made for.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float

from jaxinterp.base.errors import UserError
from jaxinterp.editing.deltas import Delta, Exceptions, added, removed
from jaxinterp.models.language_model import LanguageModel

SHOWN = 12  # digits of a digest in messages


@dataclasses.dataclass(frozen=True, eq=False)
class Change:
    """What is added to which parameters, in this order."""

    model: str  # digest of the model that it is for
    edited: str  # digest of the model that it makes
    deltas: tuple[Delta, ...]
    exceptions: tuple[Exceptions, ...]  # of each delta, for the way back
    about: tuple[Mapping, ...] = ()  # how each edit came about, as JSON: method, settings, requests

    def __repr__(self) -> str:
        places = sorted({(delta.parameter, delta.layer) for delta in self.deltas})
        where = ", ".join(f"{parameter}[{layer}]" for parameter, layer in places) or "nothing"
        return f"Change({self.model[:SHOWN]} → {self.edited[:SHOWN]}: {where})"


def change_of(model: LanguageModel, deltas: Sequence[Delta], about: Sequence[Mapping] = ()) -> Change:
    """The change that adds these to a model's parameters, one after the other.

    Args:
      model: that the change is for.
      deltas: what is added, of finite numbers.
      about: how each edit came about.
    Raises:
      UserError: if a number is not finite.
    """
    exceptions: list[Exceptions] = []

    def keeps(matrix_FD: np.ndarray, number: int) -> np.ndarray:
        new_FD, kept = added(matrix_FD, deltas[number])
        if not np.isfinite(new_FD.astype(np.float64)).all():
            place = f"{deltas[number].parameter}[{deltas[number].layer}]"
            raise UserError(f"the edit gives {place} numbers that are not finite; take smaller steps or more text")
        exceptions.append(kept)
        return new_FD

    edited = _with(model, deltas, range(len(deltas)), keeps)
    return Change(model.digest(), edited.digest(), tuple(deltas), tuple(exceptions), tuple(about))


def apply(change: Change, model: LanguageModel) -> LanguageModel:
    """The model with the change; its provenance lists it.

    Raises:
      UserError: if the change is for another model.
    """
    _check(model, change.model, "is for")
    edited = _with(
        model,
        change.deltas,
        range(len(change.deltas)),
        lambda matrix_FD, number: added(matrix_FD, change.deltas[number])[0],
    )
    edit = {"model": change.model, "edited": change.edited, "about": list(change.about)}
    edits = [*model.provenance.get("edits", ()), edit]
    return dataclasses.replace(edited, provenance={"original": _original(model.provenance), "edits": edits})


def revert(change: Change, edited: LanguageModel) -> LanguageModel:
    """The model as it was before the change, bit for bit.

    Raises:
      UserError: if the change does not lead to this model.
    """
    _check(edited, change.edited, "makes")
    model = _with(
        edited,
        change.deltas,
        range(len(change.deltas))[::-1],
        lambda matrix_FD, number: removed(matrix_FD, change.deltas[number], change.exceptions[number]),
    )
    edits = list(edited.provenance.get("edits", ()))[:-1]
    original = _original(edited.provenance)
    return dataclasses.replace(model, provenance={"original": original, "edits": edits} if edits else original)


def stack(changes: Sequence[Change]) -> Change:
    """One change that does what several do one after the other, each of them for the model that the last one made.

    Raises:
      UserError: if there is none, or one of them is for another model.
    """
    if not changes:
        raise UserError("there is no change to stack; give at least one")
    for number, (one, other) in enumerate(itertools.pairwise(changes), start=1):
        if one.edited != other.model:
            raise UserError(
                f"change {number} of the stack is for model {other.model[:SHOWN]}, but the one before it makes "
                f"{one.edited[:SHOWN]}; make each edit of the model that the last one left"
            )
    return Change(
        changes[0].model,
        changes[-1].edited,
        tuple(delta for change in changes for delta in change.deltas),
        tuple(kept for change in changes for kept in change.exceptions),
        tuple(about for change in changes for about in change.about),
    )


def _with(
    model: LanguageModel,
    deltas: Sequence[Delta],
    order: Sequence[int],
    step: Callable[[Float[np.ndarray, "F D"], int], Float[np.ndarray, "F D"]],
) -> LanguageModel:
    """The model after a step for each delta, on the matrix of its layer: `step(matrix, number of the delta)`."""
    params = flatten_dict(model.params, sep=".")
    changed: dict[str, np.ndarray] = {}
    for number in order:
        name, layer = deltas[number].parameter, deltas[number].layer
        if name not in changed:
            changed[name] = np.array(params[name])
        changed[name][layer] = step(changed[name][layer], number)
    # Laid out over devices as before.
    params |= {name: jax.device_put(value, params[name].sharding) for name, value in changed.items()}
    nested = unflatten_dict(params, sep=".")
    return dataclasses.replace(model, model=dataclasses.replace(model.model, params=nested))


def ancestors(model: LanguageModel) -> set[str]:
    """The digests of the model and of those that it was before its edits."""
    return {model.digest(), *(edit["model"] for edit in model.provenance.get("edits", ()))}


def _check(model: LanguageModel, expected: str, verb: str) -> None:
    if (digest := model.digest()) != expected:
        raise UserError(
            f"the change {verb} a model with digest {expected[:SHOWN]}, this one has {digest[:SHOWN]}; give that model"
        )


def _original(provenance: Mapping) -> Mapping:
    """Where the model is from that was edited first."""
    return provenance["original"] if "edits" in provenance else provenance
