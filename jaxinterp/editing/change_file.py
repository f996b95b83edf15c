"""A change in a file."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxinterp.editing.change import Change
from jaxinterp.editing.deltas import Delta, Exceptions, LowRank, Rows
from jaxinterp.editing.files import load_arrays, save_arrays

KINDS: dict[str, Any] = {"rows": Rows, "low_rank": LowRank}


def save_change(path: Path, change: Change) -> None:
    """Writes a change to a safetensors file.

    Raises:
      UserError: if it cannot be written.
    """
    arrays, places = {}, []
    for number, (delta, kept) in enumerate(zip(change.deltas, change.exceptions, strict=True)):
        kind = next(name for name, of in KINDS.items() if isinstance(delta, of))
        places.append({"kind": kind, "parameter": delta.parameter, "layer": int(delta.layer)})
        for name, value in zip((*delta._fields[2:], *kept._fields), (*delta[2:], *kept), strict=True):
            arrays[f"{number}.{name}"] = np.ascontiguousarray(value)
    said = {"model": change.model, "edited": change.edited, "deltas": places, "about": list(change.about)}
    save_arrays(path, "change", arrays, said)


def load_change(path: Path) -> Change:
    """Reads what `save_change` wrote.

    Raises:
      UserError: if the file is missing, damaged, or something else.
    """
    arrays, said = load_arrays(path, "change")
    deltas: list[Delta] = []
    exceptions = []
    for number, place in enumerate(said["deltas"]):
        kind = KINDS[place["kind"]]
        fields = [arrays[f"{number}.{name}"] for name in kind._fields[2:]]
        deltas.append(kind(place["parameter"], place["layer"], *fields))
        exceptions.append(Exceptions(*(arrays[f"{number}.{name}"] for name in Exceptions._fields)))
    return Change(said["model"], said["edited"], tuple(deltas), tuple(exceptions), tuple(said["about"]))
