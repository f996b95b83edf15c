"""Things by name, which files register where they define them."""

from typing import Generic, TypeVar

from jaxinterp.base.errors import unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """Named things of one kind, in the order of registration."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._things: dict[str, T] = {}

    def add(self, name: str, thing: T) -> None:
        """Registers a thing; ValueError if the name is taken."""
        if name in self._things:
            raise ValueError(f"a {self._what} named {name!r} exists already")
        self._things[name] = thing

    def __getitem__(self, name: str) -> T:
        """The thing of that name; UserError, with the known names, if there is none."""
        if name not in self._things:
            raise unknown(self._what, name, self._things)
        return self._things[name]

    def names(self) -> tuple[str, ...]:
        """All names."""
        return tuple(self._things)
