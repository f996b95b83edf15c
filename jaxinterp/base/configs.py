"""Config dataclasses out of what JSON keeps of them; imports no JAX."""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, Union

from jaxinterp.base.errors import UserError

Config = TypeVar("Config")


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
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{where} does not hold a config of this version: {error}") from None


def emptied(config: Config) -> Config:
    """A config whose mappings are empty: tyro offers the keys of a default alone, and any keys where it is empty."""
    return _mapped(config, config, lambda value, _: {} if isinstance(value, Mapping) else value)


def filled(config: Config, saved: Config) -> Config:
    """A config whose empty mappings are those of another one."""
    return _mapped(config, saved, lambda value, other: other if isinstance(value, Mapping) and not value else value)


def _mapped(config: Any, other: Any, change: Callable[[Any, Any], Any]) -> Any:
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return dataclasses.replace(
        config,
        **{
            name: _mapped(value, getattr(other, name), change)
            if dataclasses.is_dataclass(value)
            else change(value, getattr(other, name))
            for name, value in fields.items()
        },
    )


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
        for option in (option for option in inside if option is not type(None)):
            try:
                return _built(option, value)
            except TypeError:
                continue
        raise TypeError(f"{value!r} is none of {kind}")
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
        return Path(value)
    if isinstance(kind, type) and kind in (bool, int, float, str):
        fits = isinstance(value, (int, float) if kind is float else kind) and (
            kind is bool or not isinstance(value, bool)
        )
        if not fits:
            raise TypeError(f"{kind.__name__} was expected, got {value!r}")
    return value
