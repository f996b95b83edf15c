"""Jitted steps that runs of one process share: a step that is made anew is traced and compiled anew."""

import collections
from collections.abc import Callable
from typing import Any

from jax.stages import Wrapped

KEPT = 64  # steps; those of a study's points come round once for each seed
_kept: collections.OrderedDict[tuple, Wrapped] = collections.OrderedDict()  # the last used one last


def kept_step(make: Callable[..., Wrapped], *configs: Any, **more: Any) -> Wrapped:
    """`make(*configs, **more)`, or what it gave for equal configs before.

    Args:
      make: pure function, what it gives depends on its arguments alone.
      configs, more: its arguments. They are told apart by their repr, which says every field of a config in full:
        configs hold mappings, which have no hash, and the order of a sum's terms decides its last digits.
    """
    key = (make, repr(configs), repr(more))
    if key not in _kept:
        _kept[key] = make(*configs, **more)
        if len(_kept) > KEPT:
            _kept.popitem(last=False)
    _kept.move_to_end(key)
    return _kept[key]
