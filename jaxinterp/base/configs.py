"""Config dataclasses out of what JSON keeps of them; imports no JAX."""

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, Union

from jaxinterp.base.errors import UserError, known_names

Config = TypeVar("Config")
WRONG = (TypeError, ValueError, KeyError, OverflowError)  # what a value of another kind raises


def from_json(kind: type[Config], fields: Mapping, where: str) -> Config:
    """A config dataclass from the JSON of its `dataclasses.asdict`; fields that are not there have their defaults.

    Args:
      kind: the dataclass, whose fields may be dataclasses, tuples, paths, or such a thing or None.
      fields: the JSON object.
      where: the file, for messages.
    Raises:
      UserError: if a field is unknown, or of another kind, or what the dataclass itself refuses.
    """
    try:
        return _built(kind, fields)
    except WRONG as error:
        raise UserError(f"{where} does not hold a config of this version: {error}") from None


def changed(config: Any, fields: Mapping, where: str) -> Any:
    """A config dataclass with some fields changed, as a file of options has them; the others stay as they are.

    Args:
      config: whose fields that are dataclasses are changed field by field; mappings are taken whole.
      fields: as of `from_json`, by the names of fields, with "-" for "_" where that is wanted.
      where: the file, for messages.
    Raises:
      UserError: as `from_json`.
    """
    try:
        return _changed(config, fields)
    except WRONG as error:
        raise UserError(f"{where}: {error}") from None


def option(name: str, old: Any, kind: Any, value: Any, where: str) -> Any:
    """An option as a file has it, of a type; one that is a config dataclass is changed field by field.

    Raises:
      UserError: as `from_json`.
    """
    try:
        return _option(name, old, kind, value)
    except WRONG as error:
        raise UserError(f"{where}: {error}") from None


def _option(name: str, old: Any, kind: Any, value: Any) -> Any:
    both = dataclasses.is_dataclass(old) and isinstance(value, Mapping)
    try:
        return _changed(old, value) if both else _built(kind, value)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None


def _changed(config: Any, fields: Mapping) -> Any:
    hints = typing.get_type_hints(type(config))
    named = _named(type(config), fields)
    found = {name: _option(name, getattr(config, name), hints[name], value) for name, value in named.items()}
    return dataclasses.replace(config, **found)


def _named(kind: type, fields: Mapping) -> dict[str, Any]:
    """The values by the names of fields; TypeError if one is unknown."""
    found = {str(name).replace("-", "_"): value for name, value in fields.items()}
    known = [field.name for field in dataclasses.fields(kind)]
    for name in found:
        if name not in known:
            raise TypeError(f"there is no option {name!r}; {known_names(name, known)}")
    return found


def emptied(config: Any) -> Any:
    """A config whose mappings are empty, where they may be: tyro offers the keys of a default alone, and any keys where
    it is empty.
    """
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    inside = {name: emptied(value) for name, value in fields.items() if dataclasses.is_dataclass(value)}
    empty: dict[str, Mapping] = {name: {} for name, value in fields.items() if isinstance(value, Mapping)}
    try:
        return dataclasses.replace(config, **inside, **empty)
    except UserError:
        return dataclasses.replace(config, **inside)


def filled(config: Any, saved: Any) -> Any:
    """A config whose empty mappings are those of another one."""
    found = {}
    for field in dataclasses.fields(config):
        value, other = getattr(config, field.name), getattr(saved, field.name)
        if dataclasses.is_dataclass(value) and type(value) is type(other):
            found[field.name] = filled(value, other)
        elif isinstance(value, Mapping) and not value:
            found[field.name] = other
    return dataclasses.replace(config, **found)


def _built(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise TypeError(f"{kind.__name__} must be an object, got {value!r}")
        hints = typing.get_type_hints(kind)
        unknown = sorted(set(value) - {field.name for field in dataclasses.fields(kind)})
        if unknown:
            raise TypeError(f"{kind.__name__} has no {', '.join(unknown)}")
        return kind(**{name: _built(hints[name], of) for name, of in value.items()})
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inside:
            return None
        options = [option for option in inside if option is not type(None)]
        if len(options) == 1:
            return _built(options[0], value)
        for option in options:
            try:
                return _built(option, value)
            except (TypeError, ValueError):
                continue
        raise TypeError(f"{value!r} is none of {kind}")
    if origin is typing.Literal and value not in inside:
        raise TypeError(f"{value!r} is none of {', '.join(map(repr, inside))}")
    if origin is tuple or kind is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError(f"a list was expected, got {value!r}")
        kinds = inside[:1] * len(value) if inside[-1:] == (Ellipsis,) else inside
        return tuple(_built(of, item) for of, item in zip(kinds or [Any] * len(value), value, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise TypeError(f"an object was expected, got {value!r}")
        return {name: _built(inside[1], of) for name, of in value.items()}
    if kind is Path:
        if not isinstance(value, str | Path) or "\0" in str(value):
            raise TypeError(f"a path was expected, got {value!r}")
        return Path(value)
    # YAML takes 1e-3 for a text and 0.3 for a number, whatever is meant.
    if kind is float and isinstance(value, str):
        return float(value)
    if kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value) if isinstance(value, int) else f"{value:.15g}"
    if isinstance(kind, type) and kind in (bool, int, float, str):
        fits = isinstance(value, (int, float) if kind is float else kind) and (
            kind is bool or not isinstance(value, bool)
        )
        if not fits:
            raise TypeError(f"{kind.__name__} was expected, got {value!r}")
        if kind is float and isinstance(value, int) and abs(value) > sys.float_info.max:
            raise TypeError(f"float was expected, got a whole number of {value.bit_length()} bits")
        return float(value) if kind is float else value
    return value
