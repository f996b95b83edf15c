"""The one exception that means "the user asked for something that cannot be done"."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake of the user's, told in one line: what was given, what is accepted, what to do.

    Command lines print its message without a traceback and exit with status 2.
    """


def unknown(what: str, given: object, known: Iterable[str], hint: str = "") -> UserError:
    """UserError for a name that is not in a list; see `known_names`."""
    message = f"unknown {what} {given!r}; {known_names(given, known)}"
    return UserError(f"{message}. {hint}" if hint else message)


MANY = 20  # names that nobody reads through


def known_names(given: object, known: Iterable[str]) -> str:
    """The names there are, or of very many those that are like the given one."""
    names = sorted(known)
    like = difflib.get_close_matches(str(given), names, n=3)
    meant = f"did you mean {' or '.join(like)}?" if like else ""
    shown = "" if like and len(names) > MANY else f"known: {', '.join(names)}"
    return "; ".join(filter(None, (shown, meant)))
