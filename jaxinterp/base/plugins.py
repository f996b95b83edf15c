"""Modules of other people, whose import registers metrics, terms, transforms, methods, plants and model families.

An installed package names its modules as entry points of the group `jaxinterp`. A file that lies about is named by
`--import` on a command line, or by JAXINTERP_IMPORT (with commas between names), which a command's workers see too.
"""

import functools
import importlib
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from jaxinterp.base.errors import UserError

GROUP = "jaxinterp"
VARIABLE = "JAXINTERP_IMPORT"


def add_imports(names: Sequence[str]) -> None:
    """Has modules imported when a registry is first asked, here and in the processes that this one starts."""
    known = [name for name in os.environ.get(VARIABLE, "").split(",") if name]
    os.environ[VARIABLE] = ",".join(dict.fromkeys([*known, *names]))


@functools.cache
def _loaded() -> tuple[tuple[ModuleType, ...], tuple[str, ...]]:
    """The modules, and what is wrong with those that cannot be imported."""
    entries = sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.name)
    named = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    asked = [(entry.value, f"the plug-in {entry.name!r} of an installed package") for entry in entries]
    found, wrong = [], []
    for name, what in [*asked, *((name, f"--import {name}") for name in named)]:
        try:
            found.append(_imported(name))
        except Exception as error:  # whatever a module does when it is imported
            wrong.append(f"{what} cannot be imported: {type(error).__name__}: {error}")
    return tuple(found), tuple(wrong)


def plugins() -> tuple[ModuleType, ...]:
    """The modules, imported once; of one that cannot be imported a warning says why."""
    found, wrong = _loaded()
    for message in wrong:
        warnings.warn(message, stacklevel=2)
    return found


def check_plugins() -> None:
    """UserError if one of the modules cannot be imported."""
    if wrong := _loaded()[1]:
        raise UserError(wrong[0])


def _imported(name: str) -> ModuleType:
    """A module by its name, from the folder in which a command runs as well, or a file."""
    path = Path(name)
    folder, module = (str(path.resolve().parent), path.stem) if name.endswith(".py") else (str(Path.cwd()), name)
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(folder)
