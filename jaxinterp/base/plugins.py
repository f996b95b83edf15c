"""Modules of other people, whose import registers metrics, terms, methods, plants and model families.

An installed package names its modules as entry points of the group `jaxinterp`. A file that lies about is named by
`--import` on a command line, or by JAXINTERP_IMPORT (with commas between names), which a command's workers see too.
"""

import functools
import importlib
import importlib.metadata
import os
import sys
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
def plugins() -> tuple[ModuleType, ...]:
    """The modules, imported once.

    Raises:
      UserError: if one cannot be imported; its own message is given.
    """
    entries = sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.name)
    named = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    found = [_imported(entry.value, f"the plug-in {entry.name!r} of an installed package") for entry in entries]
    return (*found, *(_imported(name, f"--import {name}") for name in named))


def _imported(name: str, what: str) -> ModuleType:
    """A module by its name, or a file in the folder that a command runs in."""
    module = name.removesuffix(".py").replace(os.sep, ".") if name.endswith(".py") else name
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever the module does when it is imported
        raise UserError(f"{what} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(here)
