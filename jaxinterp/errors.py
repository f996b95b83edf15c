"""The one exception that means "the user asked for something that cannot be done"."""

from collections.abc import Iterable


class UserError(ValueError):
    """A mistake of the user's, told in one line: what was given, what is accepted, what to do.

    Command lines print its message without a traceback and exit with status 2.
    """


def unknown(what: str, given: object, known: Iterable[str], hint: str = "") -> UserError:
    """UserError for a name that is not in a list; the message gives the list."""
    message = f"unknown {what} {given!r}; known: {', '.join(sorted(known))}"
    return UserError(f"{message}. {hint}" if hint else message)
