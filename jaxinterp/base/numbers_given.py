"""One check for every number that a user gives: NaN, infinities and −0 are mistakes; imports no JAX."""

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any

from jaxinterp.base.errors import UserError


def check_numbers(config: Any, prefix: str = "") -> None:
    """Refuses a config dataclass that holds a number which is not finite, or −0, in a field or deeper.

    NaN passes every comparison that should refuse it (`nan <= 0` is false), JSON has none of these numbers, and −0 is 0
    to a comparison and its opposite to a division. No config has a field in which infinity means something.

    Args:
      config: a dataclass; call it in `__post_init__`.
      prefix: of the fields' names in the message, e.g. "measure.".
    Raises:
      UserError: with the first such field.
    """
    for field in dataclasses.fields(config):
        _check(prefix + field.name, getattr(config, field.name))


def check_number(name: str, value: numbers.Real | float) -> None:
    """The same of one number."""
    if isinstance(value, numbers.Integral):
        return  # however large: a float may not hold it
    if not math.isfinite(value) or (value == 0 and math.copysign(1, value) < 0):
        raise UserError(f"{name} must be a finite number, and 0 without a minus, got {value}")


def check_text(name: str, text: str) -> None:
    """The same of a text, if it is that of a number."""
    try:
        value = float(text)
    except ValueError:
        return
    check_number(name, value)


def _check(name: str, value: object) -> None:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        check_numbers(value, f"{name}.")
    elif isinstance(value, Mapping):
        for key, child in value.items():
            _check(f"{name}.{key}", child)
    elif isinstance(value, list | tuple):
        for child in value:
            _check(name, child)
    elif isinstance(value, numbers.Real):
        check_number(name, value)
