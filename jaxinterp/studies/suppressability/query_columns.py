"""Columns of queries in a file, so that those of several runs can be estimated together."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import write_bytes
from jaxinterp.metrics.measure import QueryColumns

FACT, RELATION = "fact", "relation"  # entries beside the columns


def save_columns(path: Path, parts: Mapping[str, QueryColumns]) -> None:
    """Writes columns by name to an .npz file, bit for bit, whole or not at all."""
    arrays = {}
    for name, part in parts.items():
        arrays |= {f"{name}/column/{column}": np.asarray(values) for column, values in part.columns.items()}
        arrays |= {f"{name}/{FACT}": part.fact_N, f"{name}/{RELATION}": np.asarray(part.relation_N, str)}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    write_bytes(path, file.getvalue())


def load_columns(path: Path, name: str) -> QueryColumns:
    """The columns of that name in a file of `save_columns`.

    Raises:
      UserError: if the file is missing or broken, or has no such columns.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            start = f"{name}/column/"
            columns = {entry.removeprefix(start): file[entry] for entry in file.files if entry.startswith(start)}
            return QueryColumns(columns, file[f"{name}/{FACT}"], file[f"{name}/{RELATION}"].tolist())
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read as measured columns: {error}; delete it and start again") from None


def joined(parts: Sequence[QueryColumns]) -> QueryColumns:
    """The queries of several sets, which share no fact, as one set.

    Raises:
      UserError: if a relation is in two of them, or their columns have other names.
    """
    names = [set(part.relation_N) for part in parts]
    if sum(map(len, names)) > len(set().union(*names)):
        raise UserError("a relation was measured in two of the sets; each counts once")
    if any(part.columns.keys() != parts[0].columns.keys() for part in parts):
        raise UserError("the sets were measured with other columns; measure them alike")
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    relations = [name for part in parts for name in part.relation_N]
    return QueryColumns(columns, np.concatenate([part.fact_N for part in parts]), relations)
