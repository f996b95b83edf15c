"""Things by name, which the files of a folder register where they define them."""

import importlib
import pkgutil
from typing import Generic, TypeVar

from jaxinterp.base.errors import unknown
from jaxinterp.base.plugins import plugins

T = TypeVar("T")


class Registry(Generic[T]):
    """Named things of one kind, in the order of the modules that define them, and inside a module as they stand there.

    Args:
      what: the kind, for error messages.
      folder: package whose modules register things. They are imported when a thing is first asked for, so that a new
        file in it is found by itself, and whoever merely imports the registry does not wait for them. After them come
        plug-ins, see `jaxinterp.base.plugins`.
    """

    def __init__(self, what: str, folder: str | None = None) -> None:
        self._what, self._folder = what, folder
        self.registered: dict[str, T] = {}  # so far: without what the folder may still add
        self._module: dict[str, str] = {}

    def add(self, name: str, thing: T, module: str) -> None:
        """Registers a thing that a module defines; ValueError if the name is taken.

        What a notebook or a script has defined (`__main__`) it may define again, as running a cell twice does.
        """
        if name in self.registered and not module == self._module[name] == "__main__":
            raise ValueError(f"the {self._what} {name!r} exists already; choose another name")
        self.registered[name], self._module[name] = thing, module

    def __getitem__(self, name: str) -> T:
        """The thing of that name; UserError, with the known names, if there is none."""
        self._load()
        if name not in self.registered:
            raise unknown(self._what, name, self.registered)
        return self.registered[name]

    def names(self) -> tuple[str, ...]:
        """All names."""
        self._load()
        return tuple(sorted(self.registered, key=self._module.__getitem__))

    def _load(self) -> None:
        if self._folder:
            for module in pkgutil.iter_modules(importlib.import_module(self._folder).__path__, f"{self._folder}."):
                importlib.import_module(module.name)
            self._folder = None
            plugins()
